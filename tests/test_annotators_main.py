"""Our own annotators as programs and services: their claims are the same to the last bit."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from annotator_programs import ROOT, batch_of
from test_annotators_contract import given, whole

from florence.annotators import ANNOTATORS, Annotator
from florence.annotators.__main__ import answer_batch, make_annotator, make_parser
from florence.config import settings_from
from florence.errors import FlorenceError, SettingsError, UnavailableError
from florence.processes.annotations import AnnotationLine
from florence.processes.png import encode_png
from florence.processes.protocol import AnswerLine, RequestLine, format_request
from florence.processes.server import answer_lines
from florence.records import ANNOTATION_TYPES

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-m", "florence.annotators"]

NOISY = """
import os, sys
from florence.records import Claim
from florence.config import settings_from
from florence.errors import FlorenceError, SettingsError, UnavailableError
from florence.annotators import ANNOTATORS, Annotator
from florence.annotators.__main__ import main

print("importing ...")

@ANNOTATORS.register("noisy")
class Noisy(Annotator):
    tasks = ("<CAPTION>",)

    def load(self):
        print("loading ...", flush=True)
        os.write(1, b"written by C\\n")
        os.system("echo said by a child")

    def annotate(self, batch):
        print("annotating ...")
        numbers = [int(record.image_id, 16) for record in batch.records]
        if 3 in numbers:
            raise ValueError("three is too many")
        about = {1: FlorenceError("too dark"), 2: UnavailableError("busy")}
        texts = [
            f"{n} on {self.device} of {len(numbers)}: {float(pixels[0, 0, 0])}"
            for n, pixels in zip(numbers, batch.pixels)
        ]
        return [about.get(n, [Claim("<CAPTION>", text, (), n / 7)]) for n, text in zip(numbers, texts)]

sys.exit(main(["noisy", *sys.argv[1:]]))
"""


@contextmanager
def serve_command(*words: str) -> Iterator[str]:
    """Serve an annotator of ours at a free port; yield its URL."""
    with subprocess.Popen(
        [*words, "--http", "0"], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=ENVIRONMENT, cwd=ROOT
    ) as process:
        assert process.stderr is not None
        output = ""
        while not (found := re.search(r"answers at (http://127\.0\.0\.1:\d+)", output)):
            line = process.stderr.readline()
            assert line, output
            output += line
        try:
            yield found[1]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def reader_url() -> Iterator[str]:
    """The URL of the reader as a service: its models take seconds to load."""
    with serve_command(*COMMAND, "reader", "--batch", "2") as url:
        yield url


def program(use: str, folder: Path, **options):
    (folder / "options.json").write_text(json.dumps(options))
    command = [*COMMAND, use, "--options", str(folder / "options.json"), "--batch", "3"]
    reads = "claims" in ANNOTATORS.get(use)(name=use, **options).needs
    return ANNOTATORS.get("program")(
        name="theirs",
        command=command,
        tasks=list(ANNOTATION_TYPES),
        reads_claims=reads,
        cwd=str(ROOT),
        start=600,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("use", "options", "how"),
    [
        ("activation", {"weights": "lite0", "min_probability": 0.05, "tasks": ["<OD>", "<CLASSIFICATION>"]}, "program"),
        ("masks", {"most": 2}, "program"),
        ("phrases", {}, "endpoint"),
    ],
)
def test_what_it_claims_elsewhere_is_the_same_to_the_last_bit(use: str, options: dict, how: str, tmp_path: Path):
    here = ANNOTATORS.get(use)(name=use, **options)
    expected = claims_here(here)
    there = program(use, tmp_path, **options)
    if how == "program":
        found = there.annotate(given(here.needs | {"pixels"}, 0, 1, 2))
    else:
        with serve_command(*COMMAND, use, "--options", str(tmp_path / "options.json"), "--batch", "2") as url:
            found = claims_there(here, url)
    assert found == expected


def test_what_a_service_claims_is_the_same_to_the_last_bit(reader_url: str):
    reader = ANNOTATORS.get("reader")(name="reader")
    assert claims_there(reader, reader_url) == claims_here(reader)


def claims_here(annotator: Annotator) -> list:
    """Return what an annotator claims in this process."""
    annotator.load()
    expected = annotator.annotate(given(annotator.needs, 0, 1, 2))
    assert any(expected)
    return expected


def claims_there(annotator: Annotator, url: str) -> list:
    """Return what the service at ``url`` claims, which is this annotator's."""
    endpoint = ANNOTATORS.get("endpoint")(
        name="theirs", url=url, version="1", tasks=list(ANNOTATION_TYPES), reads_claims="claims" in annotator.needs
    )
    return endpoint.annotate(given(annotator.needs | {"pixels"}, 0, 1, 2))


def test_what_libraries_print_does_not_get_among_the_answers(tmp_path: Path):
    noisy = tmp_path / "noisy.py"
    noisy.write_text(NOISY)
    theirs = ANNOTATORS.get("program")(
        name="theirs",
        command=["env", f"PYTHONPATH={ROOT}", sys.executable, str(noisy), "--batch", "2"],
        tasks=["<CAPTION>"],
        restarts=0,
    )
    theirs.device = "cuda:7"
    theirs.load()
    found = theirs.annotate(batch_of(6))
    assert [type(one) for one in found] == [list, FlorenceError, UnavailableError, FlorenceError, list, list]
    assert [str(one) for one in found[1:4]] == ["too dark", "busy", "ValueError: three is too many"]
    assert [one[0].text for one in (found[0], found[4], found[5])] == [
        "0 on cuda:7 of 2: 0.0",
        "4 on cuda:7 of 2: 4.0",
        "5 on cuda:7 of 2: 5.0",
    ]
    assert found[5][0].score == 5 / 7
    assert "loading ...\n    written by C\n    said by a child" in theirs._process.last_words()


def test_a_service_says_what_it_is_and_refuses_what_it_cannot_do(reader_url: str, tmp_path: Path):
    batch, url = batch_of(2), reader_url
    request_line = format_request(batch.records[0], None, image=encode_png(batch.pixels[0], 0))
    with urllib.request.urlopen(url, timeout=60) as answer:
        description = json.loads(answer.read())
    assert description == {
        "annotator": "reader",
        "version": ANNOTATORS.get("reader")(name="reader").version,
        "tasks": ["<OCR_WITH_REGION>"],
        "role": "annotator",
        "reads_claims": False,
        "vocabulary": None,
    }
    secret = tmp_path / "secret.png"
    secret.write_bytes(encode_png(batch.pixels[0], 0))
    for body, message in (
        (request_line + b"what?\n", "line 2: a JSON object"),
        (format_request(batch.records[0], None, path=str(secret)), "found path, a file of this machine"),
    ):
        with pytest.raises(urllib.error.HTTPError, match="400") as refusal:
            urllib.request.urlopen(urllib.request.Request(url, body, method="POST"), timeout=60)
        assert message in refusal.value.read().decode()
    for header, status in ((("Transfer-Encoding", "chunked"), 411), (("Content-Length", "99999999999"), 413)):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        connection.putrequest("POST", "/")
        connection.putheader(*header)
        connection.endheaders()
        assert connection.getresponse().status == status
        connection.close()
    broken = format_request(batch.records[1], None, image=b"no picture")
    with urllib.request.urlopen(
        urllib.request.Request(url, broken + b"\n" + request_line, method="POST"), timeout=60
    ) as answer:
        first, second = map(json.loads, answer.read().splitlines())
    assert first["image_id"] == batch.records[1].image_id and "unreadable" in first["error"] and not first["retry"]
    assert second == {"image_id": batch.records[0].image_id, "annotations": []}


def answer_requests(use: str, *requests: bytes, size: int = 16) -> list[dict]:
    """Return the answers to lines of requests, read again."""
    out = io.BytesIO()
    answer_lines(partial(answer_batch, make_annotator(use, None, None)), io.BytesIO(b"".join(requests)), out, size)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_missing_pictures_and_those_of_another_size_are_errors_of_their_own(tmp_path: Path):
    batch = batch_of(4)
    for index, data in enumerate(
        (encode_png(batch.pixels[0], 0), encode_png(np.zeros((12, 8, 3), np.uint8), 0), b"no picture")
    ):
        (tmp_path / f"{index}.png").write_bytes(data)
    requests = [
        format_request(record, None, path=str(tmp_path / f"{index}.png")) for index, record in enumerate(batch.records)
    ]
    for size in (1, 3, 16):
        answers = {answer.pop("image_id"): answer for answer in answer_requests("masks", *requests, size=size)}
        good, rotated, broken, missing = (answers[record.image_id] for record in batch.records)
        assert good == {"annotations": []}
        assert rotated["error"] == "width, height: 8 and 12, those of the upright picture, are expected; found 12 and 8"
        assert "unreadable" in broken["error"] and "3.png" in missing["error"] and not missing["retry"]


def test_a_blank_line_has_it_answer_what_it_has():
    """A caller may read an image's answer before it sends the next request."""
    batch = batch_of(3)
    reading, writing = os.pipe()
    reading_answers, out = os.pipe()
    with os.fdopen(reading, "rb") as lines, os.fdopen(out, "wb") as answers:
        thread = threading.Thread(
            target=answer_lines,
            args=(partial(answer_batch, make_annotator("phrases", None, None)), lines, answers, 100),
            daemon=True,
        )
        thread.start()
        with os.fdopen(writing, "wb", buffering=0) as ask, os.fdopen(reading_answers, "rb") as output:
            for record in batch.records:
                ask.write(format_request(record, (), path="/nowhere.png") + b"\n")
                assert json.loads(output.readline()) == {"image_id": record.image_id, "annotations": []}
            ask.write(format_request(batch.records[0], (), path="/nowhere.png"))
            ask.close()
            assert json.loads(output.readline())["image_id"] == batch.records[0].image_id, "and so does the end"
        thread.join(60)


# ---------------------------------------------------------------- the command, and its document


def test_the_document_has_settings_that_are_allowed_and_every_field():
    text = (ROOT / "docs/annotators.md").read_text(encoding="utf-8")
    overlays = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)]
    assert len(overlays) == 3
    for overlay in overlays:
        for name, section in settings_from({"sources": {}, **overlay}).annotators.items():
            assert ANNOTATORS.get(section.use)(name=name, **section.options).tasks
    for model in (AnswerLine, RequestLine, AnnotationLine):
        assert not [field for field in model.model_fields if f"`{field}`" not in text]
    assert not [name for name in ANNOTATION_TYPES if f"`{name}`" not in text]
    words = re.findall(r"^python -m florence\.annotators (.*?)(?: +#.*)?$", text, re.M)
    assert len(words) == 3 and all(make_parser().parse_args(line.split()).use for line in words)


def run_command(*words: str, given: bytes = b"") -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *words], input=given, capture_output=True, timeout=120, env=ENVIRONMENT, cwd=ROOT)


def test_it_is_described(tmp_path: Path):
    (tmp_path / "o.json").write_text('{"weights": "lite0"}')
    done = run_command("activation", "--options", str(tmp_path / "o.json"), "--describe")
    theirs = ANNOTATORS.get("activation")(name="activation", weights="lite0")
    description = json.loads(done.stdout)
    assert (
        done.returncode == 0
        and description["version"] == theirs.version
        and description["tasks"] == ["<CLASSIFICATION>"]
    )
    assert description["vocabulary"] == (None if theirs.vocabulary() is None else list(theirs.vocabulary()))


@pytest.mark.parametrize(
    ("use", "options", "message"),
    [
        ("nobody", None, "unknown annotator 'nobody'; known: "),
        ("simulated", None, "simulated needs known truth"),
        ("reader", "{", "is no JSON"),
        ("reader", "[]", "an object is expected; found list"),
        ("reader", '{"sides": 7}', r"annotators\.ocr\.sides: no such setting"),
    ],
)
def test_an_annotator_that_cannot_be_run_is_an_error(use: str, options: str | None, message: str, tmp_path: Path):
    if options is not None:
        (tmp_path / "o.json").write_text(options)
    with pytest.raises(FlorenceError, match=message):
        make_annotator(use, "ocr", None if options is None else str(tmp_path / "o.json"))
    with pytest.raises(SettingsError, match="nowhere.json is no JSON that can be read"):
        make_annotator("reader", None, "nowhere.json")


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        (["reader", "--http", "1", "--host", "192.0.2.1"], b"", "--http: cannot bind to 192.0.2.1:1"),
        (["masks"], b'{"image_id": "a"}\n', "line 1.width: Field required"),
    ],
)
def test_an_error_is_a_line(words: list[str], given: bytes, message: str):
    done = run_command(*words, given=given)
    assert (
        done.returncode == 1
        and done.stdout == b""
        and message in done.stderr.decode()
        and b"Traceback" not in done.stderr
    )


def test_it_ends_quietly_when_nobody_reads_its_answers(tmp_path: Path):
    (tmp_path / "x.png").write_bytes(encode_png(whole().pixels[2], 0))
    request = format_request(whole().records[2], None, path=str(tmp_path / "x.png"))
    with subprocess.Popen(
        [*COMMAND, "masks"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        cwd=ROOT,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write(request + b"\n")
        process.stdin.close()
        assert process.wait(120) == 0 and b"Traceback" not in process.stderr.read()
