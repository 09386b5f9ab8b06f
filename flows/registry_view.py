"""Registered models in words: the list of versions, one version, two compared, and who moved the champion when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from florence.errors import FlorenceError
from flows.adapters.alias_log import AliasMove
from flows.adapters.model_registry import ModelVersion
from flows.models import SCORES
from flows.tracked import TrackedWorkspace

ROW = "{:>7}  {:<16}  {:<10}  {:<8}  {:>8}  {:<22}"
NARROW = 52
"""Characters of a task with its reference."""


def list_models(workspace: TrackedWorkspace) -> list[dict[str, Any]]:
    """Return every registered version, the newest first: version, created, decision, round, snapshot, aliases, run."""
    return [_summarize(version) for version in workspace.registry.versions()]


def _summarize(version: ModelVersion) -> dict[str, Any]:
    tags = version.tags
    return {
        "version": version.version,
        "created": _format_time(version.created),
        "decision": tags.get("decision"),
        "approval": tags.get("approval"),
        "since": tags.get("approval.since"),
        "reason": tags.get("reason"),
        "round": tags.get("florence.round"),
        "snapshot": tags.get("snapshot"),
        "aliases": list(version.aliases),
        "run_id": version.run_id,
    }


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def format_models(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Return the list as a table."""
    if not rows:
        return f"no version of {name} is registered; `florence loop` registers one each round"
    waiting = [
        f"version {row['version']} waits for approval since {row['since']}"
        for row in rows
        if row["approval"] == "waiting"
    ]
    lines = [ROW.format("version", "created (UTC)", "decision", "round", "snapshot", "aliases")]
    for row in rows:
        values = (row[key] or "–" for key in ("version", "created", "decision", "round", "snapshot"))
        lines.append(ROW.format(*(str(value)[:16] for value in values), ", ".join(row["aliases"])))
    return "\n".join([*(line.rstrip() for line in lines), *waiting])


def describe_model(workspace: TrackedWorkspace, ref: str) -> dict[str, Any]:
    """Return all that is known of a version: what `list_models` has, its lineage, its scores, its moves.

    Raises FlorenceError for an unknown one.
    """
    version = workspace.registry.find(ref)
    lineage = {name: value for name, value in sorted(version.tags.items()) if name not in ("decision", "reason")}
    scores = _read_scores(workspace, version)
    means = (
        [] if scores is None else [{"task": t, "reference": r, "mean": m, "n": n} for t, r, m, n in _average(scores)]
    )
    moves = [move for move in workspace.registry.moves() if version.version in (move.before, move.after)]
    return {**_summarize(version), "lineage": lineage, "scores": means, "moves": moves}


def format_model(found: dict[str, Any]) -> str:
    """Return a version in words."""
    aliases = ", ".join(found["aliases"]) or "none"
    lines = [f"version {found['version']}, created {found['created']} UTC, aliases: {aliases}"]
    if found["decision"]:
        lines.append(f"{found['decision']}: {found['reason']}")
    lines += ["lineage:", *(f"  {name:<16} {value}" for name, value in found["lineage"].items())]
    if found["scores"]:
        lines.append("mean over held-out images:")
    lines += [f"  {_name(s['task'], s['reference']):<{NARROW}} {s['mean']:.3f}  n {s['n']}" for s in found["scores"]]
    return "\n".join([*lines, *(["champion:"] if found["moves"] else []), *map(_format_move, found["moves"])])


def format_moves(moves: Sequence[AliasMove], name: str) -> str:
    """Return who moved the champion, when and why, a line for each move."""
    return "\n".join(map(_format_move, moves)) or f"no version of {name} has been champion"


def _format_move(move: AliasMove) -> str:
    forced = ", although it was rejected" if move.forced else ""
    reason = f": {move.reason}" if move.reason else ""
    if move.action == "refuse":
        return f"  {move.time[:19]} UTC  refused {move.after} by {move.who}{reason}"
    verb = {"rollback": "rolled back", "approve": "approved"}.get(move.action, "promoted")
    return f"  {move.time[:19]} UTC  {verb} {move.before or 'none'} → {move.after} by {move.who}{forced}{reason}"


def compare_models(workspace: TrackedWorkspace, first: str, second: str) -> str:
    """Return the scores of two versions, paired over the images that both were scored on, and what the rule would say.

    Raises FlorenceError where a version is unknown or has no scores.
    """
    from florence.evaluate import Opponents, decide_promotion, make_baseline

    versions = [workspace.registry.find(ref) for ref in (first, second)]
    tables = []
    for version in versions:
        if (table := _read_scores(workspace, version)) is None:
            raise FlorenceError(f"the run of version {version.version} has no scores, so it cannot be compared")
        tables.append(table)
    decision = decide_promotion(tables[1], Opponents(make_baseline(tables[0])), workspace.settings.promotion)
    one, two = (version.version for version in versions)
    lines = [f"{'held-out scores':<{NARROW}} {'v' + one:>8} {'v' + two:>8}   change, 95% interval"]
    for change in sorted(decision.changes, key=lambda c: (c.locked, c.task, c.reference)):
        interval = "" if change.low is None else f" [{change.low:+.3f}, {change.high:+.3f}]"
        name = _name(change.task, change.reference) + (", locked" if change.locked else "")
        mark = "" if change.passes else "  does not pass"
        lines.append(
            f"{name:<{NARROW}} {change.before:8.3f} {change.after:8.3f}   "
            f"{change.change:+z.3f}{interval} n {change.n}{mark}"
        )
    verdict = "would be promoted" if decision.accepted else "would not be promoted"
    return "\n".join([*lines, f"version {two} {verdict} over version {one}: {decision.reason}"])


def _read_scores(workspace: TrackedWorkspace, version: ModelVersion) -> pa.Table | None:
    content = workspace.tracker.read_file(version.run_id, SCORES) if version.run_id is not None else None
    return None if content is None else pq.read_table(pa.BufferReader(content))


def _average(scores: pa.Table) -> list[tuple[str, str, float, int]]:
    found = (
        scores.group_by(["task", "reference"])
        .aggregate([("value", "mean"), ("value", "count")])
        .sort_by([("task", "ascending"), ("reference", "ascending")])
    )
    columns = (found[name].to_pylist() for name in ("task", "reference", "value_mean", "value_count"))
    return [row for row in zip(*columns, strict=True) if row[2] is not None]


def _name(task: str, reference: str) -> str:
    return f"{task} ({reference})"
