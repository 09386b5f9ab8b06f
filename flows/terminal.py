"""Output for people: progress bars on a terminal, a line now and then elsewhere, and plain sentences."""

from __future__ import annotations

import codecs
import io
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from flows.adapters.environment import redact_text

if TYPE_CHECKING:
    from florence.export import ExportResult
    from florence.report.facts import ReviewerFacts
    from florence.review import BlindExport, ReviewExport, ReviewImport

EVERY = 15.0
"""Seconds between two lines about one stage where stderr is no terminal."""
FEW = 20
"""Images of a split below which a reader is told how to have more."""
LISTED = 10
"""Items that are listed one by one; further ones are only counted."""


PLAIN = str.maketrans(
    {"×": "x", "→": "->", "…": "...", "–": "-", "—": "-", "−": "-", "≥": ">=", "≤": "<=", "•": "*", "±": "+-", "·": "-"}
    | {"“": '"', "”": '"', "‘": "'", "’": "'", "α": "alpha"}
)
"""Signs in our sentences, and how a terminal without them shows them."""
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
"""Characters that steer a terminal, but for tabs and line breaks, and how they are shown."""


def prepare_streams() -> None:
    """Have stdout and stderr write what they can of each text: signs in plain letters, others as escapes."""
    codecs.register_error("florence.plain", _replace_plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="florence.plain")


def _replace_plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for the characters that a stream's encoding does not have, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(PLAIN)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


def clean_text(text: str) -> str:
    """Return what a terminal shows: no secrets, and no characters by which a file's name would steer it."""
    return redact_text(text).translate(CONTROLS)


def say(text: str) -> None:
    """Print a sentence on stdout, above a bar that is being drawn, without secrets; inside a flow also log it."""
    text = clean_text(text)
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
    if (logger := _run_logger()) is not None:
        logger.info(text)


def _run_logger() -> logging.Logger | logging.LoggerAdapter | None:
    """Return the logger of the Prefect run that calls this; None outside of a run. Prefect is not imported for it."""
    if "prefect.logging" not in sys.modules:
        return None
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    try:
        return get_run_logger()
    except MissingContextError:
        return None


class ProgressBars:
    """A `florence.progress.Progress` for people; close it at the end, or use it as a context.

    On a terminal each stage has a bar; elsewhere a line every 15 seconds, and none if it is quicker.
    """

    def __init__(self, every: float = EVERY) -> None:
        self.terminal = sys.stderr.isatty()
        self.every = every
        self._what = self._note = ""
        self._bar: tqdm | None = None
        self._printed = time.monotonic()

    def __call__(self, what: str, done: int, of: int | None) -> None:
        """Show that ``done`` of ``of`` (None: not known) are finished in the stage ``what``."""
        if what != self._what:
            self.close()
            self._what, self._printed = what, time.monotonic()
        if self.terminal:
            self._draw_bar(what, done, of)
        elif time.monotonic() - self._printed >= self.every:
            self._printed = time.monotonic()
            text = (
                f"{what}: {done}" + (f" of {of}" if of is not None else "") + (f", {self._note}" if self._note else "")
            )
            print(text, file=sys.stderr, flush=True)

    def _draw_bar(self, what: str, done: int, of: int | None) -> None:
        if self._bar is None:
            self._bar = tqdm(desc=what, total=of, leave=False, dynamic_ncols=True, file=sys.stderr)
        if of is not None and self._bar.total != of:
            self._bar.total = of
        self._bar.update(done - self._bar.n)

    def note(self, text: str) -> None:
        """Put ``text``, for example the loss, behind the bar or on the next line."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._what, self._note = None, "", ""

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def describe_export(found: ExportResult, format: str, out: Path | None) -> str:
    """Return lines about what an export wrote, left out and lost. ``out``: its folder, None for a dry run."""
    lines = [
        f"{'would write' if out is None else 'wrote'} {found.images} images of round {found.round}"
        + (f" to {out}" if out else "")
        + f", as {format}"
    ]
    lines += [f"  {annotation_type}: {number} labels" for annotation_type, number in found.labels.items()] or [
        "  no labels"
    ]
    lines += [f"  left out: {number} images, as {reason}" for reason, number in found.images_left_out.items()]
    lines += [
        f"  {annotation_type}: {number} of the images have not been looked at for these; they are not written as empty"
        for annotation_type, number in found.not_looked_at.items()
    ]
    lines += [f"  left out: {reason} ({number})" for reason, number in found.left_out.items()]
    lines += [f"  lost: {loss} ({number})" for loss, number in found.lost.items()]
    if found.renamed:
        lines.append(
            f"  {found.renamed} pictures have other names than in their source, "
            "because theirs were taken, cannot be used, or do not end as their format does"
        )
    if found.converted:
        lines.append(f"  {found.converted} pictures are written as PNG, as other programs do not open their format")
    if found.rotated:
        lines.append(
            f"  {found.rotated} pictures were stored on their side and are written upright, as their labels are"
        )
    return "\n".join(lines)


def describe_review_export(found: ReviewExport) -> str:
    """Return lines about an export for reviews: how much it holds, and why the first images come first."""
    first, last = found.expected_wrong
    chosen, whole = found.total_wrong
    share = f", {chosen / whole:.0%} of those of the whole round" if whole else ""
    lines = [
        f"{found.images} images of round {found.round} with {found.labels} labels; {chosen:.1f} wrong labels, kept or "
        f"dropped, are expected in them{share} ({first:.1f} in the first image, {last:.1f} in the last)"
        + (f"; {found.reviewed} reviewed images are left out" if found.reviewed else "")
    ]
    return "\n".join([*lines, *(f"  {line}" for line in found.first)])


def describe_blind_export(found: BlindExport, split: str) -> str:
    """Return a line about a project to be labelled blind."""
    text = f"{found.images} of {found.available} images of the split {split}, without labels; {found.names} names"
    text += f"; {found.calibrate} of them with a known label; {found.repeated} come twice"
    if found.images < FEW:
        text += (
            f"\nFewer than {FEW} images tell little apart. Splits are drawn when images are collected: set "
            f"split.{split} higher before you collect more images, or start with an empty working store"
        )
    return text


def describe_review(found: ReviewImport) -> str:
    """Return lines about an import of reviews."""
    if not found.new:
        version = f", as human@{found.version}" if found.version else ""
        return f"nothing new: this file has been imported before{version}; {found.total} images are reviewed"
    lines = list(_describe_blind(found))
    if found.images or not lines:
        lines.append(
            f"{found.images} images reviewed, {found.claims} claims, {found.rejected} of them that something is not "
            f"there; {found.total} images in all (human@{found.version})"
        )
    lines += [f"  not here: {text}" for text in found.unknown[:LISTED]]
    if len(found.unknown) > LISTED:
        lines.append(f"  not here: {len(found.unknown) - LISTED} more")
    lines += [f"  {line}" for line in found.describe_losses()]
    return "\n".join([*lines, "They count from the next round on: florence loop"])


def _describe_blind(found: ReviewImport) -> Iterator[str]:
    """Yield lines about gold and held-out images of an import."""
    blind = found.blind
    if not blind.images:
        return
    yield (
        f"{blind.images} gold and held-out images with {blind.reviews} reviews by {len(blind.reviewers)} reviewers "
        f"({', '.join(blind.reviewers[:LISTED])}): the reference there, no claims"
    )
    if blind.adjudicated:
        yield f"  {blind.adjudicated} of the images are decided"
    if blind.corrected:
        yield f"  {blind.corrected} of the images were not labelled blind: `florence review export --split gold`"


def describe_reviewers(reviewers: Sequence[ReviewerFacts]) -> str:
    """Return a line about each reviewer."""
    if not reviewers:
        return "nobody has labelled gold or held-out images: florence review export --split gold --out DIR"
    lines = []
    for one in reviewers:
        parts = [f"{one.reviewer}: {one.images} images"]
        if one.quality is not None:
            parts.append(
                f"F1 {one.quality:.3f} ({one.low:.3f} to {one.high:.3f}, {one.n} images) against {one.against}"
            )
        parts += [
            f"{name} {value:.3f}"
            for name, value in (
                ("F1 with each other reviewer", one.agreement),
                ("alpha", one.alpha),
                (f"with themselves on {one.repeats} repeated images", one.repeated),
            )
            if value is not None
        ]
        marks = [word for word, is_so in (("DOUBTFUL", one.doubtful), ("left out", one.excluded)) if is_so]
        lines.append(", ".join([*parts, *marks]))
    if doubtful := [one.reviewer for one in reviewers if one.doubtful and not one.excluded]:
        lines.append(f"worse than the others: {', '.join(doubtful)}; review.exclude in params.yaml leaves them out")
    return "\n".join(lines)
