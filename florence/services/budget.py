"""The budget of an annotator that pays for calls: usage is reserved before a call, and counted after it."""

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
    """The most that may be used in all; None: no limit. ``cost``: in the currency of the prices."""

    calls: int | None = None
    tokens: int | None = None
    cost: float | None = None


class Reservation:
    """What one image may still use: reserved for it, and not used yet. Made by `Budget.reserve`."""

    def __init__(self, most: Usage) -> None:
        self.left = most


class Budget:
    """Keep ``owner.usage``, plus all that is reserved, within the limits. Shared by all threads of an annotator.

    ``section``: the section of the settings with ``budget_calls``, ``budget_tokens`` and ``budget_cost``, for errors.
    """

    def __init__(self, owner: MeteredAnnotator, limits: BudgetLimits, section: str) -> None:
        self._owner, self._limits, self._section = owner, limits, section
        self._changed = threading.Condition()
        self._reserved = Usage()
        self._reservations = 0

    @contextmanager
    def reserve(self, most: Usage, stop: threading.Event) -> Iterator[Reservation]:
        """Reserve what one image may use at most, and give back at the end what it did not use.

        Where ``most`` does not fit, wait for the images under way: they mostly use less than was reserved for them.
        Raises UnavailableError, naming budget and setting, where it still does not fit; no call has been made then.
        """
        with self._changed:
            while short := self._exceeded_figure(most):
                if not self._reservations:
                    raise self._refusal(short, most)
                if stop.is_set():
                    raise UnavailableError(f"{self._owner.name}: stopped before this was asked")
                self._changed.wait(0.5)
            self._reserved += most
            self._reservations += 1
        reservation = Reservation(most)
        try:
            yield reservation
        finally:
            with self._changed:
                self._reserved -= reservation.left
                self._reservations -= 1
                self._changed.notify_all()

    def begin_call(self, reservation: Reservation, extra: Usage) -> None:
        """Count a call that is about to be made.

        ``extra``: what it may use beyond the reservation. Raises UnavailableError where the budget has no room for it.
        """
        with self._changed:
            if extra != Usage():
                if short := self._exceeded_figure(extra):
                    raise self._refusal(short, extra)
                self._reserved += extra
                reservation.left += extra
            self._release(reservation, Usage(1))
            self._owner.usage += Usage(1)

    def end_call(self, reservation: Reservation, most: Usage, used: Usage | None) -> None:
        """Count what a call used. Where that is not known (None), ``most`` stays reserved for good."""
        rest = Usage(0, most.tokens, most.cost)
        with self._changed:
            if used is None:
                reservation.left -= rest
            else:
                self._release(reservation, rest)
                self._owner.usage += Usage(0, used.tokens, used.cost)
            self._changed.notify_all()

    def cancel_call(self, reservation: Reservation) -> None:
        """Take back a call that `begin_call` counted and that never reached the service; the next try may use it."""
        with self._changed:
            self._owner.usage -= Usage(1)
            self._reserved += Usage(1)
            reservation.left += Usage(1)

    def _release(self, reservation: Reservation, amount: Usage) -> None:
        self._reserved -= amount
        reservation.left -= amount

    def _exceeded_figure(self, more: Usage) -> str:
        """Return the figure that ``more`` would bring over its limit; "" where it fits."""
        total = self._owner.usage + self._reserved + more
        for figure in FIGURES:
            limit = getattr(self._limits, figure)
            # The sum of many prices may miss the limit in its last digits.
            if limit is not None and getattr(total, figure) > limit * (1 + 1e-9):
                return figure
        return ""

    def _refusal(self, figure: str, more: Usage) -> UnavailableError:
        limit, used, need = getattr(self._limits, figure), getattr(self._owner.usage, figure), getattr(more, figure)
        return UnavailableError(
            f"{self._owner.name}: the budget in {figure} is spent: {used:g} of {limit:g} used, "
            f"up to {need:g} needed for the next question; raise {self._section}.budget_{figure}, "
            "and a later run asks about the images that are missing"
        )
