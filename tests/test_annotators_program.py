"""Annotators that are programs: good ones, and all that bad ones can do. Each is a real program that a test writes."""

from __future__ import annotations

import base64
import gc
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from annotator_programs import ROOT, batch_of, png_size, write_documented_program, write_program
from PIL import Image

from florence.annotators import ANNOTATORS, ImageBatch
from florence.errors import FlorenceError, SettingsError, UnavailableError
from florence.records import Claim, Region, annotate

THING = [Claim("<OD>", "thing", (Region("thing", box=(0, 0, 12, 8), score=0.5),), 0.5)]
GOOD = """
for request in requests():
    send(make_answer(request))
"""


def make_program(command, **options):
    return ANNOTATORS.get("program")(
        name="theirs", **{"command": command, "tasks": ["<OD>"], "timeout": 20, "start": 20, **options}
    )


def make_python_program(folder: Path, body: str, **options):
    return make_program([sys.executable, str(write_program(folder, body))], **options)


def gone(pid: int, seconds: float = 20) -> bool:
    """Whether a process is no more, soon; a zombie still is."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(autouse=True)
def no_program_is_left():
    """Whatever a test started has ended and was waited for when its annotator is gone."""
    yield
    gc.collect()
    until = time.monotonic() + 20
    while (left := _programs()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def _programs() -> list[str]:
    """The command lines of this process's children that are annotators, or zombies; others, as a server that other tests have started, are not looked at."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    commands = [path.read_text() for pid in children if (path := Path(f"/proc/{pid}/cmdline")).exists()]
    return [command for command in commands if "annotator.py" in command or not command]


# ---------------------------------------------------------------- good programs


def test_the_documented_program_in_another_virtual_environment(tmp_path: Path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "other")], check=True)
    python = str(tmp_path / "other/bin/python")
    seen = subprocess.run(
        [python, "-c", "import sys, importlib.util as u; print(sys.prefix, u.find_spec('numpy'))"],
        capture_output=True,
        text=True,
        check=True,
        env={},
    )
    assert seen.stdout.split() == [str(tmp_path / "other"), "None"], "it has none of our packages"
    program = write_documented_program(tmp_path)
    assert 14 <= len(program.read_text().splitlines()) <= 16
    annotator = make_program([python, program.name], cwd=str(tmp_path))
    annotator.load()
    batch = batch_of(3)
    found = annotator.annotate(batch)
    size = sum((4 * 2 + 4 + 13, 4 * 2 + 4 + 5 + 6 + (1 + 3 * 12) * 8, 4 * 2 + 4, 8))
    assert (
        found == [[Claim("<OD>", "picture", (Region("picture", box=(0, 0, 12, 8), score=size / 1e6),), size / 1e6)]] * 3
    )


def test_it_sees_the_pictures_and_what_is_known_of_them(tmp_path: Path):
    body = """
from base64 import b64encode
for request in requests():
    with open(request["path"], "rb") as file:
        picture = b64encode(file.read()).decode()
    assert os.path.isabs(request["path"])
    send({"image_id": request["image_id"], "annotations": [{"task": "<CAPTION>", "text": json.dumps({**request, "picture": picture, "device": os.environ["FLORENCE_DEVICE"]})}]})
"""
    annotator = make_python_program(tmp_path, body, tasks=["<CAPTION>"])
    annotator.device = "cuda:1"
    rng = np.random.default_rng(0)
    batch = batch_of(2, name="日本/süß “x”\n.png")
    pixels = tuple(rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((8, 12, 3), (1, 1, 3)))
    for record, seen, (claim,) in zip(
        batch.records, pixels, annotator.annotate(ImageBatch(batch.records, pixels)), strict=True
    ):
        request = json.loads(claim.text)
        data = base64.b64decode(request["picture"])
        assert png_size(data) == (seen.shape[1], seen.shape[0])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), seen)
        assert (
            request["image_id"] == record.image_id
            and request["name"] == record.name
            and request["source"] == "mine"
            and request["alt_text"] is None
        )
        assert (request["width"], request["height"], request["device"]) == (12, 8, "cuda:1") and "claims" not in request
        assert not os.path.exists(request["path"]), "pictures are taken away when the batch is answered"


def test_it_is_given_claims_where_it_reads_them(tmp_path: Path):
    body = """
for request in requests():
    send({"image_id": request["image_id"], "annotations": [{"task": "<CAPTION>", "text": " and ".join(c["annotator"] + " says " + c["text"] for c in request["claims"])}]})
"""
    assert make_program(["true"], version="1").needs == {"pixels"}
    annotator = make_python_program(tmp_path, body, tasks=["<CAPTION>"], reads_claims=True)
    assert annotator.needs == {"pixels", "claims"}
    batch = batch_of(1)
    rows = annotate(batch.records[0].image_id, [Claim("<CAPTION>", "a “Hund”"), THING[0]], "someone", "1")
    ((claim,),) = annotator.annotate(ImageBatch(batch.records, batch.pixels, (rows,)))
    assert claim.text == "someone says a “Hund” and someone says thing"


def test_two_thousand_images_in_one_batch(tmp_path: Path):
    """Far more than the pipes hold, to a program that reads them all before it answers, with long answers, last first."""
    body = """
waiting = []
for line in sys.stdin:
    if line.strip():
        waiting.append(json.loads(line))
    else:
        for request in reversed(waiting):
            print(json.dumps(make_answer(request, "thing %d" % int(request["image_id"], 16), pad="x" * 2000)))
        sys.stdout.flush()
        waiting = []
"""
    annotator = make_python_program(tmp_path, body)
    found = annotator.annotate(batch_of(2000))
    assert [claims[0].text for claims in found] == [f"thing {i}" for i in range(2000)]


def test_answers_that_are_written_while_nothing_is_read_do_not_block(tmp_path: Path):
    """A program that answers each image at once with more than a pipe holds."""
    body = """
for request in requests():
    send(make_answer(request, pad="x" * 1_000_000))
"""
    assert make_python_program(tmp_path, body).annotate(batch_of(12)) == [THING] * 12


def test_a_huge_annotation_is_taken(tmp_path: Path):
    body = """
for request in requests():
    send({"image_id": request["image_id"], "annotations": [{"label": "thing", "box": [0, 0, 12, 8], "polygons": [[1.25, 2.5, 7.75, 3.5] * 12000]}]})
"""
    ((claim,),) = make_python_program(tmp_path, body).annotate(batch_of(1))
    assert len(claim.regions[0].polygons[0]) == 48000


def test_one_process_serves_all_batches_and_starting_again_is_no_start(tmp_path: Path):
    body = """
for request in requests():
    send(make_answer(request, str(os.getpid())))
"""
    annotator = make_python_program(tmp_path, body)
    annotator.load()
    annotator.load()
    names = {claims[0].text for _ in range(3) for claims in annotator.annotate(batch_of(2))}
    assert len(names) == 1 and int(names.pop()) != os.getpid()
    assert annotator.annotate(batch_of(0)) == []


def test_a_program_that_ends_after_each_batch_is_started_for_each(tmp_path: Path):
    body = """
for line in sys.stdin:
    if not line.strip():
        break
    send(make_answer(json.loads(line)))
"""
    annotator = make_python_program(tmp_path, body, restarts=0)
    for _ in range(3):
        assert annotator.annotate(batch_of(3)) == [THING] * 3
        annotator._process._wait(10)


def test_slow_start_has_time_of_its_own(tmp_path: Path):
    annotator = make_python_program(tmp_path, "time.sleep(3)" + GOOD, timeout=1.5, start=60)
    assert annotator.annotate(batch_of(2)) == [THING] * 2


def test_one_that_reads_slowly_and_answers_last_is_not_hanging(tmp_path: Path):
    """Its input takes two requests at a time, and reading all takes longer than it may be silent."""
    body = """
waiting = []
for line in sys.stdin:
    if line.strip():
        waiting.append(json.loads(line))
        time.sleep(0.4)
    else:
        for request in waiting:
            send(make_answer(request))
"""
    batch = batch_of(16, name="x" * 30_000)
    assert make_python_program(tmp_path, body, timeout=3, start=3, restarts=0).annotate(batch) == [THING] * 16


def test_a_flood_on_standard_error_blocks_nothing(tmp_path: Path):
    body = """
sys.stderr.write("warning: lots\\n" * 200_000)
for request in requests():
    sys.stderr.write("x" * 3_000_000)
    send(make_answer(request))
"""
    assert make_python_program(tmp_path, body).annotate(batch_of(3)) == [THING] * 3


def test_the_first_of_two_answers_counts_even_where_the_second_comes_late(tmp_path: Path):
    body = """
for request in requests():
    print(json.dumps(make_answer(request)))
    send(make_answer(request, "other"))
    send("")
"""
    annotator = make_python_program(tmp_path, body, restarts=0)
    for count in (3, 1, 2):
        assert annotator.annotate(batch_of(count)) == [THING] * count
    late = make_python_program(
        tmp_path,
        """
before = None
for request in requests():
    if before:
        send(make_answer(before, "other"))
    send(make_answer(request))
    before = request
""",
        restarts=0,
    )
    for first, count in ((0, 3), (3, 1), (4, 2)):
        assert late.annotate(batch_of(count, first=first)) == [THING] * count


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
def test_one_that_dies_at_once_each_time_is_given_up_with_its_last_words(restarts: int, tmp_path: Path):
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


def test_an_image_is_not_blamed_by_a_program_that_never_answered(tmp_path: Path):
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


def test_those_that_may_be_innocent_are_asked_about_again_when_it_is_given_up(tmp_path: Path):
    """It breaks on image 1, and from image 3 on altogether."""
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


def test_a_printing_library_is_told_by_a_clear_error(tmp_path: Path):
    with pytest.raises(
        UnavailableError,
        match=r"line 1: a JSON object is expected \(what is not an answer belongs on standard error\); found 'Loading weights",
    ):
        make_python_program(tmp_path, "send('Loading weights ...')" + GOOD).annotate(batch_of(2))


def test_nothing_is_left_of_one_that_reads_nothing(tmp_path: Path):
    """Its input is full long before all is request."""
    with pytest.raises(UnavailableError, match="answered nothing for 1 seconds"):
        make_python_program(tmp_path, "time.sleep(600)", timeout=1, start=1, restarts=0).annotate(batch_of(1500))


# ---------------------------------------------------------------- environment and secrets


def test_it_is_given_no_variable_that_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("WANTED", "yes")
    body = """
for request in requests():
    send({"image_id": request["image_id"], "annotations": [{"task": "<CAPTION>", "text": json.dumps(dict(os.environ))}]})
"""
    ((claim,),) = make_python_program(
        tmp_path, body, tasks=["<CAPTION>"], environment=["WANTED", "NOT_THERE"]
    ).annotate(batch_of(1))
    given = json.loads(claim.text)
    assert given["CUDA_VISIBLE_DEVICES"] == "3" and given["WANTED"] == "yes" and given["PATH"] == os.environ["PATH"]
    assert not {"AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "NOT_THERE"} & set(given)


def test_no_shell_reads_the_command(tmp_path: Path):
    body = """
for request in requests():
    send({"image_id": request["image_id"], "annotations": [{"task": "<CAPTION>", "text": json.dumps(sys.argv[1:])}]})
"""
    command = f"{sys.executable} {write_program(tmp_path, body)} 'two words' $HOME *.py ;echo"
    ((claim,),) = make_program(command, tasks=["<CAPTION>"]).annotate(batch_of(1))
    assert json.loads(claim.text) == ["two words", "$HOME", "*.py", ";echo"]


def test_a_secret_that_it_writes_is_masked_in_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("THEIR_TOKEN", "s3cr3t-t0ken")
    body = """
print("401 for", os.environ["THEIR_TOKEN"], file=sys.stderr)
print("\\x1b[31mred\\rhalf", file=sys.stderr)
for request in requests():
    if int(request["image_id"], 16) == 0:
        send({"image_id": request["image_id"], "error": "no right for " + os.environ["THEIR_TOKEN"]})
    else:
        send(os.environ["THEIR_TOKEN"])
"""
    theirs = make_python_program(tmp_path, body, environment=["THEIR_TOKEN"])
    first, second = map(str, theirs.annotate(batch_of(2)))
    assert first == "no right for •••" and "found '•••'" in second and "s3cr3t" not in second
    with pytest.raises(UnavailableError) as found:
        make_python_program(
            tmp_path, body.replace("for request", "sys.exit(2)\nfor request"), environment=["THEIR_TOKEN"]
        ).annotate(batch_of(1))
    assert (
        "s3cr3t" not in str(found.value)
        and "401 for •••" in str(found.value)
        and "[31mred\n    half" in str(found.value)
    )
    assert "\x1b" not in str(found.value) and "\r" not in str(found.value)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--api-key", "s3cr3t-t0ken"], "--api-key"),
        (["--token=s3cr3t-t0ken"], "--token"),
        (["HF_TOKEN=s3cr3t-t0ken"], "HF_TOKEN="),
        (["sh", "-c", "THEIR_API_KEY=s3cr3t-t0ken ./annotate"], "THEIR_API_KEY="),
    ],
)
def test_a_command_with_a_secret_is_refused_without_repeating_it(words: list[str], name: str):
    for command in (["env", *words], shlex.join(["env", *words])):
        with pytest.raises(SettingsError) as found:
            make_program(command)
        assert str(found.value).startswith(f"annotators.theirs.command: {name} gives the program a secret")
        assert "annotators.theirs.environment" in str(found.value) and "token file" in str(found.value)
        assert "s3cr3t" not in str(found.value)


def test_a_command_that_names_a_secret_but_has_none_is_allowed():
    make_program(["env", "--token-file", "/run/secrets/token", "--max-tokens", "500", "--key", "label"])


# ---------------------------------------------------------------- version and settings


def test_version_follows_the_programs_files_and_what_is_said_of_it(tmp_path: Path):
    path = write_program(tmp_path, GOOD)
    (tmp_path / "weights.bin").write_bytes(b"one")
    command = [sys.executable, path.name, "--weights", "weights.bin"]
    version = make_program(command, cwd=str(tmp_path)).version
    assert version == make_program(command, cwd=str(tmp_path), timeout=7, start=8, restarts=9).version, (
        "patience decides no answer"
    )
    assert version != make_program(command, cwd=str(tmp_path), version="2").version
    assert version != make_program([*command, "--fast"], cwd=str(tmp_path)).version
    assert version != make_program(command, cwd=str(tmp_path), tasks=["<CAPTION>"]).version
    (tmp_path / "weights.bin").write_bytes(b"two!")
    changed = make_program(command, cwd=str(tmp_path)).version
    assert changed != version
    write_program(tmp_path, GOOD + "# more\n")
    assert make_program(command, cwd=str(tmp_path)).version not in (version, changed)


def test_an_own_binary_counts_and_an_interpreter_does_not(tmp_path: Path):
    for name in ("annotator", "python3.11"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "x.py").write_text("pass\n")
    own, interpreted = (
        {"command": [f"./{name}", "x.py"], "cwd": str(tmp_path)} for name in ("annotator", "python3.11")
    )
    before = make_program(**own).version, make_program(**interpreted).version
    for name in ("annotator", "python3.11"):
        (tmp_path / name).write_text("#!/bin/sh\nexit\n")
    assert make_program(**own).version != before[0] and make_program(**interpreted).version == before[1]


def test_files_are_relative_to_the_workspace_and_words_may_be_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = write_program(tmp_path, GOOD)
    path.write_text(f"#!{sys.executable}\n" + path.read_text())
    path.chmod(0o755)
    theirs = make_program(["./annotator.py", "x" * 5000])
    assert theirs.version != make_program(["./annotator.py"]).version
    assert theirs.annotate(batch_of(1)) == [THING]


def test_without_room_for_pictures_images_are_left_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    theirs = make_python_program(tmp_path, GOOD)

    def full(path, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr("florence.annotators.program.Path.write_bytes", full)
        with pytest.raises(UnavailableError, match="No space left on device"):
            theirs.annotate(batch_of(2))
    with monkeypatch.context() as context:
        context.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        with pytest.raises(UnavailableError, match="nowhere"):
            theirs.annotate(batch_of(2))
    assert theirs.annotate(batch_of(2)) == [THING] * 2


def test_a_command_that_names_no_file_needs_a_version():
    with pytest.raises(SettingsError, match=r"annotators\.theirs\.command.*names no file.*annotators\.theirs\.version"):
        make_program([sys.executable, "-m", "their_package"]).version  # noqa: B018
    assert (
        make_program([sys.executable, "-m", "their_package"], version="1").version
        != make_program([sys.executable, "-m", "their_package"], version="2").version
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"command": []}, r"theirs\.command"),
        ({"command": ""}, r"theirs\.command"),
        ({"command": "a 'b"}, r"theirs\.command.*quotation"),
        ({"command": 5}, r"theirs\.command"),
        ({"command": "x", "tasks": ["<OD>", "<OCR>"]}, r"theirs\.tasks.*<OCR> is not annotated"),
        ({"command": "x", "tasks": []}, r"theirs\.tasks"),
        ({"command": "x", "timeout": 0}, r"theirs\.timeout"),
        ({"command": "x", "vocabulary": []}, r"theirs\.vocabulary"),
        ({"command": "x", "role": "human"}, r"theirs\.role"),
    ],
)
def test_settings_are_checked(options: dict, message: str):
    with pytest.raises(SettingsError, match=message):
        make_program(**options)


def test_a_program_that_is_not_there_is_named_before_anything_is_started(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"theirs\.command: no-such-program is no program"):
        make_program(["no-such-program"], version="1").version  # noqa: B018
    with pytest.raises(SettingsError, match=r"theirs\.cwd: .*nowhere is no folder"):
        make_program([sys.executable], version="1", cwd=str(tmp_path / "nowhere")).version  # noqa: B018
    with pytest.raises(UnavailableError, match="no-such-program cannot be started"):
        make_program(["no-such-program"], version="1").load()
    with pytest.raises(UnavailableError, match="no-such-program cannot be started"):
        make_program(["no-such-program"], version="1").annotate(batch_of(2))


def test_vocabulary_and_role_are_as_the_settings_say():
    assert make_program(["true"]).vocabulary() is None and make_program(["true"]).role == "annotator"
    theirs = make_program(["true"], vocabulary=["cat", "dog"], role="ranker")
    assert theirs.vocabulary() == ("cat", "dog") and theirs.role == "ranker"


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
    """A process of ours that has had a program answer, and the program's number."""
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


def test_it_ends_by_itself_when_our_process_ends(tmp_path: Path):
    process, pid = start_loop(tmp_path, "")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""
    assert gone(pid) and (tmp_path / "ended").exists(), "it was let end, not killed"


def test_it_ends_when_our_process_is_killed(tmp_path: Path):
    process, pid = start_loop(tmp_path, "time.sleep(600)")
    process.kill()
    process.wait()
    assert gone(pid) and (tmp_path / "ended").exists()


def test_one_that_does_not_listen_is_ended_by_force(tmp_path: Path):
    body = LASTING + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n"
    process, pid = start_loop(tmp_path, "import florence.processes.process as p; p.GRACE = 0.3", body)
    assert process.wait(60) == 0 and gone(pid)


def test_it_is_ended_when_nobody_holds_its_annotator_any_more(tmp_path: Path):
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
