"""`florence export`, `florence review` and `florence report`: write labels, import reviews, write the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from florence.errors import FlorenceError
from flows.cli.context import CommandGroup, open_here, open_locked, read_or_make_facts
from flows.terminal import (
    ProgressBars,
    describe_blind_export,
    describe_export,
    describe_review,
    describe_review_export,
    describe_reviewers,
    say,
)

commands = typer.Typer()
review = typer.Typer(
    cls=CommandGroup, no_args_is_help=True, rich_markup_mode=None, help="Have people look at labels, in Label Studio."
)


@commands.command()
def export(
    format: Annotated[str, typer.Option(help="coco, jsonl, labelstudio, voc or yolo.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder that does not exist yet, or is empty.")],
    round: Annotated[
        int | None, typer.Option(min=0, help="Number of the round; by default the last that data/ has labels of.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, held_out, gold or all.")] = "all",
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE", help="A type of labels, as '<OD>' or OD; may be given several times. By default all."
        ),
    ] = None,
    min_confidence: Annotated[float, typer.Option(min=0, max=1, help="Least confidence of a label.")] = 0.0,
    images: Annotated[str, typer.Option(help="copy: write the pictures too; none: only labels.")] = "copy",
    boxes_only: Annotated[
        bool, typer.Option("--boxes-only", help="Write objects as boxes, also those that have polygons.")
    ] = False,
    flat: Annotated[
        bool, typer.Option("--flat", help="Write the pictures of a set into one folder, without subfolders.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in DIR.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
) -> None:
    """Write the kept labels in data/ in another format.

    Labels that the format cannot hold are counted, and so are images that nobody has looked at: they are left out, as
    an image without labels says that nothing is in it. The folder is written whole or not at all. docs/formats.md
    describes what each format holds.

    \b
    Examples:
      florence export --format coco --out ~/coco
      florence export --format yolo --out ~/yolo --tasks OD --min-confidence 0.7
      florence export --format jsonl --out ~/lines --split train --images none --dry-run
    """
    from florence import export as writing

    if images not in ("copy", "none"):
        raise FlorenceError(f"--images {images}: copy or none is expected")
    types = tuple(task if task.startswith("<") else f"<{task.upper()}>" for task in tasks or ())
    workspace = open_here()
    choice = writing.ExportChoice(
        format, round, split, types, min_confidence, images == "copy", boxes_only=boxes_only, flat=flat
    )
    with ProgressBars() as progress:
        found = writing.export(workspace.data, out, choice, force=force, dry_run=dry_run, progress=progress)
    say(describe_export(found, format, None if dry_run else out))


@commands.command()
def report() -> None:
    """Write the report: build/report/index.html.

    \b
    Example: florence report
    """
    from florence.report import build_report

    with open_locked("florence report") as workspace:
        page = build_report(read_or_make_facts(workspace), workspace.data, workspace.report)
    say(str(page))


@review.command("export")
def review_export(  # long: options and help
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder that does not exist yet, or is empty.")],
    images: Annotated[int, typer.Option(min=1, help="How many images.")] = 100,
    split: Annotated[
        str, typer.Option(help="train: with labels, to correct; gold or held_out: without, to be labelled blind.")
    ] = "train",
    disagreements: Annotated[
        bool, typer.Option("--disagreements", help="The images whose reviewers disagree, to be decided.")
    ] = False,
    calibrate: Annotated[int, typer.Option(min=0, help="Blind: how many more images whose label is known.")] = 0,
    repeat: Annotated[float, typer.Option(min=0, max=1, help="Blind: share of the images that comes twice.")] = 0.0,
    tasks: Annotated[
        list[str] | None, typer.Option(metavar="TYPE", help="Blind: what is asked for; by default OD, objects.")
    ] = None,
    names: Annotated[str, typer.Option(help="Blind: names of objects, with commas; by default those known.")] = "",
    new: Annotated[bool, typer.Option("--new", help="Blind: leave out images that people have labelled.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in DIR.")] = False,
) -> None:
    """Write the images that people should see first, as a Label Studio project.

    Of gold and held-out images people's labels are the reference that labels and models are measured against, so the
    project shows nobody's claims (--split). The images are drawn by their hash: more of them add to fewer. With
    --disagreements the project shows what each reviewer labelled; what comes back decides.

    Of training images, first come those with the most labels that are expected to be wrong: a kept label of confidence
    p counts 1 − p, a label that was dropped for low confidence counts p. An image counts less if it looks like one
    before it, or if the same names are in doubt. Images that were reviewed before are left out.

    Their project holds the labels as a start and the pictures as files. A click on a region shows who claims what
    there; a table below the image lists its doubtful labels, and so does doubts.jsonl, for other programs. README.md
    says how to go on.

    \b
    Examples:
      florence review export --out ~/review --images 50
      florence review export --out ~/gold --split gold --images 40 --repeat 0.1
      florence review export --out ~/decide --disagreements
    """
    from florence.review import BlindChoice, export_blind, export_disagreements, export_review

    workspace = open_here()
    with ProgressBars() as progress:
        if disagreements:
            decide = export_disagreements(workspace, out, images, force=force, progress=progress)
            text = f"{decide.images} of {decide.available} images whose reviewers disagree"
        elif split != "train":
            types = tuple(task if task.startswith("<") else f"<{task.upper()}>" for task in tasks or ("OD",))
            offered = tuple(name.strip() for name in names.split(",") if name.strip())
            choice = BlindChoice(split, images, calibrate, repeat, types, offered, new)
            text = describe_blind_export(export_blind(workspace, out, choice, force=force, progress=progress), split)
        else:
            text = describe_review_export(export_review(workspace, out, images, force=force, progress=progress))
    say(text)
    say(f"Next: {out / 'README.md'}; then florence review import FILE")


@review.command("import")
def review_import(
    file: Annotated[Path, typer.Argument(help="What Label Studio exported, as JSON or JSON-MIN.")],
) -> None:
    """Import people's reviews of a project.

    Of training images their claims outrank all annotators from the next round on. Of gold and held-out images every
    reviewer's labels are kept apart, and make the reference from the next round on. A second review of an image
    replaces the first, of the same reviewer; the same file again changes nothing.

    \b
    Example: florence review import ~/project-1-at-2026-01-31.json
    """
    from florence.review import import_review

    with open_locked("florence review import") as workspace:
        found = import_review(workspace, str(file))
    say(describe_review(found))


@review.command("people")
def review_people() -> None:
    """List the reviewers of gold and held-out images, the best first.

    F1 of their objects, with its 95% interval, against truth and adjudicated labels, else against the other reviewers.
    Doubtful, of three or more, is a reviewer whose interval ends more than 0.05 below the median of all. The setting
    review.exclude leaves reviewers out of the reference, from the next round on.

    \b
    Example: florence review people
    """
    from florence.workspace.annotate import list_annotators
    from florence.workspace.reviewers import rank_reviewers

    workspace = open_here()
    found = rank_reviewers(workspace, list_annotators(workspace.settings, files=workspace.store))
    say(describe_reviewers(found))
