"""Label Studio's results ↔ claims, and the files of a project."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

from florence.errors import DataError
from florence.formats import OBJECTS, ExportPlan, LabelledImage
from florence.formats._checks import BIGGEST, check_number, check_polygon, check_text, make_region, read_score
from florence.geometry import Polygon, box_quad, polygon_box
from florence.records import CAPTIONS, Annotation, Claim, ImageRecord, Region

OCR_LINE, DESCRIPTION, EXPRESSION, CATEGORY = (
    "<OCR_WITH_REGION>",
    "<DENSE_REGION_CAPTION>",
    "<REFERRING_EXPRESSION_SEGMENTATION>",
    "<CLASSIFICATION>",
)
TEXTS = {
    "caption": "<CAPTION>",
    "detailed_caption": "<DETAILED_CAPTION>",
    "more_detailed_caption": "<MORE_DETAILED_CAPTION>",
    "category": CATEGORY,
    "text": OCR_LINE,
    "transcription": OCR_LINE,
    "description": DESCRIPTION,
    "expression": EXPRESSION,
}
"""Names of controls that give texts → the kind that these are. A text that belongs to a place is a reading, one that belongs to none a caption, where its
control is not named here."""
CONTROLS = {kind: name for name, kind in reversed(TEXTS.items())}
SHAPES = ("rectanglelabels", "rectangle", "polygonlabels", "polygon", "labels")
REGION_TEXTS = (OCR_LINE, DESCRIPTION, EXPRESSION)


@dataclass(frozen=True, slots=True)
class StudioResult:
    """One result as it stands in the file. ``id``: of its region; ``labels``: it has; ``size``: of the image it was drawn on."""

    place: str
    type: str
    control: str
    id: str
    value: Mapping[str, Any]
    labels: tuple[str, ...]
    score: float | None
    size: tuple[int, int] | None
    ends: tuple[str, str] | None = None

    @staticmethod
    def of(values: Any, place: str) -> StudioResult:
        """The result in ``values``; one that is none has the type "", and is told where it is used."""
        if not isinstance(values, dict):
            return StudioResult(place, "", "", "", {}, (), None, None)
        kind = str(values.get("type", ""))
        found = values.get("value")
        value = found if isinstance(found, dict) else {}
        sides = [
            int(v)
            for v in (values.get("original_width"), values.get("original_height"))
            if isinstance(v, int | float) and 1 <= v < BIGGEST
        ]
        size = (sides[0], sides[1]) if len(sides) == 2 else None
        ends = (str(values.get("from_id")), str(values.get("to_id"))) if kind == "relation" else None
        return StudioResult(
            place,
            kind,
            str(values.get("from_name", "")),
            str(values.get("id", place)),
            value,
            _labels(value, kind),
            read_score(values.get("score")),
            size,
            ends,
        )


def _labels(value: Mapping[str, Any], kind: str) -> tuple[str, ...]:
    found = value.get(kind) if kind.endswith("labels") else None
    return tuple(label for label in found if isinstance(label, str)) if isinstance(found, list) else ()


def read_flat_results(
    controls: Mapping[str, Any], place: str, control_types: Mapping[str, str]
) -> tuple[StudioResult, ...]:
    """The results of JSON-MIN, which has no types and no ids: what has the same place is of one region.

    It mixes controls with the task's data, so that a bare text is one of a control only where ``kinds`` has its name.
    """
    results = []
    for name, values in controls.items():
        for k, value in enumerate(values if isinstance(values, list) else [values]):
            where = f"{place}.{name}[{k}]"
            if isinstance(value, str) and name in control_types:
                results.append(StudioResult(where, "textarea", name, where, {"text": [value]}, (), None, None))
            elif isinstance(value, dict):
                kind = next(
                    (key for key in ("rectanglelabels", "polygonlabels", "labels", "choices") if key in value), ""
                )
                kind = kind or (
                    "textarea"
                    if "text" in value
                    else "polygon"
                    if "points" in value
                    else "rectangle"
                    if "x" in value
                    else ""
                )
                region = json.dumps([value.get(key) for key in ("x", "y", "width", "height", "rotation", "points")])
                alone = kind in ("textarea", "choices") and "x" not in value and "points" not in value
                sides = {"original_width": value.get("original_width"), "original_height": value.get("original_height")}
                results.append(
                    StudioResult.of(
                        {"type": kind, "from_name": name, "id": where if alone else region, "value": value, **sides},
                        where,
                    )
                )
    return tuple(results)


def address_names(address: str) -> tuple[str, ...]:
    """The paths that the image at an address may go by."""
    parts = urlsplit(address)
    if parts.path.endswith("/local-files/") or parts.path.endswith("/local-files"):
        return tuple(parse_qs(parts.query).get("d", [address]))
    if parts.scheme:
        return (unquote(parts.path).lstrip("/"),)
    if match := re.match(r"/?data/upload/(?:\d+/)?(.+)", address):
        name = unquote(match.group(1))
        return tuple(dict.fromkeys((name, re.sub(r"^[0-9a-f]{8}-", "", name))))
    return (address,)


# ---------------------------------------------------------------- results → claims


@dataclass(slots=True)
class _StudioRegion:
    """A region under way: its outlines, and what is said of it."""

    place: str
    polygons: list[Polygon]
    upright: bool
    labels: tuple[str, ...]
    score: float | None
    texts: list[tuple[str, str]]


def build_claims(
    results: Sequence[StudioResult], place: str, control_types: Mapping[str, str], record: ImageRecord
) -> tuple[list[Claim], list[str]]:
    """The claims that results come to, and what cannot be used."""
    problems: list[str] = []
    shapes: dict[str, _StudioRegion] = {}
    for result in results:
        try:
            _add_region(result, shapes, record)
        except DataError as error:
            problems.append(str(error))
    whole: list[Claim] = []
    for result in results:
        if result.type in ("textarea", "choices"):
            whole += _add_text(result, shapes, control_types, record, problems)
        elif result.ends is not None:
            _merge_regions(result.ends, shapes)
        elif result.type not in SHAPES:
            problems.append(
                f"{result.place}: found a result of type {result.type!r}; {', '.join((*SHAPES, 'textarea', 'choices'))} are read"
            )
    claims: list[Claim] = []
    for shape in {id(shape): shape for shape in shapes.values()}.values():
        try:
            claims += _region_claims(shape, record)
        except DataError as error:
            problems.append(str(error))
    return [*claims, *whole], problems


def _add_region(result: StudioResult, shapes: dict[str, _StudioRegion], record: ImageRecord) -> None:
    if result.type not in SHAPES:
        return
    value, where = result.value, f"{result.place}.value"
    sides = (record.width / 100, record.height / 100)
    points = value.get("points")
    upright = False
    if points is not None:
        if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
            raise DataError(f"{where}.points: found {points!r:.60}; pairs of percent are expected")
        corners = [check_number(v, f"{where}.points") * sides[k] for point in points for k, v in enumerate(point)]
    else:
        x, y, width, height = (
            check_number(value.get(name), f"{where}.{name}") * sides[k % 2]
            for k, name in enumerate(("x", "y", "width", "height"))
        )
        angle = math.radians(check_number(value.get("rotation") or 0, f"{where}.rotation"))
        upright = abs(math.sin(2 * angle)) < 1e-9  # by a quarter: a box as it is
        across, down = (
            (width * math.cos(angle), width * math.sin(angle)),
            (-height * math.sin(angle), height * math.cos(angle)),
        )
        corners = [
            x,
            y,
            x + across[0],
            y + across[1],
            x + across[0] + down[0],
            y + across[1] + down[1],
            x + down[0],
            y + down[1],
        ]
        if angle == 0:
            corners = list(box_quad((x, y, x + width, y + height)))
    shape = _StudioRegion(
        result.place, [check_polygon(corners, where, record)], upright, result.labels, result.score, []
    )
    known = shapes.setdefault(result.id, shape)
    known.labels = tuple(dict.fromkeys((*known.labels, *result.labels)))


def _add_text(
    result: StudioResult,
    shapes: Mapping[str, _StudioRegion],
    control_types: Mapping[str, str],
    record: ImageRecord,
    problems: list[str],
) -> list[Claim]:
    """Claims of a text about the whole image; a region's text is noted with it."""
    chosen = result.type == "choices"
    found = result.value.get("choices" if chosen else "text")
    texts = [
        value for value in (found if isinstance(found, list) else [found]) if isinstance(value, str) and value.strip()
    ]
    if result.id in shapes:
        if chosen and result.control not in control_types:
            problems.append(f"{result.place}: a choice about a region is not read")
        else:
            shapes[result.id].texts += [(control_types.get(result.control, OCR_LINE), value) for value in texts]
        return []
    kind = control_types.get(result.control, CATEGORY if chosen else "<CAPTION>")
    if kind in REGION_TEXTS:
        problems += [f"{result.place}: a text of the kind {kind} that belongs to no region" for _ in texts]
        return []
    box = (0.0, 0.0, float(record.width), float(record.height))
    return [Claim(kind, value, (Region(value, box=box),) if kind == CATEGORY else (), result.score) for value in texts]


def _merge_regions(ends: tuple[str, str], shapes: dict[str, _StudioRegion]) -> None:
    """Make outlines that a relation ties, and that go by the same labels, parts of one thing."""
    first, other = (shapes.get(end) for end in ends)
    if (
        first is not None
        and other is not None
        and first is not other
        and first.labels == other.labels
        and not first.upright
        and not other.upright
    ):
        first.polygons += other.polygons
        first.texts += other.texts
        shapes.update({key: first for key, shape in shapes.items() if shape is other})


def _region_claims(shape: _StudioRegion, record: ImageRecord) -> Iterator[Claim]:
    box = polygon_box([v for points in shape.polygons for v in points])
    polygons = () if shape.upright else tuple(shape.polygons)
    place = make_region("", box, polygons, shape.score, f"{shape.place}.value", record)
    for kind, value in shape.texts:
        if kind == OCR_LINE:
            first = shape.polygons[0]
            quad = first if len(first) == 8 else box_quad(box)
            yield Claim(kind, value, (Region(value, quad=quad, score=shape.score),), shape.score)  # type: ignore[arg-type]
        elif kind == DESCRIPTION:
            yield Claim(kind, value, (Region(value, box=place.box, score=shape.score),), shape.score)
        elif kind == EXPRESSION:
            yield Claim(kind, value, (Region(value, polygons=tuple(shape.polygons), score=shape.score),), shape.score)
    if shape.labels and not any(kind == OCR_LINE for kind, _ in shape.texts):
        for label in shape.labels:
            yield Claim(
                OBJECTS,
                check_text(label, shape.place),
                (Region(label, place.box, None, polygons, shape.score),),
                shape.score,
            )
    elif not shape.texts:
        raise DataError(f"{shape.place}: a region without a label or a text says nothing")


# ---------------------------------------------------------------- labels → results


def build_results(rows: Iterable[Annotation], record: ImageRecord) -> list[dict[str, Any]]:
    """The results that an image's labels come to."""
    return [result for row in rows for result in _results(row, record)]


def _results(row: Annotation, record: ImageRecord) -> Iterator[dict[str, Any]]:
    common = {"to_name": "image", "original_width": record.width, "original_height": record.height, "image_rotation": 0}
    score = {} if row.score is None else {"score": row.score}
    key = row.annotation_id
    if row.task in (*CAPTIONS, CATEGORY):
        yield {
            "id": key,
            "type": "textarea",
            "from_name": CONTROLS[row.task],
            "to_name": "image",
            "value": {"text": [row.text]},
            **score,
        }
        return
    region = row.regions[0]
    polygons = (
        (region.quad,) if row.task == OCR_LINE and region.quad else region.polygons if row.task != DESCRIPTION else ()
    )
    named = row.task == OBJECTS
    if not polygons:
        yield {
            "id": key,
            "type": "rectanglelabels" if named else "rectangle",
            "from_name": "label" if named else "region",
            **common,
            **score,
            "value": {**_percent_box(region, record), **({"rectanglelabels": [row.text]} if named else {})},
        }
    for k, points in enumerate(polygons):
        pairs = [
            [points[i] / record.width * 100, points[i + 1] / record.height * 100] for i in range(0, len(points) - 1, 2)
        ]
        yield {
            "id": f"{key}-{k}" if k else key,
            "type": "polygonlabels" if named else "polygon",
            "from_name": "outline" if named else "shape",
            **common,
            **score,
            "value": {"points": pairs, "closed": True, **({"polygonlabels": [row.text]} if named else {})},
        }
        if k:
            yield {"type": "relation", "from_id": key, "to_id": f"{key}-{k}", "direction": "right"}
    if not named:
        yield {"id": key, "type": "textarea", "from_name": CONTROLS[row.task], **common, "value": {"text": [row.text]}}


def _percent_box(region: Region, record: ImageRecord) -> dict[str, float]:
    x0, y0, x1, y1 = region.bounds
    return {
        "x": x0 / record.width * 100,
        "y": y0 / record.height * 100,
        "width": (x1 - x0) / record.width * 100,
        "height": (y1 - y0) / record.height * 100,
        "rotation": 0,
    }


def write_project(
    folder: Path, tasks: Iterable[tuple[LabelledImage, Mapping[str, Any]]], plan: ExportPlan, more: Mapping[str, Any]
) -> None:
    """Write tasks.json, config.xml and README.md below ``folder``. A task has predictions: what they go by → their results."""
    with (folder / "tasks.json").open("w", encoding="utf-8") as file:
        file.write("[")
        for k, (item, predictions) in enumerate(tasks):
            record = item.record
            data = {
                "image": f"/data/local-files/?d={quote(f'images/{item.path}')}",
                "image_id": record.image_id,
                "source": record.source,
                "name": record.name,
                **more,
            }
            task = {
                "data": data,
                "predictions": [{"model_version": name, "result": results} for name, results in predictions.items()],
            }
            file.write((",\n" if k else "\n") + json.dumps(task, ensure_ascii=False, allow_nan=False))
        file.write("\n]\n")
    (folder / "config.xml").write_text(config(plan), encoding="utf-8")
    (folder / "README.md").write_text(README, encoding="utf-8")


def config(plan: ExportPlan) -> str:
    """The labelling configuration of a project that has the plan's kinds."""
    lines = ["<View>", '  <Image name="image" value="$image" zoom="true"/>']
    labels = [f"    <Label value={quoteattr(name)}/>" for name in plan.names or ("object",)]
    if OBJECTS in plan.annotation_types:
        lines += [
            '  <Filter name="filter" toName="label"/>',
            '  <RectangleLabels name="label" toName="image">',
            *labels,
            "  </RectangleLabels>",
        ]
        if plan.has_polygons:
            lines += ['  <PolygonLabels name="outline" toName="image">', *labels, "  </PolygonLabels>"]
    if any(kind in REGION_TEXTS for kind in plan.annotation_types):
        lines += ['  <Rectangle name="region" toName="image"/>', '  <Polygon name="shape" toName="image"/>']
    for kind in plan.annotation_types:
        if kind in CONTROLS:
            name = CONTROLS[kind]
            each = ' perRegion="true"' if kind in REGION_TEXTS else ""
            lines += [
                f'  <Header value="{name.replace("_", " ").capitalize()}"/>',
                f'  <TextArea name="{name}" toName="image" editable="true" maxSubmissions="1"{each}/>',
            ]
    return "\n".join([*lines, "</View>", ""])


README = """# A Label Studio project

Label Studio serves the pictures from this folder:

    pip install label-studio
    export LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT="$PWD"
    label-studio start

1. Create a project. Under Labeling Setup choose Custom template, and put in what config.xml holds.
2. Under Settings, Cloud Storage, add a source storage of the type Local files, whose path is that of the folder `images` in here, absolute. Do not
   sync it: it only allows the pictures to be served.
3. Import tasks.json. What it predicts is a start: under Settings, Annotation, have predictions prelabel tasks, and choose which, where there are several.
4. Correct, and submit each task that you have looked at. One that is submitted with nothing in it says that there is nothing.
5. Export as JSON.
"""
