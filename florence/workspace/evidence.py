"""What the evidence of a round was worth: how it was weighed, how far annotators agree, what confidences are worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from florence.coverage import COVERAGE, OBJECTS, find_looks
from florence.engine.krippendorff import measure_object_alpha
from florence.engine.weighing import Weighing, find_with_alternatives, weigh_annotators
from florence.records import ANNOTATIONS, HUMAN, Annotation, table_annotations
from florence.report.facts import AgreementAlpha, CalibrationBin, EvidenceWeighing, LabelConfidence
from florence.store import Store
from florence.workspace.annotate import AnnotatorVersion, read_profiles
from florence.workspace.base import Workspace
from florence.workspace.fuse import fuse_round, is_person
from florence.workspace.layout import read_images

if TYPE_CHECKING:
    from florence.evaluate.confidence import ConfidenceQuality
    from florence.evaluate.references import References


def weigh_round(workspace: Workspace, annotators: Sequence[AnnotatorVersion]) -> tuple[Weighing, ...]:
    """Return how the evidence of a round is weighed, by annotation type."""
    store = workspace.store
    if not annotators:
        return ()
    claims = pa.concat_tables([store.read_tables(f"claims/{a.key}", ANNOTATIONS) for a in annotators])
    coverage, settings = _read_coverage(store, annotators), workspace.settings.engine
    profiles = read_profiles(workspace.settings, store, annotators)
    with_alternatives = find_with_alternatives(claims, coverage, settings, profiles)
    return weigh_annotators(claims, coverage, profiles, settings, with_alternatives)


def list_weighings(workspace: Workspace, annotators: Sequence[AnnotatorVersion]) -> Iterator[EvidenceWeighing]:
    """Yield the facts of `weigh_round`."""
    for one in weigh_round(workspace, annotators):
        yield EvidenceWeighing(one.task, one.basis, one.families, one.images, one.shared, one.reviewed, one.sentence)


def list_alphas(workspace: Workspace, annotators: Sequence[AnnotatorVersion]) -> Iterator[AgreementAlpha]:
    """Yield Krippendorff's alpha on objects, of all annotators and of each pair."""
    store = workspace.store
    if not annotators:
        return
    claims = pa.concat_tables([store.read_tables(f"claims/{annotator.key}", ANNOTATIONS) for annotator in annotators])
    profiles = read_profiles(workspace.settings, store, annotators)
    settings = workspace.settings.engine
    for one in measure_object_alpha(claims, _read_coverage(store, annotators), settings, profiles):
        yield AgreementAlpha(one.annotators, one.value, one.units)


def list_label_confidences(
    workspace: Workspace, annotators: Sequence[AnnotatorVersion], labels: pa.Table, round: int
) -> Iterator[LabelConfidence]:
    """Yield how well the confidences of a round's ``labels`` are calibrated, by annotation type and source.

    They are measured on gold images whose truth is known. Objects without such truth are measured on the images that
    people have labelled completely: the confidences are those of the labels that are fused without people's claims,
    because with them a label would be compared with itself.
    """
    from florence.evaluate import find_gold_references
    from florence.evaluate.confidence import measure_confidence

    images = read_images(workspace.data)
    ids, names, splits = (images[column].to_pylist() for column in ("image_id", "source", "split"))
    gold = {i: source for i, source, split in zip(ids, names, splits, strict=True) if split == "gold"}
    found = measure_confidence(labels, find_gold_references(workspace.data, list(gold)), gold)
    yield from map(_make_fact, found)
    if any(one.task == OBJECTS for one in found):
        return
    profiles = read_profiles(workspace.settings, workspace.store, annotators)
    others = [a for a, p in zip(annotators, profiles, strict=True) if not is_person(p)]
    people = [a for a, p in zip(annotators, profiles, strict=True) if is_person(p) and p.complete]
    references = _find_people_references(workspace.store, people)
    if others and references.rows:
        without_people = fuse_round(workspace, others, round, write=False)
        sources = dict(zip(ids, names, strict=True))
        yield from map(_make_fact, measure_confidence(without_people, references, sources))


def _read_coverage(store: Store, annotators: Sequence[AnnotatorVersion]) -> pa.Table:
    tables = [store.read_tables(f"coverage/{annotator.key}", COVERAGE, older=True) for annotator in annotators]
    return pa.concat_tables(tables, promote_options="default")


def _find_people_references(store: Store, people: Sequence[AnnotatorVersion]) -> References:
    """Return the objects of the images that people have labelled completely; of several, the last one's hold."""
    from florence.evaluate.references import References

    rows: dict[tuple[str, str], tuple[str, tuple[Annotation, ...]]] = {}
    for annotator in people:
        coverage = _read_coverage(store, [annotator]).to_pylist()
        claims = store.read_tables(f"claims/{annotator.key}", ANNOTATIONS)
        objects: dict[str, list[Annotation]] = {}
        for row in table_annotations(claims.filter(pc.equal(claims["task"], OBJECTS))):
            objects.setdefault(row.image_id, []).extend([row] if row.text else [])
        looked = {row["image_id"] for row in coverage if find_looks(row, frozenset([OBJECTS]))}
        for image in sorted(looked | objects.keys()):
            rows[image, OBJECTS] = HUMAN, tuple(objects.get(image, ()))
    return References(rows)


def _make_fact(found: ConfidenceQuality) -> LabelConfidence:
    measure = found.measure
    bins = tuple(
        CalibrationBin(round(b.confidence, 6), round(b.right, 6), round(b.low, 6), round(b.high, 6), b.n)
        for b in measure.bins
    )
    sure = None if found.sure_right is None else round(found.sure_right, 6)
    error, brier = round(measure.error, 6), round(measure.brier, 6)
    return LabelConfidence(found.task, found.source, found.reference, measure.n, error, brier, found.sure, sure, bins)
