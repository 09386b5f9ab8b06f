"""Better texts out of several: boilerplate stripped, and versions of one text made into one, word by word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from florence.engine.alignment import ARTICLE, Alignment, Tokens, align, code_of, joined, overlap, tokens
from florence.engine.ballots import ballots
from florence.engine.reliability import believed, fit
from florence.specialists import article

_BEFORE = re.compile(
    r"\s*(?:(?:an?\s+|the\s+)?(?:stock\s+)?(?:photo|picture|image|photograph|pic)s?\s*(?:of\b|:)"
    r"|[\w-]+\.(?:jpe?g|png|gif|webp|tiff?|bmp|heic)\b\s*[-–|:]?|(?:https?://|www\.)\S+|[-–|:]\s+)\s*",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"\s*(?:\|.*|[-–]\s*(?:buy|shop|order|stock|royalty|free|download)\b.*|#\d+|\(\d+\s*[x×]\s*\d+\)|(?:https?://|www\.)\S+"
    r"|[\w-]+\.(?:jpe?g|png|gif|webp|tiff?|bmp|heic))\s*$",
    re.IGNORECASE,
)
_SIGNS = re.compile(r"[|#(/]|[-–] ?(?:buy|shop|order|stock|royalty|free|download)|www|\.\w{3,4}\s*$", re.IGNORECASE)
_STOPS = frozenset(".!?")


def bare(text: str) -> tuple[int, int]:
    """Start and end of ``text`` without what web pages put around a description: file names, "photo of", names of shops and sites, numbers."""
    start, end = 0, len(text)
    while found := _BEFORE.match(text, start, end):
        start = found.end()
    # the search is slow on long texts, and few have anything that it could find
    while _SIGNS.search(text, start, end) and (found := _AFTER.search(text, start, end)):
        end = found.start()
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


# ---------------------------------------------------------------- versions of one text


@dataclass(frozen=True, slots=True)
class Version:
    """One author's version of a text, and the weight of its word."""

    author: int
    tokens: Tokens
    weight: float


@dataclass(frozen=True, slots=True)
class Composed:
    """A text made of several versions. ``to``: for each version, where its tokens stand in ``tokens`` (-1: nowhere); ``similarity``: how alike they are."""

    tokens: Tokens
    to: tuple[np.ndarray, ...]
    similarity: tuple[float, ...]


@dataclass(slots=True)
class _Place:
    """One place of a text. ``said``: key → the versions that have it there, with the index of their token; ``key``: the first of them."""

    key: int
    said: dict[int, list[tuple[int, int]]] = field(default_factory=dict)


def compose(items: Sequence[Sequence[Version]], alike: float, capped: int | None = None, cap: float = 1.0) -> list[Composed]:
    """One text of the versions of each item (at least one). A version without weight has no vote, and is placed all the same.

    Versions that share less than ``alike`` of their words with the most typical one (see `overlap`) are no versions of it and have no
    vote. With fewer than three left the most typical text stands as it is. ``capped``, ``cap``: an author whose word counts for so much of all evidence at most.
    """
    typical = [_typical(versions) for versions in items]
    near = [_near(versions, t, alike) for versions, t in zip(items, typical, strict=True)]
    several = {k: versions for k, versions in enumerate(near) if len(versions) > 2}
    keys = [[version.tokens.keys for version in versions] for versions in items]
    networks = _networks(keys, several)
    belief = _believed(items, several, networks, capped, cap)
    texts = [versions[t].tokens for versions, t in zip(items, typical, strict=True)]
    for k, network in networks.items():
        texts[k] = tokens(_written(items[k], near[k], network, belief[k]))
    return _placed(items, texts, alike)


def _typical(versions: Sequence[Version]) -> int:
    """The version whose words the others share most, by weight; of equals the heaviest, then the longest, then the first."""
    if len(versions) == 1:
        return 0

    def standing(k: int) -> tuple[bool, float, float, int]:
        shared = sum(v.weight * overlap(versions[k].tokens.text, v.tokens.text) for v in versions if v.weight > 0)
        return versions[k].weight > 0, round(shared, 9), round(versions[k].weight, 9), len(versions[k].tokens)

    return max(range(len(versions)), key=standing)


def _near(versions: Sequence[Version], typical: int, alike: float) -> list[int]:
    """The typical version, then those that are like it."""
    others = [v for v, version in enumerate(versions) if v != typical and version.weight > 0]
    return [typical] + [v for v in others if overlap(versions[typical].tokens.text, versions[v].tokens.text) >= alike]


def _placed(items: Sequence[Sequence[Version]], texts: Sequence[Tokens], alike: float) -> list[Composed]:
    pairs = [(version.tokens.keys, text.keys) for versions, text in zip(items, texts, strict=True) for version in versions]
    found = iter(align([pair for pair in pairs if pair[0] != pair[1]]))
    sides = iter([Alignment(np.arange(len(a)), 1.0) if a == b else placed(a, b, next(found), alike) for a, b in pairs])
    result = []
    for versions, text in zip(items, texts, strict=True):
        own = [next(sides) for _ in versions]
        result.append(Composed(text, tuple(side.to for side in own), tuple(side.similarity for side in own)))
    return result


def placed(keys: Sequence[int], final: Sequence[int], side: Alignment, alike: float) -> Alignment:
    """An alignment in which words stand for other words only where the texts are ``alike``."""
    if side.similarity >= alike:
        return side
    to = side.to.copy()
    to[[j >= 0 and keys[i] != final[j] for i, j in enumerate(to.tolist())]] = -1
    return Alignment(to, side.similarity)


def _networks(
    items: Sequence[Sequence[Sequence[int]]], several: dict[int, list[int]]
) -> dict[int, list[_Place]]:
    """For each item whose versions differ, every place that one of its ``several`` versions has a key for, in order.

    Version after version joins, all items at once.
    """
    several = {k: versions for k, versions in several.items() if any(items[k][v] != items[k][versions[0]] for v in versions)}
    networks = {k: _joined([], versions[0], items[k][versions[0]], [-1] * len(items[k][versions[0]])) for k, versions in several.items()}
    for turn in range(1, max(map(len, several.values()), default=1)):
        joining = [(k, versions[turn]) for k, versions in several.items() if len(versions) > turn]
        sides = align([(items[k][v], tuple([place.key for place in networks[k]])) for k, v in joining])
        for (k, v), side in zip(joining, sides, strict=True):
            networks[k] = _joined(networks[k], v, items[k][v], side.to.tolist())
    return networks


def _joined(network: list[_Place], version: int, keys: Sequence[int], to: Sequence[int]) -> list[_Place]:
    """``network`` with one more version's tokens at their places, or at places of their own after the one before."""
    result: list[_Place] = []
    done = 0
    for index, (key, j) in enumerate(zip(keys, to, strict=True)):
        if j < 0:
            place = _Place(key)
            result.append(place)
        else:
            place = network[j]
            result += network[done : j + 1]
            done = j + 1
        place.said.setdefault(key, []).append((version, index))
    return result + network[done:]


def _believed(
    items: Sequence[Sequence[Version]], several: dict[int, list[int]], networks: dict[int, list[_Place]], capped: int | None, cap: float
) -> dict[int, np.ndarray]:
    """For each network (places, versions): how likely what a version says there is a word of the text.

    Places are things that authors see or not, and name right or not, as objects in a picture are: how often each leaves out which word follows from all texts.
    """
    rows: list[tuple[int, int, int]] = []
    looked: list[list[int]] = []
    numbers: dict[int, int] = {}

    def say(author: int, key: int) -> None:
        rows.append((len(looked) - 1, author, numbers.setdefault(key, len(numbers))))

    for k, near in several.items():
        panel = [items[k][v].author for v in near]
        for place in networks.get(k, ()):
            looked.append(panel)
            for author, key in sorted({items[k][v].author: key for key, said in place.said.items() for v, _ in said}.items()):
                say(author, key)
        for key in items[k][near[0]].tokens.keys if k not in networks else ():
            looked.append(panel)
            for author in sorted(panel):
                say(author, key)
    if not rows:
        return {}
    thing, author, code = np.asarray(rows, np.int64).T
    heard = np.zeros((len(looked), max(version.author for versions in items for version in versions) + 1), bool)
    heard[np.repeat(np.arange(len(looked)), [len(panel) for panel in looked]), [a for panel in looked for a in panel]] = True
    votes = ballots(thing, author, heard, code, np.full(len(thing), np.nan))
    capped = capped if capped is not None and capped < heard.shape[1] else None
    claims = believed(votes, fit(votes, capped, cap), capped, cap).claims
    result, start = {}, 0
    for k, near in several.items():
        count = len(networks[k]) if k in networks else len(items[k][near[0]].tokens)
        if k in networks:
            result[k] = claims[start : start + count, [version.author for version in items[k]]]
        start += count
    return result


def _written(versions: Sequence[Version], near: Sequence[int], network: Sequence[_Place], belief: np.ndarray) -> str:
    """The text of the words that are likelier to be in it than not. ``belief``: (places, versions)."""
    weight = [version.weight for version in versions]
    half = sum(weight[v] for v in near) / 2
    chosen: list[tuple[int, int, int]] = []
    for place, likely in zip(network, belief, strict=True):
        key = max(place.said, key=lambda key: max(likely[v] for v, _ in place.said[key]))
        if max(likely[v] for v, _ in place.said[key]) >= 0.5:
            chosen.append((key, *place.said[key][-1]))
    keys = tuple(key for key, _, _ in chosen)
    if whole := [v for v in near if versions[v].tokens.keys == keys]:
        return versions[max(whole, key=lambda v: weight[v])].tokens.text
    capital = sum(weight[v] for v in near if versions[v].tokens.text[:1].isupper()) > half
    words: list[str] = []
    for number, (_, v, index) in enumerate(chosen):
        starts = not words or words[-1] in _STOPS
        word = _word(versions[v].tokens, index, chosen[number + 1] if number + 1 < len(chosen) else None, versions)
        words.append(word[:1].upper() + word[1:] if starts and capital else word)
    return joined(words)


def _word(text: Tokens, index: int, following: tuple[int, int, int] | None, versions: Sequence[Version]) -> str:
    """A token as its text writes it. An article fits the word that follows now; a capital that stands for the start of a sentence only is left out."""
    word = text.words[index]
    if text.keys[index] == ARTICLE and following is not None and following[0] not in text.keys[index + 1 : index + 2]:
        fitting = article(versions[following[1]].tokens.words[following[2]])
        word = fitting.capitalize() if word[0].isupper() else fitting
    first = index == 0 or text.words[index - 1] in _STOPS
    return word[:1].lower() + word[1:] if first and (word[1:].islower() or len(word) == 1) else word


def spell(items: Sequence[Sequence[tuple[str, float]]]) -> list[str]:
    """One string of the readings (with weights, the best first) of each item: character by character what most of the weight reads.

    With fewer than three readings the first stands.
    """
    readings = [[tuple([code_of(c) for c in text]) for text, _ in item] for item in items]
    networks = _networks(readings, {k: list(range(len(item))) for k, item in enumerate(items) if len(item) > 2})
    result = [item[0][0] for item in items]
    for k, network in networks.items():
        weight = [mass for _, mass in items[k]]
        read = []
        for place in network:
            mass = {key: sum([weight[v] for v, _ in said]) for key, said in place.said.items()}
            if 2 * sum(mass.values()) > sum(weight):
                v, index = place.said[max(mass, key=mass.__getitem__)][0]
                read.append(items[k][v][0][index])
        result[k] = "".join(read)
    return result
