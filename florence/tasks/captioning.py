"""Captions: texts about the whole image, at three granularities."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from florence.codec import grammar
from florence.codec.grammar import Form
from florence.errors import EncodeError
from florence.records import Annotation, ImageRecord
from florence.tasks import TASK, Example, TextTask


class _Captioning(TextTask):
    metric = "caption"
    form = Form.TEXT_OR_NOTHING
    truncation = "its first sentences are kept; the example is left out where not even the first fits"
    ends = re.compile(r"(?:[.!?…][\"'”’)\]]*(?=\s+\S)|[。！？][”’」』）]*(?=.))")

    def check(self, row: Annotation) -> None:
        if not row.text.strip():
            raise EncodeError("the caption is empty")
        grammar.check_text(row.text, "caption")

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        for text in dict.fromkeys(row.text.strip() for row in rows):
            yield Example(image.image_id, self.name, "", text, text)


@TASK.register("<CAPTION>")
class Caption(_Captioning):
    """A brief text."""

    name = annotation_type = "<CAPTION>"
    template = "What does the image describe?"


@TASK.register("<DETAILED_CAPTION>")
class DetailedCaption(_Captioning):
    """A detailed text."""

    name = annotation_type = "<DETAILED_CAPTION>"
    template = "Describe in detail what is shown in the image."


@TASK.register("<MORE_DETAILED_CAPTION>")
class MoreDetailedCaption(_Captioning):
    """A paragraph."""

    name = annotation_type = "<MORE_DETAILED_CAPTION>"
    template = "Describe with a paragraph what is shown in the image."
