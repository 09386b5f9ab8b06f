"""One round of a loop, from annotation to the decisions about its model and its labels."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from florence.records import STUDENT
from florence.report import build_report
from florence.report.approval import ModelApproval
from florence.report.facts import LoopFacts
from florence.store import Store
from florence.workspace.annotate import AnnotatorVersion, list_annotators
from florence.workspace.audit import audit_round
from florence.workspace.compare import compare_labels
from florence.workspace.fuse import fuse_round
from florence.workspace.layout import ANCHOR
from florence.workspace.publish import name_trial, publish_snapshot
from flows.adapters.quality import validate_staging
from flows.events import Kind, send_event
from flows.facts import read_facts, write_facts
from flows.loop.approval import find_since, keep_round, start_waiting, tags_of_waiting
from flows.loop.messages import create_artifacts, say_weighing
from flows.loop.steps import run_annotation, run_step
from flows.loop.students import ACCEPTED, remove_other_students
from flows.models import lineage_tags
from flows.plan import hash_images, hash_settings, human_version
from flows.promote import promote
from flows.record import name_record, record_round
from flows.state import LoopState, write_state
from flows.terminal import ProgressBars, say
from flows.tracked import StageSeconds, TrackedWorkspace
from flows.train import train

if TYPE_CHECKING:
    from florence.evaluate import LabelDecision

T = TypeVar("T")


class LoopRound:
    """A round of a loop.

    ``state``: the loop's, written after every stage; ``run_id``: its MLflow run, below ``parent``.
    """

    def __init__(self, workspace: TrackedWorkspace, state: LoopState, parent: str) -> None:
        self.workspace, self.state, self.number = workspace, state, state.round
        self.run_id = workspace.tracker.round_run(parent, self.number, {"florence.loop": state.loop_id})
        self.has_pushed = False
        self.reviews = human_version(workspace.store)
        if set(state.seconds) <= {"collect"}:
            StageSeconds(workspace.root).clear()

    def run(self) -> LoopState:
        """Do the round, or what is left of it; return the state after it."""
        workspace, number, state = self.workspace, self.number, self.state
        root, loop_id = str(workspace.root), {"florence.loop": state.loop_id}
        annotators = list_annotators(workspace.settings, state.student, workspace.store)
        has_student = any(annotator.name == STUDENT for annotator in annotators)
        more = ", with the champion as one more annotator" if has_student else ""
        say(f"round {number} ({state.done + 1} of {state.wanted}){more}")
        self.time_flow("annotate", lambda: run_annotation(workspace, number, state.student))
        snapshot = self.publish(annotators)
        dvc_hash = self.time_step("snapshot", self.track_snapshot)
        workspace.tracker.log_snapshot(self.run_id, workspace.root / "data", snapshot, dvc_hash)
        decision = self.time_flow("dvc repro", lambda: train(root, self.run_id))
        is_accepted = decision["accepted"]
        if self.has_pushed:
            self.time_step("push", workspace.snapshots.push)  # the model and its scores
        is_waiting = is_accepted and workspace.settings.promotion.approval == "manual"
        labels = None if is_accepted else self.time_step("compare labels", self.judge_labels)
        message = f"Round {number}: snapshot {snapshot['id']}"
        record = self.time_step("record", lambda: record_round(workspace, message))
        tags = lineage_tags(workspace, decision, **loop_id, **record.tags, parent=state.champion)
        tags |= tags_of_waiting() if is_waiting else {}
        is_promoted = is_accepted and not is_waiting
        version = self.time_flow("register", lambda: promote(root, self.run_id, tags, is_promoted))
        self.time_step("name record", lambda: name_record(workspace, record, self.run_id, version))
        say(f"the model of round {number} is {'accepted' if is_accepted else 'rejected'}: {decision['reason']}")
        if labels is not None:
            say(f"the labels of round {number} are {'kept' if labels.kept else 'set back'}: {labels.reason}")
        hashes: dict[str, Any] = {"dvc_hash": dvc_hash, "git_commit": record.git.commit if record.git else record.head}
        hashes |= {"run_id": self.run_id, "model_version": version}
        if labels is not None:
            hashes |= {"labels_kept": labels.kept, "labels_reason": labels.reason}
        if is_waiting:
            hashes |= {"approval": ModelApproval("waiting", find_since(workspace, version))}
        facts = self.gather_facts(annotators, hashes)
        self.time_step("report", lambda: self.report(facts))
        kind: Kind = "waiting" if is_waiting else "promoted" if is_accepted else "rejected"
        send_event(workspace, kind, state.loop_id, version, decision["reason"], facts.rounds[-1])
        if is_waiting:
            workspace.tracker.finish(self.run_id)
            self.state = start_waiting(workspace, self.state, version, self.reviews)
            return self.state
        return self.finish(decision, version, labels)

    # ------------------------------------------------------------ stages

    def time_step(self, stage: str, work: Callable[[], T]) -> T:
        """Do ``work`` as a Prefect task, and count its seconds."""
        return self.time_flow(stage, lambda: run_step(stage, work))

    def time_flow(self, stage: str, work: Callable[[], T]) -> T:
        """Do ``work``, which is a Prefect flow, and add its seconds to those of the stage, also over several runs."""
        start = time.monotonic()
        try:
            return work()
        finally:
            self.state = self.state.add_seconds(stage, time.monotonic() - start)
            write_state(self.workspace.root, self.state)

    def publish(self, annotators: list[AnnotatorVersion]) -> dict[str, Any]:
        """Fuse, validate and publish; return snapshot.json."""
        workspace, number = self.workspace, self.number
        with ProgressBars() as progress:
            self.time_step("fuse", lambda: fuse_round(workspace, annotators, number, progress))
        say_weighing(workspace, annotators)
        self.time_step(
            "validate", lambda: validate_staging(workspace.settings, workspace.store, number, workspace.root)
        )
        if self.state.student is not None or self.state.scores is not None:
            self.write_baseline()
        with ProgressBars() as progress:
            return self.time_step("publish", lambda: publish_snapshot(workspace, annotators, number, progress))

    def write_baseline(self) -> None:
        """Write what the round's model is compared with to the working store: `florence.workspace.publish` takes it."""
        store, champion = self.workspace.store, self.read_baseline()
        store.write_table(f"baseline/round={self.number}/scores.parquet", champion)
        store.write_json(name_trial(self.number), {"attempt": self.state.attempt})
        if not store.exists(ANCHOR) and champion["value"].null_count < len(champion):
            store.write_table(ANCHOR, champion)

    def read_baseline(self) -> pa.Table:
        """Return the champion's scores, which the new model's are compared with."""
        from florence.evaluate import SCORES as SCHEMA
        from florence.evaluate import make_baseline

        if self.state.scores is None:
            say(
                "the champion's scores are not known here, so no model can be compared with it; "
                "`florence promote` names another champion"
            )
            return make_baseline(SCHEMA.empty_table())
        path = Path(self.state.scores)
        return make_baseline(Store(str(path.parent)).read_table(path.name))

    def track_snapshot(self) -> str:
        """Track data/ with DVC, and push it where a remote is set; return its hash."""
        dvc_hash = self.workspace.snapshots.add()
        self.has_pushed = self.workspace.snapshots.push()
        if self.has_pushed:
            say("pushed the snapshot")
        return dvc_hash

    # ------------------------------------------------------------ facts

    def gather_facts(self, annotators: list[AnnotatorVersion], hashes: dict[str, Any]) -> LoopFacts:
        """Return the loop's facts with this round's, written to build/loop.json.

        ``hashes``: fields of the round's facts that only the flow knows.
        """
        workspace, state = self.workspace, self.state
        without = self.fuse_without_student(annotators)
        # taken before `self.state` is asked for its seconds: the stage above has added to them
        facts = audit_round(workspace, annotators, self.number, without, self.earlier_round(state))
        usage = {
            activity.name: {"calls": activity.calls, "tokens": activity.tokens, "cost": activity.cost}
            for activity in facts.annotator_activity
            if activity.calls or activity.tokens or activity.cost
        }
        workspace.tracker.log_metrics(self.run_id, {"annotators": usage})
        seconds = {k: v for k, v in self.state.seconds.items() if k != "dvc repro"}
        seconds |= {f"dvc {k}": v for k, v in StageSeconds(workspace.root).read().items()}
        loop = read_facts(workspace)
        if loop is None or loop.loop_id != state.loop_id:
            loop = LoopFacts(state.loop_id)
        loop = loop.with_round(dataclasses.replace(facts, seconds=seconds, **hashes))
        write_facts(workspace, loop)
        return loop

    def fuse_without_student(self, annotators: list[AnnotatorVersion]) -> pa.Table | None:
        """Return the round's labels as they are without the student's claims, not written.

        None where there is no student.
        """
        others = [annotator for annotator in annotators if annotator.name != STUDENT]
        if len(others) == len(annotators):
            return None
        return self.time_step(
            "fuse without student", lambda: fuse_round(self.workspace, others, self.number, write=False)
        )

    def earlier_round(self, state: LoopState) -> int:
        """Return the round that the quality of this round's labels is compared with."""
        if self.number > state.first_round:
            return state.first_round
        return state.accepted if state.accepted is not None else self.number

    def report(self, facts: LoopFacts) -> None:
        """Make the round's page; keep it with its MLflow run and link it from its Prefect run."""
        page = build_report(facts, self.workspace.data, self.workspace.report)
        self.workspace.tracker.log_report(self.run_id, self.workspace.report)
        create_artifacts(self.workspace, facts, page)

    # ------------------------------------------------------------ the end

    def judge_labels(self) -> LabelDecision:
        """Decide whether the labels are kept although the model was rejected."""
        return compare_labels(self.workspace, self.number, self.state.accepted)

    def finish(self, decision: dict[str, Any], version: str, labels: LabelDecision | None) -> LoopState:
        """Keep the snapshot if its model was accepted or its labels are better, else go back to the last one kept.

        A loop ends with a round whose model was rejected: the champion would annotate as it has. Return the state after
        the round.
        """
        workspace, number = self.workspace, self.number
        state = dataclasses.replace(
            self.state,
            done=self.state.done + 1,
            images=hash_images(workspace),
            settings=hash_settings(workspace),
            reviews=self.reviews,
            seconds={},
        )
        if decision["accepted"] or (labels is not None and labels.kept):
            if not decision["accepted"]:
                workspace.snapshots.keep(workspace.root / ACCEPTED / f"round={number}")
            state = dataclasses.replace(state, accepted=number)
        if decision["accepted"]:
            known: dict[str, Any] = {**keep_round(workspace, number), "champion": version, "attempt": 1}
            state = dataclasses.replace(state, **known, finished=state.done >= state.wanted)
        else:
            reason = decision["reason"]
            if labels is not None:
                reason += f"; {labels.reason}"
            if state.accepted != number:
                reason += self.restore_accepted()
            state = dataclasses.replace(state, rejected=reason, finished=True, attempt=state.attempt + 1)
        workspace.tracker.finish(self.run_id)
        write_state(workspace.root, state)
        remove_other_students(workspace.root, state.student)
        return state

    def restore_accepted(self) -> str:
        """Put the last accepted round back in place; return what there is to add where it was not kept."""
        accepted = self.state.accepted
        if accepted is None:
            return ""
        kept = self.workspace.root / ACCEPTED / f"round={accepted}"
        if self.workspace.snapshots.has_kept(kept):
            self.workspace.snapshots.restore(kept)
            say(f"the snapshot and model of round {accepted} are in place again")
            return ""
        missing = (
            f"; round {accepted} was not kept, so data/ still holds the rejected round {self.number}: "
            "`git log refs/florence/rounds` shows earlier ones, which `git checkout COMMIT -- data.dvc dvc.lock` and "
            "`dvc checkout` bring back"
        )
        say(missing.removeprefix("; "))
        return missing
