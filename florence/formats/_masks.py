"""Masks as run lengths, and as polygons that cover exactly the same pixels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from florence.errors import DataError
from florence.geometry import Polygon

MAX_PIXELS = 100_000_000
"""Most pixels of a mask that is decoded."""
Point = tuple[int, int]


def decode_run_lengths(segmentation: dict[str, Any]) -> np.ndarray:
    """Return the mask (h, w), bool, of COCO's run lengths.

    ``size`` is [h, w], ``counts`` a list of numbers or their packed text. Runs go down the columns; the first is
    background. Raises DataError for anything else.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if (
        not (isinstance(size, list) and len(size) == 2 and all(isinstance(v, int) and v > 0 for v in size))
        or size[0] * size[1] > MAX_PIXELS
    ):
        raise DataError(
            f"size: found {size!r}; height and width in pixels are expected, at most {MAX_PIXELS:,} pixels together"
        )
    if isinstance(counts, str):
        counts = _unpack_run_lengths(counts)
    if not isinstance(counts, list) or not all(isinstance(v, int) and v >= 0 for v in counts):
        raise DataError(f"counts: found {str(counts)[:40]!r}; a list of run lengths or their packed text is expected")
    if sum(counts) != size[0] * size[1]:
        raise DataError(
            f"counts: runs of {sum(counts)} pixels in total; {size[0]} × {size[1]} = {size[0] * size[1]} are expected"
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(size[1], size[0]).T


def _unpack_run_lengths(text: str) -> list[int]:
    """Return the run lengths of a packed text.

    A character holds five bits of a number and one that says whether the number continues. From the fourth number on,
    the text holds the difference to the number two before.
    """
    result: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise DataError(f"counts: {character!r} has no meaning in packed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            result.append(value + (result[-2] if len(result) > 2 else 0))
            value = shift = 0
    if shift:
        raise DataError("counts: the packed run lengths end inside a number")
    return result


def trace_pixel_edges(mask: np.ndarray) -> tuple[Polygon, ...]:
    """Return clockwise polygons along the pixel edges of a mask (h, w) that cover exactly the mask.

    A polygon has no holes: a part with holes is cut at the first column of each.
    """
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask, np.uint8), connectivity=4)
    found: list[Polygon] = []
    for k in range(1, count):
        x, y, width, height = (int(v) for v in stats[k, :4])
        part = labels[y : y + height, x : x + width] == k
        loops = _trace_loops(part)
        cuts = sorted({int(loop[:, 0].min()) for loop in loops if _signed_area(loop) < 0})
        if cuts:
            # cut at its first column, a hole is open in the piece that begins with that column
            edges = sorted({0, *cuts, width})
            loops = [
                loop + (start, 0)
                for start, stop in itertools.pairwise(edges)
                for loop in _trace_loops(part[:, start:stop])
            ]
        found += [tuple((loop + (x, y)).astype(float).reshape(-1).tolist()) for loop in loops]
    return tuple(found)


def _signed_area(loop: np.ndarray) -> int:
    """Return twice the signed area of a loop (n, 2); positive if clockwise on screen."""
    after = np.roll(loop, -1, axis=0)
    return int((loop[:, 0] * after[:, 1] - after[:, 0] * loop[:, 1]).sum())


def _trace_loops(mask: np.ndarray) -> list[np.ndarray]:
    """Return the corners (n, 2) of each closed border of a mask.

    The inside is on the right along the border: outer borders are clockwise, borders of holes are not.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    rows: dict[Point, dict[int, int]] = {}
    down: dict[Point, dict[int, int]] = {}
    for y, first, last in _find_runs(padded[1:, 1:-1] - padded[:-1, 1:-1]):
        rows.setdefault((first, y), {})[1 if last > first else -1] = last
    # at a positive edge of a column the inside is to the right, so the border runs upwards there
    for x, last, first in _find_runs((padded[1:-1, 1:] - padded[1:-1, :-1]).T):
        down.setdefault((x, first), {})[1 if last > first else -1] = last
    loops = []
    while rows:
        start = next(iter(rows))
        loops.append(np.asarray(_walk_loop(start, rows, down)))
    return loops


def _find_runs(edges: np.ndarray) -> list[tuple[int, int, int]]:
    """Return (line, from, to) of each run of edges of one sign along a line; backwards if the sign is negative."""
    flat = np.pad(edges, ((0, 0), (1, 1))).ravel()
    change = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts, ends = change[flat[change] != 0], change[flat[change - 1] != 0]
    length = edges.shape[1] + 2
    line, low = starts // length, starts % length - 1
    high, positive = low + ends - starts, flat[starts] > 0
    return list(
        zip(line.tolist(), np.where(positive, low, high).tolist(), np.where(positive, high, low).tolist(), strict=True)
    )


def _walk_loop(start: Point, rows: dict[Point, dict[int, int]], down: dict[Point, dict[int, int]]) -> list[Point]:
    """Return the corners of the loop through ``start``, and remove its runs from ``rows`` and ``down``.

    Where two pixels touch only at a corner, the loop turns right, so that it stays with the same pixel.
    """
    (x, y), corners = start, []
    first = way = next(iter(rows[start]))
    while True:
        corners.append((x, y))
        x, way = _take_run(rows, (x, y), way)
        corners.append((x, y))
        y, way = _take_run(down, (x, y), way)
        way = -way
        if (x, y) == start and (start not in rows or way == first):
            return corners


def _take_run(runs: dict[Point, dict[int, int]], point: Point, way: int) -> tuple[int, int]:
    """Remove a run from ``point`` and return its end and direction: ``way`` if there are two."""
    here = runs[point]
    way = way if way in here else next(iter(here))
    end = here.pop(way)
    if not here:
        del runs[point]
    return end, way
