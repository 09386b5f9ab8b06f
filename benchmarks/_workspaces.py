"""Workspaces of drawn scenes with the demo's settings, which benchmarks run the loop in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from florence.rounds import name_labels
from florence.workspace.layout import read_images

PARAMS = Path(__file__).parents[1] / "params.yaml"
Change = Callable[[dict[str, Any]], None]


def make_scenes(folder: Path, seed: int, scale: float = 1.0, change: Change = lambda params: None) -> None:
    """Make ``folder`` a workspace of the demo's scenes and their annotators alone, if it is not one already.

    ``seed``: of every draw; ``scale``: of the number of scenes and of training steps; ``change``: edits the
    settings last.
    """
    if (folder / "params.yaml").exists():
        return
    florence(folder.parent, "init", folder.name)
    params = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    found = params["sources"]["scenes"]
    params["sources"] = {"scenes": {**found, "count": max(int(found["count"] * scale), 200), "seed": seed}}
    params["annotators"] = {
        name: {**section, "seed": seed}
        for name, section in params["annotators"].items()
        if section["use"] == "simulated"
    }
    params["train"].update(steps=max(int(params["train"]["steps"] * scale), 2), seed=seed)
    change(params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def florence(folder: Path, *command: str) -> None:
    """Run one command of the product in ``folder``, with its output on standard error.

    Raises SystemExit where it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(PARAMS.parent)}
    code = subprocess.run(
        [sys.executable, "-m", "flows.cli", *command], cwd=folder, env=environment, stdout=sys.stderr, check=False
    ).returncode
    if code:
        raise SystemExit(f"florence {' '.join(command)} ended with {code} in {folder}")


def read_labels(folder: Path, round: int) -> Any:
    """Read the labels of a round as a table."""
    from florence.store import Store

    return Store(str(folder / "data")).read_table(name_labels(round))


def read_gold(folder: Path) -> tuple[Any, list[str]]:
    """Read the truth of the gold scenes, and their ids."""
    import pyarrow.compute as pc

    from florence.evaluate import find_gold_references
    from florence.store import Store

    data = Store(str(folder / "data"))
    images = read_images(data)
    ids = images.filter(pc.equal(images["split"], "gold"))["image_id"].to_pylist()
    return find_gold_references(data, ids), ids
