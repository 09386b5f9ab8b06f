"""Detection: objects by category, by description, by a given name, or without a name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from florence.codec import grammar
from florence.codec.grammar import Form, LabelledRegions
from florence.errors import EncodeError
from florence.records import Annotation, ImageRecord, Region
from florence.tasks import (
    TASK,
    Example,
    Size,
    Task,
    are_empty,
    check_regions,
    flatten,
    group_by_label,
    labelled_regions,
    sort_regions,
)


class _Detection(Task):
    """Every object of the image in one answer."""

    metric = "detection"
    form = Form.LABELLED_BOXES

    def check(self, row: Annotation) -> None:
        if row.text and not row.regions:
            raise EncodeError(f"the label {row.text!r} has no region")
        check_regions(row)

    def groups(self, image: ImageRecord, rows: Sequence[Annotation]) -> list[LabelledRegions]:
        """Return what the answer holds, in order."""
        return group_by_label(sort_regions(labelled_regions(rows), (image.width, image.height)))

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        groups = self.groups(image, rows)
        if groups or are_empty(rows):
            target = grammar.write(groups, self.form, (image.width, image.height))
            yield Example(image.image_id, self.name, "", target, "", flatten(groups))


@TASK.register("<OD>")
class ObjectDetection(_Detection):
    """Objects with their category."""

    name = annotation_type = "<OD>"
    template = "Locate the objects with category name in the image."


@TASK.register("<DENSE_REGION_CAPTION>")
class DenseRegionCaption(_Detection):
    """Objects with a description."""

    name = annotation_type = "<DENSE_REGION_CAPTION>"
    template = "Locate the objects in the image, with their descriptions."


@TASK.register("<REGION_PROPOSAL>")
class RegionProposal(_Detection):
    """Objects without a name."""

    name = "<REGION_PROPOSAL>"
    annotation_type = "<OD>"
    metric = "proposal"
    form = Form.BOXES
    template = "Locate the region proposals in the image."

    def groups(self, image: ImageRecord, rows: Sequence[Annotation]) -> list[LabelledRegions]:
        """Return one group without a label."""
        regions = sort_regions(
            (replace(region, label="") for region in labelled_regions(rows)), (image.width, image.height)
        )
        return [LabelledRegions("", tuple(regions))] if regions else []


@TASK.register("<OPEN_VOCABULARY_DETECTION>")
class OpenVocabularyDetection(_Detection):
    """Objects of the given names; several names are joined by <and>. One example for each label of the image.

    Examples hold boxes; an answer may also hold polygons, as the published model's do. With `train.absent_share` a
    model is also trained on names that are known to be absent: the answer leaves them out, and is empty without others.
    """

    name = "<OPEN_VOCABULARY_DETECTION>"
    annotation_type = "<OD>"
    input_description = "a name, or several joined by <and>"
    form = Form.LABELLED_SHAPES
    template = "Locate {input} in the image."

    def checked_input(self, input: str) -> str:
        """Return ``input``.

        Raises EncodeError where one of the names, between <and> and <and>, is empty or not writable.
        """
        grammar.join_names(input.split(grammar.AND))
        return input

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        """Yield an example for each label."""
        size = (image.width, image.height)
        for group in self.groups(image, rows):
            # without polygons: with them the grammar would write masks
            boxes = LabelledRegions(group.label, tuple(replace(r, box=r.bounds, polygons=()) for r in group.regions))
            yield Example(
                image.image_id, self.name, group.label, grammar.write([boxes], self.form, size), "", boxes.regions
            )

    def ask_several(
        self, image_id: str, size: Size, present: Sequence[Example], absent: Sequence[str], random: np.random.Generator
    ) -> Example:
        """Return the example that asks for all names of ``present`` examples and for ``absent`` ones, in random order.

        Its answer holds the present names alone, in the order of the question; it is empty where there are none.
        """
        asked: list[tuple[str, tuple[Region, ...]]] = [(example.input, example.regions) for example in present]
        asked += [(name, ()) for name in absent]
        asked = [asked[index] for index in random.permutation(len(asked))]
        groups = [LabelledRegions(name, regions) for name, regions in asked if regions]
        question = grammar.join_names(name for name, _ in asked)
        return Example(image_id, self.name, question, grammar.write(groups, self.form, size), "", flatten(groups))
