"""The protocol: our lines are read again, and lines of others are checked field by field."""

from __future__ import annotations

import base64
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from florence.errors import FlorenceError, UnavailableError
from florence.geometry import polygon_area
from florence.processes.png import encode_png
from florence.processes.protocol import (
    LineReader,
    ProtocolError,
    format_answer,
    format_request,
    parse_answer,
    parse_request,
)
from florence.records import ANNOTATION_TYPES, CAPTIONS, Claim, ImageRecord, PartialClaims, Region, annotate

WIDTH, HEIGHT = 120, 80
RECORD = ImageRecord("a" * 64, WIDTH, HEIGHT, "mine", "süß/1.png", "", "a “dog” 狗", "train")


def read(value: object, tasks=ANNOTATION_TYPES, number: int = 3):
    line = value if isinstance(value, bytes) else json.dumps(value).encode()
    image, result = parse_answer(line, number, {RECORD.image_id: RECORD}, tasks)
    assert image == RECORD.image_id
    return result


def claims(*annotations: object, tasks=ANNOTATION_TYPES) -> list[Claim]:
    result = read({"image_id": RECORD.image_id, "annotations": list(annotations)}, tasks)
    if isinstance(result, FlorenceError):
        raise result
    return result


# ---------------------------------------------------------------- what is right

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)
scores = st.none() | st.floats(0, 1)


@st.composite
def boxes(draw):
    x0, x1 = sorted(draw(st.lists(st.floats(0, WIDTH), min_size=2, max_size=2, unique=True)))
    y0, y1 = sorted(draw(st.lists(st.floats(0, HEIGHT), min_size=2, max_size=2, unique=True)))
    return x0, y0, x1, y1


@st.composite
def corners(draw, least: int, most: int):
    """Draw corners that run clockwise and enclose an area."""
    count = draw(st.integers(least, most))
    points = draw(st.lists(st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT)), min_size=count, max_size=count))
    flat = tuple(v for point in points for v in point)
    flat = flat if polygon_area(flat) >= 0 else tuple(v for point in (points[0], *reversed(points[1:])) for v in point)
    return (
        flat
        if min(max(flat[i::2]) - min(flat[i::2]) for i in (0, 1)) > 0 and polygon_area(flat) > 0
        else (0.0, 0.0, 9.0, 0.0, 9.0, 9.0, 0.0, 9.0)[: 2 * count]
    )


@st.composite
def result(draw):
    """Return a claim as an annotator in our own process may make it."""
    task = draw(st.sampled_from(ANNOTATION_TYPES))
    text, score = draw(texts), draw(scores)
    if task in CAPTIONS:
        return Claim(task, text, (), score)
    if task == "<CAPTION_TO_PHRASE_GROUNDING>":
        start = draw(st.integers(0, len(text) - 1))
        end = draw(st.integers(start + 1, len(text)))
        phrase = text[start:end]
        if not phrase.strip():
            start, end, phrase = 0, len(text), text
        span = draw(st.sampled_from([None, (start, end)]))
        return Claim(
            task,
            text,
            tuple(
                Region(phrase, box=draw(boxes()), score=draw(scores), span=span) for _ in range(draw(st.integers(1, 3)))
            ),
            score,
        )
    if task == "<VQA>":
        return Claim(
            task,
            text,
            tuple(Region(draw(texts), box=draw(boxes()), score=draw(scores)) for _ in range(draw(st.integers(1, 3)))),
            score,
        )
    polygons = tuple(draw(st.lists(corners(3, 6), min_size=1, max_size=3)))
    shapes = {
        "<OCR_WITH_REGION>": lambda: {"quad": draw(corners(4, 4))},
        "<REFERRING_EXPRESSION_SEGMENTATION>": lambda: {"polygons": polygons},
        "<OD>": lambda: {"box": draw(boxes()), "polygons": draw(st.sampled_from([(), polygons]))},
    }
    return Claim(
        task, text, (Region(text, score=draw(scores), **shapes.get(task, lambda: {"box": draw(boxes())})()),), score
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(result(), max_size=4))
def test_claims_are_the_same_to_the_last_bit_when_they_are_read_again(claims: list[Claim]):
    line = format_answer(RECORD.image_id, claims)
    assert line.isascii() and line.endswith(b"\n") and line.count(b"\n") == 1
    assert read(line) == claims
    assert repr(read(line)) == repr(claims)  # == takes -0.0 for 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(result(), max_size=3), st.binary(max_size=20))
def test_requests_are_read_as_they_were_asked(claims: list[Claim], image: bytes):
    rows = annotate(RECORD.image_id, claims, "someone", "7", 2)
    request = parse_request(format_request(RECORD, rows, image=image), 1)
    assert request.record == RECORD and request.claims == rows and request.image == image and request.path is None
    request = parse_request(format_request(RECORD, None, path="/tmp/ä b.png"), 1)
    assert request.path == "/tmp/ä b.png" and request.image is None and request.claims == ()
    assert "claims" not in json.loads(format_request(RECORD, None, path="x"))


BOX, QUAD, OUTLINE = [10, 20, 30, 40], [10, 20, 30, 20, 30, 40, 10, 40], [[10, 20, 30, 20, 20, 40]]


@pytest.mark.parametrize(
    ("short", "claim"),
    [
        (
            {"label": "dog", "box": BOX, "score": 0.5},
            Claim("<OD>", "dog", (Region("dog", box=(10, 20, 30, 40), score=0.5),), 0.5),
        ),
        ({"text": "dog", "box": BOX}, Claim("<OD>", "dog", (Region("dog", box=(10, 20, 30, 40)),))),
        (
            {"label": "dog", "box": BOX, "polygons": OUTLINE},
            Claim("<OD>", "dog", (Region("dog", box=(10, 20, 30, 40), polygons=((10, 20, 30, 20, 20, 40),)),)),
        ),
        (
            {"task": "<OCR_WITH_REGION>", "text": "EXIT", "quad": QUAD},
            Claim("<OCR_WITH_REGION>", "EXIT", (Region("EXIT", quad=(10, 20, 30, 20, 30, 40, 10, 40)),)),
        ),
        (
            {"task": "<OCR_WITH_REGION>", "text": "EXIT", "box": BOX},
            Claim("<OCR_WITH_REGION>", "EXIT", (Region("EXIT", quad=(10, 20, 30, 20, 30, 40, 10, 40)),)),
        ),
        (
            {"task": "<DENSE_REGION_CAPTION>", "text": "a dog", "box": BOX},
            Claim("<DENSE_REGION_CAPTION>", "a dog", (Region("a dog", box=(10, 20, 30, 40)),)),
        ),
        (
            {"task": "<REFERRING_EXPRESSION_SEGMENTATION>", "text": "it", "polygons": OUTLINE},
            Claim("<REFERRING_EXPRESSION_SEGMENTATION>", "it", (Region("it", polygons=((10, 20, 30, 20, 20, 40),)),)),
        ),
        (
            {"task": "<CAPTION>", "text": "a dog", "score": 1, "box": None, "regions": []},
            Claim("<CAPTION>", "a dog", (), 1.0),
        ),
        (
            {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "ein süßer Hund", "span": [4, 14], "box": BOX},
            Claim(
                "<CAPTION_TO_PHRASE_GROUNDING>",
                "ein süßer Hund",
                (Region("süßer Hund", box=(10, 20, 30, 40), span=(4, 14)),),
            ),
        ),
        (
            {"task": "<VQA>", "text": "what?", "label": "dog"},
            Claim("<VQA>", "what?", (Region("dog", box=(0, 0, WIDTH, HEIGHT)),)),
        ),
        (
            {"task": "<CLASSIFICATION>", "text": "dog"},
            Claim("<CLASSIFICATION>", "dog", (Region("dog", box=(0, 0, WIDTH, HEIGHT)),)),
        ),
    ],
)
def test_short_forms_and_what_can_be_left_out(short: dict, claim: Claim):
    assert claims(short) == [claim]


def test_fields_of_a_later_version_are_ignored_and_null_is_nothing():
    line = {
        "image_id": RECORD.image_id,
        "error": None,
        "took": 3,
        "annotations": [
            {
                "label": "dog",
                "box": BOX,
                "track": {"id": 7},
                "quad": None,
                "polygons": [],
                "span": None,
                "regions": None,
                "text": None,
                "score": None,
            }
        ],
    }
    assert read(line) == [Claim("<OD>", "dog", (Region("dog", box=(10, 20, 30, 40)),))]
    assert read({"image_id": RECORD.image_id, "annotations": [], "error": ""}) == []


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ([-5, -5, 500, 500], (0, 0, WIDTH, HEIGHT)),
        ([30, 40, 10, 20], (10, 20, 30, 40)),
        ([130, 40, -1, 20.5], (0, 20.5, WIDTH, 40)),
        ([0.1, 0.2, 119.9, 79.9], (0.1, 0.2, 119.9, 79.9)),
    ],
)
def test_boxes_are_clipped_and_put_right(box: list, clipped: tuple):
    (claim,) = claims({"label": "dog", "box": box})
    assert claim.regions[0].box == clipped and all(type(v) is float for v in claim.regions[0].box)


def test_corners_are_clipped_and_run_clockwise():
    (claim,) = claims({"task": "<OCR_WITH_REGION>", "text": "x", "quad": [10, 20, 10, 40, 300, 40, 300, 20]})
    assert claim.regions[0].quad == (10, 20, 120, 20, 120, 40, 10, 40)
    (claim,) = claims(
        {"task": "<REFERRING_EXPRESSION_SEGMENTATION>", "text": "x", "polygons": [[10, 20, 20, 400, 30, 20]]}
    )
    assert claim.regions[0].polygons == ((10, 20, 30, 20, 20, 80),)


# ---------------------------------------------------------------- what is wrong

DOG = {"label": "dog", "box": BOX}


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({**DOG, "box": [1, 2, 3]}, r"line 3, annotations\.1\.box: .*4 items.*found \[1, 2, 3\]"),
        ({**DOG, "box": [1, 2, 3, 4, 5]}, r"annotations\.1\.box: .*4 items"),
        ({**DOG, "box": [1, 2, "3", 4]}, r"annotations\.1\.box\.2: .*valid number; found '3'"),
        ({**DOG, "box": [1, 2, True, 4]}, r"annotations\.1\.box\.2: .*valid number; found True"),
        ({**DOG, "box": [1, 2, math.nan, 4]}, r"annotations\.1\.box\.2: .*finite number; found nan"),
        ({**DOG, "box": [1, 2, math.inf, 4]}, r"annotations\.1\.box\.2: .*finite"),
        ({**DOG, "box": [1, 2, 10**400, 4]}, r"annotations\.1\.box\.2"),
        ({**DOG, "box": {"x": 1}}, r"annotations\.1\.box: .*tuple"),
        ({**DOG, "box": [130, 20, 150, 40]}, r"annotations\.1: .*inside the image, 0, 0, 120, 80.*found \(130"),
        ({**DOG, "box": [10, 20, 10, 40]}, r"annotations\.1: .*of some extent"),
        ({**DOG, "score": 1.01}, r"annotations\.1\.score: .*less than or equal to 1; found 1.01"),
        ({**DOG, "score": -0.1}, r"annotations\.1\.score: .*greater than or equal to 0"),
        ({**DOG, "score": "0.5"}, r"annotations\.1\.score: .*found '0.5'"),
        ({**DOG, "score": math.nan}, r"annotations\.1\.score: .*finite"),
        ({**DOG, "label": 7}, r"annotations\.1\.label: .*string; found 7"),
        ({**DOG, "label": "a\ud800"}, r"annotations\.1\.label: .*surrogates not allowed"),
        ({**DOG, "label": "  "}, r"annotations\.1\.text: .*not empty"),
        ({**DOG, "text": "cat"}, r"annotations\.1\.label: the annotation's text is expected, 'cat'; found 'dog'"),
        ({**DOG, "task": "<DOG>"}, r"annotations\.1\.task: .*<OD>.*found '<DOG>'"),
        ({**DOG, "task": "<VQA>"}, r"annotations\.1\.text: .*found None"),
        ({"label": "dog"}, r"annotations\.1\.box: <OD> needs one; found none"),
        ({"task": "<OCR_WITH_REGION>", "text": "x", "quad": BOX}, r"annotations\.1\.quad: .*8 items"),
        ({"task": "<OCR_WITH_REGION>", "text": "x"}, r"annotations\.1\.quad: .*needs one"),
        (
            {"task": "<REFERRING_EXPRESSION_SEGMENTATION>", "text": "x", "polygons": [[1, 2, 3, 4]]},
            r"annotations\.1\.polygons\.0: .*6 items",
        ),
        (
            {"task": "<REFERRING_EXPRESSION_SEGMENTATION>", "text": "x", "polygons": [[1, 2, 3, 4, 5, 6, 7]]},
            r"annotations\.1\.polygons: .*even number.*found 7",
        ),
        (
            {"task": "<REFERRING_EXPRESSION_SEGMENTATION>", "text": "x", "polygons": [[1, 2, 1, 4, 1, 6]]},
            r"annotations\.1: .*of some extent",
        ),
        (
            {"task": "<REFERRING_EXPRESSION_SEGMENTATION>", "text": "x", "box": BOX},
            r"annotations\.1\.polygons: .*needs one",
        ),
        (
            {"task": "<CAPTION>", "text": "a dog", "box": BOX},
            r"annotations\.1: a caption is a text without regions; found box",
        ),
        ({"task": "<CAPTION>", "text": "a dog", "regions": [DOG]}, r"annotations\.1: a caption .*found regions"),
        ({"task": "<CAPTION>"}, r"annotations\.1\.text"),
        (
            {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "a dog", "span": [2, 6], "box": BOX},
            r"annotations\.1\.span: .*5 characters.*found \[2, 6\]",
        ),
        (
            {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "a dog", "span": [3, 3], "box": BOX},
            r"annotations\.1\.span",
        ),
        (
            {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "a dog", "span": [-3, 3], "box": BOX},
            r"annotations\.1\.span\.0: .*greater",
        ),
        (
            {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "a dog", "span": [0, 1], "label": "dog", "box": BOX},
            r"annotations\.1\.label: .*cuts out.*'a'; found 'dog'",
        ),
        ({"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "a dog", "box": BOX}, r"annotations\.1\.label: .*not empty"),
        (
            {
                "task": "<CAPTION_TO_PHRASE_GROUNDING>",
                "text": "a dog",
                "regions": [{"label": "a", "box": BOX}, {"label": "dog", "box": BOX}],
            },
            r"annotations\.1\.regions: .*one phrase.*found \['a', 'dog'\]",
        ),
        ({"text": "dog", "regions": [DOG, DOG]}, r"annotations\.1\.regions: one is expected for <OD>; found 2"),
        ({"text": "dog", "regions": []}, r"annotations\.1\.regions: one is"),
        ({"text": "dog", "regions": [DOG], "box": BOX}, r"annotations\.1: .*found regions and box"),
        ({"text": "dog", "regions": [{**DOG, "score": 2}]}, r"annotations\.1\.regions\.0\.score: "),
        ("dog", r"annotations\.1: .*found 'dog'"),
        ([DOG], r"annotations\.1: "),
    ],
)
def test_a_malformed_annotation_costs_its_image_and_names_the_field(annotation: object, message: str):
    with pytest.raises(FlorenceError, match=message):
        claims(DOG, annotation)


def test_what_an_image_was_looked_at_for_comes_over_whole():
    def read(line: bytes, tasks=("<OD>", "<CAPTION>")):
        return parse_answer(line, 3, {RECORD.image_id: RECORD}, tasks)[1]

    caption = Claim("<CAPTION>", "a dog")
    some = read(format_answer(RECORD.image_id, PartialClaims([caption], ["<CAPTION>"])))
    assert isinstance(some, PartialClaims)
    assert (some, some.looked_at) == ([caption], ("<CAPTION>",))
    nothing = read(format_answer(RECORD.image_id, PartialClaims([], [])))
    assert isinstance(nothing, PartialClaims)
    assert nothing.looked_at == ()
    assert not isinstance(read(format_answer(RECORD.image_id, [caption])), PartialClaims)
    error = read(format_answer(RECORD.image_id, PartialClaims([], ["<VQA>"])))
    assert "line 3, looked_at: some of the declared tasks are expected, <OD>, <CAPTION>; found '<VQA>'" in str(error)


def test_the_error_of_an_image_says_how_many_of_its_annotations_are_lost():
    lost = r"annotations\.1\.score: .*; the 2 other annotations of the image are not used either$"
    with pytest.raises(FlorenceError, match=lost):
        claims(DOG, {**DOG, "score": 2}, DOG)
    with pytest.raises(FlorenceError, match=r"found 2; the other annotation of the image is not used either$"):
        claims({**DOG, "score": 2}, DOG)
    with pytest.raises(FlorenceError, match=r"found 2$"):
        claims({**DOG, "score": 2})


def test_a_task_that_was_not_declared_is_refused():
    with pytest.raises(
        FlorenceError,
        match=r"annotations\.0\.task: one of the declared tasks is expected, <CAPTION>, <VQA>; found '<OD>'",
    ):
        claims(DOG, tasks=("<CAPTION>", "<VQA>"))


@pytest.mark.parametrize(
    "line",
    [
        {"image_id": RECORD.image_id},
        {"image_id": RECORD.image_id, "annotations": None},
        {"image_id": RECORD.image_id, "annotations": {}},
        {"image_id": RECORD.image_id, "annotations": "none"},
        {"image_id": RECORD.image_id, "error": 5},
        {"image_id": RECORD.image_id, "error": "x", "retry": "yes"},
    ],
)
def test_an_answer_without_annotations_or_with_a_strange_error_costs_its_image(line: dict):
    result = read(line)
    assert (
        isinstance(result, FlorenceError)
        and not isinstance(result, UnavailableError)
        and str(result).startswith("line 3")
    )


def test_errors_and_whether_to_ask_again():
    result = read({"image_id": RECORD.image_id, "error": "too dark ☾", "annotations": [DOG]})
    assert type(result) is FlorenceError and str(result) == "too dark ☾"
    result = read({"image_id": RECORD.image_id, "error": "busy", "retry": True})
    assert type(result) is UnavailableError and str(result) == "busy"
    for error in (FlorenceError("too dark ☾"), UnavailableError("busy")):
        again = read(format_answer(RECORD.image_id, error))
        assert type(again) is type(error) and str(again) == str(error)


def test_a_claim_that_is_no_json_becomes_the_images_error():
    result = read(format_answer(RECORD.image_id, [Claim("<CAPTION>", "a dog", (), math.nan)]))
    assert isinstance(result, FlorenceError) and "JSON" in str(result)


@pytest.mark.parametrize(
    "line",
    [
        b"loading model ...",
        b"{",
        b"[]",
        b"null",
        b"3",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"image_id": 5}',
        b'{"annotations": []}',
        b'{"image_id": "' + b"b" * 64 + b'", "annotations": []}',
        b"1" * 10_000,
        json.dumps({"image_id": [RECORD.image_id], "annotations": []}).encode(),
    ],
)
def test_a_line_that_answers_no_request_is_a_protocol_error(line: bytes):
    with pytest.raises(ProtocolError, match="^line 3") as found:
        read(line)
    assert len(str(found.value)) < 400


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{}", "image_id"),
        (b"what", "JSON object"),
        (b'{"image_id": "a", "width": 4, "height": 4}', "path or as image"),
        (b'{"image_id": "a", "width": 4, "height": 4, "image": "%%"}', "base64"),
        (b'{"image_id": "a", "width": 0, "height": 4, "path": "x"}', "width"),
        (b'{"image_id": "a", "width": 4.5, "height": 4, "path": "x"}', "width"),
        (b'{"image_id": "a", "width": 4, "height": 4, "path": "x", "claims": [{"score": 7}]}', r"claims\.0\.score"),
    ],
)
def test_malformed_requests_are_named(line: bytes, message: str):
    with pytest.raises(ProtocolError, match=f"line 5.*{message}"):
        parse_request(line, 5)


# ---------------------------------------------------------------- bytes


@given(st.lists(st.binary(max_size=9), max_size=9))
def test_lines_come_out_the_same_however_they_are_cut(pieces: list[bytes]):
    lines = LineReader()
    found = [line for piece in pieces for line in lines.feed(piece)]
    data = b"".join(pieces)
    assert found == [line for line in data.split(b"\n")[:-1] if line.strip()]
    assert bytes(lines.rest) == data.split(b"\n")[-1] and lines.number == data.count(b"\n")


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("florence.processes.protocol.MAX_LINE", 1000)
    lines = LineReader()
    assert len(list(lines.feed(b"x" * 999 + b"\n"))) == 1
    with pytest.raises(ProtocolError, match="line 2 has more than 1,000 bytes"):
        for _ in range(20):
            list(lines.feed(b"y" * 100))


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (37, 53)])
def test_pictures_are_written_without_loss(level: int, shape: tuple[int, int]):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for view in (pixels, pixels[::-1], np.asfortranarray(pixels)):
        with Image.open(io.BytesIO(encode_png(view, level))) as image:
            image.verify()
        with Image.open(io.BytesIO(encode_png(view, level))) as image:
            assert image.mode == "RGB" and np.array_equal(np.asarray(image), view)
    assert base64.b64decode(base64.b64encode(encode_png(pixels, level))) == encode_png(pixels, level)
