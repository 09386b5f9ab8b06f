"""What a round came to, gathered for people: its facts, their table for the terminal, the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from florence.config import Settings
from florence.engine.churn import measure_churn
from florence.engine.reliability import estimate_reliability
from florence.records import ANNOTATION_TYPES, ANNOTATIONS, FINE_TUNED, TASKS
from florence.report import facts
from florence.report.facts import Churn, Gain, LoopFacts, Quality, RoundFacts, TaskScore
from florence.store import Store
from florence.workspace import Workspace
from florence.workspace.annotate import COVERAGE, MISSING, AnnotatorVersion, count_missing, read_profiles, read_usage
from florence.workspace.layout import list_rounds, read_images

MEASURES = ("f1", "spotted", "cider", "accuracy", "mask_iou", "f1_boxes")
"""How claims are measured: of several measures of a kind the first says what they are worth."""
NAMES = 12
"""Names of objects for which it is told how well each annotator sees them."""


def round_facts(
    workspace: Workspace,
    who: list[AnnotatorVersion],
    round: int,
    without_student: pa.Table | None = None,
    since: int = 0,
) -> RoundFacts:
    """What is to be told of a round once it is compared: all of its facts but hashes, run, model version and seconds.

    ``who``: its annotators; ``without_student``: its labels as they are with the student's vote switched off (`florence.workspace.fuse.fuse_round` of the other
    annotators, not written), if that was tried; ``since``: the round that label quality is compared with. What the round does not have is empty.
    """
    from florence.evaluate import Decision

    settings, store, data, out = workspace.settings, workspace.store, workspace.data, workspace.files
    snapshot = data.read_json("snapshot.json")
    labels = data.read_table(f"labels/round={round}/labels.parquet")
    images, aside = read_images(data), data.read_table("rejected_files.parquet").to_pylist()
    read = {
        name: out.read_json(f"metrics/{name}.json") if out.exists(f"metrics/{name}.json") else None
        for name in ("labels", "scores", "decision")
    }
    decision = Decision.from_json(read["decision"]) if read["decision"] else None
    parent = snapshot.get("parent")
    kept: Counter[tuple[str, bool]] = Counter(dict(_counts(labels, "task", "kept")))
    dropped = labels.filter(pc.invert(labels["kept"]))
    reliable = _reliabilities(settings, store, who)
    return facts.RoundFacts(
        round=round,
        snapshot_id=snapshot["id"],
        parent=parent["id"] if isinstance(parent, dict) else parent,
        decision=None if decision is None else "accepted" if decision.accepted else "rejected",
        reason=decision.reason if decision else "",
        images=tuple(facts.ImageCount(source, split, n) for (source, split), n in _counts(images, "source", "split")),
        counts=tuple(
            facts.TypeCount(task, kept[task, True], kept[task, False])
            for task in ANNOTATION_TYPES
            if kept[task, True] + kept[task, False]
        ),
        drops=tuple(facts.DropCount(task, reason, n) for (task, reason), n in _counts(dropped, "task", "reason")),
        rejected_files=tuple(
            facts.RejectedFile(row["source"], row["name"], row["reason"], row["detail"]) for row in aside
        ),
        label_quality=tuple(_quality_facts(read["labels"] or {})),
        label_quality_gain=tuple(_gain_facts(settings, data, labels, without_student, since)) if since < round else (),
        scores=tuple(_score_facts(read["scores"] or {})),
        churn=tuple(_churn_facts(data, labels, round, without_student)),
        annotator_quality=tuple(_quality_of(store, who, reliable, (read["labels"] or {}).get("annotators", {}))),
        reliability_by_name=tuple(_named_facts(data, store, who, reliable)),
        annotator_activity=tuple(_activity_of(workspace, who)),
    )


def _counts(table: pa.Table, *columns: str) -> list[tuple[Any, int]]:
    """How many rows have each combination of values, sorted."""
    return sorted(Counter(zip(*(table[name].to_pylist() for name in columns), strict=True)).items())


def _quality_facts(figures: dict) -> Iterator[Quality]:
    for split in ("gold", "train"):
        for reference, tasks in figures.get(split, {}).items():
            for task, measures in tasks.items():
                for metric, found in measures.items():
                    yield Quality(
                        task, metric, split, reference, found["value"], found["low"], found["high"], found["n"]
                    )


def _gain_facts(
    settings: Settings, data: Store, labels: pa.Table, without_student: pa.Table | None, since: int
) -> Iterator[Gain]:
    from florence.evaluate import changes, gold

    name = f"labels/round={since}/labels.parquet"
    if not data.exists(name):
        return
    images = read_images(data)
    known = gold(data, images.filter(pc.equal(images["split"], "gold"))["image_id"].to_pylist())
    before = data.read_table(name)
    without = {} if without_student is None else changes(before, without_student, known, settings.evaluate)
    for key, found in sorted(changes(before, labels, known, settings.evaluate).items()):
        task, metric, _ = key
        yield Gain(
            task,
            metric,
            "gold",
            since,
            found.mean,
            found.low,
            found.high,
            found.n,
            without[key].mean if key in without else None,
        )


def _score_facts(figures: dict) -> Iterator[TaskScore]:
    for task in (*TASKS, *FINE_TUNED):
        for reference, found in figures.get(task, {}).items():
            value, low, high, control = (found.get(name) for name in ("value", "low", "high", "control"))
            calibration = (
                (found["calibration"]["error"], found["calibration"]["calibrated"]) if "calibration" in found else None
            )
            yield TaskScore(
                task, found["metric"], value, low, high, found["n"], found["invalid"], reference, control, calibration
            )


def _churn_facts(data: Store, labels: pa.Table, round: int, without_student: pa.Table | None) -> Iterator[Churn]:
    if earlier := [number for number in list_rounds(data) if number < round]:
        before = data.read_table(f"labels/round={earlier[-1]}/labels.parquet")
        found, without = (
            measure_churn(before, labels),
            {} if without_student is None else measure_churn(before, without_student),
        )
        for task in [task for task in ANNOTATION_TYPES if task in found]:
            one = found[task]
            yield Churn(
                task,
                one.share,
                one.same,
                one.renamed,
                one.moved,
                one.added,
                one.removed,
                without[task].share if task in without else None,
            )


def _claims(store: Store, annotator: AnnotatorVersion) -> pa.Table:
    return store.read_tables(f"claims/{annotator.key}", ANNOTATIONS)


def _reliabilities(settings: Settings, store: Store, who: list[AnnotatorVersion]) -> dict[tuple[str, str], Any]:
    """`florence.engine.reliability.estimate_reliability` of all annotators' claims."""
    if not who:
        return {}
    looked = pa.concat_tables([store.read_tables(f"coverage/{annotator.key}", COVERAGE) for annotator in who])
    return estimate_reliability(
        pa.concat_tables([_claims(store, annotator) for annotator in who]),
        looked,
        settings.engine,
        read_profiles(store, who),
    )


def _quality_of(
    store: Store, who: list[AnnotatorVersion], reliable: dict[tuple[str, str], Any], measured: dict
) -> Iterator[facts.AnnotatorQuality]:
    """Every annotator with each kind it claimed or was weighed for; one that claimed nothing has one row without a kind. ``measured``: see metrics/labels.json."""
    for annotator in who:
        number = Counter(_claims(store, annotator)["task"].to_pylist())
        coverage = store.read_tables(f"coverage/{annotator.key}", COVERAGE)
        failed = sum(bool(error) and not error.startswith("NotListedError") for error in coverage["error"].to_pylist())
        known = {
            task: found
            for reference in ("human", "truth")
            for task, found in measured.get(annotator.name, {}).get(reference, {}).items()
        }
        for task in [kind for kind in ANNOTATION_TYPES if number[kind] or (annotator.name, kind) in reliable] or [""]:
            found = reliable.get((annotator.name, task))
            metric = min(known.get(task, ()), key=MEASURES.index, default="")
            value = known[task][metric]["value"] if metric else None
            yield facts.AnnotatorQuality(
                annotator.name,
                annotator.version,
                task,
                number[task],
                found.value if found else None,
                failed,
                metric,
                value,
            )


def _named_facts(
    data: Store, store: Store, who: list[AnnotatorVersion], reliable: dict[tuple[str, str], Any]
) -> Iterator[facts.ReliabilityByName]:
    """How well each annotator sees the objects of the most frequent names."""
    from florence.evaluate import by_name, gold
    from florence.metrics import same

    images = read_images(data)
    known = gold(data, images.filter(pc.equal(images["split"], "gold"))["image_id"].to_pylist())
    for annotator in who:
        if (found := reliable.get((annotator.name, "<OD>"))) is None:
            continue
        looked = store.read_tables(f"coverage/{annotator.key}", COVERAGE)
        seen = by_name(
            _claims(store, annotator), known, set(looked.filter(pc.equal(looked["error"], ""))["image_id"].to_pylist())
        )
        for name, value in list(found.by_name.items())[:NAMES]:
            right, of = seen.get(same(name), (0, 0))
            yield facts.ReliabilityByName(annotator.name, name, value, right / of if of else None, of)


def _activity_of(workspace: Workspace, who: list[AnnotatorVersion]) -> Iterator[facts.AnnotatorActivity]:
    """Every annotator: who it is, what it has looked at, what it misses and why, what it has cost."""
    store, settings = workspace.store, workspace.settings
    missing = count_missing(workspace, who)
    why = store.read_json(MISSING) if store.exists(MISSING) else {}
    for annotator, speaker in zip(who, read_profiles(store, who), strict=True):
        section = settings.annotators.get(annotator.name)
        device, batch = (section.device, section.batch_size) if section else ("cpu", settings.engine.student.batch_size)
        left = sum(missing[annotator.name].values())
        looked = [store.footer(name).num_rows for name in store.names(f"coverage/{annotator.key}", ".parquet")]
        claims = [store.footer(name).num_rows for name in store.names(f"claims/{annotator.key}", ".parquet")]
        spent = read_usage(store, annotator)
        yield facts.AnnotatorActivity(
            annotator.name,
            annotator.version,
            speaker.role,
            device,
            batch,
            sum(looked),
            left,
            sum(claims),
            why.get(annotator.key, "") if left else "",
            spent.calls,
            spent.tokens,
            float(spent.cost),
        )


def summary(loop: LoopFacts) -> str:
    """The rounds of a loop as a table for the terminal: labels kept and dropped, their quality, the models' scores, the decisions."""
    from florence.report.summary import summary

    return summary(loop)


def make_report(loop: LoopFacts, data: Store, out: Path) -> Path:
    """Write the page of the loop's last round below ``out`` and return its path; see `florence.report.build_report`."""
    from florence.report import build_report

    return build_report(loop, data, out)
