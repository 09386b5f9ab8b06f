"""Images with true objects and annotators' claims, as every part of the consensus' benchmark makes them.

It imports nothing of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class Found:
    """An object that is there or is claimed: name, box in pixels, score of 0…1 or None."""

    name: str
    box: Box
    score: float | None = None


@dataclass(frozen=True)
class Declared:
    """What is declared of an annotator: the names it can claim (None: any), its family, and whether it is a person.

    ``names_only``: it names what others have boxed.
    """

    vocabulary: tuple[str, ...] | None = None
    family: str = ""
    human: bool = False
    names_only: bool = False


@dataclass(frozen=True)
class Picture:
    """One image: its size, where it is from, its true objects, and each annotator's claims."""

    width: int
    height: int
    source: str
    truth: Sequence[Found]
    claims: Mapping[str, Sequence[Found]]


@dataclass(frozen=True)
class Sample:
    """Pictures, and what is declared of their annotators."""

    pictures: Sequence[Picture]
    annotators: Mapping[str, Declared]
    names: Mapping[str, int] = field(default_factory=dict)
    """A number for every name; those of the pictures, if none are given."""

    def __post_init__(self) -> None:
        if not self.names:
            found = {
                item.name
                for picture in self.pictures
                for items in (picture.truth, *picture.claims.values())
                for item in items
            }
            object.__setattr__(self, "names", {name: k for k, name in enumerate(sorted(found))})


@dataclass(frozen=True)
class Objects:
    """A method's objects as arrays of one length n: index of the picture, number of the name, box (n, 4), score 0…1.

    ``votes``: of how many annotators, where the method counts them; ``kept``: which it gives out without a threshold.
    """

    picture: np.ndarray
    name: np.ndarray
    box: np.ndarray
    score: np.ndarray
    votes: np.ndarray
    kept: np.ndarray

    def where(self, chosen: np.ndarray) -> Objects:
        """Return some of the objects."""
        return Objects(*(getattr(self, field_name)[chosen] for field_name in self.__dataclass_fields__))


Row = tuple[int, int, Sequence[float], float, int, bool]
"""Picture, name, box, score, votes, kept."""


def objects(rows: Sequence[Row]) -> Objects:
    """Return rows as arrays."""
    columns = list(zip(*rows, strict=True)) or [()] * 6
    return Objects(
        np.asarray(columns[0], int),
        np.asarray(columns[1], int),
        np.asarray(columns[2], float).reshape(-1, 4),
        np.asarray(columns[3], float),
        np.asarray(columns[4], int),
        np.asarray(columns[5], bool),
    )


def true_objects(sample: Sample) -> Objects:
    """Return a sample's true objects."""
    return objects(
        [
            (k, sample.names[item.name], item.box, 1.0, 1, True)
            for k, picture in enumerate(sample.pictures)
            for item in picture.truth
        ]
    )


def score_of(found: Found) -> float:
    """Return a claim's score; 1 where it has none, as the methods that need a score are used."""
    return 1.0 if found.score is None else found.score
