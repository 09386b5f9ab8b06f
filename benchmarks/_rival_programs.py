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

from _rivals import Grid, MethodError, given_claims
from _samples import Objects, Sample, objects, score_of

WORKER = Path(__file__).with_name("_rival_worker.py")


@dataclass(frozen=True)
class Package:
    """What is installed for a method, its name for the worker, and the grid of its settings; whether it is slow."""

    requirement: str
    worker: str
    grid: Grid
    slow: bool = True


CROWD_KIT = "crowd-kit==1.4.2"
PACKAGES: dict[str, Package] = {
    "Datumaro": Package("datumaro==1.13.12", "datumaro", {"overlap": (0.4, 0.5), "quorum": (0, 2), "own": (False,)}),
    "Panoptes": Package(
        "panoptes-aggregation==5.3.1",
        "panoptes",
        {"overlap": (0.35, 0.5), "least": (1,), "own": (True,)},
    ),
    "Dawid–Skene": Package(
        CROWD_KIT, "crowd-kit", {"model": ("Dawid–Skene",), "overlap": (0.4, 0.5), "own": (False, True)}, slow=False
    ),
    "GLAD": Package(CROWD_KIT, "crowd-kit", {"model": ("GLAD",), "overlap": (0.5,), "own": (False,)}),
    "MACE": Package(CROWD_KIT, "crowd-kit", {"model": ("MACE",), "overlap": (0.5,), "own": (False,)}),
    "detection-fusion": Package(
        "detection-fusion[torch]==1.1.0",
        "detection-fusion",
        {
            "strategy": ("weighted_vote", "majority_vote", "soft_voting", "bayesian", "confidence_weighted_nms"),
            "overlap": (0.5, 0.65),
            "own": (True,),
        },
        slow=False,
    ),
}
"""Methods by name. Dawid–Skene, GLAD and MACE are crowd-kit's, on clusters of boxes."""


class Worker:
    """A process that runs one package's method, from the first sample until it is closed."""

    def __init__(self, package: Package, folder: Path) -> None:
        self._package = package
        self._python = make_environment(package.requirement, folder)
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, sample: Sample, settings: Mapping[str, Any]) -> Objects:
        """Return a sample's objects. Raises MethodError if the process ends or the method fails."""
        request = _request(sample, settings)
        sent, answers = self._pipes()
        try:
            sent.write(json.dumps(request) + "\n")
            sent.flush()
            line = answers.readline()
        except OSError as error:
            message = f"{self._package.requirement}: its process has ended: {error}"
            raise MethodError(message) from error
        answer = json.loads(line) if line else {"error": f"its process has ended; see {self._log()}"}
        if isinstance(answer, dict):
            message = f"{self._package.requirement}: {answer['error']}"
            raise MethodError(message)
        return objects([(k, name, box, score, votes, True) for k, name, box, score, votes in answer])

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            sent, _ = self._pipes()
            sent.close()
            self._process.wait(timeout=60)
            self._process = None

    def _log(self) -> Path:
        return self._python.parents[1] / f"{self._package.worker}.log"

    def _pipes(self) -> tuple[TextIO, TextIO]:
        """Return where requests are written and answers are read; start the process for the first one."""
        if self._process is None:
            with self._log().open("a", encoding="utf-8") as log:
                self._process = subprocess.Popen(
                    [str(self._python), str(WORKER), self._package.worker],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    encoding="utf-8",
                    env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
                )
        assert self._process.stdin and self._process.stdout
        return self._process.stdin, self._process.stdout


def make_environment(requirement: str, folder: Path) -> Path:
    """Return the Python of a package's environment, which is made if it is not there. Raises MethodError."""
    home = folder / re.sub(r"[^\w.]+", "-", requirement)
    python = home / "bin" / "python"
    ready = home / "ready"
    if ready.exists():
        return python
    print(f"installing {requirement} below {folder}, once", file=sys.stderr, flush=True)
    try:
        venv.create(home, with_pip=True, clear=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement],
            check=True,
            capture_output=True,
            text=True,
            timeout=1800,
        )
    except (OSError, subprocess.SubprocessError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        said = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else repr(error))
        message = f"{requirement} cannot be installed ({said}); it needs a package index, for once"
        raise MethodError(message) from error
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


def install_packages(folder: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the names of the methods whose environments are there or can be made, and why others cannot."""
    reasons: dict[str, str] = {}
    for requirement in dict.fromkeys(package.requirement for package in PACKAGES.values()):
        try:
            make_environment(requirement, folder)
        except MethodError as error:
            reasons[requirement] = str(error)
    skipped = {name: reasons[one.requirement] for name, one in PACKAGES.items() if one.requirement in reasons}
    return tuple(name for name in PACKAGES if name not in skipped), skipped
