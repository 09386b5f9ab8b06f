"""Asking an annotator that runs elsewhere, and can die of an image: of a whole batch first, then of what was left unanswered one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from florence.errors import FlorenceError, UnavailableError
from florence.records import ClaimsOrError


@dataclass(frozen=True, slots=True)
class AskFailure:
    """Why images were left unanswered. ``lasting``: it has nothing to do with them, and to ask on now would be in vain."""

    reason: str
    lasting: bool = False


Ask = Callable[[Sequence[str], dict[str, ClaimsOrError]], AskFailure | None]
"""Asks about images, by id, and puts what is said of each into the dict; what failed where some are left unanswered."""


class FaultIsolator:
    """What an annotator has been like so far. One that fails more than ``patience`` times in a row, with no answer in between, is given up.

    An image is at fault where it was asked about alone and got no answer from an annotator that answers others. The last ones before an
    annotator is given up may have been innocent: they are `UnavailableError`, as are all that it was not asked about.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.failures = 0
        self.answered = False
        self.reason = ""

    @property
    def given_up(self) -> bool:
        """Whether it has failed too often."""
        return self.failures > self.patience

    def about(self, images: Sequence[str], ask: Ask) -> dict[str, ClaimsOrError]:
        """What is said of each image. Raises UnavailableError where the annotator is given up without having answered about any of them."""
        if self.given_up:
            raise UnavailableError(f"given up after {self.failures} failures in a row, the last one: {self.reason}")
        said: dict[str, ClaimsOrError] = {}
        faults: dict[str, FlorenceError] = {}
        doubtful: dict[str, FlorenceError] = {}
        failure = self._once(images, said, ask)
        for image in [image for image in images if image not in said]:
            if failure is not None and (failure.lasting or self.given_up):
                break
            failure = self._once([image], said, ask)
            if failure is None:
                faults |= doubtful
                doubtful = {}
            else:
                doubtful[image] = FlorenceError(f"asked about this image alone: {failure.reason}")
        if failure is not None and not failure.lasting and not self.given_up and self.answered:
            faults |= doubtful
        if not said and not faults and failure is not None:
            raise UnavailableError(failure.reason)
        return {
            image: said[image] if image in said else faults.get(image, UnavailableError(self.reason))
            for image in images
        }

    def _once(self, images: Sequence[str], said: dict[str, ClaimsOrError], ask: Ask) -> AskFailure | None:
        before = len(said)
        failure = ask(images, said)
        if len(said) > before:
            self.failures, self.answered = 0, True
        if failure is not None:
            self.failures, self.reason = self.failures + 1, failure.reason
        return failure
