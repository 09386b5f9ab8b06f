"""What a round came to, gathered for people: its facts, their table for the terminal, the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from florence import annotation, stages
from florence.annotation import Author
from florence.config import Settings
from florence.records import ANNOTATED, ANNOTATIONS, FINE_TUNED, TASKS
from florence.report import facts
from florence.report.facts import Churn, Gain, LoopFacts, Quality, RoundFacts, TaskScore
from florence.store import Store


def round_facts(
    settings: Settings,
    store: Store,
    data: Store,
    root: Path,
    who: list[Author],
    round: int,
    without_student: pa.Table | None = None,
    since: int = 0,
) -> RoundFacts:
    """What is to be told of a round once it is compared: all of its facts but hashes, run, model version and seconds.

    ``who``: its authors; ``without_student``: its labels as they are with the student's vote switched off (`florence.stages.fuse_round` of the other
    authors, not written), if that was tried; ``since``: the round that label quality is compared with. What the round does not have is empty.
    """
    from florence.evaluate import Decision

    snapshot = data.read_json("snapshot.json")
    labels = data.read_table(f"labels/round={round}/labels.parquet")
    images, aside = stages.images_table(data), data.read_table("set_aside.parquet").to_pylist()
    out = Store(str(root))
    read = {name: out.read_json(f"metrics/{name}.json") if out.exists(f"metrics/{name}.json") else None for name in ("labels", "scores", "decision")}
    decision = Decision.from_json(read["decision"]) if read["decision"] else None
    parent = snapshot.get("parent")
    kept: Counter[tuple[str, bool]] = Counter(dict(_counts(labels, "task", "kept")))
    dropped = labels.filter(pc.invert(labels["kept"]))
    return facts.RoundFacts(
        round=round,
        snapshot_id=snapshot["id"],
        parent=parent["id"] if isinstance(parent, dict) else parent,
        decision=None if decision is None else "accepted" if decision.accepted else "rejected",
        reason=decision.reason if decision else "",
        images=tuple(facts.ImageCount(source, split, n) for (source, split), n in _counts(images, "source", "split")),
        counts=tuple(facts.KindCount(task, kept[task, True], kept[task, False]) for task in ANNOTATED if kept[task, True] + kept[task, False]),
        drops=tuple(facts.DropCount(task, reason, n) for (task, reason), n in _counts(dropped, "task", "reason")),
        set_aside=tuple(facts.SetAside(row["source"], row["name"], row["reason"], row["detail"]) for row in aside),
        label_quality=tuple(_quality_facts(read["labels"] or {})),
        label_quality_gain=tuple(_gain_facts(settings, data, labels, without_student, since)) if since < round else (),
        scores=tuple(_score_facts(read["scores"] or {})),
        churn=tuple(_churn_facts(data, labels, round)),
        authors=tuple(_author_facts(settings, store, who)),
        annotators=tuple(_annotator_facts(settings, store, who)),
    )


def _counts(table: pa.Table, *columns: str) -> list[tuple[Any, int]]:
    """How many rows have each combination of values, sorted."""
    return sorted(Counter(zip(*(table[name].to_pylist() for name in columns), strict=True)).items())


def _quality_facts(figures: dict) -> Iterator[Quality]:
    for split in ("gold", "train"):
        for reference, tasks in figures.get(split, {}).items():
            for task, measures in tasks.items():
                for metric, found in measures.items():
                    yield Quality(task, metric, split, reference, found["value"], found["low"], found["high"], found["n"])


def _gain_facts(settings: Settings, data: Store, labels: pa.Table, without_student: pa.Table | None, since: int) -> Iterator[Gain]:
    from florence.evaluate import changes, gold
    name = f"labels/round={since}/labels.parquet"
    if not data.exists(name):
        return
    images = stages.images_table(data)
    known = gold(data, images.filter(pc.equal(images["split"], "gold"))["image_id"].to_pylist())
    before = data.read_table(name)
    without = {} if without_student is None else changes(before, without_student, known, settings.evaluate)
    for key, found in sorted(changes(before, labels, known, settings.evaluate).items()):
        task, metric, _ = key
        yield Gain(task, metric, "gold", since, found.mean, found.low, found.high, found.n, without[key].mean if key in without else None)


def _score_facts(figures: dict) -> Iterator[TaskScore]:
    for task in (*TASKS, *FINE_TUNED):
        for reference, found in figures.get(task, {}).items():
            value, low, high, control = (found.get(name) for name in ("value", "low", "high", "control"))
            calibration = (found["calibration"]["error"], found["calibration"]["calibrated"]) if "calibration" in found else None
            yield TaskScore(task, found["metric"], value, low, high, found["n"], found["invalid"], reference, control, calibration)


def _churn_facts(data: Store, labels: pa.Table, round: int) -> Iterator[Churn]:
    from florence.engine import consensus
    if earlier := [number for number in stages.rounds(data) if number < round]:
        shares = consensus.churn(data.read_table(f"labels/round={earlier[-1]}/labels.parquet"), labels)
        yield from (Churn(task, shares[task]) for task in ANNOTATED if task in shares)


def _author_facts(settings: Settings, store: Store, who: list[Author]) -> Iterator[facts.Author]:
    """Every author with each kind it claimed or was weighed for; one that claimed nothing has one row without a kind."""
    from florence.engine import consensus

    claims = {author.name: store.read_tables(f"claims/{author.key}", ANNOTATIONS) for author in who}
    coverage = {author.name: store.read_tables(f"coverage/{author.key}", annotation.COVERAGE) for author in who}
    if not who:
        return
    looked = pa.concat_tables(coverage.values(), promote_options="default")
    weights = consensus.reliabilities(pa.concat_tables(claims.values()), looked, settings.engine, annotation.speakers_of(store, who))
    for author in who:
        number = Counter(claims[author.name]["task"].to_pylist())
        failed = sum(bool(error) and not error.startswith("NotListed") for error in coverage[author.name]["error"].to_pylist())
        for task in [kind for kind in ANNOTATED if number[kind] or (author.name, kind) in weights] or [""]:
            yield facts.Author(author.name, author.version, task, number[task], weights.get((author.name, task)), failed)


def _annotator_facts(settings: Settings, store: Store, who: list[Author]) -> Iterator[facts.Annotator]:
    """Every author: who it is, what it has looked at, what it misses and why, what it has cost."""
    missing = annotation.pending(settings, store, who)
    why = store.read_json(annotation.MISSING) if store.exists(annotation.MISSING) else {}
    for author, speaker in zip(who, annotation.speakers_of(store, who), strict=True):
        section = settings.specialists.get(author.name)
        device, batch = (section.device, section.batch) if section else ("cpu", settings.engine.student.batch)
        left = sum(missing[author.name].values())
        looked = [store.footer(name).num_rows for name in store.names(f"coverage/{author.key}", ".parquet")]
        claims = [store.footer(name).num_rows for name in store.names(f"claims/{author.key}", ".parquet")]
        spent = annotation.usage_of(store, author)
        yield facts.Annotator(
            author.name, author.version, speaker.role, device, batch, sum(looked), left, sum(claims),
            why.get(author.key, "") if left else "", spent.calls, spent.tokens, float(spent.cost),
        )  # fmt: skip


def summary(loop: LoopFacts) -> str:
    """The rounds of a loop as a table for the terminal: labels kept and dropped, their quality, the models' scores, the decisions."""
    from florence.report.summary import summary

    return summary(loop)


def make_report(loop: LoopFacts, data: Store, out: Path) -> Path:
    """Write the page of the loop's last round below ``out`` and return its path; see `florence.report.build_report`."""
    from florence.report import build_report

    return build_report(loop, data, out)
