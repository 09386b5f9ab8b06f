"""Tiny workspaces for tests of flows and the command line: drawn scenes, simulated annotators, a few training steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CONSENSUS: dict[str, Any] = {
    "use": "simulated",
    "sources": ["*"],
    "tasks": ["<OD>", "<CAPTION>"],
    "missed": 0.2,
    "shifted": 0.1,
    "mislabelled": 0.15,
    "invented": 0.1,
}
PARAMS: dict[str, Any] = {
    "sources": {"scenes": {"use": "scenes", "count": 24}},
    "annotators": {name: dict(CONSENSUS) for name in ("careful", "hasty", "crude")},
    "collect": {"shard": 6},
    "split": {"held_out": 0.2, "gold": 0.2},
    "engine": {"student": {"tasks": ["<OD>"]}},
    "validation": {"max_shift": 100.0},
    "model": {"init": "nano", "image_size": 64},
    "train": {
        "steps": 3,
        "warmup": 1,
        "batch_size": 2,
        "tasks_per_image": 1,
        "threads": 1,
        "max_epochs": 1000,
        "save_steps": 1,
    },
    "evaluate": {"seed": 0, "bootstrap": 100, "tasks": ["<OD>"], "max_images": 3, "shuffled_image_tasks": []},
    "promotion": {"primary_task": "<OD>"},
    "flow": {"retries": 0, "rounds": 2},
}


def params(**overlay: Any) -> dict[str, Any]:
    """Return the settings of a tiny workspace, with ``overlay`` laid over them."""
    from florence.config import merged

    return merged(PARAMS, overlay)


def write_params(folder: Path, **overlay: Any) -> None:
    """Write params.yaml into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params(**overlay), sort_keys=False), encoding="utf-8")


def environment(**more: str) -> dict[str, str]:
    """Return the environment of the command: this checkout, one thread, no hub, no other Prefect."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW", "AWS"))}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def florence(folder: Path, *arguments: str, timeout: float = 1700, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in ``folder``."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=folder,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
