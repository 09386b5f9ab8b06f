"""The files of a Label Studio project: our labels as predictions, and the labelling configuration."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from florence.formats import OBJECTS, ExportPlan, LabelledImage
from florence.formats._studio_results import CATEGORY, DESCRIPTION, OCR_LINE, REGION_TEXTS, TEXTS
from florence.records import CAPTIONS, Annotation, ImageRecord, Region

CONTROLS = {annotation_type: name for name, annotation_type in reversed(TEXTS.items())}
DOUBTS = "doubts"
"""Key of the table beside an image in the data of its task."""


@dataclass(frozen=True, slots=True)
class StudioTask:
    """An image with its predictions, each under a name.

    ``notes``: annotation id → what is read at its region; ``doubts``: a table below the image, its rows as key and
    value; None: no table.
    """

    item: LabelledImage
    predictions: Mapping[str, Sequence[Annotation]]
    notes: Mapping[str, str] = field(default_factory=dict)
    doubts: Mapping[str, str] | None = None


def build_results(
    rows: Iterable[Annotation], record: ImageRecord, notes: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return the results of an image's labels. ``notes``: see `StudioTask`; a result without a region has none."""
    results = []
    for row in rows:
        note = (notes or {}).get(row.annotation_id)
        for result in _label_results(row, record):
            in_region = note is not None and "original_width" in result and result["type"] != "textarea"
            results.append({**result, "meta": {"text": [note]}} if in_region else result)
    return results


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


def write_project(folder: Path, tasks: Iterable[StudioTask], plan: ExportPlan, more: Mapping[str, Any]) -> None:
    """Write tasks.json, config.xml and README.md below ``folder``. ``more``: further data of each task.

    Where no task has a prediction, README.md says how each reviewer labels alone.
    """
    has_doubts = has_predictions = False
    with (folder / "tasks.json").open("w", encoding="utf-8") as file:
        file.write("[")
        for k, made in enumerate(tasks):
            record, has_doubts = made.item.record, has_doubts or made.doubts is not None
            data = {
                "image": f"/data/local-files/?d={quote(f'images/{made.item.path}')}",
                "image_id": record.image_id,
                "source": record.source,
                "name": record.name,
                **more,
                **({} if made.doubts is None else {DOUBTS: dict(made.doubts)}),
            }
            has_predictions = has_predictions or bool(made.predictions)
            predictions = [
                {"model_version": name, "result": build_results(rows, record, made.notes)}
                for name, rows in made.predictions.items()
            ]
            task = {"data": data, "predictions": predictions}
            file.write((",\n" if k else "\n") + json.dumps(task, ensure_ascii=False, allow_nan=False))
        file.write("\n]\n")
    (folder / "config.xml").write_text(build_config(plan, doubts=has_doubts), encoding="utf-8")
    first, last = README.split("3. Import", 1)[0], "5. Export" + README.split("5. Export", 1)[1]
    readme = README if has_predictions else first + BLIND_STEPS + last
    (folder / "README.md").write_text(readme, encoding="utf-8")


def build_config(plan: ExportPlan, *, doubts: bool = False) -> str:
    """Return the labelling configuration of a project with the annotation types of ``plan``.

    ``doubts``: whether a table of them stands below the image.
    """
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
    if doubts:
        lines += [
            '  <Header value="In doubt: label, confidence, and who claims what"/>',
            f'  <Table name="{DOUBTS}" value="${DOUBTS}"/>',
        ]
    return "\n".join([*lines, "</View>", ""])


BLIND_STEPS = """3. Import tasks.json. It has no predictions: each reviewer labels the pictures on their own.
   Under Settings, Quality, let each task have as many annotations as there are reviewers.
4. Draw a box around every object that the list names, or write what is asked for, and submit each task. An empty task,
   submitted, says that nothing is in the image. A picture may come twice.
"""
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
