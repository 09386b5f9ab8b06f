"""Annotators that are programs: what they are given and answer, their environment, versions and settings."""

from __future__ import annotations

import base64
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from annotator_programs import (
    GOOD,
    ROOT,
    THING,
    batch_of,
    make_program,
    make_python_program,
    png_size,
    wait_for_programs_to_end,
    write_documented_program,
    write_program,
)
from PIL import Image

from florence.annotators import ImageBatch
from florence.errors import SettingsError, UnavailableError
from florence.records import Claim, Region, annotate


@pytest.fixture(autouse=True)
def no_program_is_left():
    yield
    wait_for_programs_to_end()


# ---------------------------------------------------------------- good programs


def test_the_documented_program_in_another_virtual_environment(tmp_path: Path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "other")], check=True)
    python = str(tmp_path / "other/bin/python")
    answer = subprocess.run(
        [python, "-c", "import sys, importlib.util as u; print(sys.prefix, u.find_spec('numpy'))"],
        capture_output=True,
        text=True,
        check=True,
        env={},
    )
    assert answer.stdout.split() == [str(tmp_path / "other"), "None"], "it has none of our packages"
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


def test_a_program_is_given_the_pictures_and_their_records(tmp_path: Path):
    body = """
from base64 import b64encode
for request in requests():
    with open(request["path"], "rb") as file:
        picture = b64encode(file.read()).decode()
    assert os.path.isabs(request["path"])
    text = json.dumps({**request, "picture": picture, "device": os.environ["FLORENCE_DEVICE"]})
    send({"image_id": request["image_id"], "annotations": [{"task": "<CAPTION>", "text": text}]})
"""
    annotator = make_python_program(tmp_path, body, tasks=["<CAPTION>"])
    annotator.device = "cuda:1"
    rng = np.random.default_rng(0)
    batch = batch_of(2, name="日本/süß “x”\n.png")
    pixels = tuple(rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((8, 12, 3), (1, 1, 3)))
    for record, sent, (claim,) in zip(
        batch.records, pixels, annotator.annotate(ImageBatch(batch.records, pixels)), strict=True
    ):
        request = json.loads(claim.text)
        data = base64.b64decode(request["picture"])
        assert png_size(data) == (sent.shape[1], sent.shape[0])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), sent)
        assert (
            request["image_id"] == record.image_id
            and request["name"] == record.name
            and request["source"] == "mine"
            and request["alt_text"] is None
        )
        assert (request["width"], request["height"], request["device"]) == (12, 8, "cuda:1") and "claims" not in request
        assert not os.path.exists(request["path"]), "pictures are taken away when the batch is answered"


def test_a_program_that_reads_claims_is_given_them(tmp_path: Path):
    body = """
for request in requests():
    text = " and ".join(c["annotator"] + " says " + c["text"] for c in request["claims"])
    send({"image_id": request["image_id"], "annotations": [{"task": "<CAPTION>", "text": text}]})
"""
    assert make_program(["true"], version="1").needs == {"pixels"}
    annotator = make_python_program(tmp_path, body, tasks=["<CAPTION>"], reads_claims=True)
    assert annotator.needs == {"pixels", "claims"}
    batch = batch_of(1)
    rows = annotate(batch.records[0].image_id, [Claim("<CAPTION>", "a “Hund”"), THING[0]], "someone", "1")
    ((claim,),) = annotator.annotate(ImageBatch(batch.records, batch.pixels, (rows,)))
    assert claim.text == "someone says a “Hund” and someone says thing"


def test_two_thousand_images_in_one_batch(tmp_path: Path):
    """Send far more than the pipes hold to a program that reads all before it answers: long answers, last first."""
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
    """Run a program that answers each image at once with more than a pipe holds."""
    body = """
for request in requests():
    send(make_answer(request, pad="x" * 1_000_000))
"""
    assert make_python_program(tmp_path, body).annotate(batch_of(12)) == [THING] * 12


def test_a_huge_annotation_is_taken(tmp_path: Path):
    body = """
for request in requests():
    polygons = [[1.25, 2.5, 7.75, 3.5] * 12000]
    annotations = [{"label": "thing", "box": [0, 0, 12, 8], "polygons": polygons}]
    send({"image_id": request["image_id"], "annotations": annotations})
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


def test_a_program_that_reads_slowly_and_answers_last_is_not_hanging(tmp_path: Path):
    """The program's input takes two requests at a time, and reading all takes longer than it may be silent."""
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


# ---------------------------------------------------------------- environment and secrets


def test_a_program_is_given_only_the_variables_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("WANTED", "yes")
    body = """
for request in requests():
    annotations = [{"task": "<CAPTION>", "text": json.dumps(dict(os.environ))}]
    send({"image_id": request["image_id"], "annotations": annotations})
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


def test_a_secret_that_a_program_writes_is_redacted_in_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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


def test_version_follows_the_programs_files_and_its_settings(tmp_path: Path):
    path = write_program(tmp_path, GOOD)
    (tmp_path / "weights.bin").write_bytes(b"one")
    command = [sys.executable, path.name, "--weights", "weights.bin"]
    version = make_program(command, cwd=str(tmp_path)).version
    assert version == make_program(command, cwd=str(tmp_path), timeout=7, start=8, restarts=9).version, (
        "time limits do not change the answers"
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
