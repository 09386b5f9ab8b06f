"""Checks of what is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from flows.doctor.check import Check

NEEDED = ("torch", "transformers", "prefect", "dvc", "mlflow", "great_expectations", "pyarrow", "s3fs", "boto3")
TOO_NEW = (
    (
        "fastapi",
        (0, 151),
        "Prefect's server refuses its own commands with it, as `prefect deploy`",
    ),
    ("sqlalchemy", (2, 1), "Prefect's server schedules no runs with it"),
)
"""Package, the first version that does not work, and why."""


def check_python() -> Check:
    """Check the version of Python."""
    found = sys.version.split()[0]
    return Check("Python", "ok" if sys.version_info >= (3, 11) else "fail", found, "Python 3.11 or newer is needed")


def check_packages() -> Iterator[Check]:
    """Check that packages are there and go together."""
    missing = [name for name in NEEDED if _version(name) is None]
    found = ", ".join(f"{name} {_version(name)}" for name in NEEDED if name not in missing)
    yield Check(
        "packages",
        "fail" if missing else "ok",
        found + (f"; missing: {', '.join(missing)}" if missing else ""),
        "pip install -c constraints.txt -e .",
    )
    for name, limit, harm in TOO_NEW:
        found = _version(name) or "missing"
        good = tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < limit
        yield Check(name, "ok" if good else "fail", found, f"{harm}: pip install '{name}<{limit[0]}.{limit[1]}'")
    if _version("torchvision") is None:
        yield Check("torchvision", "ok", "not installed, and not needed")
    else:
        broken = _import_error("torchvision")
        yield Check(
            "torchvision",
            "fail" if broken else "ok",
            broken or f"{_version('torchvision')}, loads",
            "nothing here needs it: pip uninstall torchvision",
        )


def _version(name: str) -> str | None:
    """Return the installed version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _import_error(name: str) -> str:
    """Return why a package cannot be imported, "" where it can; tried in another process, which may crash."""
    done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, timeout=120)
    return (done.stderr.strip().splitlines() or ["it does not load"])[-1] if done.returncode else ""
