"""Training in real processes: killed, shared by several, or fed from S3, with the same weights or curve."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from trainings import scenes, settings
from workspaces import workspace_of

from florence.errors import ModelError
from florence.store import Store
from florence.workspace.train import train_model

PROGRAM = """
import sys
from pathlib import Path
from florence.garbage import relax_garbage_collection
relax_garbage_collection()  # imports are quicker
from florence.config import Settings
from florence.store import Store
from florence.workspace import Workspace
from florence.workspace.train import train_model

def progress(what, done, of):
    if what == "train":
        print(done, flush=True)

if __name__ == "__main__":
    data, root = Store(sys.argv[2]), Path(sys.argv[3])
    workspace = Workspace(root, Settings.model_validate_json(sys.argv[1]), Store(str(root / ".florence/store")), data)
    train_model(workspace, progress=progress)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Store:
    """Write forty scenes in five shards; two are shuffled together."""
    return scenes(tmp_path_factory.mktemp("data"), 40, 8)


CHOSEN = {"batch_size": 6, "shuffle_buffer": 2, "steps": 9, "save_steps": 2}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """Return an undisturbed training by one process."""
    root = tmp_path_factory.mktemp("whole")
    train_model(workspace_of(settings(**CHOSEN), data=data, root=root))
    return root


def curve(root: Path) -> list[dict[str, float]]:
    rows = csv.DictReader(io.StringIO((root / "plots/train.csv").read_text()))
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def test_killed_in_the_middle_of_an_epoch_it_is_resumed_and_ends_the_same(data, whole, tmp_path):
    command = [sys.executable, "-c", PROGRAM, settings(**CHOSEN).model_dump_json(), data.uri, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout or ():
        if int(line) == 5:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "model").exists()
    assert list(tmp_path.glob(".florence/checkpoints/*/training.safetensors"))
    steps = []
    train_model(
        workspace_of(settings(**CHOSEN), data=data, root=tmp_path),
        None,
        lambda what, done, of: steps.append(done) if what == "train" else None,
    )
    assert steps[0] in (5, 7) and steps[-1] == 9, "from a checkpoint, not from the start"
    for name in ("model/model.safetensors", "metrics/train.json", "plots/train.csv"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def test_two_processes_follow_the_curve_of_one(data, tmp_path):
    """The same total batch, unequal numbers of tokens on each.

    Some gradients are clipped and some are not: AdamW alone would not notice a wrong factor.
    """
    chosen = {
        **CHOSEN,
        "batch_size": 5,
        "steps": 21,
        "gradient_accumulation_steps": 2,
        "lr": 3e-4,
        "max_grad_norm": 3.5,
    }
    one = train_model(workspace_of(settings(**chosen), data=data, root=tmp_path / "one"))
    points, steps = [], []
    two = train_model(
        workspace_of(settings(**chosen, processes=2), data=data, root=tmp_path / "two"),
        lambda step, values: points.append((step, values)),
        lambda what, done, of: steps.append(done) if what == "train" else None,
    )
    assert steps == list(range(1, 22)) and [step for step, _ in points] == [20, 21]
    assert two["steps"] == one["steps"] and two["images"] == one["images"] and two["left_out"] == one["left_out"]
    a, b = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [set(row) for row in a] == [set(row) for row in b]
    for x, y in zip(a, b, strict=True):
        assert x == pytest.approx(y, rel=1e-4)
    assert points[-1][1]["loss"] == pytest.approx(a[-1]["loss"], rel=1e-4)


def test_a_process_without_examples_takes_part_in_the_step(data, tmp_path):
    """Processes are joined by accelerate's own launcher.

    Of few images a caption is short enough: most parts of a step are empty, and some whole steps.
    """
    captions = {**dict.fromkeys(settings().train.drawn, 0.0), "<CAPTION>": 1.0}
    chosen = settings(
        **{**CHOSEN, "batch_size": 4, "shuffle_buffer": 9, "steps": 16}, max_target=8, task_weights=captions
    )
    one = train_model(workspace_of(chosen, data=data, root=tmp_path / "one"))
    assert one["left_out"]["too_long"] > one["images"] // 2
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--main_process_port",
        "0",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--num_cpu_threads_per_process",
        "1",
    ]
    printed = subprocess.run(
        [*launch, str(program), chosen.model_dump_json(), data.uri, str(tmp_path / "two")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert printed.split() == [str(step) for step in range(1, 17)], "the first alone shows progress"
    two = json.loads((tmp_path / "two/metrics/train.json").read_text())
    assert two["left_out"] == one["left_out"] and two["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_an_error_of_one_of_several_processes_is_raised_as_it_is(data, tmp_path):
    with pytest.raises(ModelError, match="failed-step.json"):
        train_model(
            workspace_of(
                settings(**{**CHOSEN, "lr": 1e30, "max_grad_norm": 1e30, "warmup": 0}, processes=2),
                data=data,
                root=tmp_path,
            )
        )
    (found,) = tmp_path.glob(".florence/checkpoints/*/failed-step.json")
    report = json.loads(found.read_text())
    assert len(report["images"]) >= 4 and all(row["tasks"] for row in report["images"]), "of both processes"
    assert not (tmp_path / "model").exists()


def test_a_stream_from_s3_gives_the_same_weights(data, whole, s3, tmp_path, monkeypatch):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    remote = Store(f"s3://{s3.bucket}/snapshot")
    for name in data.names("", ".parquet"):
        remote.copy_in(data, name)
    train_model(workspace_of(settings(**CHOSEN), data=remote, root=tmp_path))
    for name in ("model/model.safetensors", "metrics/train.json", "plots/train.csv"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name
