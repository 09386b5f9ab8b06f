"""Krippendorff's alpha of the annotators on objects: how far they agree beyond chance.

A unit is a cluster of claims, and its values are what each annotator that was asked says of it: a name, or nothing.
Missing is the value of an annotator that was not asked, that has no name for what the others claim, and of people who
do not label every object. With m_u ≥ 2 values of unit u, n_uc of them c, n_c = Σ_u n_uc and n = Σ_c n_c,

    α = 1 − D_o / D_e
    D_o = 1 / n · Σ_u 1 / (m_u − 1) · Σ_c n_uc (m_u − n_uc)            disagreement that is observed
    D_e = 1 / (n (n − 1)) · Σ_c n_c (n − n_c)                          disagreement by chance

It is 1 where all agree, 0 where they agree as by chance, and below 0 where they disagree more than that; it is not
defined where there is but one value. Krippendorff, "Computing Krippendorff's alpha-reliability", 2011, nominal data;
on objects: Tschirschwitz et al., "An evaluation of annotator agreement for object detection", 2022 (units of clusters,
silence as a value).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa

from florence.config import EngineSettings
from florence.engine.claims import Claims, read_claims
from florence.engine.consensus.blocks import select_fit_claims, select_voting_claims
from florence.engine.consensus.label_matrix import NOT_ASKED, LabelMatrix
from florence.engine.consensus.regions import OBJECTS, cluster_regions
from florence.records import BASE_TYPES, HUMAN, STUDENT, AnnotatorProfile

MISSING, NOTHING = -1, 0
"""Values of an annotator that says nothing of a unit as it was not asked, and of one that was asked."""


@dataclass(frozen=True, slots=True)
class Alpha:
    """How far ``annotators`` agree over ``units`` that two of them at least have a value for.

    ``value``: None where it is not defined.
    """

    annotators: tuple[str, ...]
    value: float | None
    units: int


def measure_object_alpha(
    claims: pa.Table, coverage: pa.Table, settings: EngineSettings, profiles: Sequence[AnnotatorProfile] = ()
) -> tuple[Alpha, ...]:
    """Return alpha of all annotators with a vote, then of each pair of them; empty with fewer than two.

    Measured on the images that models are fitted to. The student is in pairs alone: it has learned from the others.
    """
    found = read_claims(*select_fit_claims(*select_voting_claims(claims, coverage, settings, profiles)), None, profiles)
    code = BASE_TYPES.index(OBJECTS)
    values = list_values(cluster_regions(found, code, None, settings).matrix, _complete_people(found, profiles))
    present = [a for a in range(len(found.annotators)) if found.claims_type[a, code]]
    first = [a for a in present if found.annotators[a] != STUDENT]
    sets = [first, *map(list, combinations(present, 2))] if len(first) > 2 else map(list, combinations(present, 2))
    return tuple(_measure(values, members, found.annotators) for members in sets)


def _complete_people(claims: Claims, profiles: Sequence[AnnotatorProfile]) -> bool:
    """Return whether the silence of people says that there is nothing."""
    people = [p for p in profiles if p.role == "human" or p.name == HUMAN]
    return bool(people) and all(p.complete for p in people)


def list_values(matrix: LabelMatrix, complete_people: bool = False) -> np.ndarray:
    """Return (units, A) values: labels from 1 on, `NOTHING` or `MISSING`.

    ``complete_people``: whether people label every object of an image that they look at.
    """
    names_something = matrix.present & (matrix.label != matrix.nothing_label)
    values = np.where(names_something, matrix.label + 1, NOTHING)
    values[matrix.claim == NOT_ASKED] = MISSING
    silent = ~matrix.present
    if matrix.human is not None and not complete_people:
        values[silent[:, matrix.human], matrix.human] = MISSING
    if matrix.can_label is not None:
        for a, can_label in enumerate(matrix.can_label):
            has_name = (can_label[matrix.label] & names_something).any(axis=1)
            values[silent[:, a] & ~has_name, a] = MISSING
    return values


def _measure(values: np.ndarray, members: Sequence[int], names: Sequence[str]) -> Alpha:
    """Measure the units that one of ``members`` claims something of."""
    chosen = values[:, members]
    chosen = chosen[(chosen > NOTHING).any(axis=1)]
    units = int(((chosen != MISSING).sum(axis=1) > 1).sum())
    alpha = krippendorff_alpha(chosen)
    return Alpha(tuple(names[a] for a in members), None if alpha is None else round(alpha, 6), units)


def krippendorff_alpha(values: np.ndarray) -> float | None:
    """Return alpha of nominal ``values`` (units, A), whole numbers, `MISSING` for none; None where not defined."""
    codes = np.unique(values[values != MISSING], return_inverse=True)[1]
    counts = np.zeros((len(values), int(codes.max(initial=-1)) + 1))
    np.add.at(counts, (np.nonzero(values != MISSING)[0], codes), 1)
    counts = counts[counts.sum(axis=1) > 1]
    each, of_value = counts.sum(axis=1), counts.sum(axis=0)
    n = of_value.sum()
    by_chance = (of_value * (n - of_value)).sum()
    if not by_chance:
        return None
    observed = ((counts * (each[:, None] - counts)).sum(axis=1) / (each - 1)).sum()
    return float(1 - (n - 1) * observed / by_chance)
