"""An annotator for tests that records its calls and follows the instructions of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.config import Section
from florence.records import Claim, Region
from florence.services.usage import Usage
from florence.workspace.annotate.annotators import _cached_annotator

CALLS: list[tuple[str, tuple[str, ...]]] = []
"""(annotator, names of the images of the batch), in order."""
LOADS: list[tuple[str, str]] = []
"""(annotator, its device)."""
BEFORE: dict[str, Callable[[Annotator, ImageBatch], Any]] = {}
"""Annotator → called with every batch before it is answered; if it returns anything, that is the answer."""
ON_LOAD: dict[str, Callable[[Annotator], Any]] = {}
"""Annotator → called when it is loaded."""


class FakeAnnotator(Annotator):
    """Claims a caption with its name and the claims it was given, and a box that follows from the pixels."""

    class Options(Section):
        """Its needs and costs."""

        needs: tuple[str, ...] = Field(("pixels",), description="subset of NEEDS")
        price: int = Field(0, description="tokens of an image")
        words: tuple[str, ...] | None = Field(None, description="its vocabulary")
        note: str = Field("", description="changes the version")
        role: str = Field("annotator", description="of ROLES")

    tasks = ("<OD>", "<CAPTION>")

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self.needs = frozenset(self.options.needs)  # type: ignore[misc]
        self.role = self.options.role

    def ingredients(self) -> dict[str, str]:
        return {"annotator": self.name}

    def vocabulary(self) -> tuple[str, ...] | None:
        return self.options.words

    def load(self) -> None:
        LOADS.append((self.name, self.device))
        if self.name in ON_LOAD:
            ON_LOAD[self.name](self)

    def annotate(self, batch: ImageBatch):
        CALLS.append((self.name, tuple(record.name for record in batch.records)))
        if self.options.price:
            tokens = self.options.price * len(batch.records)
            self.usage += Usage(1, tokens, tokens / 1000)
        if self.name in BEFORE and (answer := BEFORE[self.name](self, batch)) is not None:
            return answer
        return self.claims_of(batch)

    def claims_of(self, batch: ImageBatch) -> list[list[Claim]]:
        """Return its claims if no test interferes."""
        return [self._claims(batch, index) for index in range(len(batch.records))]

    def _claims(self, batch: ImageBatch, index: int) -> list[Claim]:
        record = batch.records[index]
        earlier = "; ".join(f"{row.annotator}: {row.text}" for row in batch.claims[index])
        after = f" after ({earlier})" if earlier else ""
        claims = [Claim("<CAPTION>", f"{self.name} of {record.name}{after}", (), 0.1)]
        if batch.pixels:
            mean = float(np.float32(batch.pixels[index].mean()) / 255)
            claims.append(
                Claim(
                    "<OD>", "thing", (Region("thing", box=(0.0, 0.0, 1.0 + mean, record.height / 3), score=mean),), mean
                )
            )
        return claims


@contextmanager
def fake_annotator_registered() -> Iterator[None]:
    """Register the annotator as `use: fake` while the block runs."""
    ANNOTATORS.discover()
    ANNOTATORS._entries["fake"] = FakeAnnotator
    forget_calls()
    try:
        yield
    finally:
        ANNOTATORS._entries.pop("fake", None)
        forget_calls()


def forget_calls() -> None:
    """Forget calls, instructions and all instances, as in a new process."""
    _cached_annotator.cache_clear()
    CALLS.clear()
    LOADS.clear()
    BEFORE.clear()
    ON_LOAD.clear()


def list_asked_images(name: str) -> list[str]:
    """Return the names of the images that an annotator was asked about, in order."""
    return [image for annotator, images in CALLS if annotator == name for image in images]


def annotator_section(**more: Any) -> dict[str, Any]:
    """Return a section of params.yaml with the annotator and other settings."""
    return {"use": "fake", "sources": ["*"], **more}
