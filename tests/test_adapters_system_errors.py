"""What the machine refuses becomes a sentence with a remedy, in whatever words it comes; texts fit any terminal."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy.exc
import torch
import typer
from flow_workspaces import ROOT, environment, florence, write_params
from safetensors.torch import save_file
from typer.testing import CliRunner

from florence.errors import FlorenceError, StoreError
from florence.store import Store
from flows.adapters import prefect_server
from flows.adapters.mlflow_errors import explain_error, first_line
from flows.adapters.system_errors import explain_system_error, find_full_disks
from flows.cli import app
from flows.cli.context import CommandGroup
from flows.terminal import prepare_streams


@pytest.fixture
def small(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """Yield a folder on a disk of 2 MB, as the current one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int = 0) -> Path:
    file = folder / "ballast"
    with file.open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(folder).free - left)
    return file


def run(error: BaseException) -> tuple[int, str]:
    """Return exit code and output of a command that raises ``error``."""
    commands = typer.Typer(cls=CommandGroup)

    @commands.command()
    def one() -> None:
        raise error

    @commands.command()
    def two() -> None:
        """Make it a group."""

    done = CliRunner().invoke(commands, ["one"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def write_half(path: Path) -> None:
    path.write_bytes(b"x" * 4_000_000)


def raised(work) -> BaseException:
    with pytest.raises(BaseException) as caught:
        work()
    return caught.value


WRITERS = {
    "a file": lambda folder: write_half(folder / "f"),
    "safetensors": lambda folder: save_file({"a": torch.zeros(1_000_000)}, folder / "m.safetensors"),
    "pyarrow": lambda folder: pq.write_table(
        pa.table({"a": [os.urandom(1000) for _ in range(4000)]}), folder / "t.parquet"
    ),
    "sqlite": lambda folder: _fill_database(folder / "x.db"),
    "shutil": lambda folder: shutil.copytree(ROOT / "florence", folder / "copy"),
    "store": lambda folder: Store(str(folder)).write_bytes("x/y", b"x" * 4_000_000),
}


def _fill_database(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE a (x)")
        database.executemany("INSERT INTO a VALUES (?)", [(os.urandom(10_000),) for _ in range(400)])


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_sentence_in_whatever_words_a_package_says_it(writer: str, small: Path):
    error = raised(lambda: WRITERS[writer](small))
    if isinstance(error, FlorenceError):
        assert "the disk is full" in str(error)
        return
    text = explain_system_error(error)
    assert text is not None and text.startswith("the disk is full") and "run the same command again" in text
    code, output = run(error)
    assert code == 1 and output.startswith("error: the disk is full") and output.count("\n") == 1


def test_an_error_that_does_not_speak_of_it_is_explained_by_the_disk(small: Path):
    fill(small)
    assert list(find_full_disks().values()) == [0]
    code, output = run(RuntimeError("Server error '500 Internal Server Error'"))
    assert code == 1 and f"the disk is full: {small} has 0 KB left" in output and "500 Internal" in output
    code, output = run(FlorenceError("the server did not start; server.log says why"))
    assert "server.log says why\nthe disk is full" in output
    (small / "ballast").unlink()
    with pytest.raises(RuntimeError):
        run(RuntimeError("Server error '500 Internal Server Error'"))


def test_nothing_is_half_written_and_the_same_goes_on(small: Path):
    store = Store(str(small))
    store.write_bytes("kept", b"old")
    ballast = fill(small, left=8192)
    with pytest.raises(StoreError, match="the disk is full"):
        store.write_bytes("kept", b"n" * 100_000)
    assert sorted(p.name for p in small.iterdir()) == ["ballast", "kept"] and store.read_bytes("kept") == b"old"
    ballast.unlink()
    store.write_bytes("kept", b"n" * 100_000)


def test_a_command_on_a_full_disk(small: Path):
    write_params(small)
    ballast = fill(small)
    done = CliRunner().invoke(app, ["collect"])
    assert done.exit_code == 1 and "the disk is full" in done.output and done.output.count("\n") == 1, done.output
    ballast.unlink()
    assert CliRunner().invoke(app, ["collect"]).exit_code == 0


@pytest.mark.parametrize("command", ["collect", "loop", "train", "annotate", "publish", "init w"])
def test_a_read_only_workspace(command: str, small: Path):
    write_params(small)
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 1 and "read-only" in done.output.lower(), (done.output, done.exception)
    assert done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "words", "remedy"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/w/.florence/lock"), "read-only: /w/.florence/lock", "mount"),
        (PermissionError(errno.EACCES, "Permission denied", "/w/x"), "not permitted: /w/x", "ls -l"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/w/x"), "the disk is full: /w/x", "free some space"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open", "ulimit -n"),
        (OSError(errno.EFBIG, "File too large", "/w/m"), "a file would be larger", "ulimit -f"),
        (OSError(errno.EIO, "Input/output error", "/w/m"), "the disk or network drive fails: /w/m", "dmesg"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk is full", ""),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full", "free"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "the file system is read-only", ""),
        (ExceptionGroup("two", [ValueError("x"), OSError(errno.ENOSPC, "No space left", "/w/y")]), "/w/y", ""),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, Exception) else "",
)
def test_other_refusals(error: Exception, words: str, remedy: str):
    text = explain_system_error(error)
    assert text is not None and words in text and remedy in text
    outer = KeyError("what came of it")
    outer.__cause__ = error
    assert explain_system_error(outer) == text


def test_mistakes_of_our_own_keep_their_traceback():
    for error in (KeyError("x"), ValueError("no such thing"), FileNotFoundError(errno.ENOENT, "No such file", "x")):
        assert explain_system_error(error) is None
        with pytest.raises(type(error)):
            run(error)


# ---------------------------------------------------------------- terminals


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", r"a 90 x 60 -> '\xf6' \u732b ... >= 1 \udcff"),
        ("latin-1", "a 90 × 60 -> 'ö' \\u732b ... >= 1 \\udcff"),
        ("utf-8", "a 90 × 60 → ‘ö’ 猫 … ≥ 1 \\udcff"),
    ],
)
def test_a_text_fits_every_terminal(encoding: str, expected: str, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    print("a 90 × 60 → ‘ö’ 猫 … ≥ 1 \udcff", file=stream, end="")
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) == expected


ASCII = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def test_a_command_in_an_ascii_locale(tmp_path: Path):
    root = tmp_path / "wörk"
    write_params(root)
    done = florence(root, "predict", "no × picture ö.jpg", **ASCII)
    assert done.returncode == 1 and done.stderr.startswith(r"error: no x picture \xf6.jpg: unreadable"), done.stderr
    code = "import sys, flows.cli; sys.argv = ['florence', 'loop', '--dry-run']; flows.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment(**ASCII), capture_output=True, text=True
    )
    assert done.returncode == 0 and "24 new" in done.stdout, done.stderr


def test_json_is_json_in_every_encoding():
    text = json.dumps({"text": "ö 猫"}, ensure_ascii=True)
    assert json.loads(text)["text"] == "ö 猫" and text.isascii()


def test_a_line_of_an_error_says_what_counts():
    text = "(raised as a result of Query-invoked autoflush; consider x)\n(sqlite3.X) disk is full"
    assert first_line(sqlalchemy.exc.InvalidRequestError(text)) == "(sqlite3.X) disk is full"
    copies = shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a'"), ("c", "d", "more")])
    assert first_line(copies) == "[Errno 28] No space left on device: 'a'"
    assert "the disk is full" in str(explain_error("sqlite:////w/x.db", "register the model", copies))


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (None, "wrote nothing to"),
        ("", "wrote nothing to"),
        (
            "  File x\nsqlite3.OperationalError: database or disk is full\n",
            "start: the disk is full; free some",
        ),
        (
            "Traceback\nValueError: a port: taken\n  <no Python frame>\n",
            "start: ValueError: a port: taken; .*more",
        ),
        ("PermissionError: [Errno 13] Permission denied: '/x'", "did not start: not permitted; check whose"),
    ],
)
def test_a_server_that_did_not_start_is_explained_by_its_log(log: str | None, expected: str, tmp_path: Path):
    if log is not None:
        Store(str(tmp_path)).write_bytes(".florence/prefect/server.log", log.encode())
    assert re.search(expected, prefect_server._explain_start(tmp_path))


def test_a_log_that_was_lost_to_a_full_disk_is_explained_by_the_disk(small: Path):
    (small / ".florence/prefect").mkdir(parents=True)
    (small / ".florence/prefect/server.log").write_text("  <no Python frame>\n")
    assert f"the disk is full: {small} has " in prefect_server._explain_start(small)
