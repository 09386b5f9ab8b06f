"""Corrects a data set of Label Studio: the results of the annotation that is read; all others stay as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from florence.audit.edits import NOT_FOUND, Correction, EditedFiles, find_label
from florence.audit.issues import MISPLACED, MISSING, SPURIOUS, SWAPPED, LabelIssue
from florence.audit.reading import LabelFile
from florence.errors import DataError
from florence.formats._studio_claims import read_shape
from florence.formats._studio_results import StudioResult
from florence.geometry import Box, polygon_box
from florence.records import ImageRecord, digest

_POSITION = re.compile(r"\[(\d+)\]\.(annotations|completions|predictions)\[(\d+)\]$")


def correct_studio(file: LabelFile, corrections: Sequence[Correction]) -> EditedFiles:
    """Return the files of a Label Studio data set with the corrections applied."""
    result = EditedFiles()
    documents: dict[str, Any] = {}
    for one in corrections:
        position = one.entries[0].raw[0].position
        match = _POSITION.search(position)
        name = next((n for n in file.files.names if position.startswith(f"{file.files.where(n)}: [")), None)
        if match is None or name is None:
            reason = "a file without annotations of tasks (JSON-MIN): export JSON instead"
            result.refused += [(issue, reason) for issue in one.issues]
            continue
        document = documents.setdefault(name, file.files.json(name)) if name not in documents else documents[name]
        tasks = document if isinstance(document, list) else [document]
        results = tasks[int(match[1])][match[2]][int(match[3])]["result"]
        _correct_image(results, one, result)
    for name, document in documents.items():
        result.files[name] = (json.dumps(document, ensure_ascii=False) + "\n").encode()
    return result


def _correct_image(results: list[Any], correction: Correction, result: EditedFiles) -> None:
    """Apply the issues of an image to its results, in place."""
    record = correction.record
    known = _read_results(results, record)
    found = {id(issue): find_label(issue, known) for issue in correction.issues}
    controls = [r.get("from_name") for r in results if isinstance(r, dict) and r.get("type") == "rectanglelabels"]
    targets = [r.get("to_name") for r in results if isinstance(r, dict) and r.get("to_name")]
    removed: list[Any] = []
    for issue in correction.issues:
        at = found[id(issue)]
        if issue.kind == MISSING and issue.right_box is not None:
            results.append(_new_result(issue, record, (controls or ["label"])[0], (targets or ["image"])[0]))
        elif at is None:
            result.refused.append((issue, NOT_FOUND))
        elif issue.kind == SPURIOUS:
            removed.append(results[at])
        elif issue.kind == SWAPPED:
            values = results[at]
            values["value"][values["type"]] = [issue.right_name]
        elif issue.kind == MISPLACED and issue.right_box is not None:
            old = results[at]
            new = _new_result(issue, record, old.get("from_name"), old.get("to_name"))
            if old["type"] == "rectanglelabels":
                old["value"] = new["value"]
            else:
                old["value"] = {**old["value"], "points": _corners(issue.right_box, record)}
    gone = {r.get("id") for r in removed}
    results[:] = [r for r in results if not (isinstance(r, dict) and gone & {r.get("id"), r.get("from_id")} - {None})]


def _read_results(results: Sequence[Any], record: ImageRecord) -> list[tuple[int, str, Box]]:
    """Return the number, name and box of each result that is a named region."""
    found = []
    for k, values in enumerate(results):
        one = StudioResult.of(values, "")
        if one.type not in ("rectanglelabels", "polygonlabels") or len(one.labels) != 1:
            continue
        try:
            corners, _ = read_shape(one, record)
        except DataError:
            continue
        found.append((k, str(one.labels[0]), polygon_box(corners)))
    return found


def _new_result(issue: LabelIssue, record: ImageRecord, control: Any, target: Any) -> dict[str, Any]:
    assert issue.right_box is not None
    x0, y0, x1, y1 = issue.right_box
    shares = (100 / record.width, 100 / record.height)
    box = {"x": x0 * shares[0], "y": y0 * shares[1], "width": (x1 - x0) * shares[0], "height": (y1 - y0) * shares[1]}
    return {
        "id": digest([issue.image_id, issue.right_box, issue.right_name], 10),
        "type": "rectanglelabels",
        "from_name": control,
        "to_name": target,
        "original_width": record.width,
        "original_height": record.height,
        "image_rotation": 0,
        "value": {**box, "rotation": 0, "rectanglelabels": [issue.right_name]},
    }


def _corners(box: Box, record: ImageRecord) -> list[list[float]]:
    x0, y0, x1, y1 = (v * 100 / (record.width, record.height)[k % 2] for k, v in enumerate(box))
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
