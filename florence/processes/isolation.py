"""Which image an annotator fails on: found by asking about each image alone.

What happens to the claims of a batch when the annotator crashes, hangs, or writes something that is no answer:

- The image was answered before the crash: its claims are kept. All claims about an image come in one answer, so there
  are never half of them.
- It was not answered: it is asked about again, alone. Claims of that answer are kept.
- It gets no answer alone either, and the annotator answers about others: the image is the cause. It gets
  `FlorenceError`, is stored as failed, and is not asked about again until the annotator's version changes.
- The annotator is given up, or fails for a reason that concerns every image: the images that are left get
  `UnavailableError`, nothing is stored of them, and a later run asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from florence.errors import FlorenceError, UnavailableError
from florence.records import ClaimsOrError


@dataclass(frozen=True, slots=True)
class AskFailure:
    """Why images have no answer. ``is_lasting``: the failure concerns every image, so stop asking."""

    reason: str
    is_lasting: bool = False


Ask = Callable[[Sequence[str], dict[str, ClaimsOrError]], AskFailure | None]
"""Asks about images, by id, and puts each answer into the dict; returns what failed where images are left over."""


class FaultIsolator:
    """Ask an annotator about batches of images, and find the images that it fails on.

    An annotator that fails more than ``max_failures`` times in a row, with no answer in between, is given up. The last
    images before that may not be the cause: they get `UnavailableError`, as do all that it was not asked about.
    """

    def __init__(self, max_failures: int) -> None:
        self.max_failures = max_failures
        self.failures = 0
        self.has_answered = False
        self.last_reason = ""

    @property
    def is_given_up(self) -> bool:
        """Whether the annotator has failed too often."""
        return self.failures > self.max_failures

    def ask(self, images: Sequence[str], ask: Ask) -> dict[str, ClaimsOrError]:
        """Return the claims about each image, or its error.

        Raises UnavailableError where the annotator answers about none of them, and no image was found to be the cause.
        """
        if self.is_given_up:
            raise UnavailableError(
                f"given up after {self.failures} failures in a row, the last one: {self.last_reason}"
            )
        results: dict[str, ClaimsOrError] = {}
        faults: dict[str, FlorenceError] = {}
        suspects: dict[str, FlorenceError] = {}
        failure = self._ask_once(images, results, ask)
        for image in [image for image in images if image not in results]:
            if failure is not None and (failure.is_lasting or self.is_given_up):
                break
            failure = self._ask_once([image], results, ask)
            if failure is None:
                faults |= suspects
                suspects = {}
            else:
                suspects[image] = FlorenceError(f"asked about this image alone: {failure.reason}")
        if failure is not None and not failure.is_lasting and not self.is_given_up and self.has_answered:
            faults |= suspects
        if not results and not faults and failure is not None:
            raise UnavailableError(failure.reason)
        return {
            image: results[image] if image in results else faults.get(image, UnavailableError(self.last_reason))
            for image in images
        }

    def _ask_once(self, images: Sequence[str], results: dict[str, ClaimsOrError], ask: Ask) -> AskFailure | None:
        answered_before = len(results)
        failure = ask(images, results)
        if len(results) > answered_before:
            self.failures, self.has_answered = 0, True
        if failure is not None:
            self.failures, self.last_reason = self.failures + 1, failure.reason
        return failure
