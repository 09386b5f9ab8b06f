"""Audit: gather the facts of a round, for build/loop.json, the report and the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from florence.better_annotator import BetterAnnotator
from florence.config import EvaluateSettings
from florence.coverage import COVERAGE, find_looks
from florence.engine.churn import measure_churn
from florence.engine.reliability import Reliability, estimate_reliability
from florence.errors import FlorenceError, NotListedError
from florence.formats import OBJECTS
from florence.label_report import LabelSetReport
from florence.records import ANNOTATION_TYPES, ANNOTATIONS, FINE_TUNED, TASKS, fold_label
from florence.report.facts import (
    AnnotatorActivity,
    AnnotatorQuality,
    Churn,
    DropCount,
    FailedImages,
    FileCount,
    ImageCount,
    LabelGain,
    LabelScore,
    ReliabilityByName,
    RoundFacts,
    ScoreComparison,
    SourceListing,
    TaskScore,
    TypeCount,
)
from florence.rounds import find_labels, list_rounds
from florence.store import Store
from florence.workspace.annotate import (
    MISSING,
    AnnotatorVersion,
    count_missing,
    find_label_sets,
    find_sources_without_detector,
    find_unusable_annotators,
    read_profiles,
    read_usage,
    report_label_sets,
)
from florence.workspace.base import Workspace
from florence.workspace.collected import read_collected
from florence.workspace.evidence import list_alphas, list_label_confidences, list_weighings
from florence.workspace.layout import list_shards, read_images
from florence.workspace.reviewers import rank_reviewers

MEASURES = ("f1", "spotted", "cider", "accuracy", "mask_iou", "f1_boxes")
"""Measures of an annotator's claims; of several of one annotation type the first is reported."""
EXAMPLES = 5
"""Names of files, and messages of an annotator, that are kept for one reason."""
REJECTED_NAME = "rejected_files.parquet"
NAMES = 12
"""Names of objects whose reliability is reported for each annotator."""

Reliabilities = Mapping[tuple[str, str], Reliability]
"""(annotator, annotation type) → its estimated reliability."""


def audit_round(
    workspace: Workspace,
    annotators: Sequence[AnnotatorVersion],
    round: int,
    without_student: pa.Table | None = None,
    since: int = 0,
) -> RoundFacts:
    """Return the facts of a round that was compared: all but hashes, run, model version and seconds.

    ``annotators``: those of the round. ``without_student``: its labels without the student's vote, if that was tried
    (`florence.workspace.fuse.fuse_round` of the other annotators, not written). ``since``: the round that label
    quality is compared with. What the round does not have is empty.
    """
    data = workspace.data
    snapshot = data.read_object("snapshot.json")
    labels = data.read_table(find_labels(data, round))
    dropped = labels.filter(pc.invert(labels["kept"]))
    quality, scores = (_read_metrics(workspace, name) for name in ("labels", "scores"))
    parent = snapshot.get("parent")
    reliability = _estimate_reliability(workspace, annotators)
    gains = _list_gains(workspace.settings.evaluate, data, labels, without_student, since) if since < round else ()
    return RoundFacts(
        round=round,
        snapshot_id=snapshot["id"],
        parent=parent["id"] if isinstance(parent, dict) else parent,
        **_describe_decision(workspace),
        images=tuple(_list_image_counts(data)),
        counts=tuple(_list_type_counts(labels)),
        drops=tuple(DropCount(task, reason, n) for (task, reason), n in _count_rows(dropped, "task", "reason")),
        listings=tuple(_list_sources(workspace)),
        label_sets=_report_label_sets(workspace, annotators),
        failed_images=tuple(_list_failed_images(workspace, annotators)),
        label_quality=tuple(_list_label_scores(quality)),
        label_quality_gain=tuple(gains),
        scores=tuple(_list_task_scores(scores)),
        churn=tuple(_list_churn(data, labels, round, without_student)),
        annotator_quality=tuple(
            _list_annotator_quality(workspace.store, annotators, reliability, quality.get("annotators", {}))
        ),
        reliability_by_name=tuple(_list_reliability_by_name(workspace, annotators, reliability)),
        annotator_activity=tuple(_list_annotator_activity(workspace, annotators)),
        weighing=tuple(list_weighings(workspace, annotators)),
        without_detector=tuple(find_sources_without_detector(workspace.settings)),
        alpha=tuple(list_alphas(workspace, annotators)),
        reviewers=rank_reviewers(workspace, annotators),
        label_confidence=tuple(list_label_confidences(workspace, annotators, labels, round)),
        better_alone=tuple(BetterAnnotator(**one) for one in quality.get("better_alone", ())),
    )


def _describe_decision(workspace: Workspace) -> dict[str, Any]:
    """Return the facts of the decision about the model: none where it has not been made."""
    from florence.evaluate import Decision

    found = _read_metrics(workspace, "decision")
    if not found:
        return {}
    decision = Decision.from_json(found)
    comparison = tuple(
        ScoreComparison(
            c.task, c.reference, c.against, c.before, c.after, c.low, c.high, c.n, c.bound, c.least, c.locked
        )
        for c in decision.changes
    )
    verdict = "accepted" if decision.accepted else "rejected"
    return {"decision": verdict, "reason": decision.reason, "comparison": comparison}


def _read_metrics(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return metrics/<name>.json, empty where there is none."""
    file = f"metrics/{name}.json"
    return workspace.files.read_object(file) if workspace.files.exists(file) else {}


def _count_rows(table: pa.Table, *columns: str) -> list[tuple[tuple[Any, ...], int]]:
    """Return how many rows have each combination of values, sorted."""
    return sorted(Counter(zip(*(table[name].to_pylist() for name in columns), strict=True)).items())


def _list_sources(workspace: Workspace) -> Iterator[SourceListing]:
    """Yield the files of each source, those that are no images by reason; the counts add up to what was there."""
    data, store = workspace.data, workspace.store
    examples: dict[tuple[str, str], list[str]] = {}
    for row in data.read_table(REJECTED_NAME).to_pylist() if data.exists(REJECTED_NAME) else ():
        found = examples.setdefault((row["source"], row["reason"]), [])
        if len(found) < EXAMPLES:
            found.append(f"{row['name']}: {row['detail']}" if row["detail"] else row["name"])
    for one in read_collected(store) or read_collected(data):
        counts = {**({"duplicate": one.duplicates} if one.duplicates else {}), **one.rejected}
        rejected = [
            FileCount(reason, count, tuple(examples.get((one.source, reason), ()))) for reason, count in counts.items()
        ]
        others = [
            FileCount(f"{group.reason}: {group.ending}".removesuffix(": "), group.count, group.examples, group.remedy)
            for group in one.unused
        ]
        unused = tuple(sorted([*rejected, *others], key=lambda group: (-group.count, group.reason)))
        yield SourceListing(
            one.source,
            one.uri,
            one.listed,
            one.images,
            one.texts,
            unused,
            gone=one.gone,
            gone_examples=one.gone_examples,
            left=one.left,
            left_examples=one.left_examples,
        )


# ---------------------------------------------------------------- labels and models


def _list_image_counts(data: Store) -> Iterator[ImageCount]:
    for (source, split), n in _count_rows(read_images(data), "source", "split"):
        yield ImageCount(source, split, n)


def _list_type_counts(labels: pa.Table) -> Iterator[TypeCount]:
    number = dict(_count_rows(labels, "task", "kept"))
    for task in ANNOTATION_TYPES:
        kept, dropped = number.get((task, True), 0), number.get((task, False), 0)
        if kept + dropped:
            yield TypeCount(task, kept, dropped)


def _list_label_scores(quality: Mapping[str, Any]) -> Iterator[LabelScore]:
    for split in ("gold", "train"):
        for reference, tasks in quality.get(split, {}).items():
            for task, measures in tasks.items():
                for metric, found in measures.items():
                    yield LabelScore(
                        task, metric, split, reference, found["value"], found["low"], found["high"], found["n"]
                    )


def _list_gains(
    settings: EvaluateSettings, data: Store, labels: pa.Table, without_student: pa.Table | None, since: int
) -> Iterator[LabelGain]:
    from florence.evaluate import find_gold_references, measure_gains

    if since not in list_rounds(data):
        return
    references = find_gold_references(data, _list_gold_images(data))
    before = data.read_table(find_labels(data, since))
    without = {} if without_student is None else measure_gains(before, without_student, references, settings)
    for key, gain in sorted(measure_gains(before, labels, references, settings).items()):
        task, metric, _ = key
        mean_without = without[key].mean if key in without else None
        yield LabelGain(task, metric, "gold", since, gain.mean, gain.low, gain.high, gain.n, mean_without)


def _list_gold_images(data: Store) -> list[str]:
    images = read_images(data)
    return images.filter(pc.equal(images["split"], "gold"))["image_id"].to_pylist()


def _list_task_scores(scores: Mapping[str, Any]) -> Iterator[TaskScore]:
    for task in (*TASKS, *FINE_TUNED):
        for reference, found in scores.get(task, {}).items():
            calibration = found.get("calibration")
            yield TaskScore(
                task,
                found["metric"],
                found.get("value"),
                found.get("low"),
                found.get("high"),
                found["n"],
                found["invalid"],
                reference,
                found.get("shuffled"),
                (calibration["error"], calibration["calibrated"]) if calibration else None,
                found["second_look"]["calibrated"] if "second_look" in found else None,
            )


def _list_churn(data: Store, labels: pa.Table, round: int, without_student: pa.Table | None) -> Iterator[Churn]:
    """Yield the changes against the last round before ``round`` that has labels."""
    earlier = [number for number in list_rounds(data) if number < round]
    if not earlier:
        return
    before = data.read_table(find_labels(data, earlier[-1]))
    found = measure_churn(before, labels)
    without = {} if without_student is None else measure_churn(before, without_student)
    for task in [task for task in ANNOTATION_TYPES if task in found]:
        one = found[task]
        share = without[task].share if task in without else None
        yield Churn(task, one.share, one.same, one.renamed, one.moved, one.added, one.removed, share)


# ---------------------------------------------------------------- annotators


def _read_claims(store: Store, annotator: AnnotatorVersion) -> pa.Table:
    return store.read_tables(f"claims/{annotator.key}", ANNOTATIONS)


def _read_coverage(store: Store, annotator: AnnotatorVersion) -> pa.Table:
    return store.read_tables(f"coverage/{annotator.key}", COVERAGE, older=True)


def _list_errors(store: Store, annotator: AnnotatorVersion) -> Iterator[str]:
    """Yield the error of each image that it could not annotate; an image that it was not asked about is none."""
    for error in _read_coverage(store, annotator)["error"].to_pylist():
        if error and not error.startswith(NotListedError.__name__):
            yield error


def _report_label_sets(workspace: Workspace, annotators: Sequence[AnnotatorVersion]) -> tuple[LabelSetReport, ...]:
    try:
        return report_label_sets(workspace, annotators)
    except FlorenceError as error:  # label files that are gone by now are no reason to lose the other facts
        return (LabelSetReport("", error=str(error)),)


def _list_failed_images(workspace: Workspace, annotators: Sequence[AnnotatorVersion]) -> Iterator[FailedImages]:
    """Yield the images that annotators without a label set could not annotate, by the type of their error.

    Then all images of those that the run went on without.
    """
    with_label_sets = find_label_sets(workspace.settings, annotators)
    for annotator in annotators:
        found: dict[str, list[str]] = {}
        for error in _list_errors(workspace.store, annotator) if annotator not in with_label_sets else ():
            kind, _, message = error.partition(": ")
            found.setdefault(kind, []).append(message or error)
        for kind, messages in sorted(found.items()):
            yield FailedImages(annotator.name, kind, len(messages), tuple(dict.fromkeys(messages))[:EXAMPLES])
    for name, count, error in _list_left_out(workspace):
        yield FailedImages(name, "left out, as it is not required", count, (error,))


def _estimate_reliability(workspace: Workspace, annotators: Sequence[AnnotatorVersion]) -> Reliabilities:
    store = workspace.store
    if not annotators:
        return {}
    coverage = pa.concat_tables([_read_coverage(store, annotator) for annotator in annotators])
    claims = pa.concat_tables([_read_claims(store, annotator) for annotator in annotators])
    return estimate_reliability(
        claims, coverage, workspace.settings.engine, read_profiles(workspace.settings, store, annotators)
    )


def _list_annotator_quality(
    store: Store, annotators: Sequence[AnnotatorVersion], reliability: Reliabilities, measured: Mapping[str, Any]
) -> Iterator[AnnotatorQuality]:
    """Yield a row for each annotator and annotation type that it claimed or was weighted for.

    An annotator that claimed nothing has one row without a type. ``measured``: `annotators` of metrics/labels.json.
    """
    for annotator in annotators:
        number = Counter(_read_claims(store, annotator)["task"].to_pylist())
        failed = sum(1 for _ in _list_errors(store, annotator))
        known = {
            task: found
            for reference in ("human", "truth")
            for task, found in measured.get(annotator.name, {}).get(reference, {}).items()
        }
        tasks = [task for task in ANNOTATION_TYPES if number[task] or (annotator.name, task) in reliability]
        for task in tasks or [""]:
            estimate = reliability.get((annotator.name, task))
            metric = min(known.get(task, ()), key=MEASURES.index, default="")
            yield AnnotatorQuality(
                annotator.name,
                annotator.version,
                task,
                number[task],
                estimate.value if estimate else None,
                failed,
                metric,
                known[task][metric]["value"] if metric else None,
            )


def _list_reliability_by_name(
    workspace: Workspace, annotators: Sequence[AnnotatorVersion], reliability: Reliabilities
) -> Iterator[ReliabilityByName]:
    """Yield how well each annotator finds and names the objects of the most frequent names."""
    from florence.evaluate import count_found_objects, find_gold_references

    data, store = workspace.data, workspace.store
    references = find_gold_references(data, _list_gold_images(data))
    for annotator in annotators:
        if (estimate := reliability.get((annotator.name, "<OD>"))) is None:
            continue
        rows = _read_coverage(store, annotator).to_pylist()
        finished = {row["image_id"] for row in rows if find_looks(row, frozenset([OBJECTS]))}
        counts = count_found_objects(_read_claims(store, annotator), references, finished)
        for name, value in list(estimate.by_name.items())[:NAMES]:
            found, total = counts.get(fold_label(name), (0, 0))
            yield ReliabilityByName(annotator.name, name, value, found / total if total else None, total)


def _list_annotator_activity(
    workspace: Workspace, annotators: Sequence[AnnotatorVersion]
) -> Iterator[AnnotatorActivity]:
    """Yield each annotator's role, the images that it has finished and misses, its claims and its usage."""
    store, settings = workspace.store, workspace.settings
    missing = count_missing(workspace, annotators)
    reasons = store.read_object(MISSING) if store.exists(MISSING) else {}
    for annotator, profile in zip(annotators, read_profiles(settings, store, annotators), strict=True):
        section = settings.annotators.get(annotator.name)
        device, batch_size = (
            (section.device, section.batch_size) if section else ("cpu", settings.engine.student.batch_size)
        )
        left = sum(missing[annotator.name].values())
        usage = read_usage(store, annotator)
        yield AnnotatorActivity(
            annotator.name,
            annotator.version,
            profile.role,
            device,
            batch_size,
            _count_stored_rows(store, f"coverage/{annotator.key}"),
            left,
            _count_stored_rows(store, f"claims/{annotator.key}"),
            reasons.get(annotator.key, "") if left else "",
            usage.calls,
            usage.tokens,
            float(usage.cost),
            profile.family,
        )
    for name, count, error in _list_left_out(workspace):
        section = settings.annotators[name]
        yield AnnotatorActivity(name, "", "left out", section.device, section.batch_size, 0, count, 0, error)


def _list_left_out(workspace: Workspace) -> Iterator[tuple[str, int, str]]:
    """Yield each annotator that the run went on without, the images that it was to annotate, and why."""
    store = workspace.store
    left_out = find_unusable_annotators(workspace.settings, store)
    shards = {one: store.footer(f"images/{one}.parquet").num_rows for one in (list_shards(store) if left_out else ())}
    for name, error in left_out.items():
        looks_at = workspace.settings.annotators[name].looks_at
        yield name, sum(rows for shard, rows in shards.items() if looks_at(shard.rsplit("-", 1)[0])), error


def _count_stored_rows(store: Store, folder: str) -> int:
    return sum(store.footer(name).num_rows for name in store.names(folder, ".parquet"))
