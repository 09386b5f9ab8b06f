"""Corrects a data set of COCO: annotations are removed, added, renamed or moved; everything else stays."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from typing import Any

from florence.audit.edits import NOT_FOUND, Correction, EditedFiles, clip, find_label
from florence.audit.issues import MISPLACED, MISSING, SPURIOUS, SWAPPED, LabelIssue
from florence.audit.reading import LabelFile
from florence.errors import DataError
from florence.formats._coco_objects import find_box
from florence.formats._coco_set import find_file_name, read_id
from florence.formats._names import check_name
from florence.geometry import Box


def correct_coco(file: LabelFile, corrections: Sequence[Correction]) -> EditedFiles:
    """Return the files of a COCO data set with the corrections applied."""
    result = EditedFiles()
    left = {id(issue): issue for one in corrections for issue in one.issues}
    for name in file.files.names:
        document = file.files.json(name)
        if not isinstance(document, dict) or not isinstance(document.get("images"), list):
            continue
        editor = _Editor(document)
        done = [issue for one in corrections for issue in editor.apply(one, left)]
        if done:
            for issue in done:
                left.pop(id(issue), None)
            editor.remove()
            text = (json.dumps(document, ensure_ascii=False) + "\n").encode()
            result.files[name] = gzip.compress(text, mtime=0) if name.lower().endswith(".gz") else text
    result.refused = [(issue, NOT_FOUND) for issue in left.values()]
    return result


class _Editor:
    """One file, with its images by name and its annotations by image."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.annotations: list[dict[str, Any]] = [a for a in document.get("annotations") or [] if isinstance(a, dict)]
        document["annotations"] = self.annotations
        categories = [c for c in document.get("categories") or [] if isinstance(c, dict)]
        self.names = {read_id(c.get("id")): name for c in categories if (name := _read_name(c)) is not None}
        self.ids = {_read_name(c): c["id"] for c in reversed(categories) if "id" in c}
        self.images = {
            find_file_name(values): values["id"]
            for values in document["images"]
            if isinstance(values, dict) and "id" in values
        }
        self.by_image: dict[str | None, list[int]] = {}
        for k, values in enumerate(self.annotations):
            self.by_image.setdefault(read_id(values.get("image_id")), []).append(k)
        self.removed: set[int] = set()
        self.next_id = 1 + max((int(a["id"]) for a in self.annotations if str(a.get("id", "")).isdigit()), default=0)

    def apply(self, correction: Correction, left: dict[int, LabelIssue]) -> Iterator[LabelIssue]:
        """Apply the issues of one image that are left, where this file has it; yield those that were applied."""
        names = [image.name for entry in correction.entries for image in entry.raw]
        image = next((self.images[name] for name in names if name in self.images), None)
        if image is None:
            return
        of_image = self.by_image.get(read_id(image), [])
        found = {id(issue): self._find(issue, of_image, correction) for issue in correction.issues}
        for issue in correction.issues:
            if id(issue) not in left:
                continue
            if issue.kind == MISSING:
                yield from self._add(issue, image)
            elif (at := found[id(issue)]) is not None and self._change(issue, at):
                yield issue

    def _find(self, issue: LabelIssue, of_image: Sequence[int], correction: Correction) -> int | None:
        labels = []
        for k in of_image:
            try:
                box = clip(find_box(self.annotations[k], ""), correction.record)
            except DataError:
                continue
            labels.append((k, self.names.get(read_id(self.annotations[k].get("category_id")), ""), box))
        return find_label(issue, labels)

    def _add(self, issue: LabelIssue, image: Any) -> Iterator[LabelIssue]:
        if issue.right_name not in self.ids or issue.right_box is None:
            return
        values = {"id": self.next_id, "image_id": image, "category_id": self.ids[issue.right_name], "iscrowd": 0}
        self.annotations.append(values | _shape(issue.right_box))
        self.next_id += 1
        yield issue

    def _change(self, issue: LabelIssue, at: int) -> bool:
        values = self.annotations[at]
        if issue.kind == SPURIOUS:
            self.removed.add(at)
        elif issue.kind == SWAPPED:
            if issue.right_name not in self.ids:
                return False
            values["category_id"] = self.ids[issue.right_name]
        elif issue.kind == MISPLACED and issue.right_box is not None:
            values.update(_shape(issue.right_box))
            values.pop("bbox_mode", None)
        return True

    def remove(self) -> None:
        """Take out what was removed."""
        self.document["annotations"] = [a for k, a in enumerate(self.annotations) if k not in self.removed]


def _shape(box: Box) -> dict[str, Any]:
    """Return the keys of a box; a mask that was there is of another box."""
    x, y, width, height = (round(v, 2) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1]))
    return {"bbox": [x, y, width, height], "area": round(width * height, 2), "segmentation": []}


def _read_name(category: dict[str, Any]) -> str | None:
    try:
        return check_name(category.get("name"), "")
    except DataError:
        return None
