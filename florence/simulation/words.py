"""Words that simulated annotators confuse, and texts in which one word takes the place of another."""

from __future__ import annotations

import re
from functools import lru_cache

from florence.english import choose_article, pluralize
from florence.records import Region

LABELS = tuple(
    "apple ball balloon banana bear bell bicycle bird boat book bottle box bus car cat chair clock cloud cow cup "
    "dog duck fish flag flower hat horse house key kite lamp leaf moon mushroom person phone pizza plane rocket "
    "sheep shoe star sun table train tree truck umbrella".split()
)
"""Wrong labels of objects if the options name no labels."""
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray", "grey")
LOOKALIKES: dict[str, str] = {
    pair[0]: pair[1]
    for pair in (
        "O0 0O I1 1I S5 5S B8 8B Z2 2Z G6 6G EF FE CG MN NM UV VU PR RP o0 l1 s5 ec ce nm mn uv vu hb bh ij ji tf ft"
    ).split()
}
"""Character → the character that it is misread as."""
Span = tuple[int, int]
Phrase = tuple[Span, tuple[Region, ...]]
"""Characters (start, end) of a phrase in its caption, and its regions."""


def split_units(text: str, phrases: list[Phrase]) -> list[tuple[str, tuple[Region, ...]]]:
    """Return ``text`` in units: phrases with their regions and, between them, words and punctuation."""
    units: list[tuple[str, tuple[Region, ...]]] = []
    position = 0
    for (start, end), regions in [*phrases, ((len(text), len(text)), ())]:
        units += [(word, ()) for word in re.findall(r"[\w'’\"-]+|[^\w\s]", text[position:start])]
        if end > start:
            units.append((text[start:end], regions))
        position = end
    return units


@lru_cache(maxsize=4096)
def label_pattern(label: str) -> str:
    """Return a regular expression for a label or its plural as a whole word."""
    return rf"(?<!\w)(?:{re.escape(pluralize(label))}|{re.escape(label)})(?!\w)"


def replace_label(text: str, label: str, other: str) -> str:
    """Return ``text`` with the word ``label`` (or its plural) replaced by ``other``, and a/an corrected before it.

    A text in which ``label`` does not occur stays as it is, such as a description that does not name its object.
    """
    found = re.search(label_pattern(label), text, re.IGNORECASE) if label else None
    if found is None:
        return text
    is_plural = found.group().lower() == pluralize(label).lower() != label.lower()
    word = pluralize(other) if is_plural else other
    if found.group()[:1].isupper():
        word = word[:1].upper() + word[1:]
    front = text[: found.start()]
    before = re.search(r"(?<!\w)([Aa])n?\s+$", front)
    if before:
        front = front[: before.start()] + before.group(1) + choose_article(word)[1:] + " "
    return front + word + text[found.end() :]
