"""Simulate an annotator from the truth and declared error rates, so that the gain of the loop can be measured.

Its claims are a pure function of (truth, image, annotator's name, seed, options); see `florence.simulation`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, subset_of
from florence.config import Section
from florence.records import ANNOTATION_TYPES, BASE_TYPES, Claim
from florence.simulation.errors import SimulationSettings
from florence.simulation.image import simulate_claims


@ANNOTATORS.register("simulated")
class Simulated(Annotator):
    """Claims the truth with errors of declared rates."""

    needs = frozenset({"truth"})
    tasks = BASE_TYPES
    revision = 2

    class Options(Section):
        """Error rates; all shares and probabilities are per object, phrase, word or character."""

        missed: float = Field(
            0.2, ge=0, le=1, description="share of objects and OCR lines not found, and of questions not answered"
        )
        mislabelled: float = Field(
            0.15, ge=0, le=1, description="share of the found objects with a wrong label, and of wrong answers"
        )
        invented: float = Field(0.1, ge=0, le=1, description="objects that are not there, as a share of those that are")
        shifted: float = Field(
            0.1,
            ge=0,
            le=0.5,
            description="mean |shift| of a box along each axis as a share of its side; sides change by half as much",
        )
        alt_noise: float = Field(
            0.2,
            ge=0,
            le=1,
            description="probability that a phrase or word of a caption is dropped or wrong, "
            "or that a caption has boilerplate around it",
        )
        misread: float = Field(
            0.05,
            ge=0,
            le=1,
            description="probability that a character is read wrong, in an OCR line or in an answer with text read",
        )
        skill: float = Field(
            0.2,
            ge=0,
            le=1,
            description="difference between the mean scores of right and wrong claims; "
            "with a score_noise of 0.15, an area under the curve of 0.83",
        )
        score_noise: float = Field(0.15, ge=0, le=1, description="standard deviation of the score around that mean")
        labels: tuple[str, ...] = Field(
            (), description="wrong labels that objects can get; none: a built-in list of common names"
        )
        tasks: Annotated[tuple[str, ...], subset_of(ANNOTATION_TYPES)] = Field(
            BASE_TYPES,
            description="annotation types it claims; by default answers and categories too, if the truth has them",
        )
        seed: int = Field(0, ge=0, description="changes every draw")
        twin: str = Field(
            "",
            description="name of an annotator whose draws it shares, as versions of one model make the same errors; "
            "empty: none",
        )
        shared: float = Field(
            0.8, ge=0, le=1, description="share of the objects, captions and OCR lines with the draws of `twin`"
        )

        @field_validator("labels")
        @classmethod
        def _labels(cls, values: tuple[str, ...]) -> tuple[str, ...]:
            if len(set(values)) == 1:
                raise ValueError("one label cannot be mistaken for another; give two or more, or none")
            return values

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self.tasks = ANNOTATION_TYPES if self.options.tasks == BASE_TYPES else self.options.tasks
        self._settings = SimulationSettings(**{**self.options.model_dump(), "tasks": self.tasks})

    def ingredients(self) -> dict[str, str]:
        """Return its name, which is part of every draw."""
        return {"annotator": self.name}

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """Return the simulated claims about each image."""
        return [
            simulate_claims(self._settings, self.name, record, truth)
            for record, truth in zip(batch.records, batch.truth, strict=True)
        ]
