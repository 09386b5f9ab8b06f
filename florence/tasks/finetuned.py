"""Tasks that the paper reaches by fine-tuning: questions about an image, and its category.

No default training draws them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from florence.codec import grammar, locations
from florence.errors import EncodeError
from florence.records import Annotation, ImageRecord, Region
from florence.tasks import TASK, Example, TextTask, check_regions, labelled_regions


@TASK.register("<VQA>")
class VisualQuestionAnswering(TextTask):
    """A question about the image; the rows of one question make one example.

    Its target is the most frequent answer, of several the first in alphabetical order; its regions are all answers.
    """

    name = annotation_type = "<VQA>"
    metric = "answer"
    input_description = "a question"
    template = "Answer the question about the image: {input}"

    def check(self, row: Annotation) -> None:
        """Raise EncodeError where the question or an answer cannot be written, or there is no answer."""
        self.checked_input(row.text.strip())
        if not row.regions:
            raise EncodeError(f"the question {row.text!r} has no answer")
        for region in row.regions:
            grammar.clean_label(region.label)
            locations.quantise(grammar.region_bounds(region), (1, 1))

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        """Yield an example for each question, in the order of the rows."""
        asked: dict[str, list[Region]] = {}
        for row in rows:
            asked.setdefault(row.text.strip(), []).extend(
                replace(region, label=grammar.clean_label(region.label)) for region in row.regions
            )
        for question, answers in asked.items():
            counts = Counter(region.label for region in answers)
            answer = min(counts, key=lambda text: (-counts[text], text))
            yield Example(
                image.image_id,
                self.name,
                question,
                answer,
                answer,
                tuple(sorted(answers, key=lambda region: region.label)),
            )


@TASK.register("<CLASSIFICATION>")
class Classification(TextTask):
    """The category of the whole image; of several rows the first."""

    name = annotation_type = "<CLASSIFICATION>"
    metric = "category"
    template = "What is the category of the image?"

    def check(self, row: Annotation) -> None:
        """Raise EncodeError where the category cannot be written or has no region."""
        if not row.regions:
            raise EncodeError(f"the category {row.text!r} has no region; the whole image's box is expected")
        check_regions(row)

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        """Yield an example for the image."""
        region = next(labelled_regions(rows))
        yield Example(image.image_id, self.name, "", region.label, region.label, (region,))
