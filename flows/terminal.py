"""What a person sees: bars on a terminal, a line now and then elsewhere, and plain sentences."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tqdm import tqdm

    from florence.export import Exported
    from florence.review import Reviewed

EVERY = 15.0
"""Seconds between two lines about one stage where there is no terminal."""
LISTED = 10
"""Things that are listed one by one; of more their number is told."""


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


class ProgressBars:
    """A `florence.progress.Progress` for people, to be closed at the end (or used as a context).

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
            text = (
                f"{what}: {done}" + (f" of {of}" if of is not None else "") + (f", {self._note}" if self._note else "")
            )
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

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def describe_export(found: Exported, format: str, out: Path | None) -> str:
    """What an export wrote, left out and lost; ``out``: where, None where it was only asked."""
    lines = [
        f"{'would write' if out is None else 'wrote'} {found.images} images of round {found.round}"
        + (f" to {out}" if out else "")
        + f", as {format}"
    ]
    lines += [f"  {kind}: {number} labels" for kind, number in found.labels.items()] or ["  no labels"]
    lines += [f"  left out: {reason} ({number})" for reason, number in found.left_out.items()]
    lines += [f"  lost: {loss} ({number})" for loss, number in found.lost.items()]
    if found.renamed:
        lines.append(
            f"  {found.renamed} pictures have other names than in their source, where theirs were taken or not to be had"
        )
    if found.turned:
        lines.append(
            f"  {found.turned} pictures were stored on their side and are written upright, as their labels are"
        )
    return "\n".join(lines)


def describe_review(found: Reviewed) -> str:
    """What an import of reviews came to."""
    if not found.new:
        return f"nothing new: this file has been imported before, as human@{found.version}; {found.total} images are reviewed"
    lines = [
        f"{found.images} images reviewed, {found.claims} claims, {found.rejected} of them that something is not there; {found.total} images in all (human@{found.version})"
    ]
    for what, several in (("not here", found.unknown), ("left out", found.problems)):
        lines += [f"  {what}: {text}" for text in several[:LISTED]]
        if len(several) > LISTED:
            lines.append(f"  {what}: {len(several) - LISTED} more")
    return "\n".join([*lines, "They count from the next round on: florence loop"])
