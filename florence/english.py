"""English grammar that annotators and the engine share: indefinite articles, plurals and lists."""

from __future__ import annotations

from collections.abc import Sequence

_SILENT_H = ("hour", "honest", "honour", "honor", "heir")
_CONSONANT_SOUND = ("uni", "use", "usu", "eur", "ewe", "one", "once", "ut", "ubi")
_IRREGULAR_PLURALS = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "ox": "oxen",
    "leaf": "leaves",
    "knife": "knives",
    "wolf": "wolves",
    "shelf": "shelves",
    "loaf": "loaves",
    "sheep": "sheep",
    "fish": "fish",
    "deer": "deer",
    "aircraft": "aircraft",
    "spacecraft": "spacecraft",
    "scissors": "scissors",
    "sunglasses": "sunglasses",
    "trousers": "trousers",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "mango": "mangoes",
}


def choose_article(words: str) -> str:
    """Return ``a`` or ``an``, by the sound that ``words`` begin with."""
    first = words.lower().lstrip("\"'")
    if first.startswith(_SILENT_H):
        return "an"
    return "an" if first[:1] in tuple("aeiou") and not first.startswith(_CONSONANT_SOUND) else "a"


def pluralize(noun: str) -> str:
    """Return the plural of a noun phrase whose last word is its head."""
    front, _, head = noun.rpartition(" ")
    if head in _IRREGULAR_PLURALS:
        many = _IRREGULAR_PLURALS[head]
    elif head.endswith(("s", "x", "z", "ch", "sh")):
        many = head + "es"
    elif head.endswith("y") and head[-2:-1] not in tuple("aeiou"):
        many = head[:-1] + "ies"
    elif head.endswith(("man", "woman")) and head != "human":
        many = head[:-2] + "en"
    else:
        many = head + "s"
    return f"{front} {many}" if front else many


def join_words(words: Sequence[str]) -> str:
    """Return "a", "a and b", or "a, b and c"."""
    *front, last = words
    return f"{', '.join(front)} and {last}" if front else last
