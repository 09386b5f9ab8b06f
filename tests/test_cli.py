"""The command line: help, plain errors, exit codes, settings written with their comments, one question to a model."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from flow_workspaces import ROOT, environment, florence, write_params
from PIL import Image
from typer.testing import CliRunner
from workspaces import workspace_of

from florence.draw import draw_regions
from florence.errors import EncodeError
from florence.model.confidence import Calibration
from florence.predict.answers import TaskAnswer
from florence.predict.questions import read_question
from florence.records import Region
from florence.tasks import TASK, Answer, task
from florence.workspace.collect import collect_images
from flows import params
from flows.cli import app
from flows.predict import draw_answers, format_answers

HEAVY = (
    "torch",
    "prefect",
    "mlflow",
    "dvc",
    "pyarrow",
    "numpy",
    "pandas",
    "transformers",
    "great_expectations",
    "boto3",
    "botocore",
)


def call(*arguments: str, code: int = 0) -> str:
    """Return the output of a command that is run in this process, in the current folder."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['florence', '--help']\nfrom flows.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"assert not set(sys.modules) & set({HEAVY!r}), set(sys.modules) & set({HEAVY!r})"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "florence init work" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5, "seconds of work"


COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_of_itself(command: str):
    assert f"florence {command}" in call(command, "--help").split("Example", 1)[1]


def test_all_commands_are_there():
    wanted = {
        "approve",
        "refuse",
        "lineage",
        "init",
        "loop",
        "ablate",
        "audit",
        "collect",
        "annotate",
        "validate",
        "publish",
        "train",
        "evaluate",
        "compare",
        "export",
        "report",
        "register",
        "promote",
        "rollback",
        "predict",
        "schedule",
        "doctor",
    }
    assert set(COMMANDS) == wanted and call("--version").startswith("florence ")


def test_wrong_use_and_wrong_folder_are_explained(tmp_path: Path):
    assert florence(tmp_path, "loop", "--rounds", "none").returncode == 2
    done = florence(tmp_path, "collect")
    assert done.returncode == 1 and "florence init" in done.stderr and "Traceback" not in done.stderr


# ---------------------------------------------------------------- settings


@pytest.fixture
def template(tmp_path: Path, monkeypatch) -> Path:
    """Return the params.yaml that `florence init` writes, in the current folder."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "florence/template/params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params.yaml"


def comments(text: str) -> list[str]:
    return [line.split("#", 1)[1].strip() for line in text.splitlines() if "#" in line]


def test_an_overlay_is_laid_over_params_and_comments_stay(template: Path):
    before = template.read_text()
    overlay = {
        "train": {"steps": 7},
        "engine": {"min_confidence": 0.7},
        "sources": {"images": {"use": "folder", "uri": "/photos"}},
    }
    assert params.write_overlay(template.parent, overlay)
    text = template.read_text()
    assert comments(text) == comments(before)
    from florence.config import merged

    assert yaml.safe_load(text) == merged(yaml.safe_load(before), overlay)
    assert not params.write_overlay(template.parent, overlay) and template.read_text() == text


def test_null_takes_a_section_away(template: Path):
    assert params.write_overlay(template.parent, {"annotators": {"masks": None}, "snapshots": {"push": "storage"}})
    values = yaml.safe_load(template.read_text())
    assert (
        "masks" not in values["annotators"]
        and "reader" in values["annotators"]
        and values["snapshots"]["push"] == "storage"
    )


@pytest.mark.parametrize("overlay", [{"train": {"stps": 7}}, {"train": {"steps": 0}}])
def test_an_overlay_that_is_not_allowed_leaves_params_alone(template: Path, overlay: dict):
    before = template.read_bytes()
    (template.parent / "o.yaml").write_text(yaml.safe_dump(overlay))
    done = florence(template.parent, "loop", "--config", "o.yaml")
    assert done.returncode == 1 and "train.st" in done.stderr and template.read_bytes() == before


def test_images_that_are_not_there_leave_params_alone(template: Path):
    before = template.read_bytes()
    done = florence(template.parent, "loop", "--images", "nowhere")
    assert done.returncode == 1 and "nowhere" in done.stderr and template.read_bytes() == before


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path):
    from florence.config import settings_from
    from florence.store import Store

    write_params(tmp_path)
    values = yaml.safe_load((tmp_path / "params.yaml").read_text())
    values["sources"]["scenes"]["count"] = 6
    collect_images(workspace_of(settings_from(values), Store(str(tmp_path / ".florence/store"))))
    (tmp_path / "o.yaml").write_text("sources: {scenes: {count: 9}}")
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    done = florence(tmp_path, "loop", "--dry-run", "--rounds", "3", "--config", "o.yaml")
    assert done.returncode == 0, done.stderr
    assert (
        "6 collected, 3 new" in done.stdout
        and "careful has 6 images" in done.stdout
        and "rounds to do: 0, 1, 2" in done.stdout
    )
    assert files == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "code.json"}


# ---------------------------------------------------------------- predict


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Return a model with random weights."""
    from florence.model.checkpoint import build

    folder = tmp_path_factory.mktemp("model")
    build("nano", image_size=64, seed=0).save(folder)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(path)
    return path


def test_predict_prints_draws_and_gives_json(model: Path, photo: Path):
    out = photo.parent / "out.png"
    values = json.loads(
        call("predict", str(photo), "--task", "od", "--model", str(model), "--json", "--draw", str(out))
    )
    assert (values["task"], values["width"], values["height"]) == ("<OD>", 90, 60)
    assert all(0 <= r["box"][0] < r["box"][2] <= 90 and 0 <= r["score"] <= 1 for r in values["regions"])
    assert Image.open(out).width >= 90 and list(photo.parent.glob(".*")) == []
    lines = call("predict", str(photo), "--task", "<OD>", "--model", str(model)).splitlines()
    assert len(lines) == max(1, len(values["regions"])) + (values["error"] is not None) + values["truncated"]


def test_predict_takes_a_box_in_pixels(model: Path, photo: Path):
    values = json.loads(
        call(
            "predict",
            str(photo),
            "--task",
            "<REGION_TO_CATEGORY>",
            "--input",
            "0, 0, 45, 59.9",
            "--model",
            str(model),
            "--json",
        )
    )
    assert values["input"] == "<loc_0><loc_0><loc_500><loc_998>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "<OBJECTS>"], "known: <CAPTION>"),
        (["--task", "<OD>", "--input", "a dog"], "takes no input"),
        (["--task", "<REGION_TO_CATEGORY>", "--input", "200,10,300,20"], "outside the image"),
        (["--task", "<CAPTION_TO_PHRASE_GROUNDING>"], "needs an input: --input with a caption"),
        (["--task", "<REGION_TO_CATEGORY>"], "--input with its box in pixels, x0,y0,x1,y1 as 40,60,200,180"),
        (["--task", "<REGION_TO_OCR>", "--input", " "], "--input with its box in pixels"),
        (["--task", "<REGION_TO_SEGMENTATION>", "--input", "1 2 3 4"], "in pixels, x0,y0,x1,y1 as .*; found '1 2 3 4'"),
        (["--task", "<REGION_TO_DESCRIPTION>", "--input", "1,2,3"], "found '1,2,3'"),
        (["--task", "<REGION_TO_CATEGORY>", "--input", "<loc_1><loc_2>"], "four location tokens"),
        (["--model", "."], "holds no model"),
        (["--draw", "out.txt"], ".png"),
    ],
)
def test_wrong_questions_to_predict_are_refused_before_a_model_is_loaded(
    model: Path, photo: Path, arguments: list[str], message: str
):
    more = [] if "--model" in arguments else ["--model", str(model)]
    text = call("predict", str(photo), *arguments, *more, code=1)
    assert re.search(re.escape(message).replace(r"\.\*", ".*"), text), text


@pytest.mark.parametrize("name", [name for name in TASK.names() if task(name).takes_input])
def test_a_missing_input_is_asked_for_in_the_options_own_words(name: str):
    with pytest.raises(EncodeError, match="--input with ") as caught:
        read_question(name, "", "--input with")
    assert "loc_" not in str(caught.value) and "location token" not in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [(b"", "empty"), (b"words", "unreadable"), (None, "No such file")])
def test_a_broken_image_is_a_plain_error(model: Path, tmp_path: Path, content: bytes | None, message: str):
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    assert message in call("predict", str(path), "--model", str(model), code=1)


def test_a_confidence_takes_the_place_of_a_score(tmp_path: Path):
    calibration = Calibration((0.0, 0.5), (0.1, 0.8), 0.3, 0.02, 100, transfer=1.0)
    pixels = np.zeros((50, 50, 3), np.uint8)
    found = TaskAnswer(
        "a.png",
        (50, 50),
        "<OD>",
        "",
        Answer("cup<loc_0>", (Region("cup", box=(1, 2, 30, 40), score=0.25),)),
        calibration,
    )
    assert format_answers([found], as_json=False) == "cup  0.45  box 1,2,30,40"
    region = json.loads(format_answers([found], as_json=True))["regions"][0]
    assert (region["score"], region["confidence"]) == (0.25, pytest.approx(0.45))
    # the picture says the same as the line
    draw_answers(pixels, [found], tmp_path / "drawn.png")
    same = draw_regions(pixels, [Region("cup", box=(1, 2, 30, 40), score=0.45)])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "drawn.png")), same)
    named = TaskAnswer("a.png", (50, 50), "<REGION_TO_CATEGORY>", "", Answer("cup", score=0.9), calibration)
    assert format_answers([named], as_json=False) == "cup   (confidence 0.80)"


@pytest.mark.parametrize(
    "name, answer, message",
    [
        ("<CAPTION>", Answer("a red cup", score=0.0123), "a red cup   (score 0.012)"),
        ("<DETAILED_CAPTION>", Answer("There is a red cup."), "There is a red cup."),
        ("<REGION_TO_CATEGORY>", Answer("cup", score=0.5), "cup   (score 0.5)"),
        ("<OCR>", Answer("", score=0.9), "nothing found"),
        ("<OD>", Answer("", score=0.9), "nothing found"),
        ("<OD>", Answer("cup<loc_0>", (Region("cup", box=(1, 2, 30, 40), score=0.25),)), "cup  0.25  box 1,2,30,40"),
    ],
)
def test_an_answer_is_printed_in_plain_words(name: str, answer: Answer, message: str):
    assert format_answers([TaskAnswer("a.png", (50, 50), name, "", answer)], as_json=False) == message
