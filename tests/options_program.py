"""The program that docs/annotators.md shows, for the tests of all annotators."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

from annotator_programs import write_documented_program


def options() -> dict:
    """Write the program to a folder that is there until the tests end."""
    folder = tempfile.mkdtemp(prefix="florence-program-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"command": [sys.executable, str(write_documented_program(Path(folder)))], "tasks": ["<OD>"]}
