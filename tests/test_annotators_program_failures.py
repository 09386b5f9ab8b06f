"""Programs that annotate badly: what each fault costs, and how a program is ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from annotator_programs import (
    GOOD,
    ROOT,
    THING,
    batch_of,
    gone,
    make_python_program,
    wait_for_programs_to_end,
    write_program,
)

from florence.errors import FlorenceError, UnavailableError


@pytest.fixture(autouse=True)
def no_program_is_left():
    yield
    wait_for_programs_to_end()


# ---------------------------------------------------------------- bad ones


def test_an_error_costs_its_image_and_may_ask_for_another_time(tmp_path: Path):
    body = """
for request in requests():
    number = int(request["image_id"], 16)
    if number == 1:
        send({"image_id": request["image_id"], "error": "too dark"})
    elif number == 2:
        send({"image_id": request["image_id"], "error": "no memory left", "retry": True})
    elif number == 3:
        send(make_answer(request) | {"annotations": [{"label": "thing", "box": [1, 2, 3]}]})
    else:
        send(make_answer(request, str(os.getpid())))
"""
    found = make_python_program(tmp_path, body).annotate(batch_of(5))
    assert [type(one) for one in found] == [list, FlorenceError, UnavailableError, FlorenceError, list]
    assert str(found[1]) == "too dark" and str(found[2]) == "no memory left"
    assert "line 4, annotations.0.box" in str(found[3])
    assert found[0] == found[4], "the program went on"


BREAKS = {
    "crashes": ("raise RuntimeError('no such thing')", r"ended with exit code 1\n.*RuntimeError: no such thing"),
    "exits": ("sys.exit(0)", "ended with exit code 0"),
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", r"killed by signal 9 \(SIGKILL; .*out of memory"),
    "segfaults": ("os.kill(os.getpid(), signal.SIGSEGV)", r"killed by signal 11 \(SIGSEGV\)"),
    "hangs": ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)", "answered nothing for 4 seconds"),
    "talks": (
        "send('Processing image ...')",
        r"line \d+: a JSON object is expected .*standard error.*found 'Processing image",
    ),
    "stops in a line": (
        "sys.stdout.write(json.dumps(make_answer(request))[:40]); sys.stdout.flush(); os._exit(3)",
        "exit code 3, in the middle of a line",
    ),
    "answers about another": (
        "send({'image_id': 'x' * 64, 'annotations': []})",
        "image_id: one of the .* asked is expected; found 'xxx",
    ),
    "answers about none": ("send({'annotations': []})", "image_id: .*found None"),
    "closes its output": ("os.close(1); time.sleep(600)", "closed its output"),
    "is silent": ("continue", "answered nothing for 4 seconds"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_the_image_that_breaks_it_is_found_and_the_others_lose_nothing(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("florence.processes.process.GRACE", 0.5)
    breaks, reason = BREAKS[what]
    body = f"""
for request in requests():
    if int(request["image_id"], 16) == 2:
        {breaks}
    else:
        send(make_answer(request))
"""
    annotator = make_python_program(tmp_path, body, timeout=1.5, start=4)
    found = annotator.annotate(batch_of(5))
    assert [i for i, one in enumerate(found) if one != THING] == [2]
    assert type(found[2]) is FlorenceError
    assert re.search("asked about this image alone: .*" + reason, str(found[2]), re.S), str(found[2])
    assert annotator.annotate(batch_of(2)) == [THING] * 2, "it goes on"


def test_a_program_whose_leader_dies_is_ended_though_its_children_keep_the_output_open(tmp_path: Path):
    body = """
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # annotator.py"])
for request in requests():
    if int(request["image_id"], 16) == 1:
        os._exit(5)
    send(make_answer(request))
"""
    found = make_python_program(tmp_path, body, timeout=60, start=60).annotate(batch_of(3))
    assert [i for i, one in enumerate(found) if one != THING] == [1] and "exit code 5" in str(found[1])
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not [command for command in commands if b"# annotator.py" in command and b"600" in command], (
        "the children are ended too"
    )


def test_a_program_killed_from_outside_in_the_middle_is_started_again(tmp_path: Path):
    mark = tmp_path / "killed"
    body = f"""
for request in requests():
    if int(request["image_id"], 16) == 3 and not os.path.exists({str(mark)!r}):
        open({str(mark)!r}, "w").close()
        subprocess.run(["kill", "-9", str(os.getpid())])
        time.sleep(600)
    send(make_answer(request))
"""
    assert make_python_program(tmp_path, body).annotate(batch_of(6)) == [THING] * 6


def test_a_program_that_died_between_batches_is_started_again(tmp_path: Path):
    annotator = make_python_program(tmp_path, GOOD, restarts=0)
    assert annotator.annotate(batch_of(1)) == [THING]
    os.killpg(annotator._process.pid, signal.SIGKILL)
    annotator._process._wait(10)
    assert annotator.annotate(batch_of(2)) == [THING] * 2
    os.killpg(annotator._process.pid, signal.SIGKILL)
    annotator._process._wait(10)
    annotator.load()
    assert annotator.annotate(batch_of(2)) == [THING] * 2


@pytest.mark.parametrize("restarts", [0, 2])
def test_a_program_that_dies_at_once_each_time_is_given_up_with_its_last_output(restarts: int, tmp_path: Path):
    starts = tmp_path / "starts"
    body = f"""
with open({str(starts)!r}, "a") as file:
    file.write("x")
raise ImportError("no module named torchvision")
"""
    annotator = make_python_program(tmp_path, body, restarts=restarts)
    for _ in range(4):
        with pytest.raises(UnavailableError, match=r"(?s)exit code 1\n    .*ImportError: no module named torchvision"):
            annotator.annotate(batch_of(6))
    assert len(starts.read_text()) == restarts + 1
    annotator.load()
    with pytest.raises(UnavailableError, match="torchvision"):
        annotator.annotate(batch_of(1))
    assert len(starts.read_text()) > restarts + 1, "a later shard tries again"


def test_a_program_that_never_answered_fails_no_image(tmp_path: Path):
    with pytest.raises(UnavailableError, match="exit code 1"):
        make_python_program(tmp_path, "sys.exit(1)", restarts=9).annotate(batch_of(1))


def test_an_answer_in_between_makes_up_for_failures(tmp_path: Path):
    body = """
for request in requests():
    if int(request["image_id"], 16) % 2:
        sys.exit(4)
    send(make_answer(request))
"""
    annotator = make_python_program(tmp_path, body, restarts=2)
    for first in (0, 6):
        found = annotator.annotate(batch_of(6, first=first))
        assert found[::2] == [THING] * 3 and all(type(one) is FlorenceError for one in found[1::2])


def test_images_that_may_be_fine_are_left_for_later_when_a_program_is_given_up(tmp_path: Path):
    """The program breaks on image 1, and on every image from 3 on."""
    body = """
for request in requests():
    if int(request["image_id"], 16) in (1, 3, 4, 5, 6, 7, 8):
        sys.exit(4)
    send(make_answer(request))
"""
    found = make_python_program(tmp_path, body, restarts=2).annotate(batch_of(9))
    assert found[0] == THING and found[2] == THING
    assert type(found[1]) is FlorenceError
    assert all(type(found[i]) is UnavailableError and "exit code 4" in str(found[i]) for i in range(3, 9))


def test_a_library_that_prints_gives_a_clear_error(tmp_path: Path):
    with pytest.raises(
        UnavailableError,
        match=r"line 1: a JSON object is expected "
        r"\(what is not an answer belongs on standard error\); found 'Loading weights",
    ):
        make_python_program(tmp_path, "send('Loading weights ...')" + GOOD).annotate(batch_of(2))


def test_a_program_that_reads_nothing_is_ended(tmp_path: Path):
    """The program's input is full long before all requests are written."""
    with pytest.raises(UnavailableError, match="answered nothing for 1 seconds"):
        make_python_program(tmp_path, "time.sleep(600)", timeout=1, start=1, restarts=0).annotate(batch_of(1500))


# ---------------------------------------------------------------- ending

OURS = """
import os, sys, time
sys.path.insert(0, {tests!r})
from annotator_programs import batch_of
from florence.annotators import ANNOTATORS
theirs = ANNOTATORS.get("program")(name="theirs", command=[sys.executable, {path!r}], tasks=["<OD>"])
theirs.load()
found = theirs.annotate(batch_of(2))
print(found[0][0].text, flush=True)
{then}
"""
LASTING = """
import atexit
atexit.register(lambda: open({mark!r}, "w").close())
for request in requests():
    send(make_answer(request, str(os.getpid())))
"""


def start_loop(folder: Path, then: str, body: str = LASTING) -> tuple[subprocess.Popen, int]:
    """Start a process of ours in which a program answers; return it and the program's process id."""
    path = write_program(folder, body.format(mark=str(folder / "ended")))
    code = OURS.format(tests=str(ROOT / "tests"), path=str(path), then=then)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stderr is not None
    first = process.stdout.readline()
    assert first, process.stderr.read()
    return process, int(first)


def test_a_program_ends_by_itself_when_our_process_ends(tmp_path: Path):
    process, pid = start_loop(tmp_path, "")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""
    assert gone(pid) and (tmp_path / "ended").exists(), "it was let end, not killed"


def test_a_program_ends_when_our_process_is_killed(tmp_path: Path):
    process, pid = start_loop(tmp_path, "time.sleep(600)")
    process.kill()
    process.wait()
    assert gone(pid) and (tmp_path / "ended").exists()


def test_a_program_that_ignores_the_end_is_killed(tmp_path: Path):
    body = LASTING + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n"
    process, pid = start_loop(tmp_path, "import florence.processes.process as p; p.GRACE = 0.3", body)
    assert process.wait(60) == 0 and gone(pid)


def test_a_program_is_ended_when_nobody_holds_its_annotator_any_more(tmp_path: Path):
    process, pid = start_loop(tmp_path, "del theirs, found; time.sleep(600)")
    assert gone(pid) and (tmp_path / "ended").exists()
    process.kill()
    process.communicate()


def test_a_fork_of_our_process_leaves_it_alone(tmp_path: Path):
    then = """
child = os.fork()
if child == 0:
    sys.exit(0)
os.waitpid(child, 0)
print(theirs.annotate(batch_of(1))[0][0].text)
"""
    process, pid = start_loop(tmp_path, then)
    out, err = process.communicate(timeout=60)
    assert out.split() == [str(pid)] and process.returncode == 0, err
