"""Writes docs/tasks.md: every task as the code has it, with an example from a drawn scene.

``python -m florence.tasks > docs/tasks.md``
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Mapping, Sequence

from florence.codec.grammar import Form
from florence.records import FINE_TUNED, TASKS, Annotation, ImageRecord, Region, annotate
from florence.tasks import Answer, Example, Task, task
from florence.tasks.segmentation import MAX_POINTS, MAX_POLYGONS

SIDE = 128
FORMS: dict[Form, str] = {
    Form.TEXT: "one text, not empty",
    Form.TEXT_OR_NOTHING: "one text, empty where there is nothing",
    Form.BOXES: "boxes: four locations each; empty where there is nothing",
    Form.LABELLED_BOXES: "labels, each followed by one or more boxes of four locations; empty where there is nothing",
    Form.LABELLED_QUADS: "strings, each followed by one quad of eight locations; empty where there is nothing",
    Form.POLYGONS: (
        "one object's polygons, three points or more each, with `<sep>` between them; "
        "several objects each in `<poly>…</poly>`; empty where there is nothing"
    ),
    Form.LABELLED_SHAPES: (
        "labels, each followed by one or more boxes; or labels, each followed by `<poly>…</poly>` "
        "for every object of it; empty where there is nothing"
    ),
}
HEAD = """# Tasks

One sequence-to-sequence model does every task: an image and a prompt go in, text comes out. Regions are text too.
This page is made from the code by `python -m florence.tasks > docs/tasks.md`. Fifteen tasks are the published ones,
with their prompts; two more are what the paper reaches by fine-tuning. In Python:

```python
from florence.tasks import task

one = task("<OD>")
one.prompt()  # the prompt
one.examples(image, annotations)  # labels of its annotation type → examples
answer = one.decode(text, (width, height))  # text → regions in pixels, never raises
one.encode(answer, (width, height))  # and back: the same text
```

## Rules for all

**Locations.** Each axis has 1,000 bins, `<loc_0>` to `<loc_999>`. The bin of x in an image of width w is ⌊1000·x/w⌋,
kept between 0 and 999; it is read as its centre, (bin + ½)·w/1000, so a coordinate returns within half a bin,
whatever the image's size. Boxes are x0, y0, x1, y1; quads four corners clockwise from the top left; polygons x, y, x,
y, … clockwise. Boxes are written with their corners in order; a text that has them in another order is read as the
same box.

**Labels** may be any text: any script, `<`, `>`, commas. What would be read as a token of the grammar (`<loc_5>`,
`<sep>`, `<poly>`, `<and>`, `</s>` and the other special tokens of the vocabulary) is refused with an `EncodeError`
that names it; such a label is left out of training and counted as refused. In examples runs of white space become one
space. Several names in one `<OPEN_VOCABULARY_DETECTION>` prompt are joined by `<and>`.

**Regions in prompts** are four location tokens for a box, or six and more for a polygon.

**Legal texts** are those that the grammar of the task's form can make. Generation is constrained to it
(`florence/codec/constrain.py`), and the parser (`florence/codec/parsing.py`) takes exactly the same texts: each is
decoded without an error, and encoded again it is the same text. Anything else is decoded too: what is certain is
given, and `answer.error` is a `DecodeError` whose `position` is the index of the first token that does not fit (a run
of text counts as one token) and whose `reason` says why. Decoding never raises for what a model wrote.

**Polygons** in targets are at most MAX_POLYGONS for each object, the largest, of at most MAX_POINTS points each,
clockwise from the topmost.

**Too long.** A target with more tokens than `train.max_target` is shortened by the rule of its task, given below, to
as many of its parts as fit, and counted as shortened. If not even the first part fits, the example is left out and
counted as too long. Nothing is cut inside a part.

"""


def find_scene() -> tuple[ImageRecord, Mapping[str, list[Annotation]]]:
    """Return the first scene that has an example of every task, and its truth by annotation type."""
    # by name, as every plug-in is found: tasks and sources do not know each other
    source = importlib.import_module("florence.sources").SOURCES.get("scenes")(count=1000, size=SIDE, questions=True)
    for image in source.images(frozenset()):
        record = ImageRecord(
            hashlib.sha256(image.data).hexdigest(), SIDE, SIDE, "scenes", image.name, image.licence, None, "train"
        )
        rows: dict[str, list[Annotation]] = {}
        for row in annotate(record.image_id, image.truth, "truth", "1"):
            rows.setdefault(row.task, []).append(row)
        if all(task(name).examples(record, rows.get(task(name).annotation_type, [])) for name in (*TASKS, *FINE_TUNED)):
            return record, rows
    raise AssertionError("no scene has every task")


def make_markdown() -> str:
    """Return the whole document."""
    record, rows = find_scene()
    lines = ["| task | made of | answer | metric |", "|---|---|---|---|"]
    for one in map(task, (*TASKS, *FINE_TUNED)):
        link = f"[`{one.name}`](#{one.name.strip('<>').lower()})"
        lines.append(f"| {link} | `{one.annotation_type}` | {one.form.value} | {one.metric} |")
    published = [line for name in TASKS for line in describe_task(task(name), record, rows)]
    tuned = [line for name in FINE_TUNED for line in describe_task(task(name), record, rows)]
    head = HEAD.replace("MAX_POLYGONS", str(MAX_POLYGONS)).replace("MAX_POINTS", str(MAX_POINTS))
    return (
        head
        + "\n".join(
            [
                *lines,
                "",
                f"The examples are of the scene `{record.name}` of the source `scenes` ({SIDE} × {SIDE} pixels), "
                "from its exact truth.",
                "",
                "## The published tasks",
                "",
                *published,
                "## Reached by fine-tuning",
                "",
                *_fine_tuned(),
                *tuned,
            ]
        ).rstrip()
        + "\n"
    )


def _fine_tuned() -> list[str]:
    return [
        'No default run draws, scores or reports these two. `train.task_weights: {"<VQA>": 1}` trains one,',
        "`evaluate.tasks` scores it, and `evaluate.shuffled_image_tasks` beside it shows what its questions score",
        "when they are asked of another image. Labels are annotations of these types, as any other: from people,",
        "from an annotator, or from the source `scenes` with `questions: true`, which asks of each scene what is",
        "there, how many, in which colour, where, and what is written. Knowing which answers are frequent is not",
        "enough there: each object is asked for as often where it is as where it is not, and the most frequent",
        "answer to each question is right in fewer than two cases of five.",
        "",
    ]


def describe_task(one: Task, record: ImageRecord, rows: Mapping[str, list[Annotation]]) -> list[str]:
    """Return the lines about one task."""
    example = min(
        one.examples(record, rows[one.annotation_type]), key=lambda example: (len(example.target), example.input)
    )
    answer = one.decode(example.target, (record.width, record.height), example.input)
    return [
        f"### {one.name.strip('<>')}",
        "",
        _marked(" ".join((type(one).__doc__ or "").split())),
        "",
        "| | |",
        "|---|---|",
        f"| prompt | `{one.template}` |",
        *([f"| {{input}} | {_marked(one.input_description)} |"] if one.takes_input else []),
        f"| made of | annotations of type `{one.annotation_type}` |",
        f"| answer | {FORMS[one.form]} |",
        f"| metric | `{one.metric}` |",
        f"| too long | {one.truncation} |",
        "",
        "```",
        f"prompt   {one.prompt(example.input)}",
        f"target   {_line(example.target)}",
        *_answer(answer, example),
        "```",
        "",
    ]


def _marked(text: str) -> str:
    return re.sub(r"(</?\w+>)", r"`\1`", text)


def _line(text: str) -> str:
    return text.replace("\n", "\\n")


def _answer(answer: Answer, example: Example) -> list[str]:
    """Return the decoded answer, a line for each region."""
    lines = [_region(region) for region in answer.regions] or [f'text "{_line(answer.text)}"']
    return [f"{'decoded' if index == 0 else '':<9}{line}" for index, line in enumerate(lines)]


def _region(region: Region) -> str:
    label = f'"{region.label}"  ' if region.label else ""
    shapes = (
        [("box", region.box)]
        if region.box
        else [("quad", region.quad)]
        if region.quad
        else [("polygon", points) for points in region.polygons]
    )
    return label + "  ".join(f"{name} {_numbers(points)}" for name, points in shapes if points)


def _numbers(points: Sequence[float]) -> str:
    shown = ", ".join(f"{value:.2f}" for value in points[:8])
    return shown if len(points) <= 8 else f"{shown}, … ({len(points) // 2} points)"


if __name__ == "__main__":
    print(make_markdown(), end="")
