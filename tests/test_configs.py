"""The overlays in configs/: valid over params.yaml, with the paper's numbers, and as short as they state."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from florence.config import Settings, merged, settings_from
from florence.records import TASKS
from florence.training.optimiser import learning_rate
from florence.training.sample_order import count_steps, image_size_at
from flows.params import read_overlay, read_settings_with, write_overlay

ROOT = Path(__file__).parents[1]
OVERLAYS = sorted((ROOT / "configs").glob("*.yaml"))
FLD = 126_000_000
"""Images of the paper's data set."""
PAPER: dict[str, dict[str, Any]] = {
    "pretrain-base": {"init": "base", "batch_size": 2048, "lr": 1e-4, "samples": {384: 3.0e9, 768: 0.5e9}},
    "pretrain-large": {"init": "large", "batch_size": 3072, "lr": 1e-5, "samples": {384: 3.0e9, 768: 0.1e9}},
}


def values(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def over(path: Path, base: str = "params.yaml") -> Settings:
    return settings_from(merged(values(ROOT / base), values(path)), path.name)


def keys(part: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in part.items():
        found |= keys(value, f"{prefix}{key}.") if isinstance(value, dict) and key != "task_weights" else {prefix + key}
    return found


def holds(whole: Any, part: Any) -> bool:
    """Return whether all of ``part`` is in ``whole``."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and holds(whole[key], value) for key, value in part.items())
    return whole == part


def test_there_are_the_papers_recipes():
    assert [path.stem for path in OVERLAYS] == ["finetune-base", "photos", *PAPER, "sparse"]


@pytest.mark.parametrize("base", ["params.yaml", "florence/template/params.yaml"])
@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_every_setting_is_there_allowed_and_taken(path: Path, base: str, tmp_path: Path):
    known = set(re.findall(r"^\| `([\w.<>]+)` \|", (ROOT / "docs/settings.md").read_text(encoding="utf-8"), re.M))
    assert {key for key in keys(values(path)) if not key.startswith("annotators.")} <= known
    shutil.copy(ROOT / base, tmp_path / "params.yaml")
    overlay = read_overlay(None, path)
    assert read_settings_with(tmp_path, overlay) == over(path, base)
    assert write_overlay(tmp_path, overlay) and not write_overlay(tmp_path, overlay)
    written = settings_from(values(tmp_path / "params.yaml"))
    assert written == over(path, base)
    dumped = written.model_dump(mode="json")
    for section, inner in values(path).items():
        for key, value in inner.items():
            assert holds(dumped[section][key], value), f"{section}.{key}"


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_every_line_names_the_source_of_its_number(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert f"florence loop --config configs/{path.name}" in lines[0]
    for line in lines[2:]:
        if re.match(r"\s+(- )?[\w{]", line) and not re.match(
            r"\s+(gradient_accumulation_steps: \d+$|resolutions:$)", line
        ):
            assert re.search(r"# (paper|ours)", line) or line.endswith(": 1"), line


@pytest.mark.parametrize("name", PAPER)
def test_pretraining_is_the_papers(name: str):
    settings, paper = over(ROOT / f"configs/{name}.yaml"), PAPER[name]
    train = settings.train
    assert (settings.model.init, settings.model.image_size, train.batch_size, train.lr) == (
        paper["init"],
        768,
        paper["batch_size"],
        paper["lr"],
    )
    assert (train.optimizer, train.warmup, train.precision, train.lora, train.freeze) == (
        "adamw",
        5000,
        "bf16",
        None,
        (),
    )
    assert {task: train.weight(task) for task in train.drawn} == dict.fromkeys(TASKS, 1.0)
    assert train.tasks_per_image == train.regions_per_image == 1, "a sample is one image with one task"
    assert train.batch_size % (train.processes * train.gradient_accumulation_steps) == 0
    assert count_steps(train, FLD) == train.steps
    assert train.steps * train.batch_size == pytest.approx(sum(paper["samples"].values()), abs=train.batch_size)
    sides = [stage.image_size for stage in train.resolutions]
    ends = [
        next(step for step in range(guess - 5000, guess + 5000) if image_size_at(train, step, train.steps, 768) != side)
        if side != sides[-1]
        else train.steps
        for side, guess in zip(sides, (round(paper["samples"][384] / train.batch_size), train.steps), strict=True)
    ]
    assert sides == list(paper["samples"]) == [384, 768]
    for samples, first, end in zip(paper["samples"].values(), (0, ends[0]), ends, strict=True):
        assert (end - first) * train.batch_size == pytest.approx(samples, abs=5 * train.batch_size)
    assert learning_rate(train, 4999, train.steps) == pytest.approx(paper["lr"]) and learning_rate(
        train, 0, train.steps
    ) == pytest.approx(paper["lr"] / 5000)
    assert learning_rate(train, train.steps - 1, train.steps) == pytest.approx(paper["lr"] / 100, rel=1e-3)


def test_the_numbers_in_the_comments_are_those_of_the_settings():
    for name, paper in PAPER.items():
        text = (ROOT / f"configs/{name}.yaml").read_text(encoding="utf-8")
        train, total = over(ROOT / f"configs/{name}.yaml").train, sum(paper["samples"].values())
        assert f"3 billion samples, then {paper['samples'][768] / 1e9:g} billion, {train.batch_size:,} a step" in text
        assert (
            f"3.0 of {total / 1e9:g} billion samples" in text
            and f"{total / 1e9:g} billion samples pass {total / FLD:.1f} times" in text
        )
        assert (
            f"{train.batch_size // train.processes // train.gradient_accumulation_steps} samples a GPU at a time"
            in text
        )


def test_fine_tuning_starts_from_the_published_model_that_the_readme_names():
    path = ROOT / "configs/finetune-base.yaml"
    settings = over(path)
    readme = next(
        yaml.safe_load(block)
        for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
        if "init:" in block
    )
    assert (settings.model.init, settings.model.image_size) == (
        readme["model"]["init"],
        readme["model"]["image_size"],
    ) and settings.model.image_size == 768
    assert settings.train.lr == readme["train"]["lr"] == PAPER["pretrain-base"]["lr"] / 10
    text = path.read_text(encoding="utf-8")
    images, passes = re.search(r"ours: ([\d,]+) images in all, or (\d+) passes", text).groups()
    assert settings.train.steps * settings.train.batch_size == int(
        images.replace(",", "")
    ) and settings.train.max_epochs == int(passes)
    train = settings.train
    assert f"{train.batch_size // train.processes // train.gradient_accumulation_steps} images at a time" in text
