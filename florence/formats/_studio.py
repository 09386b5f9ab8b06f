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
from florence.formats import (
    OBJECTS,
    ExportPlan,
    LabelledImage,
    LabelProblem,
    describe_problem,
)
from florence.formats._checks import MAX_NUMBER, check_number, check_polygon, check_text, make_region, read_score
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
"""Name of a control → annotation type of its texts.

Texts of other controls are OCR lines if they belong to a region, else captions.
"""
CONTROLS = {annotation_type: name for name, annotation_type in reversed(TEXTS.items())}
SHAPES = ("rectanglelabels", "rectangle", "polygonlabels", "polygon", "labels")
REGION_TEXTS = (OCR_LINE, DESCRIPTION, EXPRESSION)


@dataclass(frozen=True, slots=True)
class StudioResult:
    """One result of the file.

    ``position``: where in the file. ``id``: that of its region. ``size``: that of the image it was drawn on.
    ``ends``: ids of the regions that a relation connects.
    """

    position: str
    type: str
    control: str
    id: str
    value: Mapping[str, Any]
    labels: tuple[str, ...]
    score: float | None
    size: tuple[int, int] | None
    ends: tuple[str, str] | None = None

    @staticmethod
    def of(values: Any, position: str) -> StudioResult:
        """Return the result in ``values``; if there is none, its type is "", which is reported where it is used."""
        if not isinstance(values, dict):
            return StudioResult(position, "", "", "", {}, (), None, None)
        result_type = str(values.get("type", ""))
        found = values.get("value")
        value = found if isinstance(found, dict) else {}
        sides = [
            int(v)
            for v in (values.get("original_width"), values.get("original_height"))
            if isinstance(v, int | float) and 1 <= v < MAX_NUMBER
        ]
        size = (sides[0], sides[1]) if len(sides) == 2 else None
        ends = (str(values.get("from_id")), str(values.get("to_id"))) if result_type == "relation" else None
        return StudioResult(
            position,
            result_type,
            str(values.get("from_name", "")),
            str(values.get("id", position)),
            value,
            _labels(value, result_type),
            read_score(values.get("score")),
            size,
            ends,
        )


def _labels(value: Mapping[str, Any], result_type: str) -> tuple[str, ...]:
    found = value.get(result_type) if result_type.endswith("labels") else None
    return tuple(label for label in found if isinstance(label, str)) if isinstance(found, list) else ()


def read_flat_results(
    controls: Mapping[str, Any], position: str, control_types: Mapping[str, str]
) -> tuple[StudioResult, ...]:
    """Return the results of JSON-MIN, which has no types and no ids: results with equal coordinates are of one region.

    It mixes controls with the data of the task, so a bare text belongs to a control only if ``control_types`` names it.
    """
    results = []
    for name, values in controls.items():
        for k, value in enumerate(values if isinstance(values, list) else [values]):
            where = f"{position}.{name}[{k}]"
            if isinstance(value, str) and name in control_types:
                results.append(StudioResult(where, "textarea", name, where, {"text": [value]}, (), None, None))
            elif isinstance(value, dict):
                result_type = next(
                    (key for key in ("rectanglelabels", "polygonlabels", "labels", "choices") if key in value), ""
                )
                result_type = result_type or (
                    "textarea"
                    if "text" in value
                    else "polygon"
                    if "points" in value
                    else "rectangle"
                    if "x" in value
                    else ""
                )
                region = json.dumps([value.get(key) for key in ("x", "y", "width", "height", "rotation", "points")])
                alone = result_type in ("textarea", "choices") and "x" not in value and "points" not in value
                sides = {"original_width": value.get("original_width"), "original_height": value.get("original_height")}
                results.append(
                    StudioResult.of(
                        {
                            "type": result_type,
                            "from_name": name,
                            "id": where if alone else region,
                            "value": value,
                            **sides,
                        },
                        where,
                    )
                )
    return tuple(results)


def address_names(address: str) -> tuple[str, ...]:
    """Return the possible paths of the image at an address."""
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
    """A region while it is read: its polygons, labels and texts. ``upright``: whether it is a box."""

    position: str
    polygons: list[Polygon]
    upright: bool
    labels: tuple[str, ...]
    score: float | None
    texts: list[tuple[str, str]]


def build_claims(
    results: Sequence[StudioResult], control_types: Mapping[str, str], record: ImageRecord
) -> tuple[list[Claim], list[LabelProblem]]:
    """Return the claims of some results, and the problems: what cannot be used."""
    problems: list[LabelProblem] = []
    shapes: dict[str, _StudioRegion] = {}
    for result in results:
        try:
            _add_region(result, shapes, record)
        except DataError as error:
            problems.append(describe_problem(error))
    whole: list[Claim] = []
    for result in results:
        if result.type in ("textarea", "choices"):
            whole += _add_text(result, shapes, control_types, record, problems)
        elif result.ends is not None:
            _merge_regions(result.ends, shapes)
        elif result.type not in SHAPES:
            known = ", ".join((*SHAPES, "textarea", "choices"))
            problems.append(
                LabelProblem(
                    f"a result of type {result.type}",
                    f"{result.position}: found a result of type {result.type!r}; {known} are read",
                )
            )
    claims: list[Claim] = []
    for shape in {id(shape): shape for shape in shapes.values()}.values():
        try:
            claims += _region_claims(shape, record)
        except DataError as error:
            problems.append(describe_problem(error))
    return [*claims, *whole], problems


def _add_region(result: StudioResult, shapes: dict[str, _StudioRegion], record: ImageRecord) -> None:
    if result.type not in SHAPES:
        return
    value, where = result.value, f"{result.position}.value"
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
        upright = abs(math.sin(2 * angle)) < 1e-9  # rotated by a multiple of 90°, it is still a box
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
        result.position, [check_polygon(corners, where, record)], upright, result.labels, result.score, []
    )
    known = shapes.setdefault(result.id, shape)
    known.labels = tuple(dict.fromkeys((*known.labels, *result.labels)))


def _add_text(
    result: StudioResult,
    shapes: Mapping[str, _StudioRegion],
    control_types: Mapping[str, str],
    record: ImageRecord,
    problems: list[LabelProblem],
) -> list[Claim]:
    """Return the claims of a text about the whole image; a text about a region is added to the region."""
    chosen = result.type == "choices"
    found = result.value.get("choices" if chosen else "text")
    texts = [
        value for value in (found if isinstance(found, list) else [found]) if isinstance(value, str) and value.strip()
    ]
    if result.id in shapes:
        if chosen and result.control not in control_types:
            problems.append(LabelProblem("not understood", f"{result.position}: a choice about a region is not read"))
        else:
            shapes[result.id].texts += [(control_types.get(result.control, OCR_LINE), value) for value in texts]
        return []
    annotation_type = control_types.get(result.control, CATEGORY if chosen else "<CAPTION>")
    if annotation_type in REGION_TEXTS:
        detail = f"{result.position}: a text of the type {annotation_type} that belongs to no region"
        problems.append(LabelProblem("a text that belongs to no region", detail, count=len(texts)))
        return []
    box = (0.0, 0.0, float(record.width), float(record.height))
    return [
        Claim(annotation_type, value, (Region(value, box=box),) if annotation_type == CATEGORY else (), result.score)
        for value in texts
    ]


def _merge_regions(ends: tuple[str, str], shapes: dict[str, _StudioRegion]) -> None:
    """Merge two polygons with the same labels that a relation connects into one region."""
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
    region = make_region("", box, polygons, shape.score, f"{shape.position}.value", record)
    for annotation_type, value in shape.texts:
        if annotation_type == OCR_LINE:
            first = shape.polygons[0]
            quad = first if len(first) == 8 else box_quad(box)
            ocr_line = Region(value, quad=quad, score=shape.score)
            yield Claim(annotation_type, value, (ocr_line,), shape.score)
        elif annotation_type == DESCRIPTION:
            yield Claim(annotation_type, value, (Region(value, box=region.box, score=shape.score),), shape.score)
        elif annotation_type == EXPRESSION:
            yield Claim(
                annotation_type, value, (Region(value, polygons=tuple(shape.polygons), score=shape.score),), shape.score
            )
    if shape.labels and not any(annotation_type == OCR_LINE for annotation_type, _ in shape.texts):
        for label in shape.labels:
            yield Claim(
                OBJECTS,
                check_text(label, shape.position),
                (Region(label, region.box, None, polygons, shape.score),),
                shape.score,
            )
    elif not shape.texts:
        raise DataError(f"{shape.position}: a region without a label or a text")


# ---------------------------------------------------------------- labels → results


def build_results(rows: Iterable[Annotation], record: ImageRecord) -> list[dict[str, Any]]:
    """Return the results of an image's labels."""
    return [result for row in rows for result in _label_results(row, record)]


def _label_results(row: Annotation, record: ImageRecord) -> Iterator[dict[str, Any]]:
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
    """Write tasks.json, config.xml and README.md below ``folder``. Predictions of a task: name → results."""
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
    (folder / "config.xml").write_text(build_config(plan), encoding="utf-8")
    (folder / "README.md").write_text(README, encoding="utf-8")


def build_config(plan: ExportPlan) -> str:
    """Return the labelling configuration of a project with the annotation types of ``plan``."""
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
    if any(annotation_type in REGION_TEXTS for annotation_type in plan.annotation_types):
        lines += ['  <Rectangle name="region" toName="image"/>', '  <Polygon name="shape" toName="image"/>']
    for annotation_type in plan.annotation_types:
        if annotation_type in CONTROLS:
            name = CONTROLS[annotation_type]
            each = ' perRegion="true"' if annotation_type in REGION_TEXTS else ""
            lines += [
                f'  <Header value="{name.replace("_", " ").capitalize()}"/>',
                f'  <TextArea name="{name}" toName="image" editable="true" maxSubmissions="1"{each}/>',
            ]
    return "\n".join([*lines, "</View>", ""])


README = """# A Label Studio project

Label Studio serves the images from this folder:

    pip install label-studio
    export LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT="$PWD"
    label-studio start

1. Create a project. Under Labeling Setup choose Custom template, and paste the content of config.xml.
2. Under Settings, Cloud Storage, add a source storage of the type Local files with the absolute path of the folder
   `images` in here. Do not sync it: it only allows Label Studio to serve the images.
3. Import tasks.json. Its predictions are a start: under Settings, Annotation, let predictions prelabel tasks, and
   choose one if there are several.
4. Correct and submit each task you have looked at. An empty task, submitted, says that nothing is in the image.
5. Export as JSON.
"""
