"""A new workspace: the files that `florence` acts on, git and DVC."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import florence
from florence.errors import FlorenceError
from florence.store import Store
from florence.workspace.code import hash_code
from flows.adapters.environment import redact_text
from flows.adapters.git_records import NO_COMMITTER
from flows.adapters.ignored import describe_ignored, find_git_ignored, lines_against

OWNED = ("params.yaml", "dvc.yaml", "expectations", "code.json", "data.dvc", "dvc.lock", "data", "model", "scores")
"""What only a workspace holds: where one of these exists, no workspace is made."""
TEMPLATE = Path(florence.__file__).parent / "template"
NAMES = {"stages.yaml": "dvc.yaml", "gitignore": ".gitignore", "dvcignore": ".dvcignore"}
"""Files of the template that must not act inside the package → their names in a workspace."""
CONFIG = "[core]\n    analytics = false\n    check_update = false\n"


@dataclass(frozen=True, slots=True)
class NewWorkspace:
    """A workspace that was created.

    ``files``: names of the files written; ``git``, ``dvc``: whether a repository was started for it. ``uncommitted``:
    why its git repository has no commit yet, which `dvc exp run` needs; "" where it has one. ``unhidden``: which files
    an ignore file further above would hide from git, against which the workspace's own .gitignore has lines; "" where
    there are none.
    """

    folder: Path
    files: tuple[str, ...]
    git: bool
    dvc: bool
    uncommitted: str = ""
    unhidden: str = ""


def create_workspace(folder: Path) -> NewWorkspace:
    """Make ``folder`` a workspace; other files in it stay as they are.

    The files are the first commit of a git repository that is started for it, where git knows who commits. Inside a git
    repository, that one is used, nothing is committed, and DVC is started in the folder alone. Raises FlorenceError,
    before anything is written, where there is a workspace already, or git is missing.
    """
    folder = Path(os.path.abspath(Path(folder).expanduser()))
    _check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        git = _start_git(folder)
        unhidden = _unhide(folder)
        dvc = _start_dvc(folder)
        written = list(_copy_template(folder))
    except OSError as error:
        raise FlorenceError(f"{folder} cannot be made a workspace: {error}") from None
    return NewWorkspace(folder, tuple(sorted(written)), git, dvc, _commit_first(folder, written, git), unhidden)


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
    found = _run(folder, "git", "rev-parse", "--is-inside-work-tree")
    if found.returncode and "not a git repository" not in found.stderr:  # as one that belongs to another user
        raise FlorenceError(f"git does not work in {folder}: {redact_text(' '.join(found.stderr.split()))}")
    # In a bare repository git says "false".
    if found.stdout.strip() == "true" and _run(folder, "git", "check-ignore", "-q", ".").returncode != 0:
        return False
    _run_checked(folder, "git", "init", "-q")
    return True


def _commit_first(folder: Path, written: list[str], is_new: bool) -> str:
    """Commit what was written where the repository is new; return why it has no commit, "" where it has one."""
    if _run(folder, "git", "rev-parse", "--verify", "-q", "HEAD").returncode == 0:
        return ""
    if not is_new:
        return "the git repository has no commit yet"
    names = [*written, ".dvc"]
    _run_checked(folder, "git", "add", "--", *names)
    # Without useConfigOnly git would make an address up from the machine's name.
    options = ["-c", "user.useConfigOnly=true", "commit", "-q", "-m", "A Florence workspace", "--", *names]
    if not (done := _run(folder, "git", *options)).returncode:
        return ""
    if any(text in done.stderr for text in NO_COMMITTER):
        return "git does not know who commits (`git config user.name NAME`, `git config user.email ADDRESS`)"
    return "git commits nothing here: " + redact_text(" ".join((done.stderr or done.stdout).split()))


def _unhide(folder: Path) -> str:
    """Write lines into .gitignore against ignore files further above that hide what git is to hold; return which."""
    if not (ignored := find_git_ignored(folder)):
        return ""
    store, lines = Store(str(folder)), "".join(f"{line}\n" for line in lines_against(ignored)).encode()
    own = (folder / ".gitignore").read_bytes() if (folder / ".gitignore").exists() else b""
    # At the end of the file: of two lines that match the later one counts.
    store.write_bytes(".gitignore", own + (b"\n" if own and not own.endswith(b"\n") else b"") + lines)
    if left := find_git_ignored(folder):
        raise FlorenceError(f"git ignores what it is to hold: {describe_ignored(left)}; change these lines")
    return describe_ignored(ignored)


def _start_dvc(folder: Path) -> bool:
    if (folder / ".dvc").is_dir():
        return False
    # DVC calls the root of its repository a subdirectory where that is not git's root.
    from dvc.exceptions import DvcException  # a second
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        Repo.init(str(folder), subdir=not (folder / ".git").exists()).close()
    except DvcException as error:
        raise FlorenceError(f"dvc init failed in {folder}: {redact_text(str(error))}") from None
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
        if name == "params.yaml":
            content = content.replace(b"workspace: new", f"workspace: {_make_id(folder)}".encode(), 1)
        store.write_bytes(name, _add_lines(target.read_bytes(), content) if target.exists() else content)
        yield name


def _make_id(folder: Path) -> str:
    """Return an id for a new workspace: its folder's name, and six random hex digits that tell it from others."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")[:40].rstrip("-")
    return f"{name or 'workspace'}-{secrets.token_hex(3)}"


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
