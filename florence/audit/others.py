"""What the other annotators say, without the given labels: items, each with a box, the names claimed, and how sure.

The consensus of the other annotators alone (`florence.engine.evidence`) makes the items; who looked at which image
tells where the given labels can be checked at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.config import EngineSettings
from florence.engine.claims import find_codes
from florence.engine.evidence import weigh_evidence
from florence.errors import SettingsError
from florence.formats import OBJECTS
from florence.names import NameTable
from florence.records import AnnotatorProfile

SHARED = 0.25
"""How often a family of annotators is wrong in the same way as another one."""
LEAST = 1e-3
"""Probabilities are kept this far from 0 and 1."""


@dataclass(frozen=True)
class AnnotatorClaims:
    """What other annotators claim: tables of claims and coverage (`florence.records`, `florence.coverage`)."""

    claims: pa.Table
    coverage: pa.Table
    profiles: tuple[AnnotatorProfile, ...] = ()


def join_claims(parts: Sequence[AnnotatorClaims]) -> AnnotatorClaims:
    """Return the claims of several sources as one. Raises SettingsError for two annotators of one name."""
    names = [profile.name for part in parts for profile in part.profiles]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"two annotators are called {twice[0]!r}; --claims NAME=FILE gives another name")
    return AnnotatorClaims(
        pa.concat_tables([part.claims for part in parts]),
        pa.concat_tables([part.coverage for part in parts], promote_options="permissive"),
        tuple(profile for part in parts for profile in part.profiles),
    )


@dataclass(frozen=True)
class OtherItems:
    """n items that other annotators claim, in the order of their images, and the m claims about them.

    ``image``: (n,), number of the image; ``box``: (n, 4) pixels; ``name``: the label taken; ``real``: (n,), P(not
    nothing); ``right``: (n,), P(the name is right). ``claim_item``, ``claim_annotator``, ``claim_score``,
    ``claim_right``, ``claim_name``, ``claim_box``: of each claim; scores are NaN where there is none. ``asked``:
    (images, A), who looked. ``vocabularies``: of each annotator, canonical names, None for any; ``families``: of each
    annotator, its own name where it is of none.
    """

    annotators: tuple[str, ...]
    image: np.ndarray
    box: np.ndarray
    name: tuple[str, ...]
    real: np.ndarray
    right: np.ndarray
    claim_item: np.ndarray
    claim_annotator: np.ndarray
    claim_score: np.ndarray
    claim_right: np.ndarray
    claim_name: tuple[str, ...]
    claim_box: np.ndarray
    asked: np.ndarray
    vocabularies: tuple[frozenset[str] | None, ...]
    families: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image)


def find_other_items(
    others: AnnotatorClaims, images: pa.Table, settings: EngineSettings, names: NameTable
) -> OtherItems:
    """Return the items that the ``others`` claim in ``images`` (records as a table), by their consensus.

    The given labels have no part in it: `florence.audit.scores` weighs the two against each other. Raises DataError for
    claims that are none.
    """
    ids = images["image_id"].combine_chunks()
    evidence = weigh_evidence(
        others.claims, images, others.coverage, settings, others.profiles, tasks=(OBJECTS,), by_others=()
    )
    items = evidence.items.filter(
        pc.and_(pc.is_valid(evidence.items["confidence"]), pc.is_valid(evidence.items["box"]))
    )
    number = np.full(len(evidence.items), -1, np.int64)
    number[items["item"].to_numpy()] = np.arange(len(items))
    claims = evidence.claims.filter(
        pc.and_(pc.equal(evidence.claims["vote_reason"], ""), pc.is_valid(evidence.claims["box"]))
    )
    claim_item = number[claims["item"].to_numpy()]
    claims, claim_item = claims.filter(pa.array(claim_item >= 0)), claim_item[claim_item >= 0]
    rankers = pa.array([profile.name for profile in others.profiles if profile.role == "ranker"], pa.string())
    coverage = others.coverage.filter(pc.invert(pc.is_in(others.coverage["annotator"], rankers)))
    annotators = tuple(sorted(set(coverage["annotator"].to_pylist()) | set(claims["annotator"].to_pylist())))
    known = pa.array(annotators, pa.string())
    right = _probabilities(items["confidence"])
    vocabularies = {profile.name: profile.vocabulary for profile in others.profiles}
    families = {profile.name: profile.family for profile in others.profiles}
    return OtherItems(
        annotators=annotators,
        image=find_codes(items["image_id"], ids),
        box=_boxes(items["box"]),
        name=tuple(items["label"].to_pylist()),
        real=np.maximum(_probabilities(pc.subtract(1.0, items["p_nothing"])), right),
        right=right,
        claim_item=claim_item,
        claim_annotator=find_codes(claims["annotator"], known),
        claim_score=np.asarray(pc.fill_null(claims["score"], np.nan), float),
        claim_right=_probabilities(claims["p_right"]),
        claim_name=tuple(map(names.canonical, claims["text"].to_pylist())),
        claim_box=_boxes(claims["box"]),
        asked=_find_coverage(coverage, ids, known),
        vocabularies=tuple(_canonical(vocabularies.get(name), names) for name in annotators),
        families=tuple(families.get(name) or name for name in annotators),
    )


def count_families(items: OtherItems, chosen: np.ndarray | None = None) -> np.ndarray:
    """Return (items,) how many families claim each item, at least one. ``chosen``: (m,), which claims count."""
    family = np.unique(items.families, return_inverse=True)[1][items.claim_annotator]
    rows = np.arange(len(family)) if chosen is None else np.flatnonzero(chosen)
    claims = np.unique(np.stack([items.claim_item[rows], family[rows]]), axis=1)
    return np.maximum(np.bincount(claims[0], minlength=len(items)), 1)


def _probabilities(column: pa.ChunkedArray) -> np.ndarray:
    return np.clip(np.asarray(pc.fill_null(column, 0.0), float), LEAST, 1 - LEAST)


def _boxes(column: pa.ChunkedArray) -> np.ndarray:
    values = column.combine_chunks().flatten() if len(column) else pa.array([], pa.float64())
    return np.asarray(values, float).reshape(-1, 4)


def _canonical(vocabulary: Sequence[str] | None, names: NameTable) -> frozenset[str] | None:
    return None if vocabulary is None else frozenset(map(names.canonical, vocabulary))


def _find_coverage(coverage: pa.Table, ids: pa.Array, annotators: pa.Array) -> np.ndarray:
    """(images, A) who looked at which image for objects."""
    finished = coverage.filter(pc.equal(coverage["error"], ""))
    if "looked_at" in finished.column_names:
        looks = finished["looked_at"]
        finished = finished.filter(pc.or_(pc.is_null(looks), pc.fill_null(pc.match_substring(looks, OBJECTS), False)))
    asked = np.zeros((len(ids), len(annotators)), bool)
    image, annotator = find_codes(finished["image_id"], ids), find_codes(finished["annotator"], annotators)
    asked[image[image >= 0], annotator[image >= 0]] = True
    return asked
