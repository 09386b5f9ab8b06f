"""Phrase grounding: the regions of a caption's phrases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from florence.codec import grammar
from florence.codec.grammar import Form, LabelledRegions
from florence.errors import EncodeError
from florence.records import Annotation, ImageRecord, Region
from florence.tasks import TASK, Example, Task, check_regions, flatten, sort_regions


@TASK.register("<CAPTION_TO_PHRASE_GROUNDING>")
class PhraseGrounding(Task):
    """The rows of one caption make one example: phrases in the order of the caption, each with its boxes."""

    name = annotation_type = "<CAPTION_TO_PHRASE_GROUNDING>"
    metric = "grounding"
    input_description = "a caption"
    form = Form.LABELLED_BOXES
    template = "Locate the phrases in the caption: {input}"

    def check(self, row: Annotation) -> None:
        """Raise EncodeError where caption, phrase or box cannot be written."""
        if not row.regions:
            raise EncodeError("a phrase without a region")
        self.checked_input(row.text.strip())
        for region in row.regions:
            check_regions(replace(row, text=region.label, regions=(region,)))

    def build(self, image: ImageRecord, rows: Sequence[Annotation]) -> Iterator[Example]:
        """Yield an example for each caption."""
        size = (image.width, image.height)
        for caption in dict.fromkeys(row.text for row in rows):
            groups = _group_phrases(
                caption, [region for row in rows if row.text == caption for region in row.regions], size
            )
            target = grammar.write(groups, self.form, size)
            yield Example(image.image_id, self.name, caption.strip(), target, caption.strip(), flatten(groups))

    def name_regions(self, groups: Sequence[LabelledRegions], input: str) -> tuple[Region, ...]:
        """Return regions with the span of their phrase in the caption.

        The span is after the phrases before it, else anywhere, else None.
        """
        result, last = [], 0
        for group in groups:
            phrase = group.label.strip(grammar.WHITE)
            start = input.find(phrase, last)
            start = input.find(phrase) if start < 0 else start
            span = (start, start + len(phrase)) if start >= 0 else None
            last = span[1] if span else last
            result += [replace(region, span=span) for region in group.regions]
        return tuple(result)


def _group_phrases(caption: str, regions: list[Region], size: tuple[int, int]) -> list[LabelledRegions]:
    """Group the regions of one phrase at one position of the caption.

    Spans count from the caption's first character that is not white space.
    """
    lead = len(caption) - len(caption.lstrip())
    by_phrase: dict[tuple[int, int, str], list[Region]] = {}
    for region in regions:
        phrase = grammar.clean_label(region.label)
        if region.span is not None:
            span = (region.span[0] - lead, region.span[1] - lead)
        else:
            start = caption.strip().find(phrase)
            span = (start, start + len(phrase)) if start >= 0 else (len(caption), len(caption))
        placed = replace(region, label=phrase, span=span if span[0] < len(caption) else None)
        by_phrase.setdefault((*span, phrase), []).append(placed)
    return [LabelledRegions(key[2], tuple(sort_regions(by_phrase[key], size))) for key in sorted(by_phrase)]
