"""Calls to services: their pace, how many at once, which are made again, and what a failed one means for an image.

Knows no protocol of any service. One image ends in one of three ways: claims; `FlorenceError`, where the service
answers about others but not about this one, so the image is not asked about again; `UnavailableError`, where it got no
answer for another reason (no connection, no budget, given up), so a later run asks again.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from queue import SimpleQueue
from typing import Literal, TypeVar

from florence.errors import FlorenceError, SettingsError, UnavailableError
from florence.records import Claim, ClaimsOrError
from florence.services.answers import UnusableAnswerError
from florence.services.budget import Budget, BudgetLimits, Reservation
from florence.services.settings import CallSettings
from florence.services.usage import MeteredAnnotator, Usage

R = TypeVar("R")
T = TypeVar("T")
AnnotateImage = Callable[[int, threading.Event], list[Claim]]
"""Returns the claims about the image of an index. The event is set when no more calls may be made."""

MAX_FAILURES = 5
"""Images in a row without an answer, after which the rest of a batch is not asked about."""
RETRIED_STATUSES = frozenset({408, 409, 429, *range(500, 600)})
"""Status codes of calls that may succeed when they are made again."""


class CallFailedError(Exception):
    """A call that brought no answer.

    ``retry``: when it may succeed. ``wait``: seconds that the service asks for. ``reached``: whether it reached the
    service. ``is_free``: whether it is known to have used nothing but the call.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry: Literal["now", "later", "never"] = "now",
        wait: float | None = None,
        reached: bool = True,
        is_free: bool = True,
    ) -> None:
        super().__init__(reason)
        self.retry, self.wait, self.reached, self.is_free = retry, wait, reached, is_free


class Caller:
    """Make an annotator's calls, from as many threads as the settings say.

    ``section``: the section of the settings, for errors. ``max_tokens``: the budget in tokens; None: no limit.
    """

    def __init__(
        self, owner: MeteredAnnotator, settings: CallSettings, section: str, max_tokens: int | None = None
    ) -> None:
        self._owner, self._settings = owner, settings
        self.budget = Budget(owner, BudgetLimits(settings.budget_calls, max_tokens, settings.budget_cost), section)
        self._pace = CallPace(settings.rate)
        self._slots = threading.BoundedSemaphore(settings.concurrency)
        self._failures, self._last_failure = 0, ""
        self._answers = False
        self._settings_error: SettingsError | None = None

    # ------------------------------------------------------------ images

    def annotate_each(self, count: int, annotate_image: AnnotateImage) -> list[ClaimsOrError]:
        """Return what ``annotate_image`` returns or raises for each of ``count`` images, in order.

        Until an answer has come, images are asked about one by one, so that a wrong key costs one call. After
        `MAX_FAILURES` images in a row without an answer the others are left for later. Raises SettingsError where
        settings are at fault and no image was answered.
        """
        if not count:
            return []
        if self._settings_error is not None:
            raise SettingsError(str(self._settings_error))
        results: list[ClaimsOrError] = [UnavailableError(f"{self._owner.name}: not asked")] * count
        stop, first = threading.Event(), 0
        while first < count and not self._answers and not (first and (self._settings_error or self._is_given_up)):
            self._run_threads([first], partial(self._annotate_one, annotate_image), stop, results)
            first += 1
        self._run_threads(range(first, count), partial(self._annotate_unless_given_up, annotate_image), stop, results)
        if self._settings_error is not None and not any(isinstance(result, list) for result in results):
            raise SettingsError(str(self._settings_error))
        return results

    @property
    def _is_given_up(self) -> bool:
        return self._failures >= MAX_FAILURES

    def _annotate_unless_given_up(
        self, annotate_image: AnnotateImage, index: int, stop: threading.Event
    ) -> ClaimsOrError:
        if self._is_given_up:
            return UnavailableError(
                f"{self._owner.name}: not asked, as {MAX_FAILURES} images in a row got no answer "
                f"({self._last_failure}); a later run asks"
            )
        return self._annotate_one(annotate_image, index, stop)

    def _annotate_one(self, annotate_image: AnnotateImage, index: int, stop: threading.Event) -> ClaimsOrError:
        if self._settings_error is not None:
            return UnavailableError(str(self._settings_error))
        try:
            return annotate_image(index, stop)
        except SettingsError as error:
            self._settings_error = error
            stop.set()
            return UnavailableError(str(error))
        except FlorenceError as error:
            return error

    def _run_threads(
        self,
        indices: Sequence[int],
        annotate: Callable[[int, threading.Event], ClaimsOrError],
        stop: threading.Event,
        results: list[ClaimsOrError],
    ) -> None:
        """Fill ``results`` from threads.

        Use daemon threads, so that Ctrl-C does not wait for a service that hangs.
        """
        waiting, done = deque(indices), SimpleQueue[tuple[int, ClaimsOrError | BaseException]]()

        def work() -> None:
            while True:
                try:
                    index = waiting.popleft()
                except IndexError:
                    return
                try:
                    done.put((index, annotate(index, stop)))
                except BaseException as error:
                    done.put((index, error))

        try:
            for _ in range(min(self._settings.concurrency, len(indices))):
                threading.Thread(target=work, name=f"{self._owner.name}-call", daemon=True).start()
            for _ in indices:
                index, result = done.get()
                if isinstance(result, BaseException) and not isinstance(result, FlorenceError):
                    raise result
                results[index] = result
        except BaseException:
            stop.set()
            waiting.clear()
            raise

    # ------------------------------------------------------------ questions and calls

    def ask(
        self,
        reservation: Reservation,
        most: Usage,
        call: Callable[[int], tuple[R, Usage | None]],
        read: Callable[[R], T],
        stop: threading.Event,
    ) -> T:
        """Make a call and parse it with ``read``; repeat the question on UnusableAnswerError.

        ``call`` is given how often the question was asked before, makes one call that uses ``most`` at most, and
        returns the answer and what it used, None where that is not known; it raises `CallFailedError`, or SettingsError
        where all calls would fail. Raises UnavailableError where no answer came or no budget is left, FlorenceError
        where every answer is unusable.
        """
        for attempt in range(self._settings.repeat + 1):
            try:
                result = read(self._call_until_answered(reservation, most, attempt, call, stop))
            except UnusableAnswerError as error:
                unusable = error
                self._note_failure(str(error) if error.is_foreign else "")
                continue
            self._note_failure("")
            return result
        many = f"{self._settings.repeat + 1} unusable answers" if self._settings.repeat else "unusable answer"
        raise (UnavailableError if unusable.is_foreign else FlorenceError)(f"{self._owner.name}: {many}: {unusable}")

    def _call_until_answered(
        self,
        reservation: Reservation,
        most: Usage,
        attempt: int,
        call: Callable[[int], tuple[R, Usage | None]],
        stop: threading.Event,
    ) -> R:
        """Return what a call brings, made again where it fails and may succeed."""
        extra = most if attempt else Usage()
        for failed in range(self._settings.retries + 1):
            try:
                return self._call_once(reservation, most, extra, lambda: call(attempt), stop)
            except CallFailedError as error:
                extra = Usage() if not error.reached else Usage(1) if error.is_free else most
                wait = min(0.5 * 2**failed, 8.0) * random.uniform(0.75, 1) if error.wait is None else error.wait
                if error.retry != "now" or failed == self._settings.retries or wait > self._settings.max_wait:
                    raise self._image_error(error, failed + 1) from None
                if error.wait is not None:
                    self._pace.pause(error.wait)
                stop.wait(wait)
        raise AssertionError("the last try returns or raises")

    def _call_once(
        self,
        reservation: Reservation,
        most: Usage,
        extra: Usage,
        call: Callable[[], tuple[R, Usage | None]],
        stop: threading.Event,
    ) -> R:
        """Make one call in its turn, and count what it uses. ``extra``: what it may use beyond the reservation."""
        with self._slots:
            self._pace.wait_for_turn(stop)
            if stop.is_set():
                raise UnavailableError(f"{self._owner.name}: stopped before this was asked")
            self.budget.begin_call(reservation, extra)
            try:
                answer, used = call()
            except CallFailedError as error:
                if not error.reached:
                    self.budget.cancel_call(reservation)
                elif not error.is_free:
                    self.budget.end_call(reservation, most, None)
                raise
            except BaseException:
                self.budget.end_call(reservation, most, Usage())
                raise
            self.budget.end_call(reservation, most, used)
            return answer

    def _image_error(self, error: CallFailedError, tries: int) -> FlorenceError:
        """Return the error of an image whose call failed.

        A call that will never succeed is the image's fault only if the service answers about other images.
        """
        is_image_fault = error.retry == "never" and self._answers
        self._note_failure(str(error))
        if is_image_fault:
            return FlorenceError(f"{self._owner.name}: {error}")
        times = f" ({tries} times)" if tries > 1 else ""
        is_long = error.wait is not None and error.wait > self._settings.max_wait
        wait = f", and asks for {error.wait:.0f} seconds, above max_wait" if is_long else ""
        return UnavailableError(f"{self._owner.name}: {error}{times}{wait}; a later run asks again")

    def _note_failure(self, reason: str) -> None:
        """Count the images in a row without an answer; ``reason`` is empty where an answer came."""
        self._failures, self._last_failure = (self._failures + 1, reason) if reason else (0, "")
        self._answers = not self._is_given_up and (self._answers or not reason)


class CallPace:
    """When the next call may start: evenly spaced at ``rate`` a minute, and not while the service asks to wait."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 60 / rate if rate else 0.0
        self._lock, self._next = threading.Lock(), 0.0

    def wait_for_turn(self, stop: threading.Event) -> None:
        """Wait until the next call may start, or until ``stop`` is set."""
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._gap
        # An event may wake a little early.
        while (left := start - time.monotonic()) > 0 and not stop.wait(left):
            pass

    def pause(self, seconds: float) -> None:
        """Let no call start for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or a date; None where it has neither."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(seconds, 0.0) if seconds == seconds else None
