"""The lines of a YOLO label file.

A line is a class number and, as shares of the image's sides (width W, height H):

    x y w h                    a box: its centre and its sides, (x - w/2) W … (y + h/2) H in pixels
    x1 y1 x2 y2 x3 y3 …        a polygon of at least three corners; the corners of a rotated box are four
    x y w h, then key points   x y, or x y and visibility, as many as ``kpt_shape`` says

Predictions add a score, tracking adds a number after it; whether a column is one is decided by all lines of the data
set. Rotated boxes stay polygons of four corners: a line does not say which it is, and both cover the same pixels.
Ultralytics tells by the task that is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from florence.errors import DataError
from florence.formats import OBJECTS, ImageClaims, LabelProblem, UnusableLabelError, describe_problem
from florence.formats._checks import check_number, check_polygon, explain_overhang, make_region
from florence.formats._joined_polygons import split_polygons
from florence.formats._yolo_files import split_lines
from florence.geometry import polygon_box
from florence.records import Claim, ImageRecord

LOW, HIGH = -0.01, 1.01
"""Shares beyond these are none: Ultralytics allows a hundredth for rounding."""
MOST = 0.9
"""The share of lines that decides what a column is."""
CORNERS = "x and y of at least three corners"


@dataclass(frozen=True, slots=True)
class Columns:
    """What stands behind the coordinates in the lines of a data set, which one program wrote.

    ``tracked``: a number of tracking ends each long line. ``scored``: a score is before it. ``box_scores``: a fifth
    number of a box is a score.
    """

    tracked: bool = False
    scored: bool = False
    box_scores: bool = True

    @classmethod
    def find(cls, texts: Iterable[str], rules: LineRules) -> Columns:
        """Return what most lines have; ``texts``: label files, or some of them."""
        lines: list[tuple[float, ...]] = []
        for text in texts:
            for _, fields in _split_fields(text, ""):
                try:
                    values = tuple(float(v) for v in fields[1:])
                except ValueError:
                    continue
                if len(values) >= 4:
                    lines.append((*values[:4], *values[4 + rules.skipped :]))
        tracked = any(v[-1] >= 2 for v in lines) and _most(
            len(v) > 4 and v[-1].is_integer() and v[-1] >= 0 for v in lines
        )
        rests = [values[:-1] if tracked and len(values) > 4 else values for values in lines]
        scored = _most(len(values) % 2 == 1 and 0 <= values[-1] <= 1 for values in rests)
        fifth = [values[4] for values in rests if len(values) == 5]
        boxes = not any(len(values) > 5 for values in rests)
        return cls(tracked, scored, scored or boxes and _most(0 <= v <= 1 for v in fifth))


@dataclass(frozen=True, slots=True)
class LineRules:
    """How lines are read.

    ``names``: of the classes, by number. ``refused``: why a class has no name. ``task``: detect, segment, pose, obb, or
    empty. ``key_points``: how many a line has, and of how many numbers each. ``columns``: what else it has.
    """

    names: Mapping[int, str]
    refused: Mapping[int, UnusableLabelError]
    task: str = ""
    key_points: tuple[int, int] | None = None
    columns: Columns = Columns()

    @property
    def skipped(self) -> int:
        """How many numbers of key points a line has."""
        return self.key_points[0] * self.key_points[1] if self.key_points else 0


@dataclass(frozen=True, slots=True)
class _Line:
    where: str
    fields: tuple[str, ...]
    values: tuple[float, ...]
    """All numbers but the class."""


def read_labels(text: str, where: str, rules: LineRules, record: ImageRecord) -> ImageClaims:
    """Return the objects of a label file in their order; each line that is not blank is a claim or a problem."""
    claims: list[Claim] = []
    problems: list[LabelProblem] = []
    lines: list[_Line] = []
    for where_line, fields in _split_fields(text, where):
        try:
            numbers = (check_number(v, f"{where_line}: field {k}") for k, v in enumerate(fields[1:], start=2))
            lines.append(_Line(where_line, fields, tuple(numbers)))
        except DataError as error:
            problems.append(describe_problem(error))
    for line in lines:
        try:
            claim, parts = _read_line(line, rules, record)
        except DataError as error:
            problems.append(describe_problem(error))
        else:
            claims.append(claim)
            problems += parts
    return ImageClaims(tuple(claims), tuple(problems))


def looks_like_key_points(texts: Iterable[str]) -> int:
    """Return how many key points most lines have by their columns; 0 if they do not look like it.

    The third number after a box, and each third after it, is then a visibility: 0, 1 or 2. Lines of boxes say nothing.
    """
    long = [fields for text in texts for _, fields in _split_fields(text, "") if len(fields) > 6]
    counts = Counter(
        (len(fields) - 5) // 3
        for fields in long
        if (len(fields) - 5) % 3 == 0 and all(map(_is_visibility, fields[7::3]))
    )
    (count, lines), *_ = [*counts.most_common(1), (0, 0)]
    return count if lines and lines >= MOST * len(long) else 0


def _is_visibility(field: str) -> bool:
    try:
        return float(field) in (0, 1, 2)
    except ValueError:
        return False


def _split_fields(text: str, where: str) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yield place and fields of each line that is not blank; what follows a ``#`` is a comment."""
    for k, line in enumerate(split_lines(text), start=1):
        if fields := tuple(line.partition("#")[0].split()):
            yield f"{where}: line {k}", fields


def _most(found: Iterable[bool]) -> bool:
    values = list(found)
    return bool(values) and sum(values) >= MOST * len(values)


def _read_line(line: _Line, rules: LineRules, record: ImageRecord) -> tuple[Claim, list[LabelProblem]]:
    label = _find_name(line, rules)
    where = line.where
    values, score, parts = _split_columns(line, rules)
    _check_shares(values, where)
    sides = (record.width, record.height)
    pixels = [v * sides[k % 2] for k, v in enumerate(values)]
    if len(values) == 4:
        x, y, w, h = pixels
        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        region = make_region(label, box, (), None, where, record)
        parts += explain_overhang(box, where, record)
    else:
        points = check_polygon(pixels, where, record)
        polygons = split_polygons(points) if rules.task != "detect" else ()
        if not polygons:
            parts.append(LabelProblem("polygon replaced by its box", f"{where}: task is detect", "part"))
        region = make_region(label, polygon_box(points), polygons, None, where, record)
    return Claim(OBJECTS, label, (region,), score), parts


def _split_columns(line: _Line, rules: LineRules) -> tuple[tuple[float, ...], float | None, list[LabelProblem]]:
    """Return the numbers of a box or polygon, the score, and what of the line is not read."""
    values, where, columns = line.values, line.where, rules.columns
    parts: list[LabelProblem] = []
    score: float | None = None
    if rules.skipped and len(values) > 4:
        if not 0 <= len(values) - 4 - rules.skipped <= 2:
            count, size = rules.key_points or (0, 0)
            raise UnusableLabelError(
                "another number of columns than kpt_shape says",
                f"{where}: found {len(line.fields)} fields; a class, a box and {count} key points of {size} numbers "
                "are expected",
            )
        parts.append(LabelProblem("key points are not read", f"{where}: the box is read without them", "part"))
        values = (*values[:4], *values[4 + rules.skipped :])
    if columns.tracked and len(values) > 4:
        parts.append(LabelProblem("numbers of tracking are not read", f"{where}: {values[-1]:g}", "part"))
        values = values[:-1]
    if len(values) > 4 and len(values) % 2:
        score, values = values[-1], values[:-1]
        if not 0 <= score <= 1 or not (columns.box_scores if len(values) == 4 else columns.scored):
            raise _refuse_columns(line)
    if len(values) != 4 and (len(values) < 6 or rules.skipped):
        raise _refuse_columns(line)
    return values, score, parts


def _find_name(line: _Line, rules: LineRules) -> str:
    """Return the name of a line's class. Raises UnusableLabelError if its number has none."""
    number = check_number(line.fields[0], f"{line.where}: name")
    if number in rules.names:
        return rules.names[int(number)]
    if number in rules.refused:
        error = rules.refused[int(number)]
        raise UnusableLabelError(error.reason, f"{line.where}: {error.detail}")
    raise UnusableLabelError(
        "not a class of the data set",
        f"{line.where}: name: found {line.fields[0]}; a whole number from {min(rules.names, default=0)} "
        f"to {max(rules.names, default=0)} is expected",
    )


def _refuse_columns(line: _Line) -> UnusableLabelError:
    return UnusableLabelError(
        "another number of columns",
        f"{line.where}: found {len(line.fields)} fields; a class and the four numbers of a box, or {CORNERS}, and "
        "perhaps a score from 0 to 1, are expected",
    )


def _check_shares(values: Sequence[float], where: str) -> None:
    wrong = [v for v in values if not LOW <= v <= HIGH]
    if not wrong:
        return
    in_pixels = max(values) >= 2
    hint = "; these may be pixels, to be divided by the image's width and height" if in_pixels else ""
    raise UnusableLabelError(
        "pixels instead of shares" if in_pixels else "shares beyond 0 to 1",
        f"{where}: found {wrong[0]:g}; shares of the image's sides, 0 to 1, are expected{hint}",
    )
