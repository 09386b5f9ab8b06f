"""What a label set has about our images, and what of it is not used: counts by reason, a few examples, a remedy.

Every image that is asked for is counted once: labelled, looked at and empty, not listed, or refused. Every image of the
set is ours or not, and every label that the set is known to have is used, of a type that is not read, or lost.
`florence.formats.accounting` counts; the words are here, the same for every command and the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

SHOWN = 5
"""Reasons of one annotator that a terminal shows."""
NOT_HERE = "of images that are not here"
"""The reason of labels whose images are not among ours."""
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class LossCount:
    """What is not used for one reason: ``count`` labels, parts of labels, images or files (``unit``), with examples."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    unit: str
    reason: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelSetReport:
    """What an annotator's label set has about the images that it annotates.

    ``images``: ours, each of them ``labelled``, looked at and ``empty``, ``not_listed``, or ``refused`` by reason.
    ``looked_at``: by annotation type that is used, the known images that the set says something of that type about.
    ``listed``: images of the set; ``matched``: those that are ours. ``used``, ``unread``: labels by annotation type, of
    types that are read and of others. ``losses``: labels, parts, images and files of the set that are not used.
    ``uncounted``: images of the set that are not ours, whose labels were not counted. ``remedy``: settings that would
    match more images. ``error``: why the set cannot be read at all; everything else is then 0.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    annotator: str
    format: str = ""
    address: str = ""
    human: bool = False
    images: int = 0
    labelled: int = 0
    empty: int = 0
    not_listed: int = 0
    listed: int = 0
    matched: int = 0
    refused: tuple[LossCount, ...] = ()
    looked_at: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    losses: tuple[LossCount, ...] = ()
    not_listed_examples: tuple[str, ...] = ()
    unmatched_examples: tuple[str, ...] = ()
    uncounted: int = 0
    remedy: str = ""
    error: str = ""

    @property
    def known(self) -> int:
        """Images that are labelled, or looked at and empty."""
        return self.labelled + self.empty

    @property
    def share(self) -> float:
        """The share of our images, or of the images of the set, that match, whichever is larger; 1 where none is."""
        ours = (self.images - self.not_listed) / self.images if self.images else 1.0
        return max(ours, self.matched / self.listed) if self.listed else ours

    @property
    def lost(self) -> int:
        """Labels that are not used, those of annotation types that are not read included."""
        return sum(self.unread.values()) + sum(loss.count for loss in self.losses if loss.unit == "label")

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as `from_json` reads them."""
        return dict(TypeAdapter(LabelSetReport).dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LabelSetReport | None:
        """Return the report of plain values; None where they are not of this form."""
        try:
            return TypeAdapter(cls).validate_python({**values}, strict=False)
        except ValidationError:
            return None


# ---------------------------------------------------------------- in words


def describe_label_set(report: LabelSetReport, min_matched: float = 0.0) -> list[str]:
    """Return a line about a label set, and beneath it a line with an example for each of the first reasons.

    ``min_matched``: the share of matching images below which it warns.
    """
    name = f"{report.annotator} ({report.format} {report.address})" if report.format else report.annotator
    if report.error:
        return [f"{name}: knows 0 of {_number(report.images, 'image')}: {report.error}"]
    if not report.known:
        return [f"{name}: {explain_mismatch(report)}", *_list_examples(report)]
    labels = f"{_number(sum(report.used.values()), 'label')} used"
    if report.lost:
        labels += f", {report.lost} not: {', '.join(_list_label_losses(report))}"
    known = f"{name}: knows {report.known} of {_number(report.images, 'image')}"
    parts = [f"{known} ({_describe_images(report)})", labels]
    if fewer := [f"for {task} about {count}" for task, count in report.looked_at.items() if count < report.known]:
        parts.append(f"of these images, it says something {', '.join(fewer)}")
    if elsewhere := report.listed - report.matched:
        parts.append(f"{elsewhere} of the set's {report.listed} images are not here")
    if report.uncounted:
        parts.append(f"the labels of {report.uncounted} of these are not counted")
    if unread := sum(loss.count for loss in report.losses if loss.unit == "file"):
        parts.append(f"{_number(unread, 'file')} not read")
    is_few = report.share < min_matched
    if is_few:
        parts.append(f"warning: less than min_matched ({min_matched:g}) matches")
    if report.remedy and (is_few or report.not_listed):
        parts.append(report.remedy)
    return ["; ".join(parts), *_list_examples(report)]


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"


def explain_mismatch(report: LabelSetReport) -> str:
    """Return why none of the images is known, and what would help."""
    text = f"knows 0 of {_number(report.images, 'image')}"
    if report.refused:
        text += ": " + ", ".join(f"{loss.count} refused ({loss.reason})" for loss in report.refused)
    if report.remedy:
        return f"{text}; {report.remedy}"
    if report.not_listed:
        theirs, ours = (
            ", ".join(names[:2]) or "none" for names in (report.unmatched_examples, report.not_listed_examples)
        )
        text += f"; the set's images are called {theirs}, ours {ours}: "
        text += "set strip, prefix, base_names or upload_prefix, or another uri"
    return text


def describe_losses(losses: Iterable[LossCount]) -> list[str]:
    """Return a line for each of the first reasons, with an example, and one for the rest."""
    listed = list(losses)
    lines = [
        f"{_name_loss(loss)}: {loss.reason} ({loss.count})" + (f", as {loss.examples[0]}" if loss.examples else "")
        for loss in listed[:SHOWN]
    ]
    if more := listed[SHOWN:]:
        lines.append(f"{_number(len(more), 'more reason')}: {', '.join(f'{m.reason} ({m.count})' for m in more)}")
    return lines


UNITS = {"part": "part of a label"}


def name_unit(unit: str) -> str:
    """Return how the unit of a loss is called."""
    return UNITS.get(unit, unit)


def _name_loss(loss: LossCount) -> str:
    return {"part": "used in part", "file": "file not read", "image": "not looked at"}.get(loss.unit, "not used")


def _list_examples(report: LabelSetReport) -> list[str]:
    shown = [loss for loss in (*report.refused, *report.losses) if loss.reason != NOT_HERE]
    return [f"  {line}" for line in describe_losses(shown)]


def _describe_images(report: LabelSetReport) -> str:
    parts = [f"{report.labelled} labelled", f"{report.empty} looked at and empty"]
    if report.not_listed:
        parts.append(f"{report.not_listed} not listed")
    parts += [f"{loss.count} refused: {loss.reason}" for loss in report.refused]
    return ", ".join(parts)


def _list_label_losses(report: LabelSetReport) -> list[str]:
    unread = [f"{count} {task}, which is not read" for task, count in report.unread.items()]
    return unread + [f"{loss.count} {loss.reason}" for loss in report.losses if loss.unit == "label"]
