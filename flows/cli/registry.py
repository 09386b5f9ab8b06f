"""Registered models: listed, compared, promoted, rolled back."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Annotated, Any

import typer

from florence.errors import FlorenceError
from flows.adapters.prefect_server import configured_url, find_server, flush_events, set_prefect_environment
from flows.cli.context import open_here, open_locked
from flows.lock import lock_workspace
from flows.terminal import say

commands = typer.Typer()
models = typer.Typer(help="List, show and compare registered models.", invoke_without_command=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _print_json(found: Any) -> None:
    print(json.dumps(found, indent=2, ensure_ascii=False, default=dataclasses.asdict))


@models.callback()
def list_versions(context: typer.Context, as_json: AsJson = False) -> None:
    """List the registered models: version, date, decision, round, snapshot, aliases.

    \b
    Examples:
      florence models
      florence models show champion
      florence models compare 3 champion
      florence models log
    """
    from flows.registry_view import format_models, list_models

    if context.invoked_subcommand is not None:
        return
    workspace = open_here()
    rows = list_models(workspace)
    if as_json:
        _print_json(rows)
    else:
        say(format_models(rows, workspace.settings.tracking.model))


@models.command()
def show(
    version: Annotated[str, typer.Argument(help="Number or alias.")] = "champion", as_json: AsJson = False
) -> None:
    """Show one model: the decision about it, what it was made from, its scores, when it was champion.

    \b
    Example: florence models show 3
    """
    from flows.registry_view import describe_model, format_model

    found = describe_model(open_here(), version)
    if as_json:
        _print_json(found)
    else:
        say(format_model(found))


@models.command()
def compare(
    first: Annotated[str, typer.Argument(help="Number or alias.")],
    second: Annotated[str, typer.Argument(help="Number or alias.")] = "champion",
) -> None:
    """Compare two models on the held-out images that both were scored on, and say what the promotion rule would.

    \b
    Example: florence models compare champion challenger
    """
    from flows.registry_view import compare_models

    say(compare_models(open_here(), first, second))


@models.command()
def log(as_json: AsJson = False) -> None:
    """Show who made which model champion, when and why.

    \b
    Example: florence models log
    """
    from flows.registry_view import format_moves

    workspace = open_here()
    moves = workspace.registry.moves()
    if as_json:
        _print_json(moves)
    else:
        say(format_moves(moves, workspace.settings.tracking.model))


@commands.command()
def lineage(
    version: Annotated[str, typer.Argument(help="Number or alias.")] = "champion", as_json: AsJson = False
) -> None:
    """Show what a model was made from, and verify each hash of the chain.

    Weights, run, git record and tag, settings, snapshot, dvc.lock, code, student. Ends with exit code 1 where a link is
    broken. What is not on this machine is not checked.

    \b
    Examples:
      florence lineage
      florence lineage 3 --json
    """
    from flows.lineage import format_lineage, trace_model

    found = trace_model(open_here(), version)
    if as_json:
        _print_json(found.to_dict())
    else:
        say(format_lineage(found))
    if found.is_broken:
        raise typer.Exit(1)


@commands.command()
def register() -> None:
    """Register the model in model/ as challenger.

    Its lineage goes with it as tags.

    \b
    Example: florence register
    """
    from flows.models import lineage_tags, read_decision, register_model
    from flows.record import name_record, record_round
    from flows.tracked import run_key

    with open_locked("florence register") as workspace:
        run_id = workspace.tracker.stage_run(os.environ, run_key(workspace))
        record = record_round(workspace, "florence register")
        tags = lineage_tags(workspace, read_decision(workspace), **record.tags)
        version = register_model(workspace, run_id, tags)
        name_record(workspace, record, run_id, version)
        workspace.tracker.finish(run_id)
    say(f"version {version} of {workspace.settings.tracking.model} is the challenger")


@commands.command()
def promote(
    version: Annotated[str | None, typer.Argument(help="Number or alias; by default the challenger.")] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept in the log.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also one that the promotion rule has rejected; needs --reason.")
    ] = False,
) -> None:
    """Make a registered model the champion.

    Of one that waits for approval it is the approval.
    One that the promotion rule has rejected is refused, unless it is forced. `florence models log` shows who did it.

    \b
    Examples:
      florence promote
      florence promote 3 --reason 'the customer prefers it'
      florence promote 4 --force --reason 'captions do not matter here'
    """
    from flows.adapters.model_registry import APPROVAL

    if force and not reason.strip():
        raise FlorenceError("--force needs --reason TEXT: why a model that was rejected becomes the champion")
    with open_locked("florence promote") as workspace:
        known = workspace.registry.find(version) if version else workspace.registry.challenger()
        waits = known is not None and not force and known.tags.get(APPROVAL) == "waiting"
        if not waits:
            known = workspace.registry.promote(version, reason, force)
    if waits and known is not None:
        _decide(known.version, True, reason)
        return
    assert known is not None
    say(f"version {known.version} of {workspace.settings.tracking.model} is the champion")


def _decide(version: str | None, is_approved: bool, reason: str) -> None:
    """Decide about a version that waits, finish its round where it was made, and let its Prefect run go on."""
    workspace = open_here()
    set_prefect_environment(workspace.root)
    if url := configured_url() or find_server(workspace.root):
        os.environ["PREFECT_API_URL"] = url
    from flows.loop.approval import resume_run, settle_decision
    from flows.state import read_state

    with lock_workspace(workspace.root, f"florence {'approve' if is_approved else 'refuse'}"):
        state = read_state(workspace.root)
        if version is None and state is not None and state.waiting:
            version = state.waiting
        now = workspace.registry.decide(version, is_approved, reason)
        settled = settle_decision(workspace)
    verb = "approved and is the champion" if is_approved else "refused; the champion stays"
    say(f"version {now.version} of {workspace.settings.tracking.model} was {verb}")
    is_own = state is not None and state.waiting == now.version
    if is_own and state is not None and state.flow_run and url:
        say(resume_run(state.flow_run, is_approved, reason))
    elif settled is None or not settled.finished:
        say("`florence loop` goes on with the next round")
    if url:
        flush_events()


@commands.command()
def approve(
    version: Annotated[str | None, typer.Argument(help="Number or alias; by default the one that waits.")] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept in the log.")] = "",
) -> None:
    """Make a model that waits for approval the champion.

    With promotion.approval: manual every accepted model waits. A suspended run of `florence schedule` goes on.

    \b
    Examples:
      florence approve
      florence approve 3 --reason 'looked at the report'
    """
    _decide(version, True, reason)


@commands.command()
def refuse(
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept in the log.")],
    version: Annotated[str | None, typer.Argument(help="Number or alias; by default the one that waits.")] = None,
) -> None:
    """Refuse a model that waits for approval: it counts as rejected, and its loop ends.

    \b
    Example: florence refuse --reason 'it misses bicycles'
    """
    if not reason.strip():
        raise FlorenceError("--reason is empty: say why the model is refused")
    _decide(version, False, reason)


@commands.command()
def rollback(
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept in the log.")] = "",
) -> None:
    """Make the champion before this one champion again.

    \b
    Example: florence rollback --reason 'it misses bicycles'
    """
    with open_locked("florence rollback") as workspace:
        before, now = workspace.registry.rollback(reason)
    say(f"version {now} is the champion again; it was {before}")
