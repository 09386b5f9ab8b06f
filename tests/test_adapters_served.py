"""The served model: rows are checked, answered or refused one by one, and no answer tells of the server."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow_stores import registry
from PIL import Image

from florence.model.checkpoint import load
from florence.model.confidence import Calibration
from florence.model.generate import Query, predict
from florence.model.requests import LIMITS, RequestError, RequestLimits, read_image
from florence.tasks import Answer
from flows.adapters import served
from flows.adapters.tracking import Tracker

TASK, INPUT = "<REGION_TO_CATEGORY>", "<loc_1><loc_2><loc_500><loc_600>"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("served") / "model"
    load("nano").save(path)
    return path


@pytest.fixture(scope="module")
def model(folder) -> served.Florence:
    """Return the model with its weights loaded, as MLflow has it."""
    found = served.Florence()
    found.load_context(SimpleNamespace(artifacts={"model": str(folder)}))
    return found


def png(seed: int = 0, form: str = "PNG", size: tuple[int, int] = (50, 70)) -> bytes:
    sink = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(sink, form)
    return sink.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(model: served.Florence, *rows: dict, **params: object) -> list[dict]:
    columns = ["image", "task", *(["input"] if any("input" in row for row in rows) else [])]
    table = model.predict(None, pd.DataFrame(list(rows), columns=columns, dtype=object), params)
    assert list(table.columns) == served.COLUMNS and len(table) == len(rows)
    return json.loads(json.dumps(table.to_dict("records"), allow_nan=False))


# ---------------------------------------------------------------- images


def images() -> dict[str, object]:
    data = png()
    text = encoded(data)
    return {
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "base64": text,
        "lines": base64.encodebytes(data).decode(),
        "blanks": f"  {text}\r\n",
        "url safe": base64.urlsafe_b64encode(data).decode(),
        "no padding": text.rstrip("="),
        "data URL": f"data:image/png;base64,{text}",
        "bare data URL": f"data:;base64,{text}",
        "data URL with parameters": f"data:image/png;charset=utf-8;name=a.png;base64,{text}",
        "capitals": f"DATA:IMAGE/PNG;BASE64,{text}",
    }


@pytest.mark.parametrize("form", images())
def test_an_image_is_bytes_base64_or_a_data_url(form: str):
    assert read_image(images()[form]) == png()


def refused(folder: Path) -> dict[str, object]:
    """Return images that are none; some name files that exist."""
    (folder / "photo.png").write_bytes(png())
    return {
        "path": str(folder / "photo.png"),
        "Path": folder / "photo.png",
        "missing path": str(folder / "missing.png"),
        "file URL": (folder / "photo.png").as_uri(),
        "web address": "http://127.0.0.1:9/photo.png",
        "S3": "s3://bucket/photo.png",
        "a file of the server": "/etc/passwd",
        "folder": str(folder),
        "data URL of text": "data:image/svg+xml;utf8,<svg/>",
        "base64 of text": encoded(b"no picture"),
        "cut": png()[:200],
        "cut in base64": encoded(png(form="JPEG"))[:400],
        "empty": b"",
        "empty text": "",
        "None": None,
        "NaN": float("nan"),
        "number": 7,
        "list": [1, 2],
        "dict": {"path": "/etc/passwd"},
        "array": np.zeros((4, 4, 3), np.uint8),
        "NUL": "\0",
        "surrogate": "\ud800",
        "unicode": "фото.png",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
    }


def test_all_unusable_images_have_one_error_text(model, tmp_path: Path):
    found = refused(tmp_path)
    answers = ask(model, *({"image": image, "task": "<OD>"} for image in found.values()))
    for name, answer in zip(found, answers, strict=True):
        assert answer == {
            "text": "",
            "regions": [],
            "score": None,
            "confidence": None,
            "truncated": False,
            "error": LIMITS.image_error,
        }, name
    assert "/" not in LIMITS.image_error


def test_limits_of_images_are_checked_before_they_are_decoded(monkeypatch):
    small = RequestLimits(image_bytes=len(png()), pixels=50 * 70)
    assert read_image(png(), small) and read_image(encoded(png()), small)
    for image in (png() + b"\0", encoded(png() + b"\0"), "data:;base64," + "A" * 10**6):
        with pytest.raises(RequestError, match="cannot be used"):
            read_image(image, small)
    huge = "A" * 200_000_000
    tracemalloc.start()
    with pytest.raises(RequestError):
        read_image(huge)
    with pytest.raises(RequestError):
        read_image(b"\0" * 10 + bytes(LIMITS.image_bytes))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000, "bytes, of 20 MB that the test makes and copies"


def test_a_picture_of_too_many_pixels_is_not_decoded(model, monkeypatch):
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    (answer,) = ask(model, {"image": bomb.getvalue(), "task": "<OD>"})
    assert answer["error"] == LIMITS.image_error


# ---------------------------------------------------------------- rows


def test_a_row_that_cannot_be_answered_costs_no_other_its_answer(model):
    good = {"image": png(), "task": "<OD>", "input": ""}
    bad: list[tuple[dict, str]] = [
        ({"task": "<NOPE>"}, "unknown task '<NOPE>'; known: .*<OD>"),
        ({"task": "OD"}, "unknown task"),
        ({"task": None}, "task: a name is expected.*NoneType"),
        ({"task": float("nan")}, "task: a name is expected.*float"),
        ({"task": 3}, "task: a name is expected.*int"),
        ({"task": "<OD>" * 10**6}, "task: a name is expected.*4,000,000 characters"),
        ({"input": "what is it?"}, "<OD> takes no input"),
        ({"task": TASK}, "location tokens"),
        ({"task": TASK, "input": None}, "location tokens"),
        ({"task": TASK, "input": ["<loc_1>"]}, "input: a text is expected; found list"),
        ({"task": "<VQA>", "input": "a" * 2001}, "2,001 characters; at most 2,000"),
        ({"task": "<VQA>", "input": "1" * 2000}, "at most 475 fit beside an image"),
        ({"task": "<VQA>", "input": "\ud800"}, "surrogate"),
        ({"image": "no.png"}, "the image cannot be used"),
    ]
    rows = [good]
    for change, _ in bad:
        rows += [{**good, **change}, good]
    answers = ask(model, *rows)
    right = answers[0]
    assert right["error"] == "" and right["regions"]
    assert all(answer == right for answer in answers[::2])
    for answer, (change, message) in zip(answers[1::2], bad, strict=True):
        assert not answer["text"] and answer["score"] is None
        assert re.search(message, answer["error"]), (str(change)[:60], answer["error"])


def test_answers_are_those_of_the_library(model, folder: Path):
    rows = [
        {"image": png(seed), "task": task, "input": given}
        for seed in range(3)
        for task, given in (("<OD>", ""), (TASK, INPUT), ("<CAPTION>", float("nan")), ("<VQA>", "Was ist das? 猫🙂"))
    ]
    answers = ask(model, *rows)
    pixels = [np.asarray(Image.open(io.BytesIO(png(seed)))) for seed in range(3)]
    queries = [
        Query(seed, row["task"], row["input"] if isinstance(row["input"], str) else "")
        for row, seed in zip(rows, np.repeat(range(3), 4), strict=True)
    ]
    right: list[Answer] = predict(load(str(folder)), pixels, queries)
    assert [answer["text"] for answer in answers] == [answer.text for answer in right]
    for answer, expected in zip(answers, right, strict=True):
        assert [region["box"] for region in answer["regions"]] == [
            None if region.box is None else list(region.box) for region in expected.regions
        ]
        assert answer["truncated"] == expected.truncated and answer["score"] == pytest.approx(expected.score)


def test_an_answer_that_max_tokens_has_cut_says_so(model):
    row = {"image": png(), "task": "<OD>"}
    (whole,) = ask(model, row, max_tokens=400)
    (cut,) = ask(model, row, max_tokens=5)
    assert len(whole["regions"]) > len(cut["regions"]) == 1
    assert cut["truncated"] and cut["error"] == ""
    (caption,) = ask(model, {"image": png(), "task": "<CAPTION>"}, max_tokens=100)
    assert not caption["truncated"] and caption["text"]
    (nothing,) = ask(model, row, max_tokens=2)
    assert nothing["truncated"] and (nothing["text"], nothing["score"], nothing["confidence"]) == ("", None, None)
    cut_text = Answer(text="a dog on", score=0.5, truncated=True)
    known = Calibration((0.0, 1.0), (0.9, 0.9), 0.1, 0.1, 9, transfer=1.0)
    assert served._answer_values(cut_text, known)["confidence"] is None
    assert served._answer_values(dataclasses.replace(cut_text, truncated=False), known)["confidence"] == 0.9


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT])
def test_an_input_that_pandas_takes_for_missing_is_none(missing, model):
    table = pd.DataFrame({"image": [png()], "task": ["<CAPTION>"], "input": pd.Series([missing], dtype=object)})
    for one in (table, table.astype({"task": "string", "input": "string"})):
        assert model.predict(None, one, {"max_tokens": 3})["error"].tolist() == [""]


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize("limit", [0, -1, 2.5, "9", True, None, float("nan"), [5, 6]])
def test_a_max_tokens_that_is_no_length_is_refused(limit, model):
    with pytest.raises(MlflowException, match="max_tokens") as caught:
        ask(model, {"image": png(), "task": "<OD>"}, max_tokens=limit)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_requests_of_no_rows_of_many_and_without_columns(model, monkeypatch):
    assert ask(model) == []
    for table in (pd.DataFrame({"image": [b""]}), pd.DataFrame({"task": ["<OD>"]}), pd.DataFrame(), "x", [1]):
        with pytest.raises(MlflowException, match=r"image and task"):
            model.predict(None, table)
    table = pd.DataFrame({"image": [b""], "task": ["<OD>"]})
    twice = pd.concat([table, table[["image"]]], axis=1)
    nested = table.set_axis(pd.MultiIndex.from_tuples([("image", "a"), ("task", "b")]), axis=1)
    for table in (twice, nested):
        with pytest.raises(MlflowException, match="each column is expected once") as caught:
            model.predict(None, table)
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    image = png()
    wrong = ask(model, *[{"image": image, "task": "<NOPE>"}] * LIMITS.rows)
    assert {answer["error"][:12] for answer in wrong} == {"unknown task"}
    with pytest.raises(MlflowException, match=r"10,001 rows; a request may have 10,000 at most"):
        ask(model, *[{"image": image, "task": "<NOPE>"}] * (LIMITS.rows + 1))
    monkeypatch.setattr(served, "BATCH_ROWS", 3)
    asked = [{"image": png(n % 2), "task": ("<OD>", "<CAPTION>")[n % 2]} for n in range(10)]
    answers = ask(model, *asked, max_tokens=6)
    assert [answer["text"] for answer in answers] == [answers[n % 2]["text"] for n in range(10)]


def test_all_images_of_a_request_together_have_a_limit(model, monkeypatch):
    monkeypatch.setattr(served, "LIMITS", RequestLimits(request_bytes=len(png(0)) + len(png(1))))
    first, again, second, third = ask(
        model, *({"image": png(seed), "task": "<CAPTION>"} for seed in (0, 0, 1, 2)), max_tokens=3
    )
    assert not first["error"] and not again["error"] and not second["error"]
    assert "bytes of images" in third["error"]


def test_a_failure_of_the_model_tells_nothing_of_the_server(model, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError(f"{__file__} is broken")

    monkeypatch.setattr(served, "predict", fail)
    with pytest.raises(MlflowException) as caught:
        ask(model, {"image": png(), "task": "<OD>"})
    assert "/" not in caught.value.message and caught.value.__cause__ is None
    assert "is broken" in caplog.text, "the log has it"


def test_what_the_scoring_server_answers(folder: Path, tmp_path: Path):
    """MLflow's own parsing, signature and JSON, on a packaged model, without the process around them."""
    found = registry(tmp_path)
    found.register(Tracker(found.store).loop_run("l", {}), folder, {})
    packed = next((tmp_path / "build/mlartifacts").rglob("MLmodel")).parent
    found = mlflow.pyfunc.load_model(str(packed))
    example = (packed / "serving_input_example.json").read_text()
    schema = found.metadata.get_input_schema()

    def post(body: str, kind: str = "application/json") -> list[dict]:
        reply = scoring_server.invocations(body.encode(), kind, found, schema)
        assert reply.status == 200
        return json.loads(reply.response)["predictions"]

    first, second = post(example)
    assert first["error"] == second["error"] == "" and first["text"] and second["text"]
    rows = [
        {"image": encoded(png()), "task": "<OD>"},
        {"image": "/etc/passwd", "task": "<OD>"},
        {"image": encoded(png()), "task": "<NOPE>"},
        {"image": encoded(png()), "task": 7},
        {"image": encoded(png()), "task": TASK, "input": INPUT},
        {"image": encoded(png())},
        {"task": "<OD>"},
    ]
    body = {"dataframe_records": rows, "params": {"max_tokens": 5}}
    answers = post(json.dumps(body))
    assert [bool(answer["error"]) for answer in answers] == [False, True, True, True, False, True, True]
    assert answers[0]["truncated"] is True
    split = {"columns": ["image", "task"], "data": [[row["image"], row["task"]] for row in rows[:3]]}
    for other in ({"dataframe_split": split}, {"inputs": rows[:3]}, {"dataframe_records": rows[:3]}):
        again = post(json.dumps({**other, "params": {"max_tokens": 5}}))
        assert [(a["text"], a["error"]) for a in again] == [(a["text"], a["error"]) for a in answers[:3]]
    csv, parquet = "text/csv", "application/vnd.apache.parquet"
    for body, kind, message in (
        (json.dumps({"dataframe_records": rows[:1], "params": {"max_tokens": 0}}), "application/json", "max_tokens"),
        (json.dumps({"dataframe_records": rows[:1], "params": {"max_tokens": "x"}}), "application/json", "max_tokens"),
        (json.dumps({"dataframe_records": [{"image": ""}]}), "application/json", "task"),
        (json.dumps({"dataframe_records": []}), "application/json", "image"),
        ("{", "application/json", "JSON"),
        ("image,task\nabc,<OD>\n", csv, "CSV"),
        ("no file", parquet, "Parquet|parquet|DataFrame"),
        (" " * (LIMITS.body_bytes + 1), "application/json", "75,000,001 bytes; at most 75,000,000 are allowed"),
    ):
        with pytest.raises(MlflowException, match=message) as caught:
            scoring_server.invocations(body.encode(), kind, found, schema)
        assert caught.value.get_http_status_code() == 400
        reply = json.loads(caught.value.serialize_as_json())
        assert "stack_trace" not in reply and str(packed) not in str(reply) and ".py" not in str(reply)


@pytest.mark.parametrize("again", [False, True])
def test_the_scoring_server_is_guarded_once(again):
    server = SimpleNamespace(invocations=lambda data: data)
    for _ in range(1 + again):
        served.guard_scoring_server(server)
    assert server.invocations(b"1") == b"1" and not hasattr(server.invocations.__wrapped__, "__wrapped__")
