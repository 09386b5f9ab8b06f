"""Ultralytics' YOLO folders: a text file an image, a line an object.

A line is the number of the object's name in data.yaml, then either the box (middle x, middle y, width, height) or an outline (x y x y …), in shares of the image's
sides. Readers of it want one sort of lines throughout, so where any object has an outline, all are written as outlines, boxes by their corners.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from florence.errors import DataError
from florence.formats import FORMATS, OBJECTS, ExportPlan, Format, ImageClaims, LabelledImage, LabelSet, LabelSetEntry
from florence.formats._checks import check_number, check_polygon, explain_bad_box, make_region, read_score
from florence.formats._files import Files, is_image
from florence.geometry import Polygon, box_quad, polygon_area, polygon_box
from florence.records import Annotation, Claim, ImageRecord, Region

SETS = {"train": "train", "held_out": "val", "gold": "test"}
DIGITS = 10
"""Of a share: a millionth of a pixel in an image of 10,000."""
YAML = (".yaml", ".yml")


@FORMATS.register("yolo")
class Yolo(Format):
    """``data.yaml``, ``labels/<set>/<image>.txt``, pictures in ``images/<set>/``; our splits are its sets train, val and test."""

    annotation_types = (OBJECTS,)
    by_stem = True

    def files(self, uri: str) -> Files:
        """The folder that data.yaml is in, or that file."""
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
            return f"{row.task}: that it has a box and no outline, as other objects have one"
        around = polygon_box([v for points in region.polygons for v in points])
        moved = max(abs(a - b) for a, b in zip(around, region.bounds, strict=True))
        return f"{row.task}: the box, where it is not that of the outline" if moved > 0.01 else ""

    def image_path(self, item: LabelledImage) -> str:
        """See `Format.image_path`."""
        return f"images/{SETS[item.record.split]}/{item.path}"

    def write(self, folder: Path, items: Iterator[LabelledImage], plan: ExportPlan) -> None:
        """See `Format.write`. Ultralytics insists on a training and a validation set, so where one of them has no image, the other stands for it."""
        import yaml

        ids = {name: k for k, name in enumerate(plan.names)}
        for split in plan.splits:
            (folder / "labels" / SETS[split]).mkdir(parents=True, exist_ok=True)
            (folder / "images" / SETS[split]).mkdir(parents=True, exist_ok=True)
        for item in items:
            path = folder / "labels" / SETS[item.record.split] / f"{posixpath.splitext(item.path)[0]}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "".join(_line(ids[row.text], row.regions[0], item.record, plan.has_polygons) for row in item.rows),
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
        values, where = _settings(files)
        self.names = _names(values.get("names"), where)
        labels = {
            _picture(name): name for name in files.names if name.endswith(".txt") and "labels" in name.split("/")[:-1]
        }
        folders, listed = _listed(files, values)
        entries = []
        pictures = {posixpath.splitext(name)[0]: name for name in files.others}
        known = [
            name
            for name in files.others
            if not folders and not listed or name in listed or any(name.startswith(f) for f in folders)
        ] or list(files.others)
        for stem in sorted({*labels, *(posixpath.splitext(name)[0] for name in known)}):
            name = pictures.get(stem, stem)
            entries.append(LabelSetEntry(tuple(_paths(name, folders)), None, None, labels.get(stem)))
        super().__init__(files.uri, entries, self.names.values())

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """The objects of an image, in the order of its file; none where it has no file."""
        claims: list[Claim] = []
        problems: list[str] = []
        lines = self.files.text(entry.raw).splitlines() if entry.raw else []
        for k, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    claims.append(self._object(line.split(), f"{self.files.where(entry.raw)}: line {k}", record))
                except DataError as error:
                    problems.append(str(error))
        return ImageClaims(tuple(claims), tuple(problems))

    def _object(self, fields: Sequence[str], where: str, record: ImageRecord) -> Claim:
        kind = check_number(fields[0], f"{where}: name")
        if kind not in self.names:
            raise DataError(
                f"{where}: name: found {fields[0]}; a whole number from {min(self.names, default=0)} to {max(self.names, default=0)} is expected"
            )
        label = self.names[int(kind)]
        values = [check_number(value, f"{where}: field {k}") for k, value in enumerate(fields[1:], start=2)]
        if any(not -0.01 <= v <= 1.01 for v in values):
            raise DataError(
                f"{where}: found {next(v for v in values if not -0.01 <= v <= 1.01):g}; shares of the image's sides, 0 to 1, are expected"
            )
        sides = (record.width, record.height)
        score = None
        if len(values) in (4, 5):
            x, y, w, h = (v * sides[k % 2] for k, v in enumerate(values[:4]))
            score = read_score(values[4]) if len(values) == 5 else None
            region = make_region(label, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), (), score, where, record)
        elif len(values) >= 6 and len(values) % 2 == 0:
            points = check_polygon([v * sides[k % 2] for k, v in enumerate(values)], where, record)
            region = make_region(label, polygon_box(points), _parted(points), None, where, record)
        else:
            raise DataError(
                f"{where}: found {len(fields)} fields; a name and the four numbers of a box, or x and y of at least three corners, are expected"
            )
        return Claim(OBJECTS, label, (region,), score)


def _settings(files: Files) -> tuple[dict[str, Any], str]:
    """The YAML file that has names, and its address. Raises DataError where there is none or more than one."""
    import yaml

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
            f"{files.uri}: found {', '.join(found) or 'no YAML file with names'}; a data.yaml with the names of the objects is expected beside images/ and labels/"
        )
    return found[chosen], files.where(chosen)


def _names(values: Any, where: str) -> dict[int, str]:
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    result = {key: str(value) for key, value in pairs if isinstance(key, int) and str(value).strip()}
    if not pairs and values or not isinstance(values, dict | list) or len(result) != len(values):
        raise DataError(f"{where}: names: found {values!r:.60}; a list of names, or numbers and names, is expected")
    return result


def _picture(label: str) -> str:
    """The path, without ending, of the picture that a file of labels is about: the last folder ``labels`` of its path is ``images`` there."""
    before, _, after = f"/{label}".rpartition("/labels/")
    return posixpath.splitext(f"{before}/images/{after}"[1:])[0]


def _listed(files: Files, values: dict[str, Any]) -> tuple[list[str], frozenset[str]]:
    """The folders of pictures that data.yaml names, each with its last slash, and the pictures that the lists name that it names."""
    folders: list[str] = []
    listed: set[str] = set()
    for name in ("train", "val", "test"):
        given = values.get(name)
        for path in given if isinstance(given, list) else [given] if isinstance(given, str) else []:
            path = _plain(str(path))
            if path.endswith(".txt"):
                listed |= {
                    _plain(line.strip())
                    for line in (files.text(path).splitlines() if path in files.names else [])
                    if line.strip()
                }
            else:
                folders.append(f"{path.rstrip('/')}/")
    return folders, frozenset(listed)


def _plain(path: str) -> str:
    """A path without the steps in front that lead to the data set's own folder."""
    while path.startswith(("./", "../", "/")):
        path = path[path.index("/") + 1 :]
    return path


def _paths(name: str, folders: Iterable[str]) -> Iterator[str]:
    """What a picture may go by: its path from the data set's folder, from images/, and from the folder of its set."""
    yield name
    yield f"/{name}".rpartition("/images/")[2]
    yield from (name[len(folder) :] for folder in folders if name.startswith(folder))


# ---------------------------------------------------------------- writing


def _line(kind: int, region: Region, record: ImageRecord, outlined: bool) -> str:
    sides = (record.width, record.height)
    box = region.bounds
    if outlined:
        values = list(_joined(region.polygons) if region.polygons else box_quad(box))
    else:
        values = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]]
    return (
        " ".join([str(kind), *(f"{min(max(v / sides[k % 2], 0.0), 1.0):.{DIGITS}g}" for k, v in enumerate(values))])
        + "\n"
    )


def _joined(polygons: Sequence[Polygon]) -> list[float]:
    """Several polygons as one, which goes from the nearest corner of what it has to each of them, around it, and back the same way."""
    whole = np.asarray(polygons[0], float).reshape(-1, 2)
    clockwise = polygon_area(polygons[0]) > 0
    for points in polygons[1:]:
        other = np.asarray(points, float).reshape(-1, 2)
        if (polygon_area(points) > 0) != clockwise:
            other = other[::-1]  # else it would be a hole
        away = ((whole[:, None] - other[None]) ** 2).sum(axis=2)
        i, j = divmod(int(away.argmin()), len(other))
        whole = np.concatenate([whole[: i + 1], other[j:], other[: j + 1], whole[i:]])
    return whole.reshape(-1).tolist()


def _parted(points: Polygon) -> tuple[Polygon, ...]:
    """The polygons that `_joined` made one of. What runs the other way round is a hole, and stays joined."""
    corners = list(zip(points[0::2], points[1::2], strict=True))
    places: dict[tuple[float, float], list[int]] = {}
    for k, corner in enumerate(corners):
        places.setdefault(corner, []).append(k)
    for k, m in ((k, m) for several in places.values() for k, m in itertools.combinations(several, 2) if m >= k + 5):
        if corners[k + 1] == corners[m - 1]:
            outer, inner = (
                tuple(v for corner in part for v in corner)
                for part in ([*corners[: k + 1], *corners[m + 1 :]], corners[k + 1 : m - 1])
            )
            if polygon_area(outer) * polygon_area(inner) > 0:
                return (*_parted(outer), *_parted(inner))
    return (points,)
