"""DVC and git: the snapshot's versions, and the line of stages that dvc.yaml draws from a snapshot to a scored model.

DVC is run as a command, as a user would. What it keeps is one hash for data/ (data.dvc) and one for each stage (dvc.lock).
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from florence.config import SnapshotSettings
from florence.errors import FlorenceError

COMMITTED = ("data.dvc", "dvc.lock", "params.yaml", "metrics", "plots", "code.json")
"""What a commit of a round holds, where it is there."""
KEPT = ("data.dvc", "dvc.lock", "metrics", "plots")
"""What brings a round back, together with DVC's cache."""
WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between tries while another DVC process holds the lock."""
LONG = 10.0
"""Seconds after which a command that is still running is spoken of."""
TAIL = 20
LOCKED = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
TORN_LOCK = re.compile(r"RWLock-file .* (?:corrupted|format error)")
STAGE_FAILED = re.compile(r"failed to reproduce '([^']+)'(?:: (.*))?")
SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY")

# A process of its own group, which ends with the one that started it, however that ended: an orphan would go on training
# and hold DVC's lock while the run that was started again waits for it.
_TOGETHER = """
import os, signal, subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def end():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=end, daemon=True).start()
code = child.wait()
os._exit(code if code >= 0 else 128 - code)
"""
logger = logging.getLogger(__name__)


def remotes(root: Path) -> dict[str, str]:
    """The DVC remotes of the workspace ``root``, name → URL or path."""
    found = Snapshots(root, SnapshotSettings())._config()
    return {
        name.removeprefix("remote.").removesuffix(".url"): value
        for name, value in found.items()
        if re.fullmatch(r"remote\..+\.url", name)
    }


class Snapshots:
    """The DVC and git repositories of the workspace ``root``. Every method raises FlorenceError saying what failed and what to do."""

    def __init__(self, root: Path, settings: SnapshotSettings) -> None:
        self.root = Path(root).resolve()
        self.settings = settings

    # ------------------------------------------------------------ the snapshot

    def add(self) -> str:
        """Give data/ to DVC as it is now; returns the hash that data.dvc then holds."""
        if not (self.root / "data").is_dir():
            raise FlorenceError(f"{self.root / 'data'} does not exist: nothing has been published yet")
        pointer = self.root / "data.dvc"
        if pointer.exists() and self._pointer() is None:
            logger.warning("data.dvc was half-written; it is made anew")
            pointer.unlink()
        self._dvc("add", "data", failed="data/ cannot be added to DVC")
        found = self.data_hash()
        if found is None:
            raise FlorenceError(f"dvc add left no hash in {pointer}")
        return found

    def data_hash(self) -> str | None:
        """The hash in data.dvc; None where there is no snapshot."""
        pointer = self._pointer()
        return None if pointer is None else str(pointer["outs"][0]["md5"])

    def _pointer(self) -> dict[str, Any] | None:
        document = _yaml(self.root / "data.dvc")
        outs = document.get("outs") if document else None
        return document if isinstance(outs, list) and outs and isinstance(outs[0], dict) and "md5" in outs[0] else None

    def push(self) -> bool:
        """Push what data.dvc and dvc.lock name to ``snapshots.push``, or to the default remote; False where there is neither."""
        remote = self.settings.push or self._config().get("core.remote")
        if remote is None:
            return False
        self._dvc(
            "push",
            "-r",
            remote,
            failed=f"the snapshot cannot be pushed to the DVC remote {remote!r}",
            remedy="`dvc remote list` shows where it leads, `florence doctor` whether it can be reached and written with the credentials in the "
            "environment; the snapshot itself is safe in DVC's cache, and the next push takes it along",
        )
        return True

    def _config(self) -> dict[str, str]:
        """DVC's configuration of every level, as `dvc config --list` tells it: dotted names and values."""
        if not (self.root / ".dvc").is_dir():
            return {}
        code, lines = self._run(["config", "--list"], None, _nothing)
        return dict(line.split("=", 1) for line in lines if "=" in line) if code == 0 else {}

    # ------------------------------------------------------------ the stages

    def repro(self, env: Mapping[str, str] | None = None, say: Callable[[str], None] = print) -> None:
        """Run `dvc repro`: the stages of dvc.yaml whose dependencies changed, one after the other.

        ``env`` is added to their environment; ``say`` is given every line they write. Raises FlorenceError naming the stage that failed, with its last lines.
        """
        if (self.root / "dvc.lock").exists() and not isinstance(
            (_yaml(self.root / "dvc.lock") or {}).get("stages"), dict
        ):
            logger.warning("dvc.lock was half-written; it is made anew, from DVC's run cache where that knows a stage")
            (self.root / "dvc.lock").unlink()
        code, lines = self._patiently(["repro"], env, say)
        if code:
            raise FlorenceError(_repro_failed(lines))

    # ------------------------------------------------------------ back to an earlier round

    def keep(self, folder: Path) -> None:
        """Copy what brings this round back (`KEPT`) into ``folder``, in place of what is there."""
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name in KEPT:
            _copy(self.root / name, part / name)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)

    def restore(self, folder: Path) -> None:
        """Bring back the round that was kept in ``folder``: its files, then data/, model/ and scores/ from DVC's cache."""
        if not (folder / "data.dvc").is_file():
            raise FlorenceError(f"{folder} holds no round that was kept")
        for name in KEPT:
            _remove(self.root / name)
            _copy(folder / name, self.root / name)
        self._dvc(
            "checkout",
            "--force",
            failed="the data of the best round cannot be brought back from DVC's cache",
            remedy="`dvc pull` fetches what is missing from the remote; without one, `florence loop` makes it again",
        )

    # ------------------------------------------------------------ git

    def git_commit(self) -> str | None:
        """The commit that is checked out; None outside of a git repository and before the first commit."""
        code, said = self._git("rev-parse", "--verify", "-q", "HEAD")
        return said.strip() if code == 0 else None

    def commit(self, message: str) -> str | None:
        """Commit the round's small files where ``snapshots.commit`` says so, and nothing else; returns the commit that holds them, or None."""
        if not self.settings.commit:
            return None
        names = [name for name in COMMITTED if (self.root / name).exists()]
        for arguments in (
            ["add", "--", *names],
            ["diff", "--cached", "--quiet", "--", *names],
            ["commit", "-q", "-m", message, "--", *names],
        ):
            code, said = self._git(*arguments)
            if arguments[0] == "diff":
                if code == 0:
                    break
            elif code:
                raise FlorenceError(f"the round cannot be committed to git: {_commit_remedy(said)}")
        return self.git_commit()

    def _git(self, *arguments: str) -> tuple[int, str]:
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=self.root,
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            return 127, "git is not installed; install it, or set snapshots.commit: false"
        return done.returncode, clean(done.stdout if done.returncode == 0 else done.stderr or done.stdout)

    # ------------------------------------------------------------ running DVC

    def _dvc(self, *arguments: str, failed: str, remedy: str = "") -> None:
        code, lines = self._patiently(arguments, None, _nothing)
        if code:
            raise FlorenceError(
                f"{failed}: {_told(lines)}" + (f"\n{remedy[:1].upper()}{remedy[1:]}." if remedy else "")
            )

    def _patiently(
        self, arguments: Sequence[str], env: Mapping[str, str] | None, say: Callable[[str], None]
    ) -> tuple[int, list[str]]:
        """Run DVC; where another process holds its lock, again after a while."""
        if not (self.root / ".dvc").is_dir():
            raise FlorenceError(
                f"{self.root} is no DVC repository: `florence init DIR` makes a workspace with one, `dvc init` adds it to this folder"
            )
        for wait in (*WAITS, None):
            code, lines = self._run(arguments, env, say)
            text = "\n".join(lines[-TAIL:])
            if not code or not (LOCKED.search(text) or TORN_LOCK.search(text)):
                break
            if TORN_LOCK.search(text):
                (self.root / ".dvc/tmp/rwlock").unlink(missing_ok=True)
            if wait is None:
                raise FlorenceError(
                    f"dvc {arguments[0]}: another DVC process holds the lock of {self.root}: wait for it to end, or end it, and start again"
                )
            logger.info("dvc %s: another DVC process holds the lock; trying again in %g s", arguments[0], wait)
            time.sleep(wait)
        return code, lines

    def _run(
        self, arguments: Sequence[str], env: Mapping[str, str] | None, say: Callable[[str], None]
    ) -> tuple[int, list[str]]:
        command = [sys.executable, "-S", "-c", _TOGETHER, sys.executable, "-m", "dvc", *arguments]
        lines: list[str] = []
        long = threading.Timer(LONG, logger.info, ("dvc %s is still at work", arguments[0]))
        if say is _nothing:
            long.start()
        try:
            with _started(command, self.root, self._environment(env)) as process:
                assert process.stdout is not None
                for raw in process.stdout:
                    lines.append(clean(raw.rstrip("\n").rsplit("\r", 1)[-1].rstrip()))
                    say(lines[-1])
                code = process.wait()
        finally:
            long.cancel()
        return code, lines

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        """This process's, with the commands of its virtual environment first, so that stages find the `florence` that runs the flow."""
        own = str(Path(sys.executable).parent)
        path = os.pathsep.join([own, *(p for p in os.environ.get("PATH", "").split(os.pathsep) if p and p != own)])
        return {**os.environ, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1", **(env or {}), "PATH": path}


@contextmanager
def _started(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, which does not outlive this context."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        yield process
    except BaseException:
        os.killpg(process.pid, signal.SIGINT)  # first a chance to tidy up
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            pass
        raise
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _nothing(line: str) -> None:
    """Take a line and say nothing."""


def clean(text: str) -> str:
    """``text`` without the credentials that are in the environment or in a URL."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= 4:
            text = text.replace(value, "•••")
    return re.sub(r"(://)[^/@\s'\"]+@", r"\1•••@", text)


def _told(lines: Sequence[str]) -> str:
    """What DVC said was wrong."""
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return "; ".join(errors) or " ".join(line for line in lines[-3:] if line) or "DVC gave no reason"


def _repro_failed(lines: list[str]) -> str:
    """Which stage failed, why, and the last it wrote."""
    found = next((match for line in reversed(lines) if (match := STAGE_FAILED.search(line))), None)
    if found is None:
        return f"dvc repro failed: {_told(lines)}"
    name, why = found[1], found[2] or _told(lines)
    if name.endswith(".dvc") or "missing data" in why:
        return (
            f"dvc repro failed: {why}. `dvc pull` fetches the snapshot that data.dvc names; `florence loop` makes one"
        )
    if "are missing from" in why:
        return f"stage {name}: {why} dvc.yaml depends on these sections of params.yaml, so they have to stand there, be it with one setting"
    start = max((number for number, line in enumerate(lines) if line.startswith(f"Running stage '{name}'")), default=0)
    said = [line for line in lines[start + 1 :] if line and not line.startswith(("> ", "ERROR: "))]
    return f"stage {name} failed ({why}):\n  " + "\n  ".join(said[-TAIL:])


def _commit_remedy(said: str) -> str:
    if (
        "tell me who you are" in said
        or "auto-detect email" in said
        or "ident name" in said
        or "no email was given" in said
    ):
        return "git does not know who commits: `git config user.name NAME` and `git config user.email ADDRESS`, or set snapshots.commit: false"
    if "not a git repository" in said:
        return "this folder is in no git repository: `git init`, or set snapshots.commit: false"
    return said.strip() or "git gave no reason"


def _yaml(path: Path) -> dict[str, Any] | None:
    """A YAML mapping; None where the file is missing or something else."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return document if isinstance(document, dict) else None


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
