"""The loop: annotate, fuse, validate, publish, train, score, promote; and again with the student as one more annotator.

Every step can be done again and gives the same; .florence/loop.json says which rounds are done. So a loop that was killed at
any point is started again by the same command, and ends with the same snapshot as one that was not.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from florence import annotation, findings, stages
from florence.annotation import AnnotatorVersion
from florence.errors import DataError, FlorenceError, SettingsError
from florence.report.facts import LoopFacts
from florence.store import Store
from flows.adapters.quality import validate_staging
from flows.annotate import Annotated, annotate, runner
from flows.facts import read_facts, write_facts
from flows.outlook import changed_sections, images_hash, nothing_new, reviews, settings_hashes, waiting
from flows.params import missing_sections
from flows.parts import PARENT, Parts, Seconds, end_with_parent, ending, open_parts
from flows.promote import CALIBRATION, SCORES, champion, lineage, promote
from flows.state import LoopState, locked, read_state, write_state
from flows.terminal import Shown, say
from flows.train import train

T = TypeVar("T")
LISTED = 20
"""Files rejected that are listed one by one."""
ACCEPTED = ".florence/accepted"
STUDENTS = ".florence/students"


@flow(name="refine", persist_result=False)
def refine(root: str = ".", rounds: int | None = None) -> str:
    """Bring the workspace in ``root`` up to date: ``rounds`` rounds (by default flow.rounds) over what is new; nothing where nothing is.

    Returns a sentence about the outcome. Raises WorkspaceLockedError where another run is at work, ValidationFailedError where expectations failed.
    """
    end_with_parent(os.environ)
    folder = Path(root).resolve()
    os.chdir(folder)  # relative paths in params.yaml are the workspace's
    try:
        with locked(folder):
            return _refined(open_parts(folder), rounds)
    except FlorenceError as error:
        if PARENT in os.environ:  # there is no command line to tell it
            say(f"error: {error}")
        raise


def _refined(parts: Parts, rounds: int | None) -> str:
    if missing := missing_sections(parts.root):
        raise SettingsError(
            f"params.yaml lacks {', '.join(missing)}: stages of dvc.yaml depend on it, so write it down, be it with its default"
        )
    sweep(parts)
    before = standing(parts)
    start = time.monotonic()
    take_in(parts)
    collecting = time.monotonic() - start
    state, why = next_state(parts, before, rounds)
    if state is None:
        say(nothing_new(parts))
        return "nothing new"
    say(why)
    state = state.spent("collect", collecting)
    write_state(parts.root, state)
    with _tracked(parts, state) as parent:
        while not state.finished:
            state = _Round(parts, state, parent).run()
    return _told(parts, state)


# ---------------------------------------------------------------- what there is to do


def standing(parts: Parts) -> LoopState | None:
    """Where the last loop stands; where a snapshot is here but no loop has run (after `dvc pull`), as if one had ended with it."""
    if parts.data.exists("snapshot.json"):
        if copied := stages.restore(parts.store, parts.data):
            say(f"the working store was empty: {copied} files are taken over from data/")
    elif (parts.root / "data.dvc").exists() and not stages.shards(parts.store):
        say("data.dvc names a snapshot that is not here: a fresh one is started (`dvc pull` would fetch the old one)")
    if (state := read_state(parts.root)) is not None:
        return state
    last = max([-1, *stages.rounds(parts.store), *stages.rounds(parts.data)])
    if last < 0:
        return None
    published = (
        parts.data.read_json("snapshot.json").get("annotators", {}) if parts.data.exists("snapshot.json") else {}
    )
    known: dict[str, Any] = {
        "images": images_hash(parts.store),
        "settings": settings_hashes(parts),
        "reviews": published.get(annotation.HUMAN, ""),
    }
    return LoopState("", 0, last + 1, last + 1, accepted=last, finished=True, **known)


def sweep(parts: Parts) -> None:
    """Remove what killed runs had half written; nobody reads it, but in data/ it would be part of the snapshot."""
    for store in (parts.store, parts.data):
        for part in Path(store.root).rglob(".*.part") if store.local else ():
            part.unlink(missing_ok=True)


def take_in(parts: Parts) -> stages.Collected:
    """Collect what is new. Raises DataError where there is no image at all."""
    with Shown() as progress:
        collected = _step("collect", lambda: stages.collect(parts.settings, parts.store, progress))
    if collected.total == 0:
        aside = "".join(f"\n  {name}: {reason}" for _, name, reason, _ in collected.rejected_files[:5])
        reliability_by_name = ", ".join(parts.settings.sources) or "there are none"
        raise DataError(
            f"the sources of params.yaml ({reliability_by_name}) have no image that can be used; `florence loop --images DIR` names a folder{aside}"
        )
    if collected.new:
        say(f"{collected.new} new images, {collected.total} in all; {len(collected.rejected_files)} files rejected")
        for source, name, reason, detail in collected.rejected_files[:LISTED]:
            say(f"  {source}/{name}: {reason}" + (f" ({detail})" if detail else ""))
        if (more := len(collected.rejected_files) - LISTED) > 0:
            say(f"  and {more} more; `florence collect` lists all")
    return collected


def next_state(parts: Parts, state: LoopState | None, rounds: int | None) -> tuple[LoopState | None, str]:
    """The state to go on from, and why; None where there is nothing to do.

    A loop that was broken off goes on. A finished one gets more rounds where ``rounds`` asks for more than it has, unless its last round
    was rejected: the same again would be rejected again. A new loop begins where there are new images or reviews, where annotators or their
    versions are new, or where settings of `outlook.SECTIONS` have changed.
    """
    if state is None:
        return _new_state(parts, None, rounds), "a new loop"
    if not state.finished:
        wanted = max(rounds or state.wanted, state.done + 1)
        return dataclasses.replace(
            state, wanted=wanted
        ), f"going on with loop {state.loop_id}: {state.done} of {wanted} rounds are done"
    if reasons := news(parts, state):
        return _new_state(parts, state, rounds), f"a new loop: {'; '.join(reasons)}"
    if rounds is not None and rounds > state.done and state.loop_id and not state.rejected:
        return dataclasses.replace(
            state, wanted=rounds, finished=False
        ), f"going on with loop {state.loop_id}: {state.done} rounds are done, {rounds} asked for"
    return None, ""


def news(parts: Parts, state: LoopState) -> list[str]:
    """What has changed since a loop ended."""
    reasons = []
    if images_hash(parts.store) != state.images:
        reasons.append("new images")
    elif left := waiting(parts):
        # An annotator that failed before and fails again has nothing new to say.
        if _annotated(parts, state.round, None).images:
            reasons.append("new claims of " + ", ".join(left))
    if reviews(parts.store) != state.reviews:
        reasons.append("new reviews")
    if changed := changed_sections(parts, state):
        reasons.append(f"changed settings ({', '.join(changed)})")
    return reasons


def _new_state(parts: Parts, last: LoopState | None, rounds: int | None) -> LoopState:
    """A new loop: its rounds are numbered on from the last one's, and the champion, where there is one, is its student."""
    loop_id = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    state = LoopState(loop_id, 0, rounds or parts.settings.flow.rounds)
    if last is None:
        return state
    state = dataclasses.replace(state, first_round=last.round, accepted=last.accepted, images=last.images)
    if last.loop_id == "" and parts.snapshots.data_hash() is not None:
        parts.snapshots.keep(parts.root / ACCEPTED / f"round={last.accepted}")  # what a rejected round goes back to
    if (leader := champion(parts)) is not None:
        scores = str(leader.scores) if leader.scores else None
        return dataclasses.replace(state, student=str(leader.model), scores=scores, champion=leader.version)
    model, scores_file = parts.root / "model", parts.root / SCORES
    if last.loop_id == "" and last.accepted is not None and (model / "config.json").exists() and scores_file.exists():
        say("the registry has no champion; the model in model/, which belongs to this snapshot, takes its place")
        return dataclasses.replace(state, student=str(_student(parts.root, last.accepted)), scores=str(scores_file))
    return state


# ---------------------------------------------------------------- a round


class _Round:
    """One round of a loop, from annotation to the decision about its model."""

    def __init__(self, parts: Parts, state: LoopState, parent: str) -> None:
        self.parts, self.state, self.number = parts, state, state.round
        self.run_id = parts.tracker.round_run(parent, self.number, {"florence.loop": state.loop_id})
        self.pushed = False
        self.reviews = reviews(parts.store)
        if set(state.seconds) <= {"collect"}:
            Seconds(parts.root).clear()

    def run(self) -> LoopState:
        """Do the round, or what is left of it; returns the state after it."""
        parts, number, state = self.parts, self.number, self.state
        who = annotation.annotators(parts.settings, state.student, parts.store)
        student = any(annotator.name == annotation.STUDENT for annotator in who)
        say(
            f"round {number} ({state.done + 1} of {state.wanted})"
            + (", with the champion as one more annotator" if student else "")
        )
        self.timed("annotate", lambda: _annotated(parts, number, state.student), plain=True)
        snapshot = self.published(who)
        dvc_hash = self.timed("snapshot", self.add)
        parts.tracker.log_snapshot(self.run_id, parts.root / "data", snapshot, dvc_hash)
        decided = self.timed("dvc repro", lambda: train(str(parts.root), self.run_id), plain=True)
        if self.pushed:
            self.timed("push", parts.snapshots.push)  # the model and its scores
        commit = (
            parts.snapshots.commit(f"Round {number}: snapshot {snapshot['id']}") if decided["accepted"] else None
        ) or parts.snapshots.git_commit()
        tags = lineage(parts, decided, **{"florence.loop": state.loop_id, "git_commit": commit})
        version = self.timed(
            "register", lambda: promote(str(parts.root), self.run_id, tags, decided["accepted"]), plain=True
        )
        say(f"round {number} is {'accepted' if decided['accepted'] else 'rejected'}: {decided['reason']}")
        facts = self.facts(who, dvc_hash=dvc_hash, git_commit=commit, run_id=self.run_id, model_version=version)
        self.timed("report", lambda: self.report(facts))
        return self.ended(decided, version)

    def timed(self, stage: str, work: Callable[[], T], *, plain: bool = False) -> T:
        """Do ``work`` as a Prefect task (a flow is one already: ``plain``), and count its seconds, also over several runs."""
        start = time.monotonic()
        try:
            return work() if plain else _step(stage, work)
        finally:
            self.state = self.state.spent(stage, time.monotonic() - start)
            write_state(self.parts.root, self.state)

    def published(self, who: list[AnnotatorVersion]) -> dict[str, Any]:
        """Fuse, validate and publish; returns snapshot.json."""
        parts, number = self.parts, self.number
        with Shown() as progress:
            self.timed("fuse", lambda: stages.fuse_round(parts.settings, parts.store, who, number, progress))
        self.timed("validate", lambda: validate_staging(parts.settings, parts.store, number, parts.root))
        if self.state.student is not None:
            parts.store.write_table(f"baseline/round={number}/scores.parquet", self.baseline())
        with Shown() as progress:
            return self.timed(
                "publish", lambda: stages.publish(parts.settings, parts.store, parts.data, who, number, progress)
            )

    def baseline(self) -> Any:
        """The champion's scores, which the new model's are compared with."""
        from florence.evaluate import SCORES as SCHEMA
        from florence.evaluate import baseline

        if self.state.scores is None:
            say(
                "the champion's scores are not known here, so no model can be compared with it; `florence promote` names another champion"
            )
            return baseline(SCHEMA.empty_table())
        path = Path(self.state.scores)
        return baseline(Store(str(path.parent)).read_table(path.name))

    def add(self) -> str:
        """Track data/ and push it where a remote is set; returns its hash."""
        found = self.parts.snapshots.add()
        self.pushed = self.parts.snapshots.push()
        if self.pushed:
            say("pushed the snapshot")
        return found

    def facts(self, who: list[AnnotatorVersion], **more: Any) -> LoopFacts:
        """The loop's facts with this round's, written to build/loop.json."""
        parts, state = self.parts, self.state
        without = None
        if any(annotator.name == annotation.STUDENT for annotator in who):
            others = [annotator for annotator in who if annotator.name != annotation.STUDENT]
            without = self.timed(
                "fuse without student",
                lambda: stages.fuse_round(parts.settings, parts.store, others, self.number, write=False),
            )
        since = (
            state.first_round
            if self.number > state.first_round
            else state.accepted
            if state.accepted is not None
            else self.number
        )
        facts = findings.round_facts(
            parts.settings, parts.store, parts.data, parts.root, who, self.number, without, since
        )
        spent = {
            a.name: {"calls": a.calls, "tokens": a.tokens, "cost": a.cost}
            for a in facts.annotator_activity
            if a.calls or a.tokens or a.cost
        }
        parts.tracker.log_metrics(self.run_id, {"annotators": spent})
        seconds = {k: v for k, v in self.state.seconds.items() if k != "dvc repro"} | {
            f"dvc {k}": v for k, v in Seconds(parts.root).read().items()
        }
        loop = read_facts(parts)
        if loop is None or loop.loop_id != state.loop_id:
            loop = LoopFacts(state.loop_id)
        loop = loop.with_round(dataclasses.replace(facts, seconds=seconds, **more))
        write_facts(parts, loop)
        return loop

    def report(self, facts: LoopFacts) -> None:
        """The round's page, kept with its MLflow run and linked from its Prefect run."""
        page = findings.make_report(facts, self.parts.data, self.parts.report)
        self.parts.tracker.log_report(self.run_id, self.parts.report)
        _artifacts(self.parts, facts, page)

    def ended(self, decided: dict[str, Any], version: str) -> LoopState:
        """Keep what was accepted, or go back to what was; the state after the round."""
        parts, number, state = self.parts, self.number, self.state
        state = dataclasses.replace(
            state,
            done=state.done + 1,
            images=images_hash(parts.store),
            settings=settings_hashes(parts),
            reviews=self.reviews,
            seconds={},
        )
        if decided["accepted"]:
            parts.snapshots.keep(parts.root / ACCEPTED / f"round={number}")
            student = _student(parts.root, number)
            scores = student.parent / f"scores-round={number}.parquet"
            Store(str(student.parent)).write_bytes(scores.name, (parts.root / SCORES).read_bytes())
            state = dataclasses.replace(
                state,
                accepted=number,
                student=str(student),
                scores=str(scores),
                champion=version,
                finished=state.done >= state.wanted,
            )
        else:
            kept = parts.root / ACCEPTED / f"round={state.accepted}"
            if state.accepted is not None and kept.exists():
                parts.snapshots.restore(kept)
                say(f"the snapshot and model of round {state.accepted} are in place again")
            state = dataclasses.replace(state, rejected=decided["reason"], finished=True)
        parts.tracker.finish(self.run_id)
        write_state(parts.root, state)
        _drop_others(parts.root / STUDENTS, state.student)
        return state


def _annotated(parts: Parts, round: int, student: str | None) -> Annotated:
    done = annotate.with_options(task_runner=runner(parts.settings))(str(parts.root), round, student)
    if done.shards:
        say(
            f"annotated {done.images} images, counted for every annotator, in {done.shards} shards"
            + (f"; {done.skipped} were done already" if done.skipped else "")
        )
    return done


def _step(name: str, work: Callable[[], T]) -> T:
    """Do ``work`` as a Prefect task called ``name``, so that the run's page shows it with its time."""
    return task(name=name, persist_result=False, cache_policy=NO_CACHE)(lambda: work())()  # type: ignore[return-value]


def _student(root: Path, number: int) -> Path:
    """A copy of model/ with its calibration, whole or not at all, as the student of round ``number``."""
    target = root / STUDENTS / f"round={number}"
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(root / "model", part)
    if (calibration := root / CALIBRATION).exists():
        shutil.copy(calibration, part)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)
    return target


def _drop_others(folder: Path, student: str | None) -> None:
    """Remove the models of earlier rounds: the registry has them."""
    for other in folder.glob("round=*"):
        if str(other) != student:
            shutil.rmtree(other, ignore_errors=True)


# ---------------------------------------------------------------- what is told


@contextmanager
def _tracked(parts: Parts, state: LoopState) -> Iterator[str]:
    """The loop's MLflow run while the block runs; it and the round under way end as the block does."""
    parent = parts.tracker.loop_run(state.loop_id, parts.settings.model_dump(mode="json"))

    def finish(status: str) -> None:
        if status != "FINISHED" and (now := read_state(parts.root)) is not None and not now.finished:
            parts.tracker.finish(parts.tracker.round_run(parent, now.round), status)
        parts.tracker.finish(parent, status)

    with ending(finish):
        yield parent


def _artifacts(parts: Parts, facts: LoopFacts, page: Path) -> None:
    """A table of the round and links on the page of the Prefect run."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact

    last = facts.rounds[-1]
    text = f"# Round {last.round}: {last.decision}\n\n{last.reason}\n\n```\n{findings.summary(facts)}\n```\n"
    create_markdown_artifact(text, key="florence-round", description=f"loop {facts.loop_id}")
    create_link_artifact(page.as_uri(), link_text=f"report of round {last.round}", key="florence-report")
    if parts.tracker.uri.startswith("http"):
        link = f"{parts.tracker.uri.rstrip('/')}/#/experiments/{parts.tracker.experiment_id}/runs/{last.run_id}"
        create_link_artifact(link, link_text="MLflow run", key="florence-mlflow")


def _told(parts: Parts, state: LoopState) -> str:
    """The loop's table and where to look; returns one sentence."""
    if (facts := read_facts(parts)) is not None:
        say(findings.summary(facts))
    say(f"Look at   {parts.report / 'index.html'}\nFacts     {parts.root / 'build' / 'loop.json'}")
    leader = f"champion version {state.champion}" if state.champion else "no champion"
    return f"loop {state.loop_id}: {state.done} rounds, {leader}" + (
        ", stopped by a round that was rejected" if state.rejected else ""
    )
