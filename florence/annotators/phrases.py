"""Ground the noun phrases of captions in the objects that others have boxed.

spaCy's parser finds the noun phrases. A phrase names an object by its label, or by a word of about the same meaning: a
kitten is a cat. The latter is decided by the cosine of sentence embeddings. Of 73 pairs of nouns for one thing and 85
pairs of things that are often seen together, 0.75 accepts 36% and 1%; what is missed is mostly hyponyms that the
embedding does not know as such.
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
from florence.scene.objects import SceneObject, merge_objects, position_phrase


@ANNOTATORS.register("phrases")
class Phrases(Annotator):
    """Claims boxes for each noun phrase of a caption whose head is the label of a boxed object, or similar to one.

    A region's score is the object's score, multiplied by the similarity if the label is only similar.
    """

    needs = frozenset({"claims"})
    tasks = ("<CAPTION_TO_PHRASE_GROUNDING>",)
    revision = 2

    class Options(Section):
        """Settings."""

        min_score: float = Field(0.3, ge=0, le=1, description="least score of an object")
        min_alone: float = Field(0.6, ge=0, le=1, description="least score of an object that a single annotator named")
        min_likeness: float = Field(
            0.75,
            ge=0,
            le=1,
            description="least cosine between a phrase's noun and an object's label; 1: labels must be equal",
        )
        max_characters: int = Field(2000, ge=1, description="longer captions are skipped")

    def ingredients(self) -> dict[str, str]:
        """Return the versions of spaCy, and of the packages with its pipeline and with the sentence embedding."""
        return {**nouns.versions(), **sentences.versions()}

    def load(self) -> None:
        """Load the parser. The embedding is loaded when it is first needed."""
        nouns.load_parser()

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """Return the phrases of each picture's captions, caption by caption."""
        return [self._ground(record, claims) for record, claims in zip(batch.records, batch.claims, strict=True)]

    def _ground(self, record: ImageRecord, claims: Sequence[Annotation]) -> list[Claim]:
        objects = merge_objects(claims, self.options.min_score, self.options.min_alone)
        texts = dict.fromkeys(row.text for task in CAPTIONS for row in claims if row.task == task) if objects else {}
        return [
            claim
            for text in texts
            if len(text) <= self.options.max_characters
            for claim in self._ground_caption(text, objects, record)
        ]

    def _ground_caption(self, text: str, objects: Sequence[SceneObject], record: ImageRecord) -> list[Claim]:
        claims = []
        for chunk in nouns.noun_chunks(text):
            label, likeness = self._label_of(chunk, objects)
            referents = _referents(chunk, [item for item in objects if item.label == label], record)
            if referents:
                span = (chunk.start_char, chunk.end_char)
                regions = tuple(
                    Region(chunk.text, box=item.box, score=item.score * likeness, span=span) for item in referents
                )
                score = sum(item.score for item in referents) / len(referents) * likeness
                claims.append(Claim("<CAPTION_TO_PHRASE_GROUNDING>", text, regions, score))
        return claims

    def _label_of(self, chunk: Any, objects: Sequence[SceneObject]) -> tuple[str | None, float]:
        """Return the object label that a noun chunk means and their similarity, 0…1; None if there is none."""
        label = _equal_label(chunk, objects)
        if label is not None or self.options.min_likeness >= 1:
            return label, 1.0
        labels = tuple(dict.fromkeys(item.label for item in objects))
        names = (label.lower() for label in labels)
        noun, *vectors = sentences.sentence_encoder().encode(
            [_noun_with_article(chunk), *(f"{choose_article(name)} {name}" for name in names)]
        )
        likeness = [float((noun * vector).sum()) for vector in vectors]
        best = int(np.argmax(likeness))
        # rounding may give a cosine above 1
        return (labels[best], min(likeness[best], 1.0)) if likeness[best] >= self.options.min_likeness else (None, 0.0)


def _noun_with_article(chunk: Any) -> str:
    """Return a chunk's noun in the singular with its compound nouns and an article, as labels are given.

    Adjectives are left out: in the embedding they would weigh as much as the noun.
    """
    compounds = [token.lower_ for token in chunk if token.dep_ == "compound" and token.i < chunk.root.i]
    noun = " ".join([*compounds, chunk.root.lemma_.lower()])
    return f"{choose_article(noun)} {noun}"


def _referents(chunk: Any, candidates: list[SceneObject], record: ImageRecord) -> list[SceneObject]:
    """Return the objects that a noun chunk means, of those with its label.

    A plural means all; a singular means the one whose position the sentence names, else the best.
    """
    if len(candidates) < 2 or "Plur" in chunk.root.morph.get("Number"):
        return candidates
    sentence = chunk.sent.text.lower()
    located = [
        item for item in candidates if re.search(rf"{position_phrase(item.centre, record)}(?! (left|right))", sentence)
    ]
    return (located if len(located) == 1 else candidates)[:1]


def _equal_label(chunk: Any, objects: Sequence[SceneObject]) -> str | None:
    """Return the label that a noun chunk ends in, or whose head it has; None if there is none."""
    root = chunk.root
    words = " ".join(token.lower_ for token in chunk if token.i <= root.i)
    for head_only in (False, True):
        for item in sorted(objects, key=lambda o: -len(o.label)):
            label = item.label.lower().rsplit(" ", 1)[-1] if head_only else item.label.lower()
            found = any(re.search(rf"(?<!\w){re.escape(form)}$", words) for form in (label, pluralize(label)))
            if found or (" " not in label and root.lemma_.lower() == label):
                return item.label
    return None
