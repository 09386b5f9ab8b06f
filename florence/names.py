"""Names of objects: synonyms and hypernyms, by a table and never by spelling: "cat" and "car" are one letter apart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from florence.config import EngineSettings
from florence.errors import SettingsError
from florence.records import fold_label

HYPERNYM_SIMILARITY, HYPONYM_SIMILARITY = 0.9, 0.5
"""How right a hypernym ("animal") is of an object with the narrower name (a dog); and a narrower name where the object
has only the hypernym."""


@dataclass(frozen=True)
class NameTable:
    """Names in their compared form (`florence.records.fold_label`).

    ``synonyms``: name → the canonical name of its synonyms. ``hypernyms``: canonical name → all its hypernyms.
    ``replacements``: name → the name that labels get in its place, by `engine.synonyms`.
    """

    synonyms: dict[str, str]
    hypernyms: dict[str, frozenset[str]]
    replacements: dict[str, str]

    def canonical(self, text: str) -> str:
        """Return the name that ``text`` is compared by."""
        name = fold_label(text)
        return self.synonyms.get(name, name)

    def with_hypernyms(self, text: str) -> frozenset[str]:
        """Return the canonical names of an object called ``text``: its own and its hypernyms."""
        name = self.canonical(text)
        return self.hypernyms.get(name, frozenset()) | {name}

    def similarity(self, name: str, claimed: str) -> float:
        """Return how right the name ``claimed`` is of an object called ``name``, 0 … 1; both canonical."""
        if name == claimed:
            return 1.0
        if claimed in self.hypernyms.get(name, frozenset()):
            return HYPERNYM_SIMILARITY
        return HYPONYM_SIMILARITY if name in self.hypernyms.get(claimed, frozenset()) else 0.0

    def label(self, text: str) -> str:
        """Return ``text``, or the name that the settings put in its place."""
        return self.replacements.get(fold_label(text), text)


def build_name_table(settings: EngineSettings) -> NameTable:
    """Return the built-in table (names.json beside this file) with `engine.synonyms` and `engine.hypernyms` added.

    Raises SettingsError where a name would be a synonym of two others, or a hypernym of itself.
    """
    return _build(json.dumps([settings.synonyms, settings.hypernyms]))


@lru_cache(maxsize=8)
def _build(added: str) -> NameTable:
    synonyms, hypernyms = json.loads(added)
    built_in = json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))
    replacements = _invert(synonyms)
    canonical = {**_invert(built_in["synonyms"]), **replacements}
    # a canonical name may itself be a synonym of another
    canonical = {name: canonical.get(target, target) for name, target in canonical.items()}
    own = {fold_label(name) for name in synonyms}
    canonical = {name: target for name, target in canonical.items() if name not in own}
    above: dict[str, set[str]] = {}
    for hypernym, members in [*built_in["hypernyms"].items(), *hypernyms.items()]:
        for member in members:
            above.setdefault(_look_up(canonical, member), set()).add(_look_up(canonical, hypernym))
    closure = {name: frozenset(_collect_hypernyms(name, above, (name,))) for name in above}
    return NameTable(canonical, closure, replacements)


def _look_up(canonical: dict[str, str], name: str) -> str:
    return canonical.get(fold_label(name), fold_label(name))


def _invert(synonyms: dict[str, list[str]]) -> dict[str, str]:
    """Return each synonym's name. Raises SettingsError where a synonym is given to two names."""
    result: dict[str, str] = {}
    for name, others in synonyms.items():
        for other in map(fold_label, others):
            if result.setdefault(other, fold_label(name)) != fold_label(name):
                raise SettingsError(
                    f"engine.synonyms: {other!r} is given to both {result[other]!r} and {fold_label(name)!r}; "
                    "a name is a synonym of one other"
                )
    return result


def _collect_hypernyms(name: str, above: dict[str, set[str]], path: tuple[str, ...]) -> set[str]:
    """Return all hypernyms of ``name``, through every level. Raises SettingsError where one is its own hypernym."""
    found: set[str] = set()
    for hypernym in above.get(name, ()):
        if hypernym in path:
            raise SettingsError(f"engine.hypernyms: {hypernym!r} would be a hypernym of itself, by {' → '.join(path)}")
        found |= {hypernym} | _collect_hypernyms(hypernym, above, (*path, hypernym))
    return found
