"""Helpers of format tests: labels of every shape, written in a format and read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from florence.codec.grammar import SPECIAL
from florence.formats import (
    FORMATS,
    OBJECTS,
    ExportPlan,
    Format,
    LabelledImage,
)
from florence.formats._file_names import FileNames
from florence.formats.matching import ReadResult, read_label_set
from florence.records import ANNOTATION_TYPES, Claim, ImageRecord, Region, annotate, is_blank, normalize_label

NAMES = ("a.png", "sub/a.png", "sub/b.jpg", "other/a.png", "ünï cödé/ä, 'b\" & <c>.jpeg")
SPLITS = ("train", "held_out", "gold", "train", "train")
SIZES = ((64, 48), (1, 1), (640, 480), (33, 333), (50, 40))
TEXT = (
    st.text(
        st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn", "Co"))
        | st.sampled_from(",;:'\"<>&{}[]\n\t#%\\"),
        min_size=1,
        max_size=12,
    )
    .map(normalize_label)
    .filter(lambda text: not is_blank(text) and not SPECIAL.search(text))
)
"""Names as people give them, and worse, in the form that is kept."""


def image(index: int, **more) -> ImageRecord:
    """Return image ``k``; all have different sizes, and some have the same base name."""
    values = dict(
        image_id=f"{index:064x}",
        width=SIZES[index][0],
        height=SIZES[index][1],
        source="photos",
        name=NAMES[index],
        licence="CC0",
        alt_text=None,
        split=SPLITS[index],
    )
    return ImageRecord(**{**values, **more})


def labelled(record: ImageRecord, claims: Sequence[Claim], path: str | None = None, round: int = 0) -> LabelledImage:
    """Return an image with its labels, as an export has them."""
    return LabelledImage(record, path or record.name, annotate(record.image_id, claims, "consensus", "1", round))


def write(form: Format, folder: Path, found: Sequence[tuple[ImageRecord, Sequence[Claim]]]) -> list[LabelledImage]:
    """Write images with claims; those that the format lacks are left out. Returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    names = FileNames(by_stem=form.by_stem, with_source=len({record.source for record, _ in found}) > 1)
    items = [labelled(record, claims, names.assign(record, ())) for record, claims in found]
    items = [
        LabelledImage(item.record, item.path, tuple(row for row in item.rows if not form.explain_refusal(row)))
        for item in items
    ]
    rows = [row for item in items for row in item.rows if row.task == OBJECTS]
    splits = tuple(
        split for split in ("train", "held_out", "gold") if any(record.split == split for record, _ in found)
    )
    annotation_types = tuple(name for name in ANNOTATION_TYPES if name in form.annotation_types)
    form.write(
        folder,
        iter(items),
        ExportPlan(
            tuple(sorted({row.text for row in rows})),
            annotation_types,
            splits,
            any(row.regions[0].polygons for row in rows),
            False,
        ),
    )
    return items


def read_back(name: str, uri: Path | str, records: Sequence[ImageRecord], /, **settings) -> ReadResult:
    """Return the claims of a data set about some images."""
    form = FORMATS.get(name)("", **settings)
    return read_label_set(form.open(form.files(str(uri))), records)


def claims_of(found: ReadResult, record: ImageRecord) -> tuple[Claim, ...]:
    """Return the claims about one image, and assert that nothing is left out."""
    problems = [problem for problem in found.problems if problem.reason != "names that differ in case alone"]
    assert not found.errors and not problems, (found.errors, problems)
    return found.claims[record.image_id].claims


@st.composite
def boxes(draw, record: ImageRecord, whole: bool = False) -> tuple[float, float, float, float]:
    """Draw a box inside an image, down to one pixel and up to its border."""
    sides = []
    for side in (record.width, record.height):
        if whole:
            low = draw(st.integers(0, side - 1))
            sides.append((float(low), float(draw(st.integers(low + 1, side)))))
        else:
            low = draw(st.floats(0, side - 0.5))
            sides.append((low, draw(st.floats(low + 0.25, side))))
    return (sides[0][0], sides[1][0], sides[0][1], sides[1][1])


@st.composite
def polygons_inside(draw, record: ImageRecord) -> tuple[tuple[float, ...], ...]:
    """Return one or more polygons that do not cross themselves: stars around a centre."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    result = []
    for _ in range(draw(st.integers(1, 3))):
        corners = draw(st.integers(3, 8))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners)) + np.arange(corners) * 1e-3
        middle, reach = rng.uniform(0.3, 0.7, 2), rng.uniform(0.05, 0.3, corners)
        points = np.stack([middle[0] + reach * np.cos(angles), middle[1] + reach * np.sin(angles)], axis=1) * [
            record.width,
            record.height,
        ]
        result.append(tuple(points.reshape(-1).tolist()))
    return tuple(result)


@st.composite
def objects(
    draw, record: ImageRecord, *, shapes: str = "box", whole: bool = False, names=TEXT, most: int = 5
) -> list[Claim]:
    """Return objects with boxes, or with polygons and the boxes around them."""
    result = []
    for _ in range(draw(st.integers(0, most))):
        name = draw(names)
        if shapes == "box":
            region = Region(name, box=draw(boxes(record, whole)))
        else:
            polygons = draw(polygons_inside(record))
            region = Region(name, box=Region("", polygons=polygons).bounds, polygons=polygons)
        result.append(Claim(OBJECTS, name, (region,)))
    return result


def assert_near(a: Sequence[Claim], b: Sequence[Claim], within: float = 1e-6, *, polygons: bool = True) -> None:
    """Assert that claims are the same, numbers within some pixels."""
    assert [(c.task, c.text, len(c.regions), c.score) for c in a] == [
        (c.task, c.text, len(c.regions), c.score) for c in b
    ]
    for one, other in zip(a, b, strict=True):
        for left, right in zip(one.regions, other.regions, strict=True):
            assert (left.label, left.span, left.score) == (right.label, right.span, right.score)
            for x, y in ((left.box, right.box), (left.quad, right.quad)):
                assert (x is None) == (y is None) and (x is None or np.abs(np.subtract(x, y)).max() <= within), (x, y)
            if polygons:
                assert [len(p) for p in left.polygons] == [len(p) for p in right.polygons]
                assert all(
                    np.abs(np.subtract(p, q)).max() <= within
                    for p, q in zip(left.polygons, right.polygons, strict=True)
                )
