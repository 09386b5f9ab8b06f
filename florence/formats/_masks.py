"""Masks as run lengths, and as outlines that cover exactly the same pixels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from florence.errors import DataError
from florence.geometry import Polygon

LARGEST = 100_000_000
"""Pixels of a mask that is decoded."""
Point = tuple[int, int]


def decode_run_lengths(segmentation: dict[str, Any]) -> np.ndarray:
    """The mask (h, w), bool, of COCO's run lengths: ``size`` is [h, w], ``counts`` a list of numbers or their packed text.

    Runs go down the columns, the first is of background. Raises DataError where that is not what is there.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if (
        not (isinstance(size, list) and len(size) == 2 and all(isinstance(v, int) and v > 0 for v in size))
        or size[0] * size[1] > LARGEST
    ):
        raise DataError(
            f"size: found {size!r}; height and width in pixels are expected, at most {LARGEST:,} pixels together"
        )
    if isinstance(counts, str):
        counts = _unpack_run_lengths(counts)
    if not isinstance(counts, list) or not all(isinstance(v, int) and v >= 0 for v in counts):
        raise DataError(f"counts: found {str(counts)[:40]!r}; a list of run lengths or their packed text is expected")
    if sum(counts) != size[0] * size[1]:
        raise DataError(
            f"counts: runs of {sum(counts)} pixels together; {size[0]} × {size[1]} = {size[0] * size[1]} are expected"
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(size[1], size[0]).T


def _unpack_run_lengths(text: str) -> list[int]:
    """Run lengths of their packed text: six bits a character, the sixth says that the number goes on; from the third on, differences to the one before last."""
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
    """Polygons along the edges of a mask's (h, w) pixels, clockwise: together they cover what it covers, and nothing else.

    A polygon has no hole: what has some is cut along its columns, one cut a hole.
    """
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask, np.uint8), connectivity=4)
    found: list[Polygon] = []
    for k in range(1, count):
        x, y, width, height = (int(v) for v in stats[k, :4])
        part = labels[y : y + height, x : x + width] == k
        loops = _loops(part)
        cuts = sorted({int(loop[:, 0].min()) for loop in loops if _signed(loop) < 0})
        if cuts:
            # a hole, cut at its first column, lies open there in the piece that begins with that column
            edges = sorted({0, *cuts, width})
            loops = [
                loop + (start, 0) for start, stop in itertools.pairwise(edges) for loop in _loops(part[:, start:stop])
            ]
        found += [tuple((loop + (x, y)).astype(float).reshape(-1).tolist()) for loop in loops]
    return tuple(found)


def _signed(loop: np.ndarray) -> int:
    """Twice the signed area of a loop (n, 2); positive where clockwise on screen."""
    after = np.roll(loop, -1, axis=0)
    return int((loop[:, 0] * after[:, 1] - after[:, 0] * loop[:, 1]).sum())


def _loops(mask: np.ndarray) -> list[np.ndarray]:
    """Corners (n, 2) of each closed border of a mask, with the inside on the right of one who walks along; holes run the other way round."""
    padded = np.pad(mask, 1).astype(np.int8)
    rows: dict[Point, dict[int, int]] = {}
    down: dict[Point, dict[int, int]] = {}
    for y, first, last in _runs(padded[1:, 1:-1] - padded[:-1, 1:-1]):
        rows.setdefault((first, y), {})[1 if last > first else -1] = last
    # across a column's edge that is positive the inside lies to the right, as one walks up
    for x, last, first in _runs((padded[1:-1, 1:] - padded[1:-1, :-1]).T):
        down.setdefault((x, first), {})[1 if last > first else -1] = last
    loops = []
    while rows:
        start = next(iter(rows))
        loops.append(np.asarray(_walk(start, rows, down)))
    return loops


def _runs(edges: np.ndarray) -> list[tuple[int, int, int]]:
    """(line, from, to) of each run of edges of one sign along a line; from right to left where the sign is negative."""
    flat = np.pad(edges, ((0, 0), (1, 1))).ravel()
    change = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts, ends = change[flat[change] != 0], change[flat[change - 1] != 0]
    length = edges.shape[1] + 2
    line, low = starts // length, starts % length - 1
    high, positive = low + ends - starts, flat[starts] > 0
    return list(
        zip(line.tolist(), np.where(positive, low, high).tolist(), np.where(positive, high, low).tolist(), strict=True)
    )


def _walk(start: Point, rows: dict[Point, dict[int, int]], down: dict[Point, dict[int, int]]) -> list[Point]:
    """The corners of the loop through ``start``, along runs of rows and columns in turn, which are taken out.

    Where two pixels touch at a corner alone, one turns right, and so stays with one's own.
    """
    (x, y), corners = start, []
    first = way = next(iter(rows[start]))
    while True:
        corners.append((x, y))
        x, way = _taken(rows, (x, y), way)
        corners.append((x, y))
        y, way = _taken(down, (x, y), way)
        way = -way
        if (x, y) == start and (start not in rows or way == first):
            return corners


def _taken(runs: dict[Point, dict[int, int]], point: Point, way: int) -> tuple[int, int]:
    """Where a run from ``point`` ends, and its direction: ``way`` where there are two."""
    here = runs[point]
    way = way if way in here else next(iter(here))
    end = here.pop(way)
    if not here:
        del runs[point]
    return end, way
