"""Noun phrases of captions, found by spaCy's parser, and the boxed objects that they speak of.

A phrase speaks of an object by its name, or by one that means about the same: a kitten is a cat. The latter is told by the cosine of sentence embeddings. Of 73 pairs of
nouns of one thing and 85 of things that are often seen together, 0.75 takes 36% and 1%; what is left out is mostly kinds whose names the embedding does not know as such.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.config import Section
from florence.english import choose_article, pluralize
from florence.packaged_models import nouns, sentences
from florence.records import CAPTIONS, Annotation, Claim, ImageRecord, Region
from florence.scene.objects import Seen, objects, place


@ANNOTATORS.register("phrases")
class Phrases(Annotator):
    """Claims a place for each phrase of a caption whose head is the name of an object that others have boxed, or much like one.

    A region's score is the object's, times the likeness where that decided.
    """

    needs = frozenset({"claims"})
    tasks = ("<CAPTION_TO_PHRASE_GROUNDING>",)
    revision = 2

    class Options(Section):
        """Settings."""

        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object")
        min_alone: float = Field(0.6, ge=0, le=1, description="least score of an object that one annotator alone named")
        min_likeness: float = Field(
            0.75,
            ge=0,
            le=1,
            description="least cosine between a phrase's noun and an object's name; at 1 names alone count",
        )
        max_characters: int = Field(2000, ge=1, description="longer captions are left alone")

    def ingredients(self) -> dict[str, str]:
        """spaCy, and the packages with its pipeline and with the sentence embedding."""
        return {**nouns.packages(), **sentences.packages()}

    def load(self) -> None:
        """Load the parser. The embedding is loaded when a phrase first asks for it."""
        nouns.parser()

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """The phrases of each picture's captions, caption by caption."""
        return [self._ground(record, claims) for record, claims in zip(batch.records, batch.claims, strict=True)]

    def _ground(self, record: ImageRecord, claims: Sequence[Annotation]) -> list[Claim]:
        found = objects(claims, self.options.min_score, self.options.min_alone)
        texts = dict.fromkeys(row.text for task in CAPTIONS for row in claims if row.task == task) if found else {}
        return [
            claim
            for text in texts
            if len(text) <= self.options.max_characters
            for claim in self._phrases(text, found, record)
        ]

    def _phrases(self, text: str, found: Sequence[Seen], record: ImageRecord) -> list[Claim]:
        claims = []
        for chunk in nouns.chunks(text):
            label, likeness = self._named(chunk, found)
            meant = _meant(chunk, [seen for seen in found if seen.label == label], record)
            if meant:
                span = (chunk.start_char, chunk.end_char)
                regions = tuple(
                    Region(chunk.text, box=seen.box, score=seen.score * likeness, span=span) for seen in meant
                )
                claims.append(
                    Claim(
                        "<CAPTION_TO_PHRASE_GROUNDING>",
                        text,
                        regions,
                        sum(seen.score for seen in meant) / len(meant) * likeness,
                    )
                )
        return claims

    def _named(self, chunk: Any, found: Sequence[Seen]) -> tuple[str | None, float]:
        """The label that a noun chunk speaks of and how like it is, 0…1; None where there is none."""
        label = _label(chunk, found)
        if label is not None or self.options.min_likeness >= 1:
            return label, 1.0
        labels = tuple(dict.fromkeys(seen.label for seen in found))
        noun, *names = sentences.sentences().vectors(
            [_noun(chunk), *(f"{choose_article(name)} {name}" for name in (label.lower() for label in labels))]
        )
        likeness = [float((noun * name).sum()) for name in names]
        best = int(np.argmax(likeness))
        # rounding may lead a cosine beyond 1
        return (labels[best], min(likeness[best], 1.0)) if likeness[best] >= self.options.min_likeness else (None, 0.0)


def _noun(chunk: Any) -> str:
    """A chunk's noun in the singular, with an article and the nouns that are one word with it, as names of objects are given: adjectives would weigh as much."""
    noun = " ".join(
        [
            *(token.lower_ for token in chunk if token.dep_ == "compound" and token.i < chunk.root.i),
            chunk.root.lemma_.lower(),
        ]
    )
    return f"{choose_article(noun)} {noun}"


def _meant(chunk: Any, alike: list[Seen], record: ImageRecord) -> list[Seen]:
    """Of the objects of the name that a noun chunk has, those it speaks of: all of a plural; of a singular the one whose place the sentence names, else the best."""
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
            named = any(re.search(rf"(?<!\w){re.escape(form)}$", words) for form in (label, pluralize(label)))
            if named or (" " not in label and root.lemma_.lower() == label):
                return seen.label
    return None
