"""Methods of other packages, each in an environment of its own below a folder that is kept.

The packages cannot be installed beside the project's: their pins differ. An environment is made once, by ``venv`` and
``pip``; where that fails, the method is skipped, and the reason is said.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from _rivals import Grid, Method, given_claims
from _samples import Objects, Sample, objects, score_of

WORKER = Path(__file__).with_name("_rival_worker.py")


@dataclass(frozen=True)
class Package:
    """What is installed for a method, and the grid of its settings."""

    requirement: str
    worker: str
    grid: Grid


PACKAGES: dict[str, Package] = {
    "Datumaro": Package("datumaro==1.13.12", "datumaro", {"overlap": (0.4, 0.5), "quorum": (0, 2), "own": (False,)}),
    "Panoptes": Package(
        "panoptes-aggregation==5.3.1",
        "panoptes",
        {"overlap": (0.35, 0.5), "least": (1,), "own": (True,)},
    ),
    "crowd-kit": Package(
        "crowd-kit==1.4.2",
        "crowd-kit",
        {"model": ("Dawid–Skene", "GLAD", "MACE"), "overlap": (0.5,), "own": (False,)},
    ),
    "detection-fusion": Package(
        "detection-fusion[torch]==1.1.0",
        "detection-fusion",
        {
            "strategy": ("weighted_vote", "majority_vote", "soft_voting", "bayesian", "confidence_weighted_nms"),
            "overlap": (0.5, 0.65),
            "own": (True,),
        },
    ),
}


class WorkerError(Exception):
    """A method's environment cannot be made, or its process failed."""


class Worker:
    """A process that runs one package's method until it is closed."""

    def __init__(self, package: Package, folder: Path) -> None:
        self._package = package
        python = make_environment(package, folder)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        self._log = (python.parents[1] / "worker.log").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(python), str(WORKER), package.worker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=environment,
        )

    def __call__(self, sample: Sample, settings: Mapping[str, Any]) -> Objects:
        """Return a sample's objects. Raises WorkerError if the process ends or the method fails."""
        request = _request(sample, settings)
        sent, answers = self._pipes()
        try:
            sent.write(json.dumps(request) + "\n")
            sent.flush()
            line = answers.readline()
        except OSError as error:
            message = f"{self._package.requirement}: its process has ended: {error}"
            raise WorkerError(message) from error
        answer = json.loads(line) if line else {"error": f"its process has ended; see {self._log.name}"}
        if isinstance(answer, dict):
            message = f"{self._package.requirement}: {answer['error']}"
            raise WorkerError(message)
        return objects([(k, name, box, score, votes, True) for k, name, box, score, votes in answer])

    def close(self) -> None:
        """End the process."""
        sent, _ = self._pipes()
        sent.close()
        self._process.wait(timeout=60)
        self._log.close()

    def _pipes(self) -> tuple[TextIO, TextIO]:
        assert self._process.stdin and self._process.stdout
        return self._process.stdin, self._process.stdout


def make_environment(package: Package, folder: Path) -> Path:
    """Return the Python of a package's environment, which is made if it is not there. Raises WorkerError."""
    home = folder / re.sub(r"[^\w.]+", "-", package.requirement)
    python = home / "bin" / "python"
    ready = home / "ready"
    if ready.exists():
        return python
    print(f"installing {package.requirement} below {folder}, once", file=sys.stderr, flush=True)
    try:
        venv.create(home, with_pip=True, clear=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package.requirement],
            check=True,
            capture_output=True,
            text=True,
            timeout=1800,
        )
    except (OSError, subprocess.SubprocessError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        said = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else repr(error))
        message = f"{package.requirement} cannot be installed ({said}); it needs a package index, for once"
        raise WorkerError(message) from error
    ready.touch()
    return python


def _request(sample: Sample, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "names": len(sample.names),
        "annotators": list(sample.annotators),
        "pictures": [
            {
                "size": (picture.width, picture.height),
                "claims": {
                    name: [(sample.names[f.name], f.box, score_of(f)) for f in found]
                    for name, found in given_claims(picture.claims, settings).items()
                },
            }
            for picture in sample.pictures
        ],
        "settings": {name: value for name, value in settings.items() if name not in ("single", "own")},
    }


def start_workers(folder: Path) -> tuple[dict[str, tuple[Method, Grid]], dict[str, str]]:
    """Return the methods that can be run, with the grids of their settings, and why others cannot."""
    found: dict[str, tuple[Method, Grid]] = {}
    skipped = {}
    for name, package in PACKAGES.items():
        try:
            found[name] = (Worker(package, folder), package.grid)
        except WorkerError as error:
            skipped[name] = str(error)
    return found, skipped
