"""Written text: all of it, with its places, or that of one region. Strings are in reading order, joined by a line break."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from florence.codec import grammar, locations
from florence.codec.grammar import Form, Group
from florence.errors import EncodeError
from florence.geometry import box_quad
from florence.records import Annotation, ImageRecord, Region
from florence.tasks import TASK, Answer, Example, RegionInput, Size, Task, TextTask, check_places, nothing, places

KIND = "<OCR_WITH_REGION>"
LINE = "\n"
"""Between two strings of a text without places: words of two signs must not run into one."""


def _check(row: Annotation) -> None:
    if row.text and not row.regions:
        raise EncodeError(f"the string {row.text!r} has no region")
    check_places(row)
    for region in row.regions:
        if region.quad is not None:
            locations.bins(region.quad, (1, 1))


def reading_order(regions: Iterable[Region], size: Size) -> list[Region]:
    """Lines from top to bottom, strings of a line from left to right; equal strings at one place once.

    A string belongs to the line above it when its middle is higher than the lower end of that line's first string by
    more than a quarter of that string's height. Compared in bins.
    """
    keyed: dict[tuple, Region] = {}
    for region in regions:
        x0, y0, x1, y1 = locations.bins(region.bounds, size)
        quad = locations.bins(region.quad or box_quad(region.bounds), size)
        keyed.setdefault((y0 + y1, x0 + x1, x0, y0, x1, y1, *quad, region.label), region)
    lines: list[list[tuple]] = []
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

    name = annotation_type = KIND
    metric = "reading"
    form = Form.LABELLED_QUADS
    template = "What is the text in the image, with regions?"

    def check(self, row: Annotation) -> None:
        """Raise EncodeError where a string or quad cannot be written."""
        _check(row)

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        """One example; the strings, joined, are its text."""
        size = (image.width, image.height)
        regions = reading_order(places(rows), size)
        if regions or nothing(rows):
            target = grammar.write([Group(region.label, (region,)) for region in regions], self.form, size)
            yield Example(image.image_id, self.name, "", target, LINE.join(r.label for r in regions), tuple(regions))

    def truncations(self, example: Example) -> list[Example]:
        """The text is that of the strings which are left."""
        return [
            replace(part, text=LINE.join(region.label for region in part.regions))
            for part in super().truncations(example)
        ]

    def decode(self, text: str, size: Size, input: str = "") -> Answer:
        """Strings with their quads; the answer's text is the strings, joined, so that it can be compared with `Example.text`."""
        answer = super().decode(text, size, input)
        return replace(answer, text=LINE.join(region.label for region in answer.regions))


@TASK.register("<OCR>")
class Ocr(TextTask):
    """Every string, without its place."""

    name = "<OCR>"
    annotation_type = KIND
    metric = "reading"
    form = Form.TEXT_OR_NOTHING
    truncation = "its first strings are kept, in reading order"
    ends = re.compile(rf"(?={LINE})")
    template = "What is the text in the image?"

    def check(self, row: Annotation) -> None:
        """Raise EncodeError where a string cannot be written."""
        _check(row)

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        """One example."""
        regions = reading_order(places(rows), (image.width, image.height))
        if regions or nothing(rows):
            text = LINE.join(region.label for region in regions)
            yield Example(image.image_id, self.name, "", text, text)


@TASK.register("<REGION_TO_OCR>")
class RegionToOcr(RegionInput, TextTask):
    """The string in a box; one example for each string."""

    name = "<REGION_TO_OCR>"
    annotation_type = KIND
    metric = "reading"
    template = "What text is in the region {input}?"

    def check(self, row: Annotation) -> None:
        """Raise EncodeError where the string cannot be written."""
        _check(row)

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        """One example a string; its region is the box that was asked about."""
        size = (image.width, image.height)
        for region in reading_order(places(rows), size):
            box = grammar.box_tokens(region.bounds, size)
            yield Example(image.image_id, self.name, box, region.label, region.label, (region,))
