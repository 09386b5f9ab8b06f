"""How the evidence of a round was weighed: what the consensus could find out about its annotators, and from what.

For each annotation type one of three things says how reliable an annotator is:

- people, where they have labelled `MIN_REVIEWED` images completely: each annotator is judged by their labels;
- agreement, where `MIN_FAMILIES` families or more were asked about the same `MIN_SHARED_IMAGES` images: rates follow
  from where independent annotators agree;
- scores, where neither is so: two families that differ do not show which of them is wrong, so each annotator's own
  scores decide.

Annotators of one family (`florence.records.AnnotatorProfile`) are no witnesses of each other and count as one here. The
student has learned from the others' labels, and an annotator that only names what others have boxed says nothing of
what is there: neither is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.engine.claims import find_codes
from florence.english import join_words
from florence.records import ANNOTATION_TYPES, CAPTIONS, HUMAN, STUDENT, AnnotatorProfile

OBJECTS = "<OD>"
MIN_FAMILIES = 3
"""Families from whose agreement the rates of each can be told."""
MIN_SHARED_IMAGES = 20
"""Images that so many families have to be asked about."""
MIN_REVIEWED = 30
"""Images that people have to label completely for every annotator to be judged by them."""

LISTED = 4
"""Annotators that are named in a sentence; more are only counted."""

Basis = Literal["people", "agreement", "scores"]


@dataclass(frozen=True, slots=True)
class Weighing:
    """How the evidence of one annotation type was weighed.

    ``basis``: see the module. ``families``: the annotators with a vote, by family, each and all sorted. ``images``:
    that any of them was asked about; ``shared``: of these, the images that `MIN_FAMILIES` families were asked about;
    ``reviewed``: images that people have labelled completely. ``sentence``: the same for people to read.
    """

    task: str
    basis: Basis
    families: tuple[tuple[str, ...], ...]
    images: int
    shared: int
    reviewed: int
    sentence: str


def weigh_annotators(
    claims: pa.Table, coverage: pa.Table, profiles: Sequence[AnnotatorProfile] = ()
) -> tuple[Weighing, ...]:
    """Return how the evidence of each annotation type was weighed that an annotator with a vote claims anywhere.

    ``claims``: the columns image_id, task and annotator are read. ``coverage``: see `florence.coverage.COVERAGE`. An
    annotator that claims no label of a type on any image was not asked for it.
    """
    known = {profile.name: profile for profile in profiles}
    claimed = claims.select(["image_id", "task", "annotator"]).group_by(["image_id", "task", "annotator"]).aggregate([])
    finished = coverage.filter(pc.equal(coverage["error"], ""))
    images = pc.unique(pa.chunked_array([*claimed["image_id"].chunks, *finished["image_id"].chunks], pa.string()))
    result = []
    for task in ANNOTATION_TYPES:
        of_task = claimed.filter(pc.equal(claimed["task"], task))
        names = sorted(pc.unique(of_task["annotator"]).to_pylist())
        families = _group_by_family([name for name in names if _has_vote(name, task, known)], known)
        if families:
            looks = _find_looks(of_task, finished, task, images, names)
            judges = [name for name in names if task == OBJECTS and _is_complete(name, known)]
            result.append(_weigh(task, families, looks, judges))
    return tuple(result)


def join_sentences(sentences: Iterable[tuple[str, str]]) -> list[str]:
    """Return (annotation type, sentence) pairs as texts, types of one sentence together: "<OD> and <CAPTION>: …"."""
    tasks: dict[str, list[str]] = {}
    for task, sentence in sentences:
        tasks.setdefault(sentence, []).append(task)
    return [f"{join_words(names)}: {sentence}" for sentence, names in tasks.items()]


# ---------------------------------------------------------------- who was asked


def _has_vote(name: str, task: str, known: Mapping[str, AnnotatorProfile]) -> bool:
    """Return whether an annotator is counted: no person, ranker or student, and none that only names."""
    profile = known.get(name, AnnotatorProfile(name))
    return name not in (HUMAN, STUDENT) and profile.role == "annotator" and not (task == OBJECTS and profile.names_only)


def _is_complete(name: str, known: Mapping[str, AnnotatorProfile]) -> bool:
    profile = known.get(name)
    return profile is not None and profile.role == "human" and profile.complete


def _group_by_family(names: Sequence[str], known: Mapping[str, AnnotatorProfile]) -> tuple[tuple[str, ...], ...]:
    families: dict[str, list[str]] = {}
    for name in names:
        family = known[name].family if name in known else ""
        # a family of its own, whatever another one is called
        families.setdefault(f"family {family}" if family else f"annotator {name}", []).append(name)
    return tuple(sorted(map(tuple, families.values())))


def _find_looks(
    claims: pa.Table, finished: pa.Table, task: str, images: pa.Array, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return (images,) bool whether each annotator was asked about an image for ``task``, by its name."""
    looked = finished
    if "looked_at" in finished.column_names:  # an older table has no such column
        looked = finished.filter(pc.fill_null(pc.match_substring(finished["looked_at"], task), True))
    result = {name: np.zeros(len(images), bool) for name in names}
    for table in (looked, claims):
        image = find_codes(table["image_id"], images)
        annotator = find_codes(table["annotator"], pa.array(names, pa.string()))
        for code, name in enumerate(names):
            result[name][image[annotator == code]] = True
    return result


def _weigh(
    task: str, families: tuple[tuple[str, ...], ...], looks: Mapping[str, np.ndarray], judges: Sequence[str]
) -> Weighing:
    """``judges``: people who label every object of an image."""
    asked = np.sum([np.any([looks[name] for name in names], axis=0) for names in families], axis=0)
    images, shared = int((asked > 0).sum()), int((asked >= MIN_FAMILIES).sum())
    reviewed = int(np.any([looks[name] for name in judges], axis=0).sum()) if judges else 0
    basis: Basis = "scores"
    if reviewed >= MIN_REVIEWED:
        basis = "people"
    elif shared >= MIN_SHARED_IMAGES:
        basis = "agreement"
    sentence = _describe(task, basis, families, images, shared, reviewed)
    return Weighing(task, basis, families, images, shared, reviewed, sentence)


# ---------------------------------------------------------------- sentences


def _describe(
    task: str, basis: Basis, families: tuple[tuple[str, ...], ...], images: int, shared: int, reviewed: int
) -> str:
    if basis == "people":
        return f"people have labelled {reviewed} images completely, and every annotator is judged by their labels"
    kin = [f"{join_words(names)} are of one family" for names in families if len(names) > 1]
    if basis == "agreement":
        text = _describe_agreement(families, kin, images, shared)
    elif len(families) < MIN_FAMILIES:
        text = _describe_few(task, families, kin)
    else:
        number = f"only {shared}" if shared else "no"
        text = "; ".join([*kin, f"{number} images were put to three families: the scores decide"])
    if not reviewed:
        return text
    people = f"people have labelled {reviewed} images completely"
    return f"{text}; {people}, and from {MIN_REVIEWED} on every annotator is judged by them"


def _describe_agreement(families: tuple[tuple[str, ...], ...], kin: Sequence[str], images: int, shared: int) -> str:
    names = sorted(name for members in families for name in members)
    who = join_words(names) if len(names) <= LISTED else f"the {len(names)} annotators"
    where = f"where the {len(families)} families agree" if kin else "where they agree"
    text = "; ".join([*kin, f"how reliable {who} are follows from {where}"])
    rest = images - shared
    return text + (f", and holds for the {rest} images that fewer than three were asked about" if rest else "")


def _describe_few(task: str, families: tuple[tuple[str, ...], ...], kin: Sequence[str]) -> str:
    """Describe one family or two."""
    outcome = "its texts are taken as they are" if task in CAPTIONS else "its scores decide"
    if len(families) == 1:
        (names,) = families
        if len(names) == 1:
            return f"{names[0]} alone was asked, and {outcome}"
        return f"{kin[0]} and nobody else was asked: the scores decide"
    single = [names[0] for names in families if len(names) == 1]
    if not kin:
        return f"{join_words(single)} were asked and no third annotator: the scores decide"
    if single:
        return f"{kin[0]}; with one other annotator the scores decide"
    return f"{'; '.join(kin)}; with no third family the scores decide"
