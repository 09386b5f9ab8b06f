"""What a person sees: bars on a terminal, a line now and then elsewhere, and plain sentences."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

EVERY = 15.0
"""Seconds between two lines about one stage where there is no terminal."""


def say(text: str) -> None:
    """Print a sentence on stdout, above a bar that is being drawn; inside a flow it goes to the run's log too."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
    if (logger := _run_logger()) is not None:
        logger.info(text)


def _run_logger() -> logging.Logger | logging.LoggerAdapter | None:
    """The logger of the Prefect run that this is called in; None outside of one. Prefect is not imported for it."""
    if "prefect.logging" not in sys.modules:
        return None
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    try:
        return get_run_logger()
    except MissingContextError:
        return None


class Shown:
    """A `florence.stages.Progress` for people, to be closed at the end (or used as a context).

    On a terminal each stage has a bar; elsewhere it has a line every 15 seconds that it takes, and none if it is quicker.
    """

    def __init__(self, every: float = EVERY) -> None:
        self.terminal = sys.stderr.isatty()
        self.every = every
        self._what = self._note = ""
        self._bar: tqdm | None = None
        self._said = time.monotonic()

    def __call__(self, what: str, done: int, of: int | None) -> None:
        """``done`` of ``of`` (None: not known) are finished in the stage ``what``."""
        if what != self._what:
            self.close()
            self._what, self._said = what, time.monotonic()
        if self.terminal:
            self._drawn(what, done, of)
        elif time.monotonic() - self._said >= self.every:
            self._said = time.monotonic()
            text = f"{what}: {done}" + (f" of {of}" if of is not None else "") + (f", {self._note}" if self._note else "")
            print(text, file=sys.stderr, flush=True)

    def _drawn(self, what: str, done: int, of: int | None) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(desc=what, total=of, leave=False, dynamic_ncols=True, file=sys.stderr)
        if of is not None and self._bar.total != of:
            self._bar.total = of
        self._bar.update(done - self._bar.n)

    def note(self, text: str) -> None:
        """Put ``text`` (the loss, say) behind the bar, or on the next line."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._what, self._note = None, "", ""

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
