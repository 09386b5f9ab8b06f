"""The stages of a round, a command each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from florence.better_annotator import BetterAnnotator
from florence.errors import FlorenceError
from flows.adapters.ignored import refuse_ignored
from flows.adapters.prefect_server import prefect_api
from flows.cli.context import Round, Student, Verbose, choose_round, open_here, open_locked, stage_run
from flows.terminal import ProgressBars, say

commands = typer.Typer()


@commands.command()
def collect() -> None:
    """Take in new images from the sources of params.yaml.

    \b
    Example: florence collect
    """
    from florence.workspace.collect import collect_images
    from florence.workspace.collected import describe_collected

    with open_locked("florence collect") as workspace, ProgressBars() as progress:
        found = collect_images(workspace, progress)
    for source, name, reason, detail in found.rejected_files:
        say(f"rejected: {source}/{name}: {reason}" + (f" ({detail})" if detail else ""))
    for line in describe_collected(found.files):
        say(line)
    say(f"{found.new} new images, {found.total} in all, {len(found.rejected_files)} rejected")


@commands.command()
def annotate(round: Round = None, student: Student = None, verbose: Verbose = False) -> None:
    """Have annotators annotate the images that they have not annotated yet.

    \b
    Examples:
      florence annotate
      florence annotate --round 1 --student champion
    """
    from flows.label_sets import check_label_sets
    from flows.models import find_model

    with open_locked("florence annotate") as workspace:
        model = str(find_model(workspace, student)) if student else None
        check_label_sets(workspace)
        with prefect_api(workspace.root, verbose=verbose):
            from flows.annotate import annotate as run
            from flows.annotate import task_runner

            flow = run.with_options(task_runner=task_runner(workspace.settings))
            done = flow(str(workspace.root), choose_round(workspace, round), model)
    say(
        f"{done.images} images annotated (counted for every annotator) in {done.shards} shards; "
        f"{done.skipped} shards were done already"
    )


@commands.command()
def validate(
    staging: Annotated[
        bool,
        typer.Option(
            "--staging", help="Check the fused labels in the working store instead of the published snapshot."
        ),
    ] = False,
    round: Round = None,
) -> None:
    """Check the snapshot in data/ against expectations/.

    The first stage of dvc.yaml.

    \b
    Examples:
      florence validate
      florence validate --staging
    """
    from flows.adapters import quality

    if staging:
        with open_locked("florence validate") as workspace:
            counts = quality.validate_staging(
                workspace.settings, workspace.store, choose_round(workspace, round), workspace.root
            )
    else:
        with stage_run("validate") as (workspace, run_id):
            counts = quality.validate_snapshot(workspace.settings, workspace.data, workspace.root)
            workspace.tracker.log_metrics(run_id, {"validation": counts})
    say(f"{counts['passed']} of {counts['expectations']} expectations met; Data Docs: {quality.DOCS}/index.html")


@commands.command()
def publish(round: Round = None, student: Student = None) -> None:
    """Fuse the claims and publish the snapshot in data/.

    The result is checked against expectations/ before, and tracked by DVC after.

    \b
    Examples:
      florence publish
      florence publish --round 1 --student champion
    """
    from florence.workspace.annotate import list_annotators
    from florence.workspace.fuse import fuse_round
    from florence.workspace.publish import publish_snapshot
    from flows.adapters.quality import validate_staging
    from flows.loop.messages import say_weighing
    from flows.models import find_model

    with open_locked("florence publish") as workspace, ProgressBars() as progress:
        refuse_ignored(workspace.root)
        number = choose_round(workspace, round)
        model = str(find_model(workspace, student)) if student else None
        annotators = list_annotators(workspace.settings, model, workspace.store)
        fuse_round(workspace, annotators, number, progress)
        say_weighing(workspace, annotators)
        validate_staging(workspace.settings, workspace.store, number, workspace.root)
        snapshot = publish_snapshot(workspace, annotators, number, progress)
        data_hash = workspace.snapshots.add()
        pushed = workspace.snapshots.push()
    counts = snapshot["counts"]
    say(
        f"snapshot {snapshot['id']} of round {number}: {counts['kept']} labels kept, {counts['dropped']} dropped, "
        f"{counts['images']} images"
    )
    say(f"data.dvc: {data_hash}" + (", pushed" if pushed else ""))


@commands.command()
def train() -> None:
    """Train a model on the snapshot in data/.

    A stage of dvc.yaml. Curves go to MLflow while it runs. With train.processes above 1 it starts so many processes;
    on several machines, start it by `accelerate launch` on each.

    \b
    Examples:
      florence train
      dvc repro train
      accelerate launch --num_machines 2 --num_processes 16 … --module flows.cli train
    """
    from florence.training.launch import process_rank
    from florence.workspace.train import train_model

    if process_rank():  # of several processes that were started together only the first tracks and shows
        train_model(open_here())
        return
    with stage_run("train") as (workspace, run_id), ProgressBars() as progress:
        curves = workspace.tracker.open_curves(run_id)

        def log(step: int, metrics: dict[str, float]) -> None:
            curves(step, metrics)
            progress.note(f"loss {metrics['loss']:.3f}" if "loss" in metrics else "")

        try:
            result = train_model(workspace, log, progress)
        finally:
            curves.close()
        workspace.tracker.log_metrics(run_id, {"train": result})
    say(f"trained {result['steps']} steps on {result['images']} images, loss {result['loss']:.3f}")


@commands.command()
def evaluate(  # long: options and help
    benchmark: Annotated[
        str, typer.Option(metavar="NAME", help="Score a model on a public benchmark instead: coco-det or vqav2.")
    ] = "",
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the benchmark's files.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="ALIAS|VERSION|DIR|NAME", help="Which model: also a name on the hub, or nano. [default: champion]"
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the benchmark's first images.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; with --benchmark.")] = False,
) -> None:
    """Score the model, and the labels, where truth is known.

    The model on held-out images, the labels on gold ones. A stage of dvc.yaml. With --benchmark, any model on
    published files: into a folder of build/evaluation/, and the same command goes on where it was stopped.

    \b
    Examples:
      florence evaluate
      florence evaluate --benchmark coco-det --root ~/coco --model florence-community/Florence-2-base
    """
    if benchmark:
        _evaluate_benchmark(benchmark, root, model or "champion", limit, as_json)
        return
    if root is not None or model is not None or limit is not None or as_json:
        raise FlorenceError("--root, --model, --limit and --json go with --benchmark: name one, as coco-det")
    from florence.workspace.evaluate import evaluate_model

    with stage_run("evaluate") as (workspace, run_id), ProgressBars() as progress:
        curves = workspace.tracker.open_curves(run_id)
        try:
            evaluate_model(workspace, curves, progress)
        finally:
            curves.close()
        files = {name: f"metrics/{name}.json" for name in ("scores", "labels")}
        figures = {
            name: workspace.files.read_object(file) for name, file in files.items() if workspace.files.exists(file)
        }
        workspace.tracker.log_metrics(run_id, figures)
    for name, by_reference in figures.get("scores", {}).items():
        for reference, score in by_reference.items():
            if "value" in score:
                say(f"  {name} {score['metric']} {score['value']:.3f} on {score['n']} images against {reference}")
    for one in figures.get("labels", {}).get("better_alone", ()):
        say(f"  {BetterAnnotator(**one).describe()}")


def _evaluate_benchmark(name: str, root: Path | None, model: str, limit: int | None, as_json: bool) -> None:
    from flows.evaluate import evaluate_benchmark, format_benchmark

    if root is None:
        raise FlorenceError(f"--benchmark {name} needs --root: the folder of the benchmark's files")
    with ProgressBars() as progress:
        result = evaluate_benchmark(Path.cwd(), name, root, model, limit, progress)
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
        return
    say(format_benchmark(result))
    say(f"answers and scores: {result.folder}")


@commands.command()
def compare() -> None:
    """Decide whether the model may become champion.

    A stage of dvc.yaml. Nothing is promoted by it.

    \b
    Example: florence compare
    """
    from florence.workspace.compare import compare_models

    with stage_run("compare") as (workspace, run_id):
        decision = compare_models(workspace)
        workspace.tracker.set_tags(
            run_id, {"decision": "accepted" if decision.accepted else "rejected", "reason": decision.reason}
        )
    say(f"{'accepted' if decision.accepted else 'rejected'}: {decision.reason}")
