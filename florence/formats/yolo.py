"""Ultralytics' YOLO folders: one text file for each image, one line for each object.

A line is the number of the object's name in data.yaml, then either the box (centre x, centre y, width, height) or a
polygon (x y x y …), as shares of the image's sides. Readers want one type of line in a data set, so if any object has
polygons, all are written as polygons, boxes by their corners.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from florence.errors import DataError
from florence.formats import (
    FORMATS,
    OBJECTS,
    ExportPlan,
    Format,
    ImageClaims,
    LabelledImage,
    LabelProblem,
    LabelSet,
    LabelSetEntry,
    describe_problem,
)
from florence.formats._checks import check_number, check_polygon, explain_bad_box, make_region, read_score
from florence.formats._files import Files, is_image
from florence.geometry import Polygon, box_quad, polygon_area, polygon_box
from florence.records import Annotation, Claim, ImageRecord, Region

SETS = {"train": "train", "held_out": "val", "gold": "test"}
DIGITS = 10
"""Digits of a share: a millionth of a pixel in an image of 10,000."""
YAML = (".yaml", ".yml")


@FORMATS.register("yolo")
class YoloFormat(Format):
    """``data.yaml``, ``labels/<set>/<image>.txt``, images in ``images/<set>/``; our splits are train, val and test."""

    annotation_types = (OBJECTS,)
    by_stem = True

    def files(self, uri: str) -> Files:
        """Return the files of a folder with data.yaml, given by the folder or by that file."""
        return Files(
            (posixpath.dirname(uri) or ".") if uri.endswith(YAML) else uri,
            lambda name: ("/" not in name and name.endswith(YAML)) or (name.endswith(".txt") and not is_image(name)),
            "data.yaml",
            lambda name: is_image(name) and "images" in name.split("/")[:-1],
        )

    def open(self, files: Files) -> LabelSet:
        """See `Format.open`."""
        return _YoloSet(files)

    def explain_refusal(self, row: Annotation) -> str:
        """See `Format.explain_refusal`."""
        return super().explain_refusal(row) or explain_bad_box(row)

    def explain_loss(self, row: Annotation, plan: ExportPlan) -> str:
        """See `Format.explain_loss`."""
        region = row.regions[0]
        if not plan.has_polygons:
            return ""
        if not region.polygons:
            return f"{row.task}: that it has only a box, as other objects have polygons"
        bounds = polygon_box([v for points in region.polygons for v in points])
        distance = max(abs(a - b) for a, b in zip(bounds, region.bounds, strict=True))
        return f"{row.task}: the box, where it is not that of the polygons" if distance > 0.01 else ""

    def image_path(self, item: LabelledImage) -> str:
        """See `Format.image_path`."""
        return f"images/{SETS[item.record.split]}/{item.path}"

    def write(self, folder: Path, items: Iterator[LabelledImage], plan: ExportPlan) -> None:
        """See `Format.write`.

        Ultralytics requires a training and a validation set: one without images is replaced by the other.
        """
        ids = {name: k for k, name in enumerate(plan.names)}
        for split in plan.splits:
            (folder / "labels" / SETS[split]).mkdir(parents=True, exist_ok=True)
            (folder / "images" / SETS[split]).mkdir(parents=True, exist_ok=True)
        for item in items:
            path = folder / "labels" / SETS[item.record.split] / f"{posixpath.splitext(item.path)[0]}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "".join(
                    _format_line(ids[row.text], row.regions[0], item.record, plan.has_polygons) for row in item.rows
                ),
                encoding="utf-8",
            )
        sets = {SETS[split]: f"images/{SETS[split]}" for split in plan.splits}
        first = next(iter(sets.values()), "images/train")
        values = {"train": first, "val": first, **sets, "names": dict(enumerate(plan.names))}
        (folder / "data.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


# ---------------------------------------------------------------- reading


class _YoloSet(LabelSet):
    def __init__(self, files: Files) -> None:
        self.files = files
        values, where = _read_data_yaml(files)
        self.names = _read_names(values.get("names"), where)
        labels = {
            _image_stem(name): name
            for name in files.names
            if name.endswith(".txt") and "labels" in name.split("/")[:-1]
        }
        folders, listed = _read_image_lists(files, values)
        entries = []
        image_names = {posixpath.splitext(name)[0]: name for name in files.others}
        known = [
            name
            for name in files.others
            if not folders and not listed or name in listed or any(name.startswith(f) for f in folders)
        ] or list(files.others)
        for stem in sorted({*labels, *(posixpath.splitext(name)[0] for name in known)}):
            name = image_names.get(stem, stem)
            entries.append(LabelSetEntry(tuple(_possible_paths(name, folders)), None, None, labels.get(stem)))
        super().__init__(files.uri, entries, self.names.values())

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the objects of an image, in the order of its file; none if it has no file."""
        claims: list[Claim] = []
        problems: list[LabelProblem] = []
        lines = self.files.text(entry.raw).splitlines() if entry.raw else []
        for k, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    claims.append(self._object(line.split(), f"{self.files.where(entry.raw)}: line {k}", record))
                except DataError as error:
                    problems.append(describe_problem(error))
        return ImageClaims(tuple(claims), tuple(problems))

    def _object(self, fields: Sequence[str], where: str, record: ImageRecord) -> Claim:
        number = check_number(fields[0], f"{where}: name")
        if number not in self.names:
            raise DataError(
                f"{where}: name: found {fields[0]}; a whole number from {min(self.names, default=0)} "
                f"to {max(self.names, default=0)} is expected"
            )
        label = self.names[int(number)]
        values = [check_number(value, f"{where}: field {k}") for k, value in enumerate(fields[1:], start=2)]
        if any(not -0.01 <= v <= 1.01 for v in values):
            wrong = next(v for v in values if not -0.01 <= v <= 1.01)
            raise DataError(f"{where}: found {wrong:g}; shares of the image's sides, 0 to 1, are expected")
        sides = (record.width, record.height)
        score = None
        if len(values) in (4, 5):
            x, y, w, h = (v * sides[k % 2] for k, v in enumerate(values[:4]))
            score = read_score(values[4]) if len(values) == 5 else None
            region = make_region(label, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), (), score, where, record)
        elif len(values) >= 6 and len(values) % 2 == 0:
            points = check_polygon([v * sides[k % 2] for k, v in enumerate(values)], where, record)
            region = make_region(label, polygon_box(points), _split_polygons(points), None, where, record)
        else:
            raise DataError(
                f"{where}: found {len(fields)} fields; a name and the four numbers of a box, "
                "or x and y of at least three corners, are expected"
            )
        return Claim(OBJECTS, label, (region,), score)


def _read_data_yaml(files: Files) -> tuple[dict[str, Any], str]:
    """Return the YAML file with names, and its address. Raises DataError if there is none or more than one."""
    found = {}
    for name in files.names:
        if name.endswith(YAML):
            try:
                values = yaml.safe_load(files.text(name))
            except yaml.YAMLError as error:
                raise DataError(f"{files.where(name)} is not YAML: {error}") from None
            if isinstance(values, dict) and "names" in values:
                found[name] = values
    chosen = "data.yaml" if "data.yaml" in found else next(iter(found), "")
    if not chosen or (len(found) > 1 and chosen != "data.yaml"):
        raise DataError(
            f"{files.uri}: found {', '.join(found) or 'no YAML file with names'}; "
            "a data.yaml with the names of the objects is expected beside images/ and labels/"
        )
    return found[chosen], files.where(chosen)


def _read_names(values: Any, where: str) -> dict[int, str]:
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    result = {key: str(value) for key, value in pairs if isinstance(key, int) and str(value).strip()}
    if not pairs and values or not isinstance(values, dict | list) or len(result) != len(values):
        raise DataError(f"{where}: names: found {values!r:.60}; a list of names, or numbers and names, is expected")
    return result


def _image_stem(label: str) -> str:
    """Return the path, without suffix, of the image of a label file: the last folder ``labels`` becomes ``images``."""
    before, _, after = f"/{label}".rpartition("/labels/")
    return posixpath.splitext(f"{before}/images/{after}"[1:])[0]


def _read_image_lists(files: Files, values: dict[str, Any]) -> tuple[list[str], frozenset[str]]:
    """Return the image folders that data.yaml names, with a slash at the end, and the images in the lists it names."""
    folders: list[str] = []
    listed: set[str] = set()
    for name in ("train", "val", "test"):
        given = values.get(name)
        for path in given if isinstance(given, list) else [given] if isinstance(given, str) else []:
            path = _strip_leading_steps(str(path))
            if path.endswith(".txt"):
                listed |= {
                    _strip_leading_steps(line.strip())
                    for line in (files.text(path).splitlines() if path in files.names else [])
                    if line.strip()
                }
            else:
                folders.append(f"{path.rstrip('/')}/")
    return folders, frozenset(listed)


def _strip_leading_steps(path: str) -> str:
    """Return a path without ``./``, ``../`` or ``/`` in front, which lead to the data set's folder."""
    while path.startswith(("./", "../", "/")):
        path = path[path.index("/") + 1 :]
    return path


def _possible_paths(name: str, folders: Iterable[str]) -> Iterator[str]:
    """Yield the possible paths of an image: below the data set's folder, images/, and the folder of its set."""
    yield name
    yield f"/{name}".rpartition("/images/")[2]
    yield from (name[len(folder) :] for folder in folders if name.startswith(folder))


# ---------------------------------------------------------------- writing


def _format_line(number: int, region: Region, record: ImageRecord, as_polygon: bool) -> str:
    sides = (record.width, record.height)
    box = region.bounds
    if as_polygon:
        values = list(_join_polygons(region.polygons) if region.polygons else box_quad(box))
    else:
        values = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]]
    return (
        " ".join([str(number), *(f"{min(max(v / sides[k % 2], 0.0), 1.0):.{DIGITS}g}" for k, v in enumerate(values))])
        + "\n"
    )


def _join_polygons(polygons: Sequence[Polygon]) -> list[float]:
    """Return several polygons as one, which runs from its nearest corner to each next polygon, around it and back."""
    whole = np.asarray(polygons[0], float).reshape(-1, 2)
    clockwise = polygon_area(polygons[0]) > 0
    for points in polygons[1:]:
        other = np.asarray(points, float).reshape(-1, 2)
        if (polygon_area(points) > 0) != clockwise:
            other = other[::-1]  # the other direction would make it a hole
        distance = ((whole[:, None] - other[None]) ** 2).sum(axis=2)
        i, j = divmod(int(distance.argmin()), len(other))
        whole = np.concatenate([whole[: i + 1], other[j:], other[: j + 1], whole[i:]])
    return whole.reshape(-1).tolist()


def _split_polygons(points: Polygon) -> tuple[Polygon, ...]:
    """Return the polygons that `_join_polygons` joined. A part in the other direction is a hole, and stays joined."""
    corners = list(zip(points[0::2], points[1::2], strict=True))
    positions: dict[tuple[float, float], list[int]] = {}
    for k, corner in enumerate(corners):
        positions.setdefault(corner, []).append(k)
    for k, m in ((k, m) for several in positions.values() for k, m in itertools.combinations(several, 2) if m >= k + 5):
        if corners[k + 1] == corners[m - 1]:
            outer, inner = (
                tuple(v for corner in part for v in corner)
                for part in ([*corners[: k + 1], *corners[m + 1 :]], corners[k + 1 : m - 1])
            )
            if polygon_area(outer) * polygon_area(inner) > 0:
                return (*_split_polygons(outer), *_split_polygons(inner))
    return (points,)
