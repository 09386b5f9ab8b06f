"""A new workspace: the files that `florence` acts on, git and DVC."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import florence
from florence.errors import FlorenceError
from florence.store import Store
from florence.workspace.code import hash_code
from flows.adapters.environment import redact_text

OWNED = ("params.yaml", "dvc.yaml", "expectations", "code.json", "data.dvc", "dvc.lock", "data", "model", "scores")
"""What only a workspace holds: where one of these exists, no workspace is made."""
TEMPLATE = Path(florence.__file__).parent / "template"
NAMES = {"stages.yaml": "dvc.yaml", "gitignore": ".gitignore", "dvcignore": ".dvcignore"}
"""Files of the template that must not act inside the package → their names in a workspace."""
CONFIG = "[core]\n    analytics = false\n    check_update = false\n"


@dataclass(frozen=True, slots=True)
class NewWorkspace:
    """A workspace that was created.

    ``files``: names of the files written; ``git``, ``dvc``: whether a repository was started for it.
    """

    folder: Path
    files: tuple[str, ...]
    git: bool
    dvc: bool


def create_workspace(folder: Path) -> NewWorkspace:
    """Make ``folder`` a workspace; nothing is committed, and other files in it stay as they are.

    Inside a git repository, that repository is used, and DVC is started in the folder alone. Raises FlorenceError,
    before anything is written, where there is a workspace already, or git is missing.
    """
    folder = Path(os.path.abspath(Path(folder).expanduser()))
    _check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        git = _start_git(folder)
        dvc = _start_dvc(folder)
        written = list(_copy_template(folder))
    except OSError as error:
        raise FlorenceError(f"{folder} cannot be made a workspace: {error}") from None
    return NewWorkspace(folder, tuple(sorted(written)), git, dvc)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise FlorenceError(f"{folder} is a file; name a folder")
    for name in OWNED:
        if os.path.lexists(folder / name):
            raise FlorenceError(
                f"{folder / name} exists: this folder is a workspace already, or would be mixed up with one. "
                "Nothing was changed; name another folder"
            )
    if shutil.which("git") is None:
        raise FlorenceError("git is not found; install it: DVC keeps its files in a git repository")


def _start_git(folder: Path) -> bool:
    """Start a git repository, unless there is one that does not ignore the folder; return whether it was started."""
    if (
        _run(folder, "git", "rev-parse", "--is-inside-work-tree").returncode == 0
        and _run(folder, "git", "check-ignore", "-q", ".").returncode != 0
    ):
        return False
    _run_checked(folder, "git", "init", "-q")
    return True


def _start_dvc(folder: Path) -> bool:
    if (folder / ".dvc").is_dir():
        return False
    # DVC calls the root of its repository a subdirectory where that is not git's root.
    subdir = [] if (folder / ".git").exists() else ["--subdir"]
    _run_checked(folder, sys.executable, "-m", "dvc", "init", "-q", *subdir)
    Store(str(folder)).write_bytes(".dvc/config", CONFIG.encode())
    return True


def _copy_template(folder: Path) -> Iterator[str]:
    """Copy the template, params.yaml last, and yield the names; lines that an ignore file lacks are added to it."""
    store = Store(str(folder))
    found = sorted(
        (p.relative_to(TEMPLATE) for p in TEMPLATE.rglob("*") if p.is_file()),
        key=lambda p: (p.name == "params.yaml", p),
    )
    store.write_json("code.json", {"code": hash_code()})
    yield "code.json"
    for path in found:
        name = NAMES.get(str(path), path.as_posix())
        content, target = (TEMPLATE / path).read_bytes(), folder / name
        store.write_bytes(name, _add_lines(target.read_bytes(), content) if target.exists() else content)
        yield name


def _add_lines(own: bytes, ours: bytes) -> bytes:
    """Return an ignore file with the lines of ``ours`` that it lacks."""
    present = set(own.splitlines())
    more = [line for line in ours.splitlines() if line not in present]
    return own + (b"\n" if own and not own.endswith(b"\n") else b"") + b"".join(line + b"\n" for line in more)


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
    )


def _run_checked(folder: Path, *command: str) -> None:
    done = _run(folder, *command)
    if done.returncode:
        reason = redact_text(" ".join((done.stderr or done.stdout).split()))
        raise FlorenceError(f"{' '.join(command[-3:])} failed in {folder}: {reason}")
