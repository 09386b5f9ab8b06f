"""The one command, `florence`. It acts on the workspace in the current folder, as git and dvc do.

Nothing heavy is imported before a command needs it: `florence --help` is quick.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from florence.errors import FlorenceError

if TYPE_CHECKING:
    from flows.parts import Parts

GRACE = 20.0
"""Seconds that a stopped command has to end by itself."""


class Commands(TyperGroup):
    """The commands, whose errors are told in plain words."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error made on purpose is a sentence and exit code 1, Ctrl-C and SIGTERM say how to go on."""
        try:
            return super().invoke(ctx)
        except FlorenceError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 110},
)


def main() -> None:
    """The entry point of the `florence` command."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    # Their bars and notices are not for people who look at ours.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    app(prog_name="florence")


def _stop(number: int, _: object) -> None:
    """Stop, in an orderly way while that is quick: what is finished is kept either way, and nothing half-written is ever read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("\nstopping; what is finished is kept: the same command goes on from here", file=sys.stderr, flush=True)
    # Annotators in threads cannot be interrupted, and a shard of theirs may take long.
    timer = threading.Timer(GRACE, os._exit, [128 + number])
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"florence {version('florence')}")
        raise typer.Exit


Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's log of the run too.")]
Round = Annotated[
    int | None, typer.Option(min=0, help="Number of the round; by default the one that data/ holds, or 0.")
]
Student = Annotated[
    str | None, typer.Option(help="A model that annotates as well: alias, version number, or a model's folder.")
]


@app.callback()
def florence(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pictures in; a versioned data set and a promoted vision model out, round after round.

    Commands act on the workspace in the current folder: the one that holds params.yaml. Begin with

    \b
      florence init work
      cd work
      florence loop --images ~/Pictures --rounds 1
    """


# ---------------------------------------------------------------- workspace and loop


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new folder, or one without a workspace.")]) -> None:
    """Make a workspace.

    That is params.yaml, dvc.yaml, expectations/, .gitignore, git and DVC.

    \b
    Example: florence init work
    """
    from flows.workspace import init as make

    made = make(folder)
    started = [name for name, new in (("git", made.git), ("DVC", made.dvc)) if new]
    print(f"{made.folder} is a workspace" + (f"; {' and '.join(started)} initialised" if started else ""))
    print(
        f"Next: cd {folder}, then florence loop --images DIR, or name sources in params.yaml; florence doctor checks what is there"
    )


@app.command()
def loop(
    images: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="A folder of images or s3://bucket/prefix; written to params.yaml as the source `images`.",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rounds of a new loop; of a finished one, how many it shall have. By default flow.rounds."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="OVERLAY", help="A YAML file of settings, laid over params.yaml.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    verbose: Verbose = False,
) -> None:
    """Run the loop over what is new.

    A round collects, annotates, fuses, validates, publishes, trains, scores and promotes; the next one has the student as an annotator.

    Started again it takes only what is new, and with nothing new it does nothing and says so. New are images, annotators or
    their versions, and settings that change what a round makes. A loop that was broken off goes on where it stopped. --rounds
    above the number that a finished loop has adds rounds to it, unless its last one was rejected.

    \b
    Examples:
      florence loop
      florence loop --images ~/Pictures --rounds 1
      florence loop --images s3://bucket/photos --config longer.yaml
      florence loop --dry-run
    """
    from flows import outlook, params
    from flows.parts import open_parts
    from flows.state import locked
    from flows.terminal import Shown, say

    root = Path.cwd()
    overlay = params.overlay_of(images, config)
    if images is not None:
        params.check_images(images)
    if dry_run:
        parts = open_parts(root, overlay)
        with Shown() as progress:
            say(outlook.told(outlook.outlook(parts, rounds, progress)))
        return
    parts = open_parts(root, overlay)
    with locked(root):  # the loop locks again; who is refused shall hear it before a server is started
        if params.write_overlay(root, overlay):
            say("params.yaml is changed")
    if outlook.is_idle(parts, rounds):
        say(outlook.nothing_new(parts))
        return
    with _prefect(root, verbose):
        from flows.refine import refine

        if (said := refine(str(root), rounds)) != "nothing new":
            say(said)


@app.command()
def serve(verbose: Verbose = False) -> None:
    """Run the loop on the schedule flow.cron, until stopped.

    A run with nothing new does nothing. A run that overlaps another one is refused. For a Prefect server and work pools see infra/.

    \b
    Example: florence serve
    """
    from flows.serve import serve as run

    run(Path.cwd(), verbose)


@app.command()
def doctor() -> None:
    """Look for faults, and say what to do about them.

    Versions, settings, stores, remotes, bucket permissions, disk, models and data are looked at; the exit code is 1 where something is at fault.

    \b
    Example: florence doctor
    """
    from flows.doctor import examine, table

    checks = examine(Path.cwd())
    print(table(checks))
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)


# ---------------------------------------------------------------- the stages


@app.command()
def collect() -> None:
    """Take in new images from the sources of params.yaml.

    \b
    Example: florence collect
    """
    from florence import stages
    from flows.state import locked
    from flows.terminal import Shown, say

    parts = _parts()
    with locked(parts.root), Shown() as progress:
        found = stages.collect(parts.settings, parts.store, progress)
    for source, name, reason, detail in found.rejected_files:
        say(f"rejected: {source}/{name}: {reason}" + (f" ({detail})" if detail else ""))
    say(f"{found.new} new images, {found.total} in all, {len(found.rejected_files)} rejected")


@app.command()
def annotate(round: Round = None, student: Student = None, verbose: Verbose = False) -> None:
    """Have annotators look at what they have not seen yet.

    \b
    Examples:
      florence annotate
      florence annotate --round 1 --student champion
    """
    from flows.promote import chosen_model
    from flows.state import locked
    from flows.terminal import say

    parts = _parts()
    model = str(chosen_model(parts, student)) if student else None
    with locked(parts.root), _prefect(parts.root, verbose):
        from flows.annotate import annotate as run
        from flows.annotate import runner

        done = run.with_options(task_runner=runner(parts.settings))(str(parts.root), _round(parts, round), model)
    say(
        f"{done.images} images annotated (counted for every annotator) in {done.shards} shards; {done.skipped} shards were done already"
    )


@app.command()
def validate(
    staging: Annotated[
        bool,
        typer.Option(
            "--staging", help="Check the fused labels in the working store instead of the published snapshot."
        ),
    ] = False,
    round: Round = None,
) -> None:
    """Hold the snapshot in data/ against expectations/.

    The first stage of dvc.yaml.

    \b
    Examples:
      florence validate
      florence validate --staging
    """
    from flows.adapters import quality
    from flows.terminal import say

    if staging:
        parts = _parts()
        counts = quality.validate_staging(parts.settings, parts.store, _round(parts, round), parts.root)
    else:
        with _stage("validate") as (parts, run_id):
            counts = quality.validate_snapshot(parts.settings, parts.data, parts.root)
            parts.tracker.log_metrics(run_id, {"validation": counts})
    say(f"{counts['passed']} of {counts['expectations']} expectations met; Data Docs: {quality.DOCS}/index.html")


@app.command()
def publish(round: Round = None, student: Student = None) -> None:
    """Fuse the claims and publish the snapshot in data/.

    The result is checked against expectations/ before, and tracked by DVC after.

    \b
    Examples:
      florence publish
      florence publish --round 1 --student champion
    """
    from florence import annotation, stages
    from flows.adapters.quality import validate_staging
    from flows.promote import chosen_model
    from flows.state import locked
    from flows.terminal import Shown, say

    parts = _parts()
    number = _round(parts, round)
    with locked(parts.root), Shown() as progress:
        who = annotation.annotators(parts.settings, str(chosen_model(parts, student)) if student else None, parts.store)
        stages.fuse_round(parts.settings, parts.store, who, number, progress)
        validate_staging(parts.settings, parts.store, number, parts.root)
        snapshot = stages.publish(parts.settings, parts.store, parts.data, who, number, progress)
        found = parts.snapshots.add()
        pushed = parts.snapshots.push()
    counts = snapshot["counts"]
    say(
        f"snapshot {snapshot['id']} of round {number}: {counts['kept']} labels kept, {counts['dropped']} dropped, {counts['images']} images"
    )
    say(f"data.dvc: {found}" + (", pushed" if pushed else ""))


@app.command()
def train() -> None:
    """Train a model on the snapshot in data/.

    A stage of dvc.yaml. Curves go to MLflow while it runs. With train.processes above 1 it starts so many; on several machines, start it by
    `accelerate launch` on each.

    \b
    Examples:
      florence train
      dvc repro train
      accelerate launch --num_machines 2 --num_processes 16 … --module flows.cli train
    """
    from florence import stages
    from florence.training.launch import rank_of
    from flows.terminal import Shown, say

    if rank_of():  # one of several that were started together: the first alone tracks and shows
        parts = _parts()
        stages.train_model(parts.settings, parts.data, parts.root)
        return
    with _stage("train") as (parts, run_id), Shown() as progress:
        curves = parts.tracker.live(run_id)

        def log(step: int, metrics: dict[str, float]) -> None:
            curves(step, metrics)
            progress.note(f"loss {metrics['loss']:.3f}" if "loss" in metrics else "")

        try:
            result = stages.train_model(parts.settings, parts.data, parts.root, log, progress)
        finally:
            curves.close()
        parts.tracker.log_metrics(run_id, {"train": result})
    say(f"trained {result['steps']} steps on {result['images']} images, loss {result['loss']:.3f}")


@app.command()
def evaluate() -> None:
    """Score the model, and the labels, where truth is known.

    The model on held-out images, the labels on gold ones. A stage of dvc.yaml.

    \b
    Example: florence evaluate
    """
    from florence import stages
    from florence.store import Store
    from flows.terminal import Shown, say

    with _stage("evaluate") as (parts, run_id), Shown() as progress:
        curves = parts.tracker.live(run_id)
        try:
            stages.evaluate_model(parts.settings, parts.data, parts.root, curves, progress)
        finally:
            curves.close()
        metrics = Store(str(parts.root / "metrics"))
        found = {
            name: metrics.read_json(f"{name}.json") for name in ("scores", "labels") if metrics.exists(f"{name}.json")
        }
        parts.tracker.log_metrics(run_id, found)
    for name, by_reference in found.get("scores", {}).items():
        for reference, score in by_reference.items():
            if "value" in score:
                say(f"  {name} {score['metric']} {score['value']:.3f} on {score['n']} images against {reference}")


@app.command()
def compare() -> None:
    """Decide whether the model may become champion.

    A stage of dvc.yaml. Nothing is promoted by it.

    \b
    Example: florence compare
    """
    from florence import stages
    from flows.terminal import say

    with _stage("compare") as (parts, run_id):
        decision = stages.compare_models(parts.settings, parts.data, parts.root)
        parts.tracker.set_tags(
            run_id, {"decision": "accepted" if decision.accepted else "rejected", "reason": decision.reason}
        )
    say(f"{'accepted' if decision.accepted else 'rejected'}: {decision.reason}")


@app.command()
def ablate(
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SETS",
            help="Sets of tasks: image (captions), region (boxes, phrases, text), pixel (outlines); + joins them.",
        ),
    ] = None,
    data_fraction: Annotated[
        list[str] | None, typer.Option(metavar="SHARE", help="Share of the training images, as 0.1.")
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PARTS",
            help="Parts that are not trained: vision, projector, encoder, decoder, embeddings; + joins them; or none.",
        ),
    ] = None,
    steps: Annotated[list[str] | None, typer.Option(metavar="N", help="Steps of training.")] = None,
    seed: Annotated[list[str] | None, typer.Option(metavar="S", help="Seed of order and draws.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the variants and which of them are done, and do nothing.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Train and score variants of the model on the snapshot in data/.

    These are the paper's ablations, at this workspace's size: which tasks are taught, how many images are learnt from, which parts are frozen. Each option
    may be given several times, or values with commas; the variants are all combinations. An option that is not given stays as params.yaml has it; with
    none at all the three sets of the paper are compared.

    A variant trains from model.init and is scored on held-out images by all of evaluate.tasks, also by those that it was not taught, which
    the table marks. Table and plot are in build/ablation/, the runs in MLflow. A variant that is done is not done again; one that was broken off goes on.
    model/, metrics/ and the registry are left alone.

    \b
    Examples:
      florence ablate
      florence ablate --tasks image --tasks image+region+pixel --steps 300
      florence ablate --data-fraction 0.01,0.1,1
      florence ablate --freeze vision --freeze none --seed 0,1 --dry-run
    """
    from florence import ablation
    from flows.state import locked
    from flows.terminal import Shown, say

    parts = _parts()
    folder = parts.ablation
    values = {
        "tasks": tasks or [],
        "data-fraction": data_fraction or [],
        "freeze": freeze or [],
        "steps": steps or [],
        "seed": seed or [],
    }
    with (
        nullcontext() if dry_run else locked(parts.root),
        Shown() as progress,
    ):  # the flow locks again; who is refused shall hear it first
        variants = ablation.plan(parts.settings, parts.data, values, progress)
    if dry_run:
        say(ablation.outlook(variants, folder))
        return
    if not ablation.finished(variants, folder):
        with _prefect(parts.root, verbose):
            from flows.ablate import ablate as run

            run(str(parts.root), values)
    else:
        say(f"nothing new: all {len(variants)} variants are done")
    say(ablation.summary(variants, folder))
    say(f"Table     {folder / ablation.TABLE}\nPlot      {folder / ablation.PLOT}")


@app.command()
def export(
    format: Annotated[str, typer.Option(help="coco, jsonl, labelstudio, voc or yolo.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder that is not there yet, or empty.")],
    round: Annotated[
        int | None, typer.Option(min=0, help="Number of the round; by default the last that data/ has labels of.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, held_out, gold or all.")] = "all",
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND", help="A kind of labels, as '<OD>' or OD; may be given several times. By default all."
        ),
    ] = None,
    min_confidence: Annotated[float, typer.Option(min=0, max=1, help="Least confidence of a label.")] = 0.0,
    images: Annotated[str, typer.Option(help="copy: write the pictures too; none: only labels.")] = "copy",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in DIR.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
) -> None:
    """Write the kept labels in data/ in another format.

    What the format cannot hold is said, with numbers. The folder is written whole or not at all. docs/formats.md tells what each format holds.

    \b
    Examples:
      florence export --format coco --out ~/coco
      florence export --format yolo --out ~/yolo --tasks OD --min-confidence 0.7
      florence export --format jsonl --out ~/lines --split train --images none --dry-run
    """
    from florence import export as writing
    from flows.terminal import Shown, say, told_export

    if images not in ("copy", "none"):
        raise FlorenceError(f"--images {images}: copy or none is expected")
    kinds = tuple(task if task.startswith("<") else f"<{task.upper()}>" for task in tasks or ())
    parts = _parts()
    choice = writing.Choice(format, round, split, kinds, min_confidence, images == "copy")
    with Shown() as progress:
        found = writing.export(parts.data, out, choice, force=force, dry_run=dry_run, progress=progress)
    say(told_export(found, format, None if dry_run else out))


review = typer.Typer(
    cls=Commands, no_args_is_help=True, rich_markup_mode=None, help="Have people look at labels, in Label Studio."
)
app.add_typer(review, name="review")


@review.command("export")
def review_export(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder that is not there yet, or empty.")],
    images: Annotated[int, typer.Option(min=1, help="How many images.")] = 100,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in DIR.")] = False,
) -> None:
    """Write the images about which annotators disagree most as a Label Studio project.

    Their labels are in it as a start, their pictures as files; README.md in it says how to go on. Images that were reviewed before are left out.

    \b
    Example: florence review export --out ~/review --images 50
    """
    from florence.review import export_review
    from flows.terminal import Shown, say

    parts = _parts()
    with Shown() as progress:
        asked = export_review(parts.data, parts.store, out, images, force=force, progress=progress)
    first, last = asked.disagreement
    say(
        f"{asked.images} images of round {asked.round} with {asked.labels} labels, disagreement {first:.2f} to {last:.2f}"
        + (f"; {asked.reviewed} reviewed ones left out" if asked.reviewed else "")
    )
    say(f"Next: {out / 'README.md'}; then florence review import FILE")


@review.command("import")
def review_import(
    file: Annotated[Path, typer.Argument(help="What Label Studio exported, as JSON or JSON-MIN.")],
) -> None:
    """Take in what people made of a project.

    What they say outranks all annotators from the next round on. An image that is reviewed again replaces what was said of it before; the same file
    again changes nothing.

    \b
    Example: florence review import ~/project-1-at-2026-01-31.json
    """
    from florence.review import import_review
    from flows.state import locked
    from flows.terminal import say, told_review

    parts = _parts()
    with locked(parts.root):
        found = import_review(parts.settings, parts.store, parts.data, str(file))
    say(told_review(found))


@app.command()
def report() -> None:
    """Write the report: build/report/index.html.

    \b
    Example: florence report
    """
    from florence import findings
    from flows.terminal import say

    parts = _parts()
    say(str(findings.make_report(_facts(parts), parts.data, parts.report)))


# ---------------------------------------------------------------- the registry


@app.command()
def register() -> None:
    """Register the model in model/ as challenger.

    Its lineage goes with it as tags.

    \b
    Example: florence register
    """
    from flows.parts import run_key
    from flows.promote import lineage
    from flows.promote import register as put
    from flows.terminal import say
    from flows.train import decision

    parts = _parts()
    run_id = parts.tracker.run_for(os.environ, run_key(parts))
    version = put(parts, run_id, lineage(parts, decision(parts)))
    parts.tracker.finish(run_id)
    say(f"version {version} of {parts.settings.tracking.model} is the challenger")


@app.command()
def promote(
    version: Annotated[str | None, typer.Argument(help="Number or alias; by default the challenger.")] = None,
) -> None:
    """Make a registered model the champion.

    \b
    Examples:
      florence promote
      florence promote 3
    """
    from flows.terminal import say

    parts = _parts()
    now = parts.tracker.promote(version)
    say(f"version {now.version} of {parts.settings.tracking.model} is the champion")


@app.command()
def rollback() -> None:
    """Make the champion before this one champion again.

    \b
    Example: florence rollback
    """
    from flows.terminal import say

    before, now = _parts().tracker.rollback()
    say(f"version {now} is the champion again; it was {before}")


@app.command()
def predict(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    task: Annotated[str, typer.Option(help="The task, as '<OD>' or OD.")] = "<OD>",
    input: Annotated[
        str, typer.Option(help="What the task is about: a text, or for a region x0,y0,x1,y1 in pixels.")
    ] = "",
    model: Annotated[str, typer.Option(metavar="ALIAS|VERSION|DIR", help="Which model.")] = "champion",
    draw: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Write the picture with the answer drawn on it.")
    ] = None,
    beams: Annotated[int, typer.Option(min=1, max=16, help="More than 1 searches for the likeliest whole answer.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask a model about an image.

    The number after a name is how often answers of such a score were right on held-out images; of a model for which that is not known, the
    score itself, the probability of the answer's tokens.

    \b
    Examples:
      florence predict photo.jpg --task '<OD>' --draw out.png
      florence predict photo.jpg --task '<CAPTION>'
      florence predict photo.jpg --task '<REGION_TO_CATEGORY>' --input 40,60,200,180
      florence predict photo.jpg --task '<CAPTION_TO_PHRASE_GROUNDING>' --input 'a dog on a sofa' --json
    """
    from flows.predict import ask, check_out, drawn, printed

    if draw is not None:
        check_out(draw)
    found = ask(Path.cwd(), image, task, input, model, beams)
    if draw is not None:
        drawn(found, draw)
    print(printed(found, as_json))


# ---------------------------------------------------------------- what the commands share


def _parts() -> Parts:
    from flows.parts import open_parts

    return open_parts(Path.cwd())


def _round(parts: Parts, number: int | None) -> int:
    """``number``, or the round that data/ holds, or 0."""
    if number is not None:
        return number
    return int(parts.data.read_json("snapshot.json")["round"]) if parts.data.exists("snapshot.json") else 0


def _facts(parts: Parts) -> Any:
    """The loop's facts; where no loop has run, what the snapshot and the outputs in the workspace tell."""
    from florence import annotation, findings
    from florence.report.facts import LoopFacts
    from flows.facts import read_facts

    if (facts := read_facts(parts)) is not None:
        return facts
    number = _round(parts, None)
    round = findings.round_facts(
        parts.settings,
        parts.store,
        parts.data,
        parts.root,
        annotation.annotators(parts.settings, None, parts.store),
        number,
        None,
        number,
    )
    return LoopFacts("by hand", (round,))


@contextmanager
def _prefect(root: Path, verbose: bool) -> Iterator[None]:
    """A Prefect API while the block runs."""
    from flows.server import prefect_api

    with prefect_api(root, verbose=verbose):
        yield


@contextmanager
def _stage(name: str) -> Iterator[tuple[Parts, str]]:
    """One of DVC's stages: the workspace and the MLflow run that it logs to, which is the loop's where a loop has started it."""
    from flows.parts import Seconds, run_key

    parts = _parts()
    run_id = parts.tracker.run_for(os.environ, run_key(parts))
    own = "MLFLOW_RUN_ID" not in os.environ
    start, status = time.monotonic(), "FAILED"
    try:
        yield parts, run_id
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        Seconds(parts.root).add(name, time.monotonic() - start)
        if own:
            parts.tracker.finish(run_id, status)


if __name__ == "__main__":
    main()
