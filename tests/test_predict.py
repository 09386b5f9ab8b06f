"""A model as a library: loaded from anywhere, asked about images of any kind, with errors that cost one row."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from mlflow_stores import registry
from PIL import Image
from test_adapters_model_registry import copy_rounds

from florence import load
from florence.errors import EncodeError, FlorenceError, ModelError, UnknownNameError
from florence.images import decode_image
from florence.model import checkpoint
from florence.model.generate import Query, predict
from florence.predict.answers import TaskAnswer
from florence.predict.model import Model, find_model_folder

ROOT = Path(__file__).parents[1]
FORBIDDEN = ("prefect", "mlflow", "dvc", "great_expectations")


def pictures(folder: Path, sizes: list[tuple[int, int]], seed: int = 0) -> list[Path]:
    """Write pictures of smooth noise, (width, height) each."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    paths = []
    for number, size in enumerate(sizes):
        small = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        path = folder / f"{number:04d}.png"
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


def calibrate(folder: Path) -> None:
    """Write a calibration of <OD> and <CAPTION> beside a model: a confidence is half of the score."""
    curve = {"scores": [0.0, 1.0], "confidences": [0.0, 0.5]}
    one = {**curve, "error": 0.1, "calibrated": 0.01, "n": 9, "base_rate": 0.5, "transfer": 1.0, "sources": {}}
    values = {"version": 2, "tasks": {"<OD>": one, "<CAPTION>": one}}
    (folder / "calibration.json").write_text(json.dumps(values))


@pytest.fixture(scope="session")
def nano_folder(tmp_path_factory) -> Path:
    """Return a folder with the packaged weights and a calibration."""
    folder = tmp_path_factory.mktemp("nano") / "model"
    checkpoint.load("nano").save(folder)
    calibrate(folder)
    return folder


@pytest.fixture(scope="session")
def nano(nano_folder: Path) -> Model:
    return load(nano_folder)


def is_alike(one: TaskAnswer, other: TaskAnswer) -> bool:
    """Return whether answers are equal; what they were asked together with may change the last digits of a score."""
    assert one.score is not None and other.score is not None
    scores = [[a.score, *(r.score for r in a.regions)] for a in (one, other)]
    return one.text == other.text and np.allclose(*scores, rtol=1e-4, atol=0)


def run_python(code: str, folder: Path, **more: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_imports_nothing_and_asking_it_no_orchestrator(nano_folder: Path):
    code = f"""
import sys
before = set(sys.modules)
import florence
new = {{name.split(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)
assert new == {{"florence"}}, new
from florence import load
assert "torch" not in sys.modules
model = load({str(nano_folder)!r})
import numpy as np
model.predict(np.zeros((9, 9, 3), np.uint8), "<OD>")
print(sorted(set({FORBIDDEN!r}) & set(sys.modules)))
"""
    assert run_python(code, nano_folder).strip() == "[]"


def test_answers_are_those_of_the_engine(nano: Model, tmp_path: Path):
    paths = pictures(tmp_path, [(64, 64), (90, 60), (40, 70)])
    found = nano.predict(paths, ["<OD>", "<CAPTION>", ("<CAPTION_TO_PHRASE_GROUNDING>", "a cup")])
    pixels = [decode_image(path.read_bytes(), path.name) for path in paths]
    asked = (("<OD>", ""), ("<CAPTION>", ""), ("<CAPTION_TO_PHRASE_GROUNDING>", "a cup"))
    wanted = predict(nano.checkpoint, pixels, [Query(k, *one) for k in range(3) for one in asked])
    assert [answer.answer for answers in found for answer in answers] == wanted
    assert [answers.size for answers in found] == [(64, 64), (90, 60), (40, 70)]
    assert [answers.image for answers in found] == list(map(str, paths))


def test_every_kind_of_image_gives_the_same_answer(nano: Model, tmp_path: Path):
    (path,) = pictures(tmp_path, [(90, 60)])
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    image = Image.open(path)
    kinds = [path, str(path), path.read_bytes(), image, np.asarray(image), Image.open(turned), turned]
    found = nano.predict(kinds, ["<OD>"])
    assert all(is_alike(answers[0], found[0][0]) and answers.size == (90, 60) for answers in found)
    (one,) = nano.predict(image, "<OD>")
    assert is_alike(one["<OD>"], found[0][0])


def test_what_is_wrong_with_an_image_costs_no_other_its_answers(nano: Model, tmp_path: Path):
    (path,) = pictures(tmp_path, [(90, 60)])
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:300])
    images = ["gone.png", path, tmp_path / "cut.png", b"words", np.zeros((4, 4), np.uint8), 7, tmp_path, "a\0b"]
    found = nano.predict(images, ["<OD>", ("<REGION_TO_CATEGORY>", (70, 10, 200, 50))])
    assert [bool(answers.error) for answers in found] == [True, False, True, True, True, True, True, True]
    assert "No such file" in found[0].error and "truncated" in found[2].error and "(4, 4)" in found[4].error
    assert found[0]["<OD>"].to_dict()["error"] == found[0].error and found[0]["<OD>"].regions == ()
    assert is_alike(found[1]["<OD>"], nano.predict(path, "<OD>")[0][0])
    small = nano.predict([path, np.zeros((8, 8, 3), np.uint8)], ("<REGION_TO_CATEGORY>", (70, 10, 200, 50)))
    assert not small[0][0].error and "outside the image, which is 8 × 8" in small[1][0].error and not small[1].error


def test_a_box_in_pixels_is_asked_as_location_tokens(nano: Model):
    pixels = np.zeros((60, 90, 3), np.uint8)
    (one,) = nano.predict(pixels, ("<REGION_TO_CATEGORY>", (0, 0, 45, 59.9)))
    assert one[0].input == "<loc_0><loc_0><loc_500><loc_998>"
    assert is_alike(one[0], nano.predict(pixels, ("<REGION_TO_CATEGORY>", one[0].input))[0][0])


def test_confidences_come_from_the_file_beside_the_model(nano: Model, tmp_path: Path):
    (found,) = nano.predict(pictures(tmp_path, [(64, 64)]), ["<OD>", "<CAPTION>", "<OCR>"])
    values = found["<OD>"].to_dict()
    assert values["regions"] and values["confidence"] is None
    assert all(r["confidence"] == pytest.approx(r["score"] / 2) for r in values["regions"])
    assert found["<CAPTION>"].confidence == pytest.approx(found["<CAPTION>"].score / 2)
    assert found["<OCR>"].confidence is None
    assert load("nano").predict(np.zeros((8, 8, 3), np.uint8), "<CAPTION>")[0][0].confidence is None


@pytest.mark.parametrize(
    "tasks, error, message",
    [
        ("<OBJECTS>", UnknownNameError, "known: <CAPTION>"),
        (("<OD>", "<CAPTION>"), EncodeError, "takes no input"),
        ([("<OD>", "x")], EncodeError, "leave it out"),
        ("<CAPTION_TO_PHRASE_GROUNDING>", EncodeError, "give a caption"),
        (("<REGION_TO_CATEGORY>", (1, 2, 3)), EncodeError, "in pixels"),
        (("<REGION_TO_CATEGORY>", (1, 2, 3, float("nan"))), EncodeError, "in pixels"),
        ((1, 2, 3), EncodeError, "a task and its input"),
        ([], EncodeError, "no task"),
        (("<CAPTION_TO_PHRASE_GROUNDING>", "word " * 3000), EncodeError, "fit beside an image"),
    ],
)
def test_a_wrong_question_is_refused_at_once(nano: Model, tasks, error: type[FlorenceError], message: str):
    with pytest.raises(error, match=re.escape(message)):
        nano.predict(["gone.png"], tasks)


def test_many_images_are_answered_in_bounded_memory_and_order(nano: Model, monkeypatch):
    from florence.predict import reading

    monkeypatch.setattr(reading, "CHUNK_BYTES", 20 * 20 * 3 * 2)
    images = [np.full((20, 20, 3), 10 * k, np.uint8) for k in range(9)]
    sizes = [len(chunk) for chunk in reading.read_chunks([_inputs(images[:5]), _inputs(images[5:])], 64)]
    assert sizes == [2, 2, 1, 2, 2]
    assert [len(chunk) for chunk in reading.read_chunks([_inputs(images)], 1)] == [1] * 9
    found = nano.predict(images, "<REGION_PROPOSAL>")
    alone = [nano.predict(image, "<REGION_PROPOSAL>")[0] for image in images]
    assert all(is_alike(one[0], other[0]) for one, other in zip(found, alone, strict=True))


def _inputs(images: list[np.ndarray]):
    from florence.predict.reading import ImageInput

    return [ImageInput(str(k), lambda image=image: image) for k, image in enumerate(images)]


def test_a_folder_is_taken_before_a_preset_of_its_name(nano_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(nano_folder, tmp_path / "base")
    assert load("base").folder == tmp_path / "base"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="config.json is missing"):
        load("empty")
    with pytest.raises(ModelError, match=r"fetches ftp:/"):
        load("ftp://a/b")


# ---------------------------------------------------------------- addresses of registered models


@pytest.fixture
def installed(tmp_path_factory, monkeypatch) -> None:
    """Make the entry points of pyproject.toml known, as installing does."""
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    folder = tmp_path_factory.mktemp("site")
    (folder / "florence-0.1.0.dist-info").mkdir()
    (folder / "florence-0.1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: florence\nVersion: 0.1.0\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in values.items()) for group, values in entries.items()]
    (folder / "florence-0.1.0.dist-info/entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(folder))


def test_an_address_is_fetched_from_the_workspace_or_the_store_of_the_environment(installed, tmp_path, monkeypatch):
    found = copy_rounds(tmp_path / "work", 2)
    (tmp_path / "work/params.yaml").write_text("sources: {}\nannotators: {}\n")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    latest = find_model_folder("models:/florence@challenger")
    assert latest is not None and (latest / "model.safetensors").read_bytes() == b"weights of round 1"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="MLFLOW_TRACKING_URI"):
        find_model_folder("models:/florence/1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found.uri)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    first = find_model_folder("models:/florence/1")
    assert first is not None and (first / "model.safetensors").read_bytes() == b"weights of round 0"
    with pytest.raises(FlorenceError, match="no version or alias 'best'"):
        find_model_folder("models:/florence@best")
    with pytest.raises(ModelError, match="models:/NAME@ALIAS"):
        find_model_folder("models:/florence")
    assert registry(tmp_path / "work").versions() == found.versions()


def test_the_pages_code_runs(nano_folder: Path, tmp_path: Path):
    shutil.copytree(nano_folder, tmp_path / "model")
    content = io.BytesIO()
    Image.open(pictures(tmp_path / "made", [(90, 70)])[0]).save(content, "JPEG")
    (tmp_path / "photo.jpg").write_bytes(content.getvalue())
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/predicting.md").read_text(encoding="utf-8"), re.M | re.S
    )
    assert len(blocks) == 3
    assert "missing.jpg" in run_python("\n".join(blocks), tmp_path)
