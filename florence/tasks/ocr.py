"""OCR: all text in the image, with or without its quads, or the text of one region.

Strings are in reading order, joined by a line break.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from florence.codec import grammar, locations
from florence.codec.grammar import Form, LabelledRegions
from florence.errors import EncodeError
from florence.geometry import box_quad
from florence.records import Annotation, ImageRecord, Region
from florence.tasks import (
    TASK,
    Answer,
    Example,
    RegionInput,
    Size,
    Task,
    TextTask,
    are_empty,
    check_regions,
    labelled_regions,
)

ANNOTATION_TYPE = "<OCR_WITH_REGION>"
LINE_BREAK = "\n"
"""Between two strings of a text without regions: the words of two signs must not run together."""
_SortKey = tuple[int, int, int, int, int, int, *tuple[int, ...], str]
"""y0 + y1, x0 + x1, x0, y0, x1, y1 and the quad's coordinates of a string, in bins, and the string."""


def _check(row: Annotation) -> None:
    if row.text and not row.regions:
        raise EncodeError(f"the string {row.text!r} has no region")
    check_regions(row)
    for region in row.regions:
        if region.quad is not None:
            locations.quantise(region.quad, (1, 1))


def reading_order(regions: Iterable[Region], size: Size) -> list[Region]:
    """Return strings by line from top to bottom, within a line from left to right; equal strings at one location once.

    A string belongs to the line above it when its middle is higher than the lower end of that line's first string by
    more than a quarter of that string's height. Compared in bins.
    """
    keyed: dict[_SortKey, Region] = {}
    for region in regions:
        x0, y0, x1, y1 = locations.quantise(region.bounds, size)
        quad = locations.quantise(region.quad or box_quad(region.bounds), size)
        keyed.setdefault((y0 + y1, x0 + x1, x0, y0, x1, y1, *quad, region.label), region)
    lines: list[list[_SortKey]] = []
    limit = -1.0
    for key in sorted(keyed):
        if key[0] / 2 >= limit:
            lines.append([])
            limit = key[5] - (key[5] - key[3]) / 4
        lines[-1].append(key)
    return [keyed[key] for line in lines for key in sorted(line, key=lambda k: (k[1], k))]


@TASK.register("<OCR_WITH_REGION>")
class OcrWithRegion(Task):
    """Every string with its quad."""

    name = annotation_type = ANNOTATION_TYPE
    metric = "reading"
    form = Form.LABELLED_QUADS
    template = "What is the text in the image, with regions?"

    def check(self, row: Annotation) -> None:
        """Raise EncodeError where a string or quad cannot be written."""
        _check(row)

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        """Yield one example; its text is the strings, joined."""
        size = (image.width, image.height)
        regions = reading_order(labelled_regions(rows), size)
        if regions or are_empty(rows):
            target = grammar.write([LabelledRegions(region.label, (region,)) for region in regions], self.form, size)
            yield Example(
                image.image_id, self.name, "", target, LINE_BREAK.join(r.label for r in regions), tuple(regions)
            )

    def truncations(self, example: Example) -> list[Example]:
        """Return the truncated examples, each with the text of its strings."""
        return [
            replace(part, text=LINE_BREAK.join(region.label for region in part.regions))
            for part in super().truncations(example)
        ]

    def decode(self, text: str, size: Size, input: str = "") -> Answer:
        """Read strings with their quads; the answer's text is the strings, joined, comparable with `Example.text`."""
        answer = super().decode(text, size, input)
        return replace(answer, text=LINE_BREAK.join(region.label for region in answer.regions))


@TASK.register("<OCR>")
class Ocr(TextTask):
    """Every string, without its region."""

    name = "<OCR>"
    annotation_type = ANNOTATION_TYPE
    metric = "reading"
    form = Form.TEXT_OR_NOTHING
    truncation = "its first strings are kept, in reading order"
    ends = re.compile(rf"(?={LINE_BREAK})")
    template = "What is the text in the image?"

    def check(self, row: Annotation) -> None:
        """Raise EncodeError where a string cannot be written."""
        _check(row)

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        """Yield one example."""
        regions = reading_order(labelled_regions(rows), (image.width, image.height))
        if regions or are_empty(rows):
            text = LINE_BREAK.join(region.label for region in regions)
            yield Example(image.image_id, self.name, "", text, text)


@TASK.register("<REGION_TO_OCR>")
class RegionToOcr(RegionInput, TextTask):
    """The string in a box; one example for each string."""

    name = "<REGION_TO_OCR>"
    annotation_type = ANNOTATION_TYPE
    metric = "reading"
    template = "What text is in the region {input}?"

    def check(self, row: Annotation) -> None:
        """Raise EncodeError where the string cannot be written."""
        _check(row)

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        """Yield an example for each string; its region is the box of the prompt."""
        size = (image.width, image.height)
        for region in reading_order(labelled_regions(rows), size):
            box = grammar.box_tokens(region.bounds, size)
            yield Example(image.image_id, self.name, box, region.label, region.label, (region,))
