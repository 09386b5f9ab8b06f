"""Calls to services: how often, how many at once, when again, and what comes of one that fails. Knows no protocol."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from queue import SimpleQueue
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from florence.config import Section
from florence.errors import FlorenceError, SettingsError, UnavailableError
from florence.records import Claim, ClaimsOrError
from florence.services.answers import UnusableAnswerError
from florence.services.budget import Budget, BudgetLimits, Reservation
from florence.services.usage import MeteredAnnotator, Usage

R = TypeVar("R")
T = TypeVar("T")
GIVE_UP = 5
"""Images in a row that no answer came for, after which the rest of a batch is not asked about."""
RETRIED_STATUSES = frozenset({408, 409, 429, *range(500, 600)})
"""Status codes of calls that may succeed when they are made again."""
SECRET_OPTION = re.compile(r"(^|_)(api_?key|key|secret|password|credentials?|authorization)$", re.I)
URL_WITH_CREDENTIALS = re.compile(r"\w+://([^/\s]*@|\S*\?)")


def address(value: str) -> str:
    """``value``, if it is the address of a service. Raises ValueError saying what one is."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[^\s/?#]+", parts.hostname or "") or parts.port == 0:
        raise ValueError("an address is http:// or https://, a host, a port where it needs one, and a path")
    return value


Address = Annotated[str, AfterValidator(address)]


class CallSettings(Section):
    """How a service is called. Nothing of this changes what it answers, and so none of it is part of an annotator's version."""

    timeout: float = Field(60.0, gt=0, exclude=True, description="seconds that a service may keep silent")
    retries: int = Field(
        4,
        ge=0,
        exclude=True,
        description="times that a call which failed (no connection, time-out, status 408, 409, 429, 5xx) is made again",
    )
    max_wait: float = Field(
        120.0,
        ge=0,
        exclude=True,
        description="seconds that a service may ask to be left alone (Retry-After); where it asks for more, the image is left for a later run",
    )
    repeat: int = Field(
        4, ge=0, exclude=True, description="times that a question is asked again whose answer is of no use"
    )
    rate: float | None = Field(None, gt=0, exclude=True, description="calls a minute at most; none: no limit")
    concurrency: int = Field(4, ge=1, exclude=True, description="calls under way at once")
    budget_calls: int | None = Field(
        None, ge=0, exclude=True, description="calls in all, failed ones too; none: no limit"
    )
    budget_cost: float | None = Field(
        None, ge=0, exclude=True, description="cost in all, in the currency of the prices; none: no limit"
    )


class CallFailedError(Exception):
    """A call that brought no answer.

    ``again``: when it may succeed. ``wait``: seconds that the service asks for. ``sent``: whether it reached the service. ``free``: whether it is
    known to have used nothing but the call.
    """

    def __init__(
        self,
        reason: str,
        *,
        again: Literal["now", "later", "never"] = "now",
        wait: float | None = None,
        sent: bool = True,
        free: bool = True,
    ) -> None:
        super().__init__(reason)
        self.again, self.wait, self.sent, self.free = again, wait, sent, free


class Caller:
    """Makes an annotator's calls, from as many threads as settings say. ``where``: the section of the settings that says how."""

    def __init__(self, owner: MeteredAnnotator, calls: CallSettings, where: str, tokens: int | None = None) -> None:
        self._owner, self._calls = owner, calls
        self.budget = Budget(owner, BudgetLimits(calls.budget_calls, tokens, calls.budget_cost), where)
        self._pace = CallPace(calls.rate)
        self._slots = threading.BoundedSemaphore(calls.concurrency)
        self._down, self._why, self._sure = 0, "", False
        self._refused: SettingsError | None = None

    def each(self, count: int, ask: Callable[[int, threading.Event], list[Claim]]) -> list[ClaimsOrError]:
        """What ``ask`` says of each of ``count`` images, in order. It is given an image's index, and an event that says to make no more calls.

        Until an answer has come, images are asked about one by one, so that a wrong key costs one call. Where `GIVE_UP` images in a row
        got none, the others are left for later. Raises SettingsError where settings are at fault and nothing was answered at all.
        """
        if not count:
            return []
        if self._refused is not None:
            raise SettingsError(str(self._refused))
        said: list[ClaimsOrError] = [UnavailableError(f"{self._owner.name}: not asked")] * count
        stop, first = threading.Event(), 0
        while first < count and not self._sure and not (first and (self._refused or self._down >= GIVE_UP)):
            self._work([first], partial(self._one, ask), stop, said)
            first += 1
        self._work(range(first, count), partial(self._rest, ask), stop, said)
        if self._refused is not None and not any(isinstance(one, list) for one in said):
            raise SettingsError(str(self._refused))
        return said

    def ask(
        self,
        hold: Reservation,
        most: Usage,
        call: Callable[[int], tuple[R, Usage | None]],
        read: Callable[[R], T],
        stop: threading.Event,
    ) -> T:
        """One question: ``read`` of what ``call`` brings, asked again where either raises `Useless`.

        ``call`` is given the number of times that the question was asked before, makes one call that uses ``most`` at most, and says what it
        used, None where that is not known; it raises `Failed`, or SettingsError where all calls would fail. Raises UnavailableError where no answer
        came or no budget is left, FlorenceError where no answer is of use.
        """
        for turn in range(self._calls.repeat + 1):
            try:
                result = read(self._persist(hold, most, turn, call, stop))
            except UnusableAnswerError as error:
                useless = error
                self._note(str(error) if error.lost else "")
                continue
            self._note("")
            return result
        many = f"{self._calls.repeat + 1} answers" if self._calls.repeat else "the answer"
        raise (UnavailableError if useless.lost else FlorenceError)(f"{self._owner.name}: {many} of no use: {useless}")

    def _persist(
        self,
        hold: Reservation,
        most: Usage,
        turn: int,
        call: Callable[[int], tuple[R, Usage | None]],
        stop: threading.Event,
    ) -> R:
        """What a call brings, made again where it fails."""
        extra = most if turn else Usage()
        for tried in range(self._calls.retries + 1):
            try:
                return self._once(hold, most, extra, lambda: call(turn), stop)
            except CallFailedError as error:
                extra = Usage() if not error.sent else Usage(1) if error.free else most
                wait = min(0.5 * 2**tried, 8.0) * random.uniform(0.75, 1) if error.wait is None else error.wait
                if error.again != "now" or tried == self._calls.retries or wait > self._calls.max_wait:
                    raise self._given_up(error, tried + 1) from None
                if error.wait is not None:
                    self._pace.rest(error.wait)
                stop.wait(wait)
        raise AssertionError("the last try returns or raises")

    def _once(
        self,
        hold: Reservation,
        most: Usage,
        extra: Usage,
        call: Callable[[], tuple[R, Usage | None]],
        stop: threading.Event,
    ) -> R:
        with self._slots:
            self._pace.turn(stop)
            if stop.is_set():
                raise UnavailableError(f"{self._owner.name}: stopped before this was asked")
            self.budget.begin(hold, extra)
            try:
                answer, used = call()
            except CallFailedError as error:
                if not error.sent:
                    self.budget.undo(hold)
                elif not error.free:
                    self.budget.end(hold, most, None)
                raise
            except BaseException:
                self.budget.end(hold, most, Usage())
                raise
            self.budget.end(hold, most, used)
            return answer

    def _given_up(self, error: CallFailedError, tries: int) -> FlorenceError:
        """Why an image has no answer. What the service will never answer is the image's fault only if it answers about others."""
        own = error.again == "never" and self._sure
        self._note(str(error))
        times = f" ({tries} times)" if tries > 1 else ""
        long = (
            f", and asks for {error.wait:.0f} seconds, above max_wait"
            if error.wait is not None and error.wait > self._calls.max_wait
            else ""
        )
        return (
            FlorenceError(f"{self._owner.name}: {error}")
            if own
            else UnavailableError(f"{self._owner.name}: {error}{times}{long}; a later run asks again")
        )

    def _note(self, fault: str) -> None:
        """Count images in a row that no answer came for."""
        self._down, self._why = (self._down + 1, fault) if fault else (0, "")
        self._sure = self._down < GIVE_UP and (self._sure or not fault)

    def _rest(
        self, ask: Callable[[int, threading.Event], list[Claim]], index: int, stop: threading.Event
    ) -> ClaimsOrError:
        if self._down >= GIVE_UP:
            return UnavailableError(
                f"{self._owner.name}: not asked, as {GIVE_UP} images in a row got no answer ({self._why}); a later run asks"
            )
        return self._one(ask, index, stop)

    def _one(
        self, ask: Callable[[int, threading.Event], list[Claim]], index: int, stop: threading.Event
    ) -> ClaimsOrError:
        if self._refused is not None:
            return UnavailableError(str(self._refused))
        try:
            return ask(index, stop)
        except SettingsError as error:
            self._refused = error
            stop.set()
            return UnavailableError(str(error))
        except FlorenceError as error:
            return error

    def _work(
        self,
        indices: Sequence[int],
        answer: Callable[[int, threading.Event], ClaimsOrError],
        stop: threading.Event,
        said: list[ClaimsOrError],
    ) -> None:
        """Fill ``said`` from threads. They are daemons, and what is waited for is their answers: so Ctrl-C does not wait for a service that is silent."""
        todo, done = deque(indices), SimpleQueue[tuple[int, ClaimsOrError | BaseException]]()

        def work() -> None:
            while True:
                try:
                    index = todo.popleft()
                except IndexError:
                    return
                try:
                    done.put((index, answer(index, stop)))
                except BaseException as error:
                    done.put((index, error))

        try:
            for _ in range(min(self._calls.concurrency, len(indices))):
                threading.Thread(target=work, name=f"{self._owner.name}-call", daemon=True).start()
            for _ in indices:
                index, result = done.get()
                if isinstance(result, BaseException) and not isinstance(result, FlorenceError):
                    raise result
                said[index] = result
        except BaseException:
            stop.set()
            todo.clear()
            raise


class CallPace:
    """When the next call may start: evenly spaced at so many a minute, and not while the service asks to be left alone."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 60 / rate if rate else 0.0
        self._lock, self._free = threading.Lock(), 0.0

    def turn(self, stop: threading.Event) -> None:
        """Wait for the next turn."""
        with self._lock:
            start = max(self._free, time.monotonic())
            self._free = start + self._gap
        # An event may wake a little early.
        while (left := start - time.monotonic()) > 0 and not stop.wait(left):
            pass

    def rest(self, seconds: float) -> None:
        """No turn for so long."""
        with self._lock:
            self._free = max(self._free, time.monotonic() + seconds)


def parse_retry_after(value: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, as a number or a date; None where it has neither."""
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


def refuse_secrets(options: dict[str, Any], where: str, variable: str) -> None:
    """Raise SettingsError for a key, or a URL with credentials, among options, without repeating it. ``variable``: where keys belong."""
    for name, value in options.items():
        key = f"{where}.{name}"
        if isinstance(value, dict):
            refuse_secrets(value, key, variable)
        elif SECRET_OPTION.search(name):
            raise SettingsError(
                f"{key}: a key is no setting, and would be published with them; set it in the environment, as {variable}"
            )
        elif isinstance(value, str) and URL_WITH_CREDENTIALS.match(value):
            raise SettingsError(
                f"{key}: a URL with a name, password or query is not allowed here; give it without, and the key in the environment, as {variable}"
            )
