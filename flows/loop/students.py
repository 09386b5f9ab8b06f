"""The models that annotate as students: copies of accepted models, below .florence/."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from flows.promote import CALIBRATION

ACCEPTED = ".florence/accepted"
"""Pointers to the snapshot and model of each accepted round."""
STUDENTS = ".florence/students"


def save_student(root: Path, round: int) -> Path:
    """Copy model/ with its calibration, whole or not at all, as the student of ``round``; return its folder."""
    target = root / STUDENTS / f"round={round}"
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(root / "model", part)
    if (calibration := root / CALIBRATION).exists():
        shutil.copy(calibration, part)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)
    return target


def remove_other_students(root: Path, student: str | None) -> None:
    """Remove the models of all rounds but ``student``: the registry has them."""
    for other in (root / STUDENTS).glob("round=*"):
        if str(other) != student:
            shutil.rmtree(other, ignore_errors=True)
