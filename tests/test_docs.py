"""The code in the documents runs, and their links lead to files that exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from florence.config import merged, settings_from, settings_markdown
from florence.errors import SettingsError
from florence.records import ANNOTATION_TYPES, ANNOTATIONS, IMAGES, REGION
from florence.sources import SOURCES

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def files(path: Path) -> dict[str, str]:
    """Return the code blocks that follow a line which is a file's name."""
    return dict(re.findall(r"^`([\w/.]+\.py)`:\n\n```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S))


def run(code: str, cwd: Path) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(cwd / ".hf"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_settings_document_is_what_the_settings_say():
    assert (ROOT / "docs/settings.md").read_text(encoding="utf-8") == settings_markdown()


@pytest.mark.parametrize("path", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:|#", link):
            assert (path.parent / link.split("#")[0]).exists(), f"{path.name}: {link}"


@pytest.mark.parametrize("number", range(4))
def test_snapshot_snippets_run(number: int, small_snapshot, tmp_path: Path):
    os.symlink(small_snapshot.root, tmp_path / "data")
    snippets = blocks(ROOT / "docs/snapshot.md", "python")
    assert len(snippets) == 4
    output = run(snippets[number], tmp_path)
    assert ("<OD>", "confidence", "annotation_id", "nothing")[number] in output or (tmp_path / "drawn.png").exists()


def test_snapshot_document_names_every_column_and_annotation_type():
    text = (ROOT / "docs/snapshot.md").read_text(encoding="utf-8")
    for name in (
        *IMAGES.names,
        *ANNOTATIONS.names,
        *(REGION.field(i).name for i in range(REGION.num_fields)),
        *ANNOTATION_TYPES,
    ):
        assert f"`{name}`" in text, name


def test_extending_examples_are_found_by_their_file_alone(small_snapshot, tmp_path: Path):
    examples = files(ROOT / "docs/extending.md")
    assert {name.split("/")[1] for name in examples} == {"annotators", "sources", "tasks", "metrics"}
    for name, code in examples.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code, encoding="utf-8")
    run(f"FOLDER = {str(tmp_path)!r}; DATA = {small_snapshot.root!r}\n" + EXTENDING, tmp_path)


EXTENDING = """
import florence.records
florence.records.TASKS += ("<OBJECT_NAMES>",)  # the one line that the document asks for

import florence.metrics, florence.sources, florence.annotators, florence.tasks
for package in (florence.sources, florence.annotators, florence.tasks, florence.metrics):
    package.__path__.append(FOLDER + "/" + package.__name__.replace(".", "/"))

import numpy as np
from florence.errors import SettingsError
from florence.images import decode_image
from florence.records import table_images
from florence.store import Store

source = florence.sources.SOURCES.get("gradients")(number=3)
found = list(source.images(frozenset({"0001.png"})))
assert [f.name for f in found] == ["0000.png", "0002.png"] and decode_image(found[0].data, "x").shape == (64, 64, 3)
try:
    florence.sources.SOURCES.get("gradients")(number=0)
except SettingsError as error:
    assert "number" in str(error)
else:
    raise SystemExit("a wrong option was taken")

annotator = florence.annotators.ANNOTATORS.get("darkest")(name="shadows", cells=2)
data = Store(DATA)
record = next(table_images(data.read_table(data.names("images")[0])))[0]
pixels = np.full((40, 60, 3), 200, np.uint8)
pixels[20:, :30] = 0
(claim,), = annotator.annotate(florence.annotators.ImageBatch((record,), (pixels,)))
assert claim.regions[0].box == (0, 20, 30, 40), claim

from florence.config import settings_from
from florence.metrics import METRICS, Prediction, Reference
from florence.records import Claim, Region, annotate
from florence.tasks import task

naming = task("<OBJECT_NAMES>")
box = (1.0, 1.0, 9.0, 9.0)
claims = [Claim("<OD>", name, (Region(name, box=box),)) for name in ("owl", "cup", "owl")]
rows = annotate(record.image_id, claims, "me", "1")
(example,) = naming.examples(record, rows)
assert (example.target, naming.prompt()) == ("cup, owl", "Which objects are in the image?")
assert naming.decode(example.target, (64, 64)).text == example.text and naming.decode("", (64, 64)).error is None
assert naming.decode("cup<loc_1>", (64, 64)).error is not None

metric = METRICS.get(naming.metric)()
assert metric.value_name == "f1_names"
predictions = [Prediction("a", "owl"), Prediction("b", "cup, Owl"), Prediction("c", "")]
there = [Reference("a", "cup, owl"), Reference("b", "cup, owl"), Reference("c", "")]
score = metric.score(predictions, there)
assert abs(score.value - 6 / 7) < 1e-12
assert set(score.per_image) == {"a", "b"} and abs(score.per_image["a"] - 2 / 3) < 1e-12
draws = np.array([[1, 1, 1], [2, 0, 1], [0, 3, 0]])
assert np.allclose(metric.resample(predictions, there, draws), [6 / 7, 2 / 3, 1])
assert metric.score(predictions[2:], there[2:]).value is None

settings = settings_from({"sources": {}, "annotators": {}, "train": {"task_weights": {"<OBJECT_NAMES>": 2}}})
assert "<OBJECT_NAMES>" in settings.evaluate.tasks
"""


@pytest.mark.parametrize("name", SOURCES.names())
def test_every_source_and_its_settings_are_documented(name: str):
    row = next(
        line
        for line in (ROOT / "docs/extending.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| `{name}` |")
    )
    with pytest.raises(SettingsError, match="allowed: ") as refused:
        SOURCES.get(name)(nothing=1)
    allowed = re.sub(r".*allowed: ", "", str(refused.value)).split(", ")
    assert re.findall(r"`(\w+)`", row.split("|")[3]) == allowed


def test_format_examples_run(small_snapshot, tmp_path: Path, monkeypatch):
    from test_cli import call

    from florence.annotators.existing import Existing

    (tmp_path / "params.yaml").write_text("sources: {}\nannotators: {}\n")
    os.symlink(small_snapshot.root, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    path = ROOT / "docs/formats.md"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("florence ")]
    assert len([line for line in lines if line.startswith("florence export")]) >= 5
    for line in lines:
        if "import" in line:
            tasks = json.loads((tmp_path / "review/tasks.json").read_text())
            works = [
                {"data": task["data"], "annotations": [{"result": task["predictions"][0]["result"]}]} for task in tasks
            ]
            (tmp_path / "project.json").write_text(json.dumps(works))
            os.makedirs(tmp_path / ".florence")
            shutil.copytree(small_snapshot.root, tmp_path / ".florence/store")
        assert call(*shlex.split(line)[1:]), line
    (code,) = blocks(path, "python")
    assert "pixels" in run(code, tmp_path)
    (text,) = blocks(path, "yaml")
    for name, values in yaml.safe_load(text)["annotators"].items():
        options = {key: value for key, value in values.items() if key not in ("use", "sources")}
        assert set(Existing(name=name, **options).vocabulary()) >= {"ball", "brick"}
    (line,) = blocks(path, "json")
    (tmp_path / "one.jsonl").write_text(line)
    assert Existing(name="one", format="jsonl", uri="one.jsonl").vocabulary() == ("cat",)


def test_format_document_has_every_format_and_its_settings():
    from florence.formats import FORMATS

    text = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    for name in FORMATS.names():
        assert f"| `{name}` |" in text
        rows = [line for line in text.split("## Import")[1].splitlines() if line.startswith(f"| `{name}` |")]
        assert all(f"`{setting}`" in rows[0] for setting in FORMATS.get(name).Options.model_fields), name


def test_extending_settings_are_allowed():
    overlays = [yaml.safe_load(text) for text in blocks(ROOT / "docs/extending.md", "yaml")]
    assert overlays
    for overlay in overlays:
        settings_from(merged({"sources": {}, "annotators": {}}, overlay))


def test_every_make_target_and_setting_named_in_documents_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for path in DOCS:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"`make ([a-z]+)", text)) <= targets, path
    keys = set(re.findall(r"^\| `([\w.<>]+)` \|", settings_markdown(), re.M))
    sections = {key.split(".")[0] for key in keys}
    for path in DOCS:
        if path.name != "settings.md":
            named = {
                n
                for n in re.findall(r"`([a-z_]+\.[a-z_.]+)`", path.read_text(encoding="utf-8"))
                if n.split(".")[0] in sections
            }
            unknown = {
                n
                for n in named
                if n not in keys
                and not n.endswith((".py", ".json", ".yaml", ".md"))
                and not any(k.startswith(n + ".") for k in keys)
            }
            assert not unknown, f"{path.name}: {unknown}"


def test_every_command_named_in_documents_exists():
    commands = set()
    for path in DOCS:
        commands |= set(re.findall(r"(?:^|`)florence ([a-z]+)", path.read_text(encoding="utf-8"), re.M))
    listed = run("import sys; sys.argv = ['florence', '--help']\nfrom flows.cli import main\nmain()", ROOT)
    assert commands
    for command in commands:
        assert re.search(rf"\b{command}\b", listed), command
