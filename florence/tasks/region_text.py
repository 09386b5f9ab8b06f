"""The category or a description of a region. One example for each region."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from florence.codec import grammar
from florence.errors import EncodeError
from florence.records import Annotation, ImageRecord
from florence.tasks import TASK, Example, RegionInput, TextTask, check_regions, labelled_regions, sort_regions


class _RegionText(RegionInput, TextTask):
    def check(self, row: Annotation) -> None:
        if row.text and not row.regions:
            raise EncodeError(f"the text {row.text!r} has no region")
        check_regions(row)

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        size = (image.width, image.height)
        for region in sort_regions(labelled_regions(rows), size):
            box = grammar.box_tokens(region.bounds, size)
            yield Example(image.image_id, self.name, box, region.label, region.label, (region,))


@TASK.register("<REGION_TO_CATEGORY>")
class RegionToCategory(_RegionText):
    """The category of the object in a box."""

    name = "<REGION_TO_CATEGORY>"
    annotation_type = "<OD>"
    metric = "category"
    template = "What is the region {input}?"


@TASK.register("<REGION_TO_DESCRIPTION>")
class RegionToDescription(_RegionText):
    """A description of what is in a box."""

    name = "<REGION_TO_DESCRIPTION>"
    annotation_type = "<DENSE_REGION_CAPTION>"
    metric = "caption"
    template = "What does the region {input} describe?"
