"""The models that annotate as students: copies of accepted models, below .florence/."""

from __future__ import annotations

import shutil
from pathlib import Path

from florence.folders import swap_folder
from flows.models import CALIBRATION

ACCEPTED = ".florence/accepted"
"""Pointers to the snapshot and model of each accepted round."""
STUDENTS = ".florence/students"


def save_student(root: Path, round: int) -> Path:
    """Copy model/ with its calibration, whole or not at all, as the student of ``round``; return its folder."""
    target = root / STUDENTS / f"round={round}"
    with swap_folder(target) as new:
        shutil.copytree(root / "model", new, dirs_exist_ok=True)
        if (calibration := root / CALIBRATION).exists():
            shutil.copy(calibration, new)
    return target


def remove_other_students(root: Path, student: str | None) -> None:
    """Remove the models of all rounds but ``student``: the registry has them."""
    for other in [*(root / STUDENTS).glob("round=*"), *(root / STUDENTS).glob(".round=*")]:
        if str(other) != student:
            shutil.rmtree(other, ignore_errors=True)
