"""What an annotator may spend on a service, kept to over all of its threads: first rejected, then spent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from florence.errors import UnavailableError
from florence.services.usage import MeteredAnnotator, Usage

FIGURES = ("calls", "tokens", "cost")


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """The most that may be spent in all; None: no limit. ``cost``: in the currency of the prices."""

    calls: int | None = None
    tokens: int | None = None
    cost: float | None = None


class Budget:
    """Keeps ``owner.usage``, and what is rejected for calls to come, under the limits together.

    ``where``: the section of the settings that has ``budget_calls``, ``budget_tokens`` and ``budget_cost``.
    """

    def __init__(self, owner: MeteredAnnotator, limits: BudgetLimits, where: str) -> None:
        self._owner, self._limits, self._where = owner, limits, where
        self._changed = threading.Condition()
        self._held = Usage()
        self._open = 0

    @contextmanager
    def hold(self, most: Usage, stop: threading.Event) -> Iterator[Reservation]:
        """Rejected what one image may use at most, and give back at the end what it did not.

        Where it does not fit, it waits for images under way: they mostly use less than was rejected. Raises UnavailableError, naming budget and
        setting, where it does not fit even so; not a call has been made then.
        """
        with self._changed:
            while short := self._short(most):
                if not self._open:
                    raise self._refusal(short, most)
                if stop.is_set():
                    raise UnavailableError(f"{self._owner.name}: stopped before this was asked")
                self._changed.wait(0.5)
            self._held += most
            self._open += 1
        hold = Reservation(self, most)
        try:
            yield hold
        finally:
            with self._changed:
                self._held -= hold.left
                self._open -= 1
                self._changed.notify_all()

    def begin(self, hold: Reservation, extra: Usage) -> None:
        """Count a call that is about to be made. ``extra``: what it may use beyond what is rejected. Raises UnavailableError where that is not left."""
        with self._changed:
            if extra != Usage():
                if short := self._short(extra):
                    raise self._refusal(short, extra)
                self._held += extra
                hold.left += extra
            self._move(hold, Usage(1))
            self._owner.usage += Usage(1)

    def end(self, hold: Reservation, most: Usage, used: Usage | None) -> None:
        """Count what a call used. What is not known (None) stays rejected for good: it may have been spent."""
        rest = Usage(0, most.tokens, most.cost)
        with self._changed:
            if used is None:
                hold.left -= rest
            else:
                self._move(hold, rest)
                self._owner.usage += Usage(0, used.tokens, used.cost)
            self._changed.notify_all()

    def undo(self, hold: Reservation) -> None:
        """A call that `begin` counted never reached the service; what was rejected for it is there for the next try."""
        with self._changed:
            self._owner.usage -= Usage(1)
            self._held += Usage(1)
            hold.left += Usage(1)

    def _move(self, hold: Reservation, amount: Usage) -> None:
        self._held -= amount
        hold.left -= amount

    def _short(self, more: Usage) -> str:
        """The figure that ``more`` would bring over its limit; "" where it fits."""
        total = self._owner.usage + self._held + more
        for figure in FIGURES:
            limit = getattr(self._limits, figure)
            # The sum of many prices may miss the limit in its last digits.
            if limit is not None and getattr(total, figure) > limit * (1 + 1e-9):
                return figure
        return ""

    def _refusal(self, figure: str, more: Usage) -> UnavailableError:
        limit, usage, need = getattr(self._limits, figure), getattr(self._owner.usage, figure), getattr(more, figure)
        return UnavailableError(
            f"{self._owner.name}: the budget in {figure} is spent: {usage:g} of {limit:g} used, up to {need:g} needed for what is next; "
            f"raise {self._where}.budget_{figure}, and a later run asks about what is missing"
        )


class Reservation:
    """What is rejected for one image, and not used yet. Made by `Budget.hold`."""

    def __init__(self, budget: Budget, most: Usage) -> None:
        self.budget, self.left = budget, most
