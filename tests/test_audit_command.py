"""`florence audit` from files to page, list, project and corrected copy; its errors; and a workspace's annotators."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path

import pytest
from audit_sets import AuditSet, coco_document, draw_set, write_set
from flow_workspaces import write_params
from test_cli import call

from florence.formats.labelstudio import LabelStudioFormat
from florence.store import Store

DETECTORS = ("--claims", "detector0.json", "--claims", "detector1.json")


@pytest.fixture(scope="module")
def found() -> AuditSet:
    return draw_set(60)


@pytest.fixture(scope="module")
def source(found, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    write_set(found, folder)
    return folder


@pytest.fixture
def here(source, tmp_path, monkeypatch) -> Path:
    """Return an empty folder that is the current one, with links to the data set."""
    for path in source.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_issues(folder: Path) -> list[dict[str, str]]:
    with (folder / "issues.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_page_list_project_and_dry_run(found, here, source):
    before = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in source.rglob("*") if p.is_file()}
    out = call("audit", "--labels", "instances.json", "--images", "photos", *DETECTORS, "--corrected", "better.json")
    assert re.search(r"\d+ given labels of 60 images, checked in 60 of them by detector0, detector1", out)
    assert "would change:" in out and "nothing is written: --write writes better.json" in out
    assert not (here / "better.json").exists()
    assert before == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in source.rglob("*") if p.is_file()}
    issues = read_issues(here / "audit")
    assert {"missing", "swapped", "misplaced", "spurious"} == {row["kind"] for row in issues}
    assert [float(row["probability"]) for row in issues] == sorted(
        (float(row["probability"]) for row in issues), reverse=True
    )
    page = (here / "audit/index.html").read_text()
    assert page.count("<article") > 8 and page.count("data:image/jpeg") == 2 * page.count("<article")
    assert "http" not in re.sub(r"http://www.w3.org\S*", "", page)
    tasks = json.loads((here / "audit/label-studio/tasks.json").read_text())
    expected = {}
    for row in issues:
        expected[row["image"]] = expected.get(row["image"], 0) + float(row["probability"])
    order = [task["data"]["name"] for task in tasks]
    # the list states probabilities with few digits, so images of nearly the same sum may change places
    assert sorted(order) == sorted(sorted(expected, key=lambda name: -expected[name])[:200])
    assert [expected[name] for name in order] == pytest.approx(sorted(expected.values(), reverse=True)[:200], abs=0.01)
    assert all((here / "audit/label-studio/images" / name).is_file() for name in order)
    given, corrected = tasks[0]["predictions"]
    assert (given["model_version"], corrected["model_version"]) == ("given", "corrected")
    assert len(given["result"]) == len(found.given[int(order[0][:3])]) and given["result"] != corrected["result"]
    assert list(tasks[0]["data"]["doubts"])[0].startswith("1. ")
    form = LabelStudioFormat(predictions=True)
    assert len(form.open(form.files(str(here / "audit/label-studio/tasks.json"))).entries) == len(tasks)


def test_a_corrected_copy_on_request(found, here):
    args = ("audit", "--labels", "instances.json", "--images", "photos", *DETECTORS, "--corrected", "better.json")
    call(*args, "--write", "--min-confidence", "0.6", "--project-images", "0")
    assert not (here / "audit/label-studio").exists()
    better = json.loads((here / "better.json").read_text())
    wrong = [
        (k, name, box)
        for k, (items, errors) in enumerate(zip(found.given, found.errors, strict=True))
        for (name, box), error in zip(items, errors, strict=True)
        if error == "misplaced"
    ]
    names = {c["id"]: c["name"] for c in better["categories"]}
    now = {(a["image_id"], names[a["category_id"]], tuple(a["bbox"][:2])) for a in better["annotations"]}
    left = sum((k, name, box[:2]) in now for k, name, box in wrong)
    assert left <= len(wrong) / 2
    again = call(*args, "--write", code=1)
    assert "better.json is there already" in again


def test_without_pictures_sizes_are_enough(here):
    out = call("audit", "--labels", "instances.json", *DETECTORS, "--out", "a")
    assert "no pictures are here" in out
    assert read_issues(here / "a") and not (here / "a/label-studio").exists()
    assert "No pictures are here" in (here / "a/index.html").read_text()
    assert "--force replaces it" in call("audit", "--labels", "instances.json", *DETECTORS, "--out", "a", code=1)
    call("audit", "--labels", "instances.json", *DETECTORS, "--out", "a", "--force")


def test_claims_in_other_formats_say_the_same(found, here):
    rows = [[(name, box) for name, box, _ in image] for image in found.claims["detector0"]]
    scores = [[score for _, _, score in image] for image in found.claims["detector0"]]
    (here / "whole.json").write_text(json.dumps(coco_document(rows, scores)))
    lines = [
        {
            "image": {"name": f"{k:03d}.png"},
            "annotations": [
                {"task": "<OD>", "text": name, "score": s, "regions": [{"label": name, "box": box, "score": s}]}
                for (name, box), s in zip(items, values, strict=True)
            ],
        }
        for k, (items, values) in enumerate(zip(rows, scores, strict=True))
    ]
    (here / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    listed = []
    for name in ("detector0.json", "whole.json", "lines.jsonl"):
        call("audit", "--labels", "instances.json", "--claims", f"d={name}", "--out", name.partition(".")[0])
        listed.append([(r["kind"], r["image"], r["probability"]) for r in read_issues(here / name.partition(".")[0])])
    assert listed[0] == listed[1] and len(listed[2]) == pytest.approx(len(listed[0]), rel=0.05)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--labels", "instances.json"], r"--claims FILE, or run this in a workspace"),
        (["--labels", "nowhere.json", *DETECTORS], r"nowhere\.json does not exist"),
        (["--labels", "photos", *DETECTORS], r"--format is one of coco"),
        (
            ["--labels", "instances.json", "--claims", "a=detector0.json", "--claims", "a=detector1.json"],
            r"'a' is taken",
        ),
        (["--labels", "instances.json", *DETECTORS, "--family", "detector0,b"], r"'b' is none of --claims"),
        (["--labels", "instances.json", "--images", "empty", *DETECTORS], r"no picture is there"),
        (["--labels", "instances.json", "--images", "photos", *DETECTORS, "--write"], r"--corrected PATH names"),
        (["--labels", "instances.json", "--claims", "empty.json"], r"empty\.json"),
    ],
)
def test_errors_name_the_thing_and_the_remedy(here, args, message):
    (here / "empty").mkdir()
    (here / "empty.json").write_text("{}")
    out = call("audit", *args, code=1)
    assert re.search(message, out), out
    assert "Traceback" not in out and not (here / "audit").exists()


def test_names_are_no_markup_and_no_formulas(found, here):
    document = coco_document(found.given)
    document["categories"][0]["name"] = "=1+<script>x</script>"
    (here / "bad.json").write_text(json.dumps(document))
    call("audit", "--labels", "bad.json", "--images", "photos", *DETECTORS)
    page = (here / "audit/index.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    names = {row["given_name"] for row in read_issues(here / "audit")}
    assert "'=1+<script>x</script>" in names and not any(name.startswith("=") for name in names)


def test_pictures_that_cannot_be_read_are_told(found, here):
    (here / "some").mkdir()
    for path in sorted((here / "photos").iterdir())[:40]:
        (here / "some" / path.name).write_bytes(path.read_bytes())
    (here / "some" / "000.png").write_bytes(b"no picture")
    out = call("audit", "--labels", "instances.json", "--images", "some", *DETECTORS)
    assert "of 39 images" in out
    page = (here / "audit/index.html").read_text()
    assert "a picture that cannot be read" in page and "labelled images that are not here" in page


def test_the_annotators_of_a_workspace_are_asked(found, here, source):
    document = [[(name, box) for name, box, _ in image] for image in found.claims["detector0"]]
    scores = [[score for _, _, score in image] for image in found.claims["detector0"]]
    (here / "det.json").write_text(json.dumps(coco_document(document, scores)))
    existing = {"use": "existing", "format": "coco", "sources": ["*"]}
    write_params(
        here,
        annotators={
            "detector": {**existing, "uri": "det.json"},
            "given": {**existing, "uri": str(source / "instances.json")},
        },
    )
    args = ("audit", "--labels", str(source / "instances.json"), "--images", "photos")
    out = call(*args)
    assert "checked in 60 of them by detector\n" in out  # the audited labels themselves are not asked
    assert not Store(str(here / ".florence" / "store")).names("claims")
    first = (here / "audit/issues.csv").read_bytes()
    assert call(*args, "--force") and (here / "audit/issues.csv").read_bytes() == first
    both = call(*args, "--force", "--annotators", "--claims", "other=detector1.json")
    assert "by detector, other" in both
