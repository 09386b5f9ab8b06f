"""Names of objects: which say the same, and which are kinds of which. By a table, never by likeness: "cat" and "car" are one letter apart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from florence.config import EngineSettings
from florence.errors import SettingsError
from florence.metrics import same

BROADER, NARROWER = 0.9, 0.5
"""How right a kind is ("animal") where a thing is of it (a dog); and how right a name is where nothing but its kind is known."""


@dataclass(frozen=True)
class Names:
    """A table of names. ``one``: a name → the one that stands for all that say the same; ``above``: such a name → every kind it is of; ``given``: a
    name → what labels shall be called by.
    """

    one: dict[str, str]
    above: dict[str, frozenset[str]]
    given: dict[str, str]

    def plain(self, text: str) -> str:
        """What ``text`` is compared by."""
        name = same(text)
        return self.one.get(name, name)

    def kinds(self, text: str) -> frozenset[str]:
        """All that a thing of that name may be called: itself and its kinds, each as `plain` has it."""
        name = self.plain(text)
        return self.above.get(name, frozenset()) | {name}

    def likeness(self, thing: str, said: str) -> float:
        """How right ``said`` is of a ``thing``, both as `plain` has them."""
        if thing == said:
            return 1.0
        if said in self.above.get(thing, frozenset()):
            return BROADER
        return NARROWER if thing in self.above.get(said, frozenset()) else 0.0

    def label(self, text: str) -> str:
        """``text``, or the name that the settings give to what it says."""
        return self.given.get(same(text), text)


def names(settings: EngineSettings) -> Names:
    """The built-in table (names.json beside this file) with `engine.synonyms` and `engine.hypernyms` added.

    Raises SettingsError where a name would stand for two others, or be a kind of itself.
    """
    return _table(json.dumps([settings.synonyms, settings.hypernyms]))


@lru_cache(maxsize=8)
def _table(added: str) -> Names:
    synonyms, kinds = json.loads(added)
    built_in = json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))
    given = _merged(synonyms)
    one = {**_merged(built_in["synonyms"]), **given}
    # a name that stands for others may itself be another's
    one = {name: one.get(target, target) for name, target in one.items()}
    own = {same(name) for name in synonyms}
    one = {name: target for name, target in one.items() if name not in own}
    below: dict[str, set[str]] = {}
    for kind, members in [*built_in["kinds"].items(), *kinds.items()]:
        for member in members:
            below.setdefault(_of(one, member), set()).add(_of(one, kind))
    return Names(one, {name: frozenset(_above(name, below, (name,))) for name in below}, given)


def _of(one: dict[str, str], name: str) -> str:
    return one.get(same(name), same(name))


def _merged(synonyms: dict[str, list[str]]) -> dict[str, str]:
    result: dict[str, str] = {}
    for name, others in synonyms.items():
        for other in map(same, others):
            if result.setdefault(other, same(name)) != same(name):
                raise SettingsError(
                    f"engine.synonyms: {other!r} is given to both {result[other]!r} and {same(name)!r}; a name stands for one thing"
                )
    return result


def _above(name: str, below: dict[str, set[str]], path: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    for kind in below.get(name, ()):
        if kind in path:
            raise SettingsError(f"engine.hypernyms: {kind!r} would be a kind of itself, by {' → '.join(path)}")
        found |= {kind} | _above(kind, below, (*path, kind))
    return found
