"""One question to a model, and ablations."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from flows.adapters.prefect_server import prefect_api
from flows.cli.context import Verbose, open_here
from flows.lock import lock_for_flow
from flows.terminal import ProgressBars, say

commands = typer.Typer()


@commands.command()
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

    The number after a name is how often answers of such a score were right on held-out images; of a model for which
    that is not known, the score itself, the probability of the answer's tokens.

    \b
    Examples:
      florence predict photo.jpg --task '<OD>' --draw out.png
      florence predict photo.jpg --task '<CAPTION>'
      florence predict photo.jpg --task '<REGION_TO_CATEGORY>' --input 40,60,200,180
      florence predict photo.jpg --task '<CAPTION_TO_PHRASE_GROUNDING>' --input 'a dog on a sofa' --json
    """
    from florence.predict.questions import read_question
    from flows.predict import ask_model, check_drawing_path, draw_answers, format_answers

    if draw is not None:
        check_drawing_path(draw)
    question = read_question(task, input, "--input with")
    pixels, answers = ask_model(Path.cwd(), image, [question], model, beams)
    if draw is not None:
        draw_answers(pixels, answers, draw)
    text = format_answers(answers, as_json)
    if as_json and sys.stdout.encoding.lower().replace("-", "") != "utf8":
        text = json.dumps(json.loads(text), indent=2)  # JSON has escapes of its own
    print(text)


@commands.command()
def ablate(  # long: options and help
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SETS",
            help="Sets of tasks: image (captions), region (boxes, phrases, text), pixel (polygons); + joins them.",
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

    These are the paper's ablations, at this workspace's size: which tasks are trained, how many images are learnt
    from, which parts are frozen. Each option may be given several times, or values with commas; the variants are all
    combinations. An option that is not given stays as params.yaml has it; with none at all the three sets of the
    paper are compared.

    A variant trains from model.init and is scored on held-out images by all of evaluate.tasks, also by tasks that it
    was not trained on, which the table marks. Table and plot are in build/ablation/, the runs in MLflow. A variant that
    is done is not done again; an interrupted one continues. model/, metrics/ and the registry are left alone.

    \b
    Examples:
      florence ablate
      florence ablate --tasks image --tasks image+region+pixel --steps 300
      florence ablate --data-fraction 0.01,0.1,1
      florence ablate --freeze vision --freeze none --seed 0,1 --dry-run
    """
    from florence import ablation

    workspace = open_here()
    folder = workspace.ablation
    values = {
        "tasks": tasks or [],
        "data-fraction": data_fraction or [],
        "freeze": freeze or [],
        "steps": steps or [],
        "seed": seed or [],
    }
    with nullcontext() if dry_run else lock_for_flow(workspace.root, "florence ablate"):
        with ProgressBars() as progress:
            variants = ablation.plan_variants(workspace, values, progress)
        if dry_run:
            say(ablation.describe_plan(variants, folder))
            return
        if not ablation.is_finished(variants, folder):
            with prefect_api(workspace.root, verbose=verbose):
                from flows.ablate import ablate as run

                run(str(workspace.root), values)
        else:
            say(f"nothing new: all {len(variants)} variants are done")
    say(ablation.summarize(variants, folder))
    say(f"Table     {folder / ablation.TABLE}\nPlot      {folder / ablation.PLOT}")
