"""`florence loop` and `florence schedule`: the loop, once and on a schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.adapters.prefect_server import prefect_api
from flows.cli.context import Verbose
from flows.lock import lock_for_flow
from flows.terminal import ProgressBars, say

commands = typer.Typer()


@commands.command()
def loop(  # long: options and help
    images: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="A folder of images or s3://bucket/prefix; written to params.yaml as the source `images`.",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Rounds of a new loop, or new total for a finished loop. By default flow.rounds."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="OVERLAY", help="A YAML file of settings, laid over params.yaml.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    verbose: Verbose = False,
) -> None:
    """Run the loop over what is new.

    A round collects, annotates, fuses, validates, publishes, trains, scores and promotes; the next one has the
    student as an annotator.

    Started again it takes only what is new; with nothing new it says so and stops. New means new images, reviews,
    annotator versions or settings. An interrupted loop continues where it
    stopped. --rounds above the number that a finished loop has adds rounds to it, unless its last one was rejected.

    \b
    Examples:
      florence loop
      florence loop --images ~/Pictures --rounds 1
      florence loop --images s3://bucket/photos --config longer.yaml
      florence loop --dry-run
    """
    from flows import params
    from flows.frozen import release_settings
    from flows.label_sets import list_label_set_lines
    from flows.loop.approval import describe_waiting, settle_decision
    from flows.plan import describe_idle, describe_plan, is_idle, plan_loop
    from flows.state import read_state
    from flows.tracked import open_workspace

    root = Path.cwd()
    overlay = params.read_overlay(images, config)
    if images is not None:
        params.check_images(images)
    if dry_run:
        workspace = open_workspace(root, overlay)
        with ProgressBars() as progress:
            say(describe_plan(plan_loop(workspace, rounds, progress)))
        return
    workspace = open_workspace(root, overlay)
    with lock_for_flow(root, "florence loop"):
        if params.write_overlay(root, overlay):
            say("params.yaml is changed")
            release_settings(root)  # who names settings wants them now, also in a loop that was interrupted
        if (state := read_state(root)) is not None and state.waiting and settle_decision(workspace) is None:
            say(describe_waiting(state))
            return
        if is_idle(workspace, rounds):
            for line in list_label_set_lines(workspace):
                say(line)
            say(describe_idle(workspace))
            return
        with prefect_api(root, verbose=verbose):
            from flows.refine import refine

            if (outcome := refine(str(root), rounds)) != "nothing new":
                say(outcome)


@commands.command()
def schedule(verbose: Verbose = False) -> None:
    """Run the loop on the schedule flow.cron, until stopped.

    A run with nothing new does nothing. A run that overlaps another one is refused. For a Prefect server and work
    pools see infra/.

    \b
    Example: florence schedule
    """
    from flows.schedule import run_schedule

    run_schedule(Path.cwd(), verbose)
