"""`florence audit`: which labels of a data set are most likely wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.terminal import ProgressBars

commands = typer.Typer()


LabelsOption = Annotated[str, typer.Option(metavar="PATH", help="The data set: a file or folder. It is only read.")]
FormatOption = Annotated[
    str, typer.Option(help="coco, yolo, voc, labelstudio, jsonl or snapshot; by default, what its files look like.")
]
ImagesOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="The pictures, with the paths that the data set has. By default those of the workspace or data set; "
        "without any, the sizes that the labels state.",
    ),
]
ClaimsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]PATH",
        help="What another annotator claims of these images: a data set of any format above with scores, or COCO's "
        "results. May be given several times. The workspace's annotators are then not asked.",
    ),
]
FamilyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME,NAME", help="Annotators of --claims that share training data or method, so share mistakes."
    ),
]
AnnotatorsOption = Annotated[
    bool, typer.Option("--annotators", help="Ask the workspace's annotators too, beside --claims.")
]
StudentOption = Annotated[
    str | None,
    typer.Option(
        help="A model that annotates too: alias, version number, or a model's folder. By default the champion."
    ),
]
OutOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Where page, list and project go: a new folder, or an empty one.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an earlier audit in --out.")]
ProjectImagesOption = Annotated[
    int, typer.Option(min=0, help="Most images in the Label Studio project; 0: no project.")
]
CorrectedOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="A corrected copy of the data set in its format, at a path that does not exist. Without --write, what "
        "would be changed is only said.",
    ),
]
MinConfidenceOption = Annotated[
    float, typer.Option(min=0, max=1, help="Least probability of an issue that the corrected copy corrects.")
]
WriteOption = Annotated[bool, typer.Option("--write", help="Write the corrected copy.")]


@commands.command()
def audit(
    labels: LabelsOption,
    format: FormatOption = "",
    images: ImagesOption = None,
    claims: ClaimsOption = None,
    family: FamilyOption = None,
    annotators: AnnotatorsOption = False,
    student: StudentOption = None,
    out: OutOption = Path("audit"),
    force: ForceOption = False,
    project_images: ProjectImagesOption = 200,
    corrected: CorrectedOption = None,
    min_confidence: MinConfidenceOption = 0.9,
    write: WriteOption = False,
) -> None:
    """Find the labels of a data set that are most likely wrong.

    Four errors: missing (an object without a label), swapped (a wrong name), misplaced (a wrong box), spurious (a label
    of nothing). The given labels are one annotator among others: what the others claim, and how reliable each of them
    is, says how likely each error is. Written are a page with pictures, all issues as CSV, the likeliest first, and a
    Label Studio project in which people confirm them.

    \b
    Examples:
      florence audit --labels instances.json --images photos --claims detector.json
      florence audit --labels ~/yolo --claims a=a.json --claims b=b.json --family a,b
      florence audit --labels instances.json --images photos
        in a workspace: its annotators are asked about the photos that they have not annotated yet
      florence audit --labels instances.json --claims d.json --corrected better.json
        says what would be changed; with --write, better.json is written
    """
    from flows import audit as auditing

    choice = auditing.AuditChoice(
        labels=labels,
        format=format,
        images=images,
        claims=tuple(claims or ()),
        families=tuple(family or ()),
        annotators=annotators,
        student=student,
        out=out,
        force=force,
        project_images=project_images,
        corrected=corrected,
        min_confidence=min_confidence,
        write=write,
    )
    with ProgressBars() as progress:
        auditing.audit(choice, Path.cwd(), progress)
