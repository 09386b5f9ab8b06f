"""Corrects a data set of VOC: the objects of the XML files; other elements stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from florence.audit.edits import NOT_FOUND, Correction, EditedFiles, find_label
from florence.audit.issues import MISPLACED, MISSING, SPURIOUS, SWAPPED, LabelIssue
from florence.audit.reading import LabelFile
from florence.errors import DataError
from florence.formats._voc_set import SIDES, VocSet, read_root
from florence.formats.voc import pixel_range
from florence.geometry import Box
from florence.records import ImageRecord


def correct_voc(file: LabelFile, corrections: Sequence[Correction]) -> EditedFiles:
    """Return the files of a VOC data set with the corrections applied."""
    labels = file.labels
    assert isinstance(labels, VocSet)
    result = EditedFiles()
    for one in corrections:
        path = one.entries[0].raw.path
        try:
            root = read_root(file.files, path)
        except DataError as error:
            result.refused += [(issue, str(error)) for issue in one.issues]
            continue
        elements = root.findall("object")
        known = _read_objects(labels, one)
        found = {id(issue): find_label(issue, known) for issue in one.issues}
        for issue in one.issues:
            if not _apply(issue, found[id(issue)], root, (elements, one.record, labels.corners)):
                result.refused.append((issue, NOT_FOUND))
        ElementTree.indent(root, "  ")
        result.files[path] = ElementTree.tostring(root, encoding="utf-8") + b"\n"
    return result


def _read_objects(labels: VocSet, correction: Correction) -> list[tuple[int, str, Box]]:
    """Return the number, name and box of each object that is read."""
    found = []
    for k, item in enumerate(correction.entries[0].raw.objects):
        try:
            claim, _ = labels.read_object(item, "", correction.record)
        except DataError:
            continue
        found.append((k, claim.text, claim.regions[0].bounds))
    return found


def _apply(
    issue: LabelIssue,
    at: int | None,
    root: ElementTree.Element,
    image: tuple[Sequence[ElementTree.Element], ImageRecord, str],
) -> bool:
    """Apply an issue to the elements of its image, in place; return whether it could be."""
    elements, record, corners = image
    if issue.kind == MISSING:
        element = ElementTree.SubElement(root, "object")
        for name, text in (("name", issue.right_name), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            ElementTree.SubElement(element, name).text = text
        return _set_box(element, issue, record, corners)
    if at is None:
        return False
    element = elements[at]
    if issue.kind == SPURIOUS:
        root.remove(element)
    elif issue.kind == SWAPPED and (label := element.find("name")) is not None:
        label.text = issue.right_name
    elif issue.kind == MISPLACED:
        return _set_box(element, issue, record, corners)
    return True


def _set_box(element: ElementTree.Element, issue: LabelIssue, record: ImageRecord, corners: str) -> bool:
    """Give an object the box that is right by an issue, in place of any shape that it has."""
    if issue.right_box is None:
        return False
    for shape in ("bndbox", "robndbox", "polygon"):
        for old in element.findall(shape):
            element.remove(old)
    values = pixel_range(issue.right_box, record) if corners == "pixels" else tuple(round(v) for v in issue.right_box)
    box = ElementTree.SubElement(element, "bndbox")
    for side, value in zip(SIDES, values, strict=True):
        ElementTree.SubElement(box, side).text = str(value)
    return True
