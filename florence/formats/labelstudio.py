"""Label Studio: its JSON export, the shorter JSON-MIN, and tasks with predictions, which it imports.

Coordinates are in percent of the image's sides. A rectangle may be rotated about its top left corner, clockwise by
``rotation`` degrees; it is then read as a polygon.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from florence.config import Section
from florence.formats import FORMATS, OBJECTS, ExportPlan, Format, LabelledImage
from florence.formats._checks import explain_bad_box
from florence.formats._files import Files, list_json
from florence.formats._studio_project import StudioTask, write_project
from florence.formats._studio_results import REGION_TEXTS, TEXTS
from florence.formats._studio_set import StudioSet
from florence.records import Annotation


@FORMATS.register("labelstudio")
class LabelStudioFormat(Format):
    """``tasks.json`` with our labels as predictions, ``config.xml`` for the project, images in ``images/``."""

    annotation_types = (OBJECTS, *dict.fromkeys(TEXTS.values()))
    revision = 2

    class Options(Section):
        """Settings of reading."""

        annotator: str = Field(
            "",
            description="id or e-mail of the annotator whose work is read; else the ground truth, else the newest",
        )
        predictions: bool = Field(
            False, description="whether the last prediction of a task is read instead of people's annotations"
        )
        image: str = Field("image", description="key of the image's address in the data of a task")
        kinds: dict[str, str] = Field(
            {}, description="name of a control → annotation type of its texts or choices, beyond the controls we write"
        )

        @field_validator("kinds")
        @classmethod
        def _known(cls, values: dict[str, str]) -> dict[str, str]:
            allowed = tuple(dict.fromkeys(TEXTS.values()))
            if bad := sorted(set(values.values()) - set(allowed)):
                raise ValueError(f"{bad[0]} is not made of texts; known: {', '.join(allowed)}")
            return values

    def files(self, uri: str) -> Files:
        """Return one file, or every .json of a folder."""
        return list_json(uri)

    def open(self, files: Files) -> StudioSet:
        """See `Format.open`."""
        return StudioSet(files, self.options)

    def explain_refusal(self, row: Annotation) -> str:
        """See `Format.explain_refusal`."""
        if reason := super().explain_refusal(row):
            return reason
        return explain_bad_box(row) if row.task in (OBJECTS, *REGION_TEXTS) else ""

    def explain_loss(self, row: Annotation, plan: ExportPlan) -> str:
        """See `Format.explain_loss`."""
        return (
            f"{row.task}: the box, which becomes that of the polygons"
            if row.task == OBJECTS and row.regions[0].polygons
            else ""
        )

    def write(self, folder: Path, items: Iterator[LabelledImage], plan: ExportPlan) -> None:
        """See `Format.write`."""
        self.write_tasks(folder, (StudioTask(item, {"florence": item.rows}) for item in items), plan, {})

    def write_tasks(self, folder: Path, tasks: Iterable[StudioTask], plan: ExportPlan, data: Mapping[str, Any]) -> None:
        """Write a project of ``tasks``. ``data``: further data of each, which come back with its annotations."""
        write_project(folder, tasks, plan, data)
