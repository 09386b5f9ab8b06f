"""Corrected copies: each format is edited in place, everything else stays, and the input is never written to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from audit_sets import HEIGHT, NAMES, WIDTH, AuditSet, coco_document, draw_set, write_pictures
from pycocotools.coco import COCO

from florence.audit.correction import correct_claims, plan_correction, write_corrected
from florence.audit.issues import LabelIssue
from florence.audit.reading import FolderImages, LabelFile, open_labels, read_given
from florence.errors import SettingsError, StoreError
from florence.formats import FORMATS, OBJECTS, ExportPlan, LabelledImage
from florence.records import Claim, Region, annotate

EDITED = ("coco", "yolo", "voc", "labelstudio")
BOX = (10.0, 20.0, 60.0, 50.0)


@pytest.fixture(scope="module")
def found() -> AuditSet:
    return draw_set(6)


def write_labels(found: AuditSet, folder: Path, format: str, with_polygons: bool = False) -> LabelFile:
    """Write the given labels as a data set with pictures in ``folder``/photos, and open it."""
    write_pictures(found, folder / "photos")
    out = folder / "labels"
    if format == "coco":
        out.write_text(json.dumps(coco_document(found.given)))
        return open_labels(str(out.rename(folder / "labels.json")))
    out.mkdir()
    images = FolderImages(str(folder / "photos")).records
    items = [
        LabelledImage(one, one.name, annotate(one.image_id, claims, "given", "1"))
        for one in images
        if (claims := [make_claim(name, box, with_polygons) for name, box in found.given[int(one.name[:3])]]) or True
    ]
    plan = ExportPlan(NAMES, (OBJECTS,), ("train",), with_polygons, False)
    FORMATS.get(format)().write(out, iter(items), plan)
    if format == "labelstudio":  # as people's annotations, which is what is read
        tasks = json.loads((out / "tasks.json").read_text())
        for number, task in enumerate(tasks):
            results = task.pop("predictions")[0]["result"]
            task["annotations"] = [{"id": number, "result": results, "completed_by": 1, "lead_time": 2.5}]
        (out / "tasks.json").write_text(json.dumps(tasks))
    return open_labels(str(out))


def make_claim(name: str, box, with_polygons: bool) -> Claim:
    x0, y0, x1, y1 = box
    polygons = ((x0, y0, x1, y0, x1, y1, x0, y1),) if with_polygons else ()
    return Claim(OBJECTS, name, (Region(name, box=box, polygons=polygons),))


def make_issues(claims: dict[str, tuple[Claim, ...]]) -> list[LabelIssue]:
    """Return one issue of each kind about labels of the first images, and one that is in doubt."""
    first, second, third, fourth = sorted(image_id for image_id, each in claims.items() if len(each) > 1)[:4]

    def name_and_box(image_id: str, index: int):
        claim = claims[image_id][index]
        return claim.text, claim.regions[0].bounds

    name, box = name_and_box(first, 0)
    swapped = LabelIssue("swapped", 0.95, first, 0, name, box, "boat" if name != "boat" else "cup", box)
    name, box = name_and_box(second, 1)
    misplaced = LabelIssue("misplaced", 0.95, second, 1, name, box, name, BOX)
    name, box = name_and_box(third, 0)
    spurious = LabelIssue("spurious", 0.95, third, 0, name, box, None, None)
    missing = LabelIssue("missing", 0.95, third, None, None, None, "tree", BOX)
    name, box = name_and_box(fourth, 0)
    doubted = LabelIssue("spurious", 0.5, fourth, 0, name, box, None, None)
    return [swapped, misplaced, spurious, missing, doubted]


def list_objects(claims) -> list[tuple[str, tuple[float, ...]]]:
    return sorted((claim.text, tuple(round(v) for v in claim.regions[0].bounds)) for claim in claims)


@pytest.mark.parametrize("format", EDITED)
def test_a_copy_has_the_corrections_and_nothing_else(found, tmp_path, format):
    file = write_labels(found, tmp_path, format)
    assert file.format == format
    before = hash_files(tmp_path)
    images = FolderImages(str(tmp_path / "photos"))
    labels = read_given(file, images)
    assert sum(map(len, labels.claims.values())) == sum(map(len, found.given))
    issues = make_issues(labels.claims)
    plan = plan_correction(file, labels.read, images.records, issues, 0.9)
    assert plan.applied == tuple(issues[:4]) and not plan.refused
    out = tmp_path / "corrected"
    write_corrected(file, plan, out)
    assert {name: value for name, value in hash_files(tmp_path).items() if not name.startswith("corrected")} == before
    again = read_given(open_labels(str(out), format), images)
    for image_id, claims in labels.claims.items():
        own = [issue for issue in issues[:4] if issue.image_id == image_id]
        assert near(list_objects(again.claims[image_id]), list_objects(correct_claims(claims, own)))


def near(found, expected) -> bool:
    """Return whether objects are the same but for a pixel, as formats round."""
    return len(found) == len(expected) and all(
        a == b and max(abs(x - y) for x, y in zip(c, d, strict=True)) <= 1
        for (a, c), (b, d) in zip(found, expected, strict=True)
    )


def hash_files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def correct(file: LabelFile, tmp_path: Path, change=lambda issue: issue):
    images = FolderImages(str(tmp_path / "photos"))
    labels = read_given(file, images)
    issues = [change(issue) for issue in make_issues(labels.claims)]
    return plan_correction(file, labels.read, images.records, issues, 0.9), issues


def test_coco_keeps_what_florence_does_not_read(found, tmp_path):
    file = write_labels(found, tmp_path, "coco")
    plan, issues = correct(file, tmp_path)
    write_corrected(file, plan, tmp_path / "better.json")
    before, after = (json.loads((tmp_path / name).read_text()) for name in ("labels.json", "better.json"))
    assert {k: v for k, v in after.items() if k != "annotations"} == {
        k: v for k, v in before.items() if k != "annotations"
    }
    kept = {a["id"]: a for a in after["annotations"]}
    same = [a for a in before["annotations"] if kept.get(a["id"]) == a]
    assert len(same) == len(before["annotations"]) - 3  # renamed, moved, removed
    assert all(a["note"] == "kept" for a in after["annotations"][:-1])
    peer = COCO(str(tmp_path / "better.json"))
    assert len(peer.anns) == len(before["annotations"]) and peer.anns[max(peer.anns)]["bbox"] == [10, 20, 50, 30]


def test_yolo_keeps_lines_and_polygons(found, tmp_path):
    file = write_labels(found, tmp_path, "yolo", with_polygons=True)
    texts = {p.name: p.read_text() for p in (tmp_path / "labels").rglob("*.txt")}
    plan, issues = correct(file, tmp_path)
    write_corrected(file, plan, tmp_path / "out")
    assert len(plan.files) == 3
    changed = {p.name: p.read_text() for p in (tmp_path / "out").rglob("*.txt")}
    lines = [
        (a, b) for name in texts for a, b in zip(texts[name].splitlines(), changed[name].splitlines(), strict=False)
    ]
    assert sum(a != b for a, b in lines) >= 2
    # the renamed one keeps its polygon, the new ones are polygons too, as the others are
    assert all(len(line.split()) == 9 for text in changed.values() for line in text.splitlines())
    assert (tmp_path / "out" / "data.yaml").read_text() == (tmp_path / "labels" / "data.yaml").read_text()


def test_voc_keeps_other_elements(found, tmp_path):
    write_labels(found, tmp_path, "voc")
    for path in (tmp_path / "labels" / "Annotations").glob("*.xml"):
        path.write_text(path.read_text().replace("<segmented>0</segmented>", "<segmented>0</segmented><own>é</own>"))
    file = open_labels(str(tmp_path / "labels"))
    plan, _ = correct(file, tmp_path)
    assert len(plan.files) == 3
    for data in plan.files.values():
        root = ElementTree.fromstring(data)
        assert root.findtext("own") == "é" and root.findtext("size/width") == str(WIDTH)
    new = [root for root in map(ElementTree.fromstring, plan.files.values()) if len(root.findall("object")) > 0]
    values = [[int(b.text) for b in box] for root in new for box in root.iter("bndbox")]
    assert [11, 21, 60, 50] in values and all(v[2] <= WIDTH and v[3] <= HEIGHT for v in values)


def test_label_studio_keeps_the_rest_of_the_task(found, tmp_path):
    file = write_labels(found, tmp_path, "labelstudio")
    plan, _ = correct(file, tmp_path)
    (data,) = plan.files.values()
    tasks = json.loads(data)
    assert all(task["annotations"][0]["lead_time"] == 2.5 for task in tasks) and len(tasks) == 6
    results = [r for task in tasks for r in task["annotations"][0]["result"]]
    assert len({r["id"] for r in results}) == len(results) == sum(map(len, found.given))


def test_what_cannot_be_changed_is_told(found, tmp_path):
    file = write_labels(found, tmp_path, "yolo")
    plan, _ = correct(file, tmp_path, lambda i: replace(i, right_name="zebra") if i.kind == "missing" else i)
    assert [(issue.kind, reason) for issue, reason in plan.refused] == [
        ("missing", "zebra is no class of the data set")
    ]
    assert len(plan.applied) == 3
    gone = correct(file, tmp_path, lambda i: replace(i, box=(0.0, 0.0, 3.0, 3.0)) if i.kind == "spurious" else i)[0]
    assert [(issue.kind, reason) for issue, reason in gone.refused] == [
        ("spurious", "the label was not found in the file")
    ]


def test_a_format_that_is_not_edited_says_what_to_do(found, tmp_path):
    file = write_labels(found, tmp_path, "jsonl")
    with pytest.raises(SettingsError, match="jsonl are not edited.*Label Studio"):
        correct(file, tmp_path)


def test_nothing_is_overwritten(found, tmp_path):
    file = write_labels(found, tmp_path, "voc")
    plan, _ = correct(file, tmp_path)
    (tmp_path / "there").write_text("mine")
    for out in (tmp_path / "there", tmp_path / "labels", tmp_path / "labels" / "inside"):
        with pytest.raises(StoreError, match="is there already|lies in"):
            write_corrected(file, plan, out)
    assert (tmp_path / "there").read_text() == "mine" and not (tmp_path / "labels" / "inside").exists()


def test_of_a_spurious_label_nothing_else_is_changed():
    claims = [make_claim("cat", BOX, False), make_claim("dog", BOX, True)]
    issues = [
        LabelIssue("swapped", 0.9, "i", 0, "cat", BOX, "dog", BOX),
        LabelIssue("spurious", 0.9, "i", 0, "cat", BOX, None, None),
        LabelIssue("misplaced", 0.9, "i", 1, "dog", BOX, "dog", (0.0, 0.0, 9.0, 9.0)),
    ]
    (claim,) = correct_claims(claims, issues)
    assert claim.text == "dog" and claim.regions == (Region("dog", box=(0.0, 0.0, 9.0, 9.0)),)
