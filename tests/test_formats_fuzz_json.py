"""Mutated COCO, Label Studio and JSON-lines sets: no traceback, no label that is not there, all losses counted.

The truth is taken from the mutated document itself, by the rules of each format in a few lines.
"""

from __future__ import annotations

import copy
import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from format_sets import image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence.errors import FlorenceError
from florence.formats import FORMATS
from florence.formats.matching import ReadResult, read_label_set

WIDTH, HEIGHT = 160, 120
RECORDS = [image(0, name=f"{name}.jpg", image_id=name, width=WIDTH, height=HEIGHT) for name in "abc"]
EXAMPLES = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JUNK = st.sampled_from(
    [None, True, False, 0, 1, -1, 7, 1.0, 0.5, 1e9, 10**400, math.nan, math.inf, "", " ", "0", "1", "cat", "cat ", "🙂"]
    + ["<loc_5>", "\ud83d", "a\0b", "10", "a.jpg", "[1, 2, 3, 4]", [], {}, [[]], [1, 2, 3, 4], [1, 2], {"a": 1}]
    + [[[1, 2, 9, 2, 9, 9]], {"size": [120, 160], "counts": [19200]}, ["cat", 5], "2020-01-01"]
)


def list_places(value: Any, at: tuple = ()) -> list[tuple]:
    """Return the path of every value inside a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, one in inner for place in ((*at, key), *list_places(one, (*at, key)))]


@st.composite
def mutated(draw, document: Any) -> Any:
    """Return a document after some values were replaced, removed, doubled or exchanged."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, 4))):
        places = list_places(document)
        if not places:
            break
        *path, key = draw(st.sampled_from(places))
        parent = document
        for step in path:
            parent = parent[step]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "double", "copy"]))
        if kind == "replace":
            parent[key] = copy.deepcopy(draw(JUNK))
        elif kind == "remove":
            del parent[key]
        elif kind == "double" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            *other, last = draw(st.sampled_from(places))
            value = document
            try:
                for step in (*other, last):
                    value = value[step]
            except (KeyError, IndexError, TypeError):
                continue
            parent[key] = copy.deepcopy(value)
    return document


def save(path: Path, data, text: str) -> None:
    encoded = text.encode(data.draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"])), "surrogatepass")
    if data.draw(st.integers(0, 9)) == 9:
        encoded = encoded[: data.draw(st.integers(0, len(encoded)))]
    path.write_bytes(encoded)


def read(form_name: str, path: Path) -> ReadResult | None:
    """Return what is read of a file; None if it is refused as a whole. Anything but FlorenceError is a fault."""
    form = FORMATS.get(form_name)()
    try:
        found = read_label_set(form.open(form.files(str(path))), RECORDS)
    except FlorenceError as error:
        assert str(path) in str(error)
        return None
    for record in RECORDS:
        states = (record.image_id in found.claims, record.image_id in found.errors, record.name in found.unknown)
        assert sum(states) == 1, states
    assert all(problem.reason and problem.detail and problem.count > 0 for problem in found.problems)
    return found


def lost(found: ReadResult, places: list[str]) -> int:
    """Return how many labels at these places of the file are told as lost."""
    return sum(
        problem.count
        for problem in found.problems
        if problem.unit == "label" and any(f"{place}{end}" in problem.detail for place in places for end in ":. ;,")
    )


def plain(name: Any) -> Any:
    return " ".join(unicodedata.normalize("NFC", str(name)).split()) if isinstance(name, str | int) else None


def number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


# ---------------------------------------------------------------- COCO

COCO = {
    "images": [{"id": k, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT} for k, name in enumerate("abc")],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "person "}, {"id": 3, "name": "+"}],
    "annotations": [
        {"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 20, 30, 40], "iscrowd": 0, "segmentation": []},
        {"id": 2, "image_id": 0, "category_id": 2, "bbox": [50, 20, 30.5, 40]},
        {"id": 3, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 4, 2, 4, 6]]},
        {"id": 4, "image_id": 1, "caption": "a sign"},
    ],
}


def same_id(a: Any, b: Any) -> bool:
    def key(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()

    return key(a) is not None and key(a) == key(b)


@EXAMPLES
@given(st.data())
def test_mutated_coco(tmp_path_factory: pytest.TempPathFactory, data):
    path = tmp_path_factory.mktemp("coco") / "l.json"
    document = data.draw(mutated(COCO))
    save(path, data, json.dumps(document))
    if (found := read("coco", path)) is None:
        return
    images = [one for one in document["images"] if isinstance(one, dict)]
    rows = [(k, row) for k, row in enumerate(document["annotations"]) if isinstance(row, dict)]
    for record in RECORDS:
        if record.image_id not in found.claims:
            continue
        ids = [one.get("id") for one in images if one.get("file_name") == record.name]
        own = [(k, row) for k, row in rows if any(same_id(row.get("image_id"), key) for key in ids)]
        claims = found.claims[record.image_id].claims
        assert len(claims) + lost(found, [f"annotations[{k}]" for k, _ in own]) == len(own)
        for claim in claims:
            assert any(is_of_coco(claim, row, document.get("categories") or []) for _, row in own), claim


def is_of_coco(claim, row: dict, categories: list) -> bool:
    if not claim.regions:
        return claim.text == row.get("caption")
    names = [c.get("name") for c in categories if isinstance(c, dict) and same_id(c.get("id"), row.get("category_id"))]
    if claim.text not in map(plain, names):
        return False
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        return bool(claim.regions[0].polygons) or isinstance(box, str)
    x, y, w, h = map(number, box)
    if not (w > 0 and h > 0):
        return bool(claim.regions[0].polygons)
    expected = (max(x, 0), max(y, 0), min(x + w, WIDTH), min(y + h, HEIGHT))
    return claim.regions[0].box == pytest.approx(expected) or bool(claim.regions[0].polygons)


# ---------------------------------------------------------------- Label Studio


def drawn(x: float, *names: str, id: str = "r", kind: str = "rectanglelabels", **more) -> dict:
    value = {"x": x, "y": 20, "width": 30, "height": 40, "rotation": 0, kind: list(names), **more}
    sides = {"original_width": WIDTH, "original_height": HEIGHT}
    return {"id": id, "type": kind, "from_name": "l", "to_name": "image", **sides, "value": value}


STUDIO = [
    {
        "id": 1,
        "data": {"image": "/data/upload/1/0a1b2c3d-a.jpg"},
        "annotations": [
            {
                "completed_by": 1,
                "result": [
                    drawn(10, "cat", "person "),
                    drawn(50, "dog", id="s"),
                    drawn(1, "ball", id="e", kind="ellipselabels", radiusX=5, radiusY=5),
                    {
                        "id": "t",
                        "type": "textarea",
                        "from_name": "caption",
                        "to_name": "image",
                        "value": {"text": ["x"]},
                    },
                ],
            }
        ],
    },
    {"id": 2, "data": {"image": "b.jpg"}, "annotations": [{"completed_by": {"id": 2}, "result": [drawn(5, "cow")]}]},
    {"id": 3, "data": {"image": "c.jpg"}, "annotations": [{"result": []}]},
]


@EXAMPLES
@given(st.data())
def test_mutated_label_studio(tmp_path_factory: pytest.TempPathFactory, data):
    path = tmp_path_factory.mktemp("studio") / "l.json"
    document = data.draw(mutated(STUDIO))
    save(path, data, json.dumps(document))
    if (found := read("labelstudio", path)) is None:
        return
    text = json.dumps(document)
    for record in RECORDS:
        claims = found.claims[record.image_id].claims if record.image_id in found.claims else ()
        for claim in claims:
            assert json.dumps(claim.text)[1:-1] in " ".join(text.split()) or claim.text in (
                plain(value) for value in all_values(document)
            )
    # where a task has one annotation with results of a usual form, every label is a claim or told
    tasks = [task for task in document if isinstance(task, dict)] if isinstance(document, list) else []
    for record in RECORDS:
        own = [(k, task) for k, task in enumerate(document) if task in tasks and address(task).endswith(record.name)]
        if record.image_id in found.claims and len(own) == 1 and len(own[0][1].get("annotations") or []) == 1:
            (k, _), (work,) = own[0], own[0][1]["annotations"]
            results = [one for one in work["result"] if isinstance(one, dict)]
            if len(results) == len(work["result"]) and all(isinstance(one.get("value"), dict) for one in results):
                places = [f"[{k}].annotations[0].result[{n}]" for n in range(len(results))]
                count = len(found.claims[record.image_id].claims) + lost(found, places)
                assert has_odd_form(results) or count == sum(map(count_labels, results))


def address(task: dict) -> str:
    value = task.get("data")
    return str(value.get("image")) if isinstance(value, dict) else ""


def count_labels(result: dict) -> int:
    kind, value = result.get("type"), result["value"]
    if kind in ("textarea", "choices"):
        return len(value.get("text") or [])
    return max(1, len(value.get(kind) or []))


def has_odd_form(results: list[dict]) -> bool:
    """Return whether results have a form in which labels are no list of texts, or two results are one region."""
    for one in results:
        kind, value = one.get("type"), one["value"]
        names = value.get("text" if kind == "textarea" else kind) if isinstance(kind, str) else None
        if not isinstance(names, list) or len(set(map(repr, names))) < len(names) or not all(map(str_with_ink, names)):
            return True
    return len({repr(one.get("id")) for one in results}) < len(results)


def str_with_ink(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def all_values(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if inner is None else [one for part in inner for one in all_values(part)]


# ---------------------------------------------------------------- JSON lines

LINES = [
    {
        "image": {"name": "a.jpg", "width": WIDTH, "height": HEIGHT},
        "annotations": [
            {"task": "<OD>", "text": "person ", "regions": [{"box": [10, 20, 40, 60], "score": 0.5}]},
            {"task": "<OD>", "text": "+", "regions": [{"box": [10, 20, 40, 60], "polygons": [[1, 1, 9, 1, 9, 9]]}]},
            {"task": "<CAPTION>", "text": "a cat"},
        ],
    },
    {"image": {"name": "b.jpg"}, "annotations": []},
    {
        "image": {"image_id": "c"},
        "annotations": [{"task": "<OCR_WITH_REGION>", "text": "EXIT", "regions": [{"quad": [1] * 8}]}],
    },
]


@EXAMPLES
@given(st.data())
def test_mutated_json_lines(tmp_path_factory: pytest.TempPathFactory, data):
    path = tmp_path_factory.mktemp("lines") / "l.jsonl"
    document = data.draw(mutated(LINES))
    save(path, data, "\n".join(map(json.dumps, document)))
    if (found := read("jsonl", path)) is None:
        return
    for record in RECORDS:
        if record.image_id not in found.claims:
            continue
        lines = [
            (k, line)
            for k, line in enumerate(document, start=1)
            if isinstance(line, dict)
            and isinstance(line.get("image"), dict)
            and (line["image"].get("name") == record.name or line["image"].get("image_id") == record.image_id)
        ]
        if len(lines) != 1:
            continue
        (k, line) = lines[0]
        claims = found.claims[record.image_id].claims
        rows = line["annotations"]
        assert len(claims) + lost(found, [f"line {k}: annotations[{n}]" for n in range(len(rows))]) == len(rows)
        for claim in claims:
            same = [row for row in rows if isinstance(row, dict) and row.get("task") == claim.task]
            assert any(claim.text in (row.get("text"), plain(row.get("text"))) for row in same)
            assert all(0 <= v <= WIDTH for region in claim.regions for v in region.bounds)
