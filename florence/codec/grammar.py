"""Regions → text: the grammar of Florence-2's answers (paper, appendix; tokens as in the published vocabulary).

Writing is strict: a label that the grammar would misread is refused. `florence.codec.parsing` is the inverse: legal
texts and lists of `LabelledRegions` correspond one to one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from florence.codec import locations
from florence.errors import EncodeError
from florence.geometry import Box, box_quad
from florence.records import Region

SEP, POLY_OPEN, POLY_CLOSE, AND = "<sep>", "<poly>", "</poly>", "<and>"
MARKS: tuple[str, ...] = (
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    "<mask>",
    "<image>",
    "<od>",
    "</od>",
    "<ocr>",
    "</ocr>",
    "<cap>",
    "</cap>",
    "<ncap>",
    "</ncap>",
    "<dcap>",
    "</dcap>",
    "<grounding>",
    "</grounding>",
    "<seg>",
    "</seg>",
    "<region_cap>",
    "</region_cap>",
    "<region_to_desciption>",
    "</region_to_desciption>",
    "<proposal>",
    "</proposal>",
)
"""Tokens of the published vocabulary that are in no answer (one of them is misspelt there too)."""

# half a surrogate pair is no character: no vocabulary has tokens for it
SPECIAL = re.compile(
    "|".join([r"<loc_[0-9]+>", "[\ud800-\udfff]", *map(re.escape, (SEP, POLY_OPEN, POLY_CLOSE, AND, *MARKS))])
)
WHITE = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
"""White space of the grammar: ASCII's alone, so that a piece of a byte-level vocabulary is white space or not in any
context."""


class Form(StrEnum):
    """The shape of an answer."""

    TEXT = "text"
    """One text."""
    TEXT_OR_NOTHING = "text or nothing"
    """One text, perhaps empty."""
    BOXES = "boxes"
    """Boxes without labels."""
    LABELLED_BOXES = "labelled boxes"
    """Labels, each followed by one or more boxes."""
    LABELLED_QUADS = "labelled quads"
    """Texts, each followed by one quad."""
    POLYGONS = "polygons"
    """One object's polygons joined by <sep>; several objects are each wrapped in <poly>…</poly>."""
    LABELLED_SHAPES = "labelled boxes or polygons"
    """Labels followed by boxes; or labels followed by <poly>…</poly>, one for each object."""


class LabelledRegions(NamedTuple):
    """A label and the regions that follow it; the label is "" in forms without labels.

    ``label``: as it is written, with white space at its ends; the labels of its regions are without it. ``wrapped``:
    whether the polygons of a single object are in <poly>…</poly>, which is optional. ``flips``: for boxes, whether the
    text has x0 and x1 (1), y0 and y1 (2) or both (3) in the other order; empty where all are as in `Box`.
    """

    label: str
    regions: tuple[Region, ...]
    wrapped: bool = False
    flips: tuple[int, ...] = ()


def check_text(text: str, name: str = "text") -> str:
    """Return ``text``. Raises EncodeError where it holds a special token or half a surrogate pair.

    ``name``: of the text, for the message.
    """
    if ("<" in text or not text.isascii()) and (found := SPECIAL.search(text)):
        if found[0].startswith("<"):
            raise EncodeError(
                f"the {name} {text[:80]!r} contains {found[0]}, which is a token of the grammar; "
                f"take it out of the {name}"
            )
        raise EncodeError(
            f"the {name} {text[:80]!r} contains {found[0]!r}, half a surrogate pair; "
            "only whole characters can be written"
        )
    return text


def clean_label(text: str) -> str:
    """Return ``text`` as a label: runs of white space become one space, none at the ends.

    Raises EncodeError as `check_text`, and where nothing is left.
    """
    return _check_label(" ".join(text.split()))


def _check_label(label: str) -> str:
    """Return ``label``. Raises EncodeError as `clean_label`."""
    if not label.strip(WHITE):
        raise EncodeError(
            "an empty label cannot be written before a region; "
            "at least one character that is not white space is expected"
        )
    return check_text(label, "label")


def join_names(names: Iterable[str]) -> str:
    """Return names as one input, joined by <and>. Raises EncodeError as `clean_label`."""
    return AND.join(clean_label(name) for name in names)


def region_bounds(region: Region) -> Box:
    """Return the box around ``region``.

    Raises EncodeError where it has no box, quad or polygon, or a box or quad of too few or too many numbers.
    """
    for name, shape, count in (("box", region.box, 4), ("quad", region.quad, 8)):
        if shape is not None and len(shape) != count:
            raise EncodeError(
                f"the region {region.label!r} has a {name} of {len(shape)} numbers, {tuple(shape)!r}; "
                f"{count} are expected"
            )
    if region.box is None and region.quad is None and not any(region.polygons):
        raise EncodeError(f"the region {region.label!r} has no shape; a box, a quad or polygons are expected")
    return region.bounds


def box_tokens(box: Sequence[float], size: tuple[int, int]) -> str:
    """Return a box (x0, y0, x1, y1 in pixels) as four location tokens, with its corners in order."""
    # corners are compared as bins: a coordinate that is not a number is refused, not lost in min and max
    x0, y0, x1, y1 = locations.quantise(box, size)
    return "".join([locations.TOKENS[index] for index in (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))])


def write(groups: Iterable[LabelledRegions], form: Form, size: tuple[int, int]) -> str:
    """Write groups, in the order given, as an answer of ``form`` about an image of ``size`` (width, height).

    Raises EncodeError where a label, a region or their number does not fit the form.
    """
    groups = list(groups)
    if form in (Form.TEXT, Form.TEXT_OR_NOTHING):
        raise EncodeError(f"an answer of form {form.value!r} holds no regions")
    if form is Form.POLYGONS:
        objects = [_write_polygons(region, size) for group in groups for region in group.regions]
        if len(objects) == 1 and not any(group.wrapped for group in groups):
            return objects[0]
        return "".join(f"{POLY_OPEN}{text}{POLY_CLOSE}" for text in objects)
    has_polygons = form is Form.LABELLED_SHAPES and any(r.polygons for group in groups for r in group.regions)
    parts = []
    for group in groups:
        if not group.regions:
            raise EncodeError(f"the label {group.label!r} has no region; at least one is expected")
        if form is not Form.BOXES:
            parts.append(_check_label(group.label))
        if form is Form.LABELLED_QUADS:
            if len(group.regions) > 1:
                raise EncodeError(
                    f"the text {group.label!r} has {len(group.regions)} quads; "
                    "one is expected, the text repeated before each"
                )
            bounds = region_bounds(group.regions[0])
            parts.append(locations.location_tokens(group.regions[0].quad or box_quad(bounds), size))
        elif has_polygons:
            parts += [f"{POLY_OPEN}{_write_polygons(region, size)}{POLY_CLOSE}" for region in group.regions]
        else:
            flips = group.flips or (0,) * len(group.regions)
            parts += [_write_box(region, flip, size) for region, flip in zip(group.regions, flips, strict=True)]
    return "".join(parts)


def _write_box(region: Region, flip: int, size: tuple[int, int]) -> str:
    x0, y0, x1, y1 = region_bounds(region)
    if not flip:
        return box_tokens((x0, y0, x1, y1), size)
    x0, x1 = (x1, x0) if flip & 1 else (x0, x1)
    y0, y1 = (y1, y0) if flip & 2 else (y0, y1)
    return locations.location_tokens((x0, y0, x1, y1), size)


def _write_polygons(region: Region, size: tuple[int, int]) -> str:
    if not region.polygons or any(len(points) < 6 or len(points) % 2 for points in region.polygons):
        raise EncodeError(f"the region {region.label!r} has no polygons of at least three points each")
    return SEP.join(locations.location_tokens(points, size) for points in region.polygons)
