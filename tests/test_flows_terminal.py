"""What is shown without a terminal and on one; a process that ends with the one it belongs to."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.terminal import ProgressBars, say
from flows.tracked import PARENT, StageSeconds, end_with_parent


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_line_now_and_then(capsys, monkeypatch):
    clock = iter([0.0, 0.0, 5.0, 16.0, 20.0, 33.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    shown = ProgressBars()
    shown("train", 1, 100)
    shown.note("loss 2.500")
    shown("train", 2, 100)
    shown("train", 3, 100)
    monkeypatch.undo()
    assert capsys.readouterr().err == "train: 2 of 100, loss 2.500\n"


def test_on_a_terminal_a_bar(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with ProgressBars() as shown:
        shown("collect", 1, None)
        shown("train", 50, 100)
        shown.note("loss 2.500")
        shown("train", 100, 100)
    text = screen.getvalue()
    assert "collect" in text and "train" in text and text.endswith("\r"), "drawn, and taken away at the end"


def test_sentences_go_to_stdout(capsys):
    say("done")
    assert capsys.readouterr().out == "done\n"
    say("rejected: \x1b[31ma\r.jpg\n\tgrün ü")
    assert capsys.readouterr().out == "rejected: \\x1b[31ma\\x0d.jpg\n\tgrün ü\n"


def test_seconds_add_up(tmp_path: Path):
    seconds = StageSeconds(tmp_path)
    seconds.add("train", 1.25)
    seconds.add("train", 1.0)
    assert seconds.read() == {"train": 2.25}
    seconds.clear()
    assert seconds.read() == {}


def test_a_process_ends_with_the_one_it_belongs_to():
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ended = threading.Event()
    end_with_parent({PARENT: str(parent.pid)}, lambda code: ended.set())
    assert not ended.wait(0.7)
    parent.kill()  # and not waited for: a zombie is dead too
    assert ended.wait(5)
    parent.wait()


@pytest.mark.parametrize("environment", [{}, {"PATH": "/"}])
def test_a_process_that_belongs_to_nobody_stays(environment: dict[str, str]):
    before = threading.active_count()
    end_with_parent(environment, lambda code: pytest.fail("ended"))
    assert threading.active_count() == before
