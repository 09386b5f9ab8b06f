"""How the evidence of a round was weighed: what the consensus could find out about its annotators, and from what.

For each annotation type one of three things says how reliable an annotator is, as where models are fitted
(`florence.engine.consensus.fitting`):

- people, where they have judged `MIN_ANCHORED` of its claims;
- agreement, where `MIN_FAMILIES` other families, on the mean, could have confirmed its claims: they were asked about
  the same images and have the names. Its rates follow from where independent annotators agree;
- scores, where neither is so: two families that differ do not show which of them is wrong, so its own scores decide.

An annotator that states alternatives (`florence.engine.consensus.alternatives`) has one vote for each place.

Annotators of one family (`florence.records.AnnotatorProfile`) are no witnesses of each other and count as one here. The
student has learned from the others' labels, and an annotator that only names what others have boxed says nothing of
what is there: neither is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.config import EngineSettings
from florence.engine.claims import find_codes, read_claims
from florence.engine.consensus.alternatives import find_alternatives, measure_alternatives
from florence.engine.consensus.blocks import select_fit_claims, select_voting_claims
from florence.engine.consensus.dependence import MIN_ITEMS
from florence.engine.consensus.fitting import MIN_FAMILIES
from florence.engine.consensus.maximisation import MIN_ANCHORED
from florence.engine.consensus.regions import OBJECTS, select_box_claims
from florence.english import join_words
from florence.names import build_name_table
from florence.records import ANNOTATION_TYPES, BASE_TYPES, CAPTIONS, HUMAN, STUDENT, AnnotatorProfile

WITNESSES = 3
"""Families from which on two others could confirm a claim."""
LISTED = 4
"""Annotators that are named in a sentence; more are only counted."""

Basis = Literal["people", "agreement", "scores"]


@dataclass(frozen=True, slots=True)
class Weighing:
    """How the evidence of one annotation type was weighed.

    ``basis``: see the module; "people" and "scores" where they hold for every annotator. ``families``: the annotators
    with a vote, by family, each and all sorted. ``images``: that any of them was asked about; ``shared``: of these, the
    images that three families were asked about; ``reviewed``: images that people have labelled completely.
    ``sentence``: the same for people to read.
    """

    task: str
    basis: Basis
    families: tuple[tuple[str, ...], ...]
    images: int
    shared: int
    reviewed: int
    sentence: str


def weigh_annotators(
    claims: pa.Table,
    coverage: pa.Table,
    profiles: Sequence[AnnotatorProfile] = (),
    settings: EngineSettings | None = None,
    with_alternatives: Sequence[str] = (),
) -> tuple[Weighing, ...]:
    """Return how the evidence of each annotation type was weighed that an annotator with a vote claims anywhere.

    ``claims``: the columns image_id, task, annotator and text are read. ``coverage``: see `florence.coverage.COVERAGE`.
    An annotator that claims no label of a type on any image was not asked for it. ``with_alternatives``: see
    `find_with_alternatives`.
    """
    known = {profile.name: profile for profile in profiles}
    claimed = claims.select(["image_id", "task", "annotator", "text"])
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
            vocabularies = _find_vocabularies(of_task, task, known, settings or EngineSettings())
            evidence = _Evidence(of_task, images, looks, judges, vocabularies)
            found = _weigh(task, families, evidence)
            if task == OBJECTS and with_alternatives:
                found = replace(found, sentence=f"{found.sentence}; {_describe_alternatives(with_alternatives)}")
            result.append(found)
    return tuple(result)


def find_with_alternatives(
    claims: pa.Table, coverage: pa.Table, settings: EngineSettings, profiles: Sequence[AnnotatorProfile] = ()
) -> tuple[str, ...]:
    """Return the annotators, sorted, that state alternatives of objects, on the images that models are fitted to.

    ``claims``, ``coverage``: see `florence.engine.consensus.blocks.fuse`.
    """
    voting = select_voting_claims(claims, coverage, settings, profiles)
    found = read_claims(*select_fit_claims(*voting), None, profiles)
    boxes = select_box_claims(found, BASE_TYPES.index(OBJECTS), None, settings)
    states = measure_alternatives(boxes, find_alternatives(boxes), len(found.annotators))
    return tuple(sorted(name for name, one in zip(found.annotators, states.tolist(), strict=True) if one))


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


def _find_vocabularies(
    claims: pa.Table, task: str, known: Mapping[str, AnnotatorProfile], settings: EngineSettings
) -> dict[str, frozenset[str]]:
    """Return the texts of claims that annotators with a vocabulary have a name for."""
    with_names = {
        name: profile.vocabulary
        for name, profile in known.items()
        if task == OBJECTS and profile.role == "annotator" and profile.vocabulary is not None
    }
    if not with_names:
        return {}
    table = build_name_table(settings)
    texts = {text: table.with_hypernyms(table.canonical(text)) for text in pc.unique(claims["text"]).to_pylist()}
    result = {}
    for name, vocabulary in with_names.items():
        words = {table.canonical(word) for word in vocabulary}
        result[name] = frozenset(text for text, above in texts.items() if words & above)
    return result


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


@dataclass(frozen=True)
class _Evidence:
    """Claims of one annotation type, and who could say what.

    ``looks``: (images,) bool by annotator; ``judges``: people who label every object of an image; ``vocabularies``: the
    texts that an annotator has a name for, any where it is missing.
    """

    claims: pa.Table
    images: pa.Array
    looks: Mapping[str, np.ndarray]
    judges: Sequence[str]
    vocabularies: Mapping[str, frozenset[str]]

    @property
    def reviewed(self) -> np.ndarray:
        """(images,) whether people have labelled everything."""
        return np.any([np.zeros(len(self.images), bool), *(self.looks[name] for name in self.judges)], axis=0)

    def find_basis(self, name: str, families: Iterable[tuple[str, ...]]) -> Basis:
        """Return what says how reliable an annotator is. ``families``: of all whose claims could confirm others."""
        image = find_codes(self.claims["image_id"], self.images)
        asked = self.looks[name][image]
        most = pc.value_counts(self.claims["annotator"].filter(pa.array(asked))).field("counts").to_numpy()
        if most.max(initial=0) < MIN_ITEMS:  # no annotator claims so many items that it was asked about
            return "scores"
        mine = pc.equal(self.claims["annotator"], name).to_numpy()
        image, text = image[mine], self.claims["text"].filter(pa.array(mine))
        if int(self.reviewed[image].sum()) >= MIN_ANCHORED:
            return "people"
        confirming = np.zeros(len(image))
        for others in families:
            if name not in others:
                confirming += np.any([self._could_claim(other, image, text) for other in others], axis=0)
        return "agreement" if confirming.mean() >= MIN_FAMILIES else "scores"

    def _could_claim(self, name: str, image: np.ndarray, text: pa.ChunkedArray) -> np.ndarray:
        looked = self.looks[name][image]
        if name not in self.vocabularies:
            return looked
        has_name = pc.is_in(text, value_set=pa.array(sorted(self.vocabularies[name]), pa.string()))
        return np.asarray(looked & has_name.to_numpy())


def _weigh(task: str, families: tuple[tuple[str, ...], ...], evidence: _Evidence) -> Weighing:
    looks = evidence.looks
    asked = np.sum([np.any([looks[name] for name in names], axis=0) for names in families], axis=0)
    images, shared = int((asked > 0).sum()), int((asked >= WITNESSES).sum())
    reviewed = int(evidence.reviewed.sum())
    basis_of = {name: evidence.find_basis(name, families) for names in families for name in names}
    found = set(basis_of.values())
    basis: Basis = found.pop() if len(found) == 1 else "agreement"
    sentence = _describe(task, basis_of, families, images, shared, reviewed)
    return Weighing(task, basis, families, images, shared, reviewed, sentence)


# ---------------------------------------------------------------- sentences


def _describe(
    task: str,
    basis_of: Mapping[str, Basis],
    families: tuple[tuple[str, ...], ...],
    images: int,
    shared: int,
    reviewed: int,
) -> str:
    """``basis_of``: of each annotator."""
    found = set(basis_of.values())
    people = f"people have labelled {reviewed} images completely"
    if found == {"people"}:
        return f"{people}, and every annotator is judged by their labels"
    kin = [f"{join_words(names)} are of one family" for names in families if len(names) > 1]
    if found == {"agreement"}:
        text = _describe_agreement(families, kin, images, shared)
    elif found != {"scores"}:
        text = "; ".join([*kin, *_describe_each(basis_of)])
    elif len(families) < WITNESSES:
        text = _describe_few(task, families, kin)
    else:
        why = "too few claims" if shared else "no images"
        text = "; ".join([*kin, f"{why} were put to three families: the scores decide"])
    if not reviewed:
        return text
    return f"{text}; {people}, and judge an annotator from {MIN_ANCHORED} of its claims there on"


def _describe_each(basis_of: Mapping[str, Basis]) -> Iterable[str]:
    """Describe annotators that differ."""
    for basis, outcome in (
        ("people", "judged by people's labels"),
        ("agreement", "judged by where independent families agree"),
        ("scores", "weighed by scores alone, because too few others could confirm the claims"),
    ):
        names = sorted(name for name, of in basis_of.items() if of == basis)
        if names:
            who = join_words(names) if len(names) <= LISTED else f"{len(names)} annotators"
            yield f"{who} {'is' if len(names) == 1 else 'are'} {outcome}"


def _describe_alternatives(names: Sequence[str]) -> str:
    who = join_words(names) if len(names) <= LISTED else f"{len(names)} annotators"
    return (
        f"{who} often {'claims' if len(names) == 1 else 'claim'} several things of one place: only the best one counts"
    )


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
