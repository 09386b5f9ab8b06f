"""DVC: the versions of the snapshot, and the stages of dvc.yaml from a snapshot to a scored model.

DVC is run as a command, as a user would; only its configuration is read by its library. It keeps one hash for data/
(data.dvc) and one for each stage (dvc.lock).
Output of DVC is parsed as it is, and redacted before anybody reads it.
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

import yaml
from ruamel.yaml import YAML

from florence.config import SnapshotSettings
from florence.errors import FlorenceError
from florence.folders import settle_folder, swap_folder
from flows.adapters.environment import redact_text

KEPT = ("data.dvc", "dvc.lock", "metrics", "plots")
"""Files and folders that bring a round back, together with DVC's cache."""
RETRY_DELAYS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between attempts while another DVC process holds the lock."""
SLOW = 10.0
"""Seconds after which a command that is still running is logged."""
LAST_LINES = 20
"""Lines of output that an error repeats at most."""
LOCKED = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
BROKEN_LOCK = re.compile(r"RWLock-file .* (?:corrupted|format error)")
STAGE_FAILED = re.compile(r"failed to reproduce '([^']+)'(?:: (.*))?")

# Run a command in a process group that ends when the process that started it has ended, in whatever way: an orphan
# would go on training, and hold DVC's lock while the run that was started again waits for it.
_RUN_AND_END_TOGETHER = """
import os, signal, subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
def end():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=end, daemon=True).start()
code = child.wait()
os._exit(code if code >= 0 else 128 - code)
"""

# DVC reads params.yaml again when a stage ends. In a run it is to read, each time, what the run has frozen, and the
# user's file stays where it is, edited or not. What dvc.lock then holds is checked.
_DVC_WITH_FROZEN = """
import builtins, os, sys
shown, frozen, *arguments = sys.argv[1:]
plain = builtins.open
def open_frozen(file, mode="r", *others, **named):
    is_shown = isinstance(file, (str, os.PathLike)) and os.path.abspath(file) == shown
    return plain(frozen if is_shown and mode in ("r", "rb", "rt") else file, mode, *others, **named)
builtins.open = open_frozen
sys.argv = ["dvc", *arguments]
from dvc.cli import main
sys.exit(main(arguments))
"""
logger = logging.getLogger(__name__)


class Snapshots:
    """The DVC repository of the workspace ``root``.

    ``frozen``: the file that DVC reads in place of params.yaml.

    Every method raises FlorenceError saying what failed and what to do.
    """

    def __init__(self, root: Path, settings: SnapshotSettings, frozen: Path | None = None) -> None:
        self.root = Path(root).resolve()
        self.settings = settings
        self.frozen = frozen

    # ------------------------------------------------------------ the snapshot

    def add(self) -> str:
        """Add data/ to DVC as it is now; return the hash that data.dvc then holds."""
        if not (self.root / "data").is_dir():
            raise FlorenceError(f"{self.root / 'data'} does not exist: nothing has been published yet")
        pointer = self.root / "data.dvc"
        if pointer.exists() and self._read_pointer() is None:
            logger.warning("data.dvc was half-written; it is made anew")
            pointer.unlink()
        self._dvc("add", "data", failed="data/ cannot be added to DVC")
        found = self.data_hash()
        if found is None:
            raise FlorenceError(f"dvc add left no hash in {pointer}")
        return found

    def data_hash(self) -> str | None:
        """Return the hash in data.dvc; None where there is no snapshot."""
        pointer = self._read_pointer()
        return None if pointer is None else str(pointer["outs"][0]["md5"])

    def file_folders(self) -> list[Path]:
        """Return the folders on this machine that hold files by their MD5: DVC's cache, and remotes that are folders.

        A file is in `xx/yyy…` below one of these.
        """
        config = self._read_config()
        places = [config.get("cache.dir") or str(self.root / ".dvc/cache"), *self.remotes().values()]
        folders = [self.root / ".dvc" / place / "files/md5" for place in places if "://" not in place]
        return [folder for folder in folders if folder.is_dir()]

    def _read_pointer(self) -> dict[str, Any] | None:
        document = _read_yaml(self.root / "data.dvc")
        outs = document.get("outs") if document else None
        return document if isinstance(outs, list) and outs and isinstance(outs[0], dict) and "md5" in outs[0] else None

    def push(self) -> bool:
        """Push what data.dvc and dvc.lock name to the remote; return whether there is one.

        The remote is ``snapshots.push``, or DVC's default one.
        """
        remote = self.settings.push or self._read_config().get("core.remote")
        if remote is None:
            return False
        self._dvc(
            "push",
            "-r",
            remote,
            failed=f"the snapshot cannot be pushed to the DVC remote {remote!r}",
            remedy="`dvc remote list` shows where it leads, `florence doctor` whether the credentials in the "
            "environment may write there; the snapshot is safe in DVC's cache, and the next push takes it along",
        )
        return True

    def remotes(self) -> dict[str, str]:
        """Return the DVC remotes, name → URL or path as DVC has it: with credentials, where it holds some."""
        return {
            name.removeprefix("remote.").removesuffix(".url"): value
            for name, value in self._read_config().items()
            if re.fullmatch(r"remote\..+\.url", name)
        }

    def _read_config(self) -> dict[str, str]:
        """Return DVC's configuration of all levels, as `dvc config --list` shows it: dotted names and values.

        Nothing where there is none, or DVC cannot read it.
        """
        if not (self.root / ".dvc").is_dir():
            return {}
        from dvc.config import Config, ConfigError
        from dvc.utils.flatten import flatten

        try:
            found = Config(str(self.root / ".dvc"), validate=False)
        except (ConfigError, OSError):
            return {}
        return {str(name): str(value) for name, value in flatten(dict(found)).items()}

    # ------------------------------------------------------------ the stages

    def repro(self, env: Mapping[str, str] | None = None, say: Callable[[str], None] = print) -> None:
        """Run `dvc repro`: the stages of dvc.yaml whose dependencies have changed, one after the other.

        ``env`` is added to their environment; ``say`` receives every line they write, redacted. Raises FlorenceError
        naming the stage that failed, with its last lines.
        """
        if (self.root / "dvc.lock").exists() and not isinstance(
            (_read_yaml(self.root / "dvc.lock") or {}).get("stages"), dict
        ):
            logger.warning("dvc.lock was half-written; it is made anew, from DVC's run cache where that knows a stage")
            (self.root / "dvc.lock").unlink()
        code, lines = self._run_when_free(["repro"], env, say)
        if code:
            raise FlorenceError(redact_text(_explain_repro(lines)))
        if self.frozen is not None:
            self._check_lock(self.frozen)

    def _check_lock(self, params: Path) -> None:
        """Raise FlorenceError where dvc.lock names other settings than those in ``params``."""
        for stage, key in find_other_params((self.root / "dvc.lock").read_bytes(), params.read_bytes()):
            raise FlorenceError(
                f"dvc.lock has another {key} for the stage {stage} than the run: `dvc repro --force {stage}` makes "
                "the stage again"
            )

    # ------------------------------------------------------------ back to an earlier round

    def keep(self, folder: Path) -> None:
        """Copy what brings this round back (`KEPT`) to ``folder``, in place of what is there, whole or not at all."""
        with swap_folder(folder) as new:
            for name in KEPT:
                _copy(self.root / name, new / name)

    def has_kept(self, folder: Path) -> bool:
        """Return whether a round was kept in ``folder``."""
        settle_folder(folder)
        return (folder / "data.dvc").is_file()

    def restore(self, folder: Path) -> None:
        """Restore the round that was kept in ``folder``: its files, then data/, model/ and scores/ from DVC's cache.

        Interrupted, it is done again from the start by the same call: data.dvc, which the rest follows from, comes last
        of the files.
        """
        if not self.has_kept(folder):
            raise FlorenceError(f"{folder} holds no round that was kept")
        for name in reversed(KEPT):
            _replace(folder / name, self.root / name)
        self._dvc(
            "checkout",
            "--force",
            failed="the data of the best round cannot be brought back from DVC's cache",
            remedy="`dvc pull` fetches what is missing from the remote; without one, `florence loop` makes it again",
        )

    # ------------------------------------------------------------ running DVC

    def _dvc(self, *arguments: str, failed: str, remedy: str = "") -> None:
        code, lines = self._run_when_free(arguments, None, _say_nothing)
        if code:
            raise FlorenceError(
                f"{failed}: {redact_text(_find_errors(lines))}"
                + (f"\n{remedy[:1].upper()}{remedy[1:]}." if remedy else "")
            )

    def _run_when_free(
        self, arguments: Sequence[str], env: Mapping[str, str] | None, say: Callable[[str], None]
    ) -> tuple[int, list[str]]:
        """Run DVC, again after a while as long as another process holds its lock; return its exit code and lines."""
        if not (self.root / ".dvc").is_dir():
            raise FlorenceError(
                f"{self.root} is no DVC repository: `florence init DIR` makes a workspace with one, "
                "`dvc init` adds it to this folder"
            )
        for wait in (*RETRY_DELAYS, None):
            code, lines = self._run(arguments, env, say)
            text = "\n".join(lines[-LAST_LINES:])
            if not code or not (LOCKED.search(text) or BROKEN_LOCK.search(text)):
                break
            if BROKEN_LOCK.search(text):
                (self.root / ".dvc/tmp/rwlock").unlink(missing_ok=True)
            if wait is None:
                raise FlorenceError(
                    f"dvc {arguments[0]}: another DVC process holds the lock of {self.root}: "
                    "wait for it to end, or end it, and start again"
                )
            logger.info("dvc %s: another DVC process holds the lock; trying again in %g s", arguments[0], wait)
            time.sleep(wait)
        return code, lines

    def _run(
        self, arguments: Sequence[str], env: Mapping[str, str] | None, say: Callable[[str], None]
    ) -> tuple[int, list[str]]:
        """Run DVC once; return its exit code and the lines it wrote, not redacted."""
        command = [sys.executable, "-S", "-c", _RUN_AND_END_TOGETHER, sys.executable]
        if self.frozen is None:
            command += ["-m", "dvc", *arguments]
        else:
            command += ["-c", _DVC_WITH_FROZEN, str(self.root / "params.yaml"), str(self.frozen), *arguments]
        lines: list[str] = []
        slow = threading.Timer(SLOW, logger.info, ("dvc %s is still at work", arguments[0]))
        if say is _say_nothing:
            slow.start()
        try:
            with _start_group(command, self.root, self._environment(env)) as process:
                assert process.stdout is not None
                for raw in process.stdout:
                    lines.append(raw.rstrip("\n").rsplit("\r", 1)[-1].rstrip())
                    say(redact_text(lines[-1]))
                code = process.wait()
        finally:
            slow.cancel()
        return code, lines

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        """Return this process's environment with ``env`` added and its virtual environment first on the PATH.

        So stages find the `florence` that runs the flow.
        """
        own = str(Path(sys.executable).parent)
        path = os.pathsep.join([own, *(p for p in os.environ.get("PATH", "").split(os.pathsep) if p and p != own)])
        ours = {"DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}  # its lines are read so
        return {**os.environ, **ours, **(env or {}), "PATH": path}


@contextmanager
def _start_group(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a process group of its own, which does not outlive the block."""
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


def _say_nothing(line: str) -> None:
    """Take a line and do nothing with it."""


def _find_errors(lines: Sequence[str]) -> str:
    """Return the errors among DVC's lines, or else its last lines."""
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return "; ".join(errors) or " ".join(line for line in lines[-3:] if line) or "DVC gave no reason"


def _explain_repro(lines: list[str]) -> str:
    """Return which stage failed, why, and its last lines."""
    found = next((match for line in reversed(lines) if (match := STAGE_FAILED.search(line))), None)
    if found is None:
        return f"dvc repro failed: {_find_errors(lines)}"
    name, why = found[1], found[2] or _find_errors(lines)
    if name.endswith(".dvc") or "missing data" in why:
        return (
            f"dvc repro failed: {why}. `dvc pull` fetches the snapshot that data.dvc names; `florence loop` makes one"
        )
    if "are missing from" in why:
        return (
            f"stage {name}: {why} dvc.yaml depends on these sections of params.yaml, so they have to be there, "
            "with one setting at least"
        )
    start = max((number for number, line in enumerate(lines) if line.startswith(f"Running stage '{name}'")), default=0)
    output = [line for line in lines[start + 1 :] if line and not line.startswith(("> ", "ERROR: "))]
    return f"stage {name} failed ({why}):\n  " + "\n  ".join(output[-LAST_LINES:])


def find_other_params(lock: bytes, params: bytes) -> Iterator[tuple[str, str]]:
    """Yield (stage, key) for each setting in ``lock``, dvc.lock, that ``params``, params.yaml, has otherwise.

    Both are read as DVC reads them: in YAML 1.2, where 1e-5 is a number.
    """
    locked, values = (YAML(typ="safe", pure=True).load(text) or {} for text in (lock, params))
    for stage, entry in (locked.get("stages") or {}).items():
        for key, value in ((entry.get("params") or {}).get("params.yaml") or {}).items():
            found: Any = values
            for part in key.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
            if found != value:
                yield stage, key


def _read_yaml(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a YAML file; None where the file is missing or holds something else."""
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


def _replace(source: Path, target: Path) -> None:
    """Put a copy of ``source`` in place of ``target``; remove ``target`` where there is no ``source``."""
    if source.is_dir():
        with swap_folder(target) as new:
            shutil.copytree(source, new, dirs_exist_ok=True)
    elif source.exists():
        part = target.with_name(f".{target.name}.part")
        shutil.copy2(source, part)
        os.replace(part, target)
    elif target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
