"""Noun phrases of captions, found by spaCy's parser, and the boxed objects that they speak of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from florence.config import Section
from florence.records import CAPTIONS, Annotation, Claim, ImageRecord, Region
from florence.specialists import SPECIALISTS, Batch, Specialist, plural
from florence.specialists._nouns import noun_chunks, parser, parser_versions
from florence.specialists._seen import Seen, objects, place


@SPECIALISTS.register("phrases")
class Phrases(Specialist):
    """Claims a place for each phrase of a caption whose head is the name of an object that others have boxed."""

    needs = frozenset({"claims"})
    tasks = ("<CAPTION_TO_PHRASE_GROUNDING>",)

    class Options(Section):
        """Settings."""

        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object")
        min_alone: float = Field(0.6, ge=0, le=1, description="least score of an object that one annotator alone named")
        max_characters: int = Field(2000, ge=1, description="longer captions are left alone")

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self._parse: Any = None

    def ingredients(self) -> dict[str, str]:
        """spaCy and the package with its pipeline."""
        return parser_versions()

    def load(self) -> None:
        """Load the parser."""
        if self._parse is None:
            self._parse = parser()

    def annotate(self, batch: Batch) -> list[list[Claim]]:
        """The phrases of each picture's captions, caption by caption."""
        return [self._ground(record, claims) for record, claims in zip(batch.records, batch.claims, strict=True)]

    def _ground(self, record: ImageRecord, claims: Sequence[Annotation]) -> list[Claim]:
        found = objects(claims, self.options.min_score, self.options.min_alone)
        texts = dict.fromkeys(row.text for task in CAPTIONS for row in claims if row.task == task) if found else {}
        return [claim for text in texts if len(text) <= self.options.max_characters for claim in self._phrases(text, found, record)]

    def _phrases(self, text: str, found: Sequence[Seen], record: ImageRecord) -> list[Claim]:
        claims = []
        for chunk in noun_chunks(self._parse, text):
            meant = _meant(chunk, found, record)
            if meant:
                phrase, span = chunk.text, (chunk.start_char, chunk.end_char)
                regions = tuple(Region(phrase, box=seen.box, score=seen.score, span=span) for seen in meant)
                claims.append(Claim("<CAPTION_TO_PHRASE_GROUNDING>", text, regions, sum(seen.score for seen in meant) / len(meant)))
        return claims


def _meant(chunk: Any, found: Sequence[Seen], record: ImageRecord) -> list[Seen]:
    """The objects that a noun chunk speaks of: all of a plural; of a singular the one whose place the sentence names, else the best."""
    label = _label(chunk, found)
    alike = [seen for seen in found if seen.label == label]
    if len(alike) < 2 or "Plur" in chunk.root.morph.get("Number"):
        return alike
    sentence = chunk.sent.text.lower()
    placed = [seen for seen in alike if re.search(rf"{place(seen.centre, record)}(?! (left|right))", sentence)]
    return (placed if len(placed) == 1 else alike)[:1]


def _label(chunk: Any, found: Sequence[Seen]) -> str | None:
    """The label that a noun chunk ends in, or whose head it has; None where there is none."""
    root = chunk.root
    words = " ".join(token.lower_ for token in chunk if token.i <= root.i)
    for shorten in (False, True):
        for seen in sorted(found, key=lambda s: -len(s.label)):
            label = seen.label.lower().rsplit(" ", 1)[-1] if shorten else seen.label.lower()
            named = any(re.search(rf"(?<!\w){re.escape(form)}$", words) for form in (label, plural(label)))
            if named or (" " not in label and root.lemma_.lower() == label):
                return seen.label
    return None
