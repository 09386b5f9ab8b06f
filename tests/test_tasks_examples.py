import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.errors import EncodeError
from florence.geometry import box_iou, mask_iou, polygon_area, rasterise
from florence.records import BASE_TYPES, FINE_TUNED, TASKS, Annotation, ImageRecord, Region
from florence.tasks import task
from florence.tasks.ocr import reading_order
from florence.tasks.segmentation import MAX_POINTS, MAX_POLYGONS, simplify_polygons

IMAGE = ImageRecord("ab" * 32, 640, 480, "here", "a.png", "none", None, "train")
SIZE = (640, 480)


def row(annotation_type, text, *regions, number=0):
    return Annotation(
        f"{annotation_type}{number}", IMAGE.image_id, annotation_type, "consensus", "1", 0, text, tuple(regions)
    )


def circle(cx, cy, rx, ry, count=120):
    angles = [2 * math.pi * i / count for i in range(count)]
    return tuple(v for a in angles for v in (cx + rx * math.cos(a), cy + ry * math.sin(a)))


def objects(*items):
    return [
        row("<OD>", name, Region(name, box=box, polygons=shapes), number=i)
        for i, (name, box, shapes) in enumerate(items)
    ]


DOG, CAT, FAR_DOG = (
    ("dog", (100, 50, 200, 150), (circle(150, 100, 50, 50),)),
    ("cat", (20, 60, 90, 130), ()),
    ("dog", (400, 10, 500, 90), ()),
)
CAPTION = "a dog left of a dog and a cat"


def rows_of(annotation_type):
    return {
        "<OD>": objects(DOG, CAT, FAR_DOG),
        "<DENSE_REGION_CAPTION>": [row(annotation_type, "a big dog", Region("a big dog", box=(1, 2, 300, 400)))],
        "<CAPTION_TO_PHRASE_GROUNDING>": [
            row(annotation_type, CAPTION, Region("a cat", box=(20, 60, 90, 130), span=(24, 29))),
            row(annotation_type, CAPTION, Region("a dog", box=(400, 10, 500, 90), span=(14, 19))),
            row(annotation_type, CAPTION, Region("a dog", box=(100, 50, 200, 150), span=(0, 5))),
        ],
        "<OCR_WITH_REGION>": [
            row(annotation_type, "WORLD", Region("WORLD", quad=(210, 42, 300, 40, 300, 70, 210, 72))),
            row(annotation_type, "below", Region("below", quad=(10, 100, 90, 100, 90, 130, 10, 130))),
            row(annotation_type, "HELLO", Region("HELLO", quad=(10, 40, 200, 40, 200, 70, 10, 70))),
        ],
        "<VQA>": [row(annotation_type, "What is there?", Region("two dogs", box=(0, 0, 640, 480)))],
        "<CLASSIFICATION>": [row(annotation_type, "park bench", Region("park bench", box=(0, 0, 640, 480)))],
        "<REFERRING_EXPRESSION_SEGMENTATION>": [
            row(
                annotation_type,
                "the dog",
                Region("the dog", polygons=(circle(150, 100, 50, 50), circle(300, 100, 9, 9))),
            )
        ],
    }.get(annotation_type) or [row(annotation_type, "A dog, a cat: <b>and</b> more.")]


@pytest.mark.parametrize("name", TASKS)
def test_every_example_is_read_back_as_its_reference(name):
    found = task(name).examples(IMAGE, rows_of(task(name).annotation_type))
    assert found
    for example in found:
        assert example.task == name and example.image_id == IMAGE.image_id
        assert task(name).prompt(example.input)
        answer = task(name).decode(example.target, SIZE, example.input)
        assert answer.error is None
        if name.startswith("<REGION_TO") and name != "<REGION_TO_SEGMENTATION>":
            assert answer.text == example.text == example.regions[0].label
            continue
        assert [r.label for r in answer.regions] == [r.label for r in example.regions]
        for mine, there in zip(answer.regions, example.regions, strict=True):
            assert box_iou(np.asarray([mine.bounds]), np.asarray([there.bounds]))[0, 0] > 0.9
            assert mine.span == there.span
        if example.text and name != "<CAPTION_TO_PHRASE_GROUNDING>":
            assert answer.text == example.text


def test_objects_are_grouped_by_label_from_left_to_right():
    (example,) = task("<OD>").examples(IMAGE, objects(FAR_DOG, DOG, CAT))
    assert [r.box for r in example.regions] == [CAT[1], DOG[1], FAR_DOG[1]]
    assert example.target.count("dog") == 1


@given(st.permutations(range(6)), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_labels_does_not_matter(order, seed):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 400, (6, 2))
    rows = objects(*((f"c{i % 3}", tuple(float(v) for v in (*xy, *(xy + 40))), ()) for i, xy in enumerate(corners)))
    for name in TASKS:
        if task(name).annotation_type == "<OD>":
            assert task(name).examples(IMAGE, rows) == task(name).examples(IMAGE, [rows[i] for i in order])


@pytest.mark.parametrize("name", TASKS)
def test_no_labels_give_no_example(name):
    assert task(name).examples(IMAGE, []) == []


@pytest.mark.parametrize("name", ["<OD>", "<DENSE_REGION_CAPTION>", "<REGION_PROPOSAL>", "<OCR>", "<OCR_WITH_REGION>"])
def test_a_label_of_no_object_gives_an_empty_answer(name):
    (example,) = task(name).examples(IMAGE, [row(task(name).annotation_type, "")])
    assert (example.target, example.text, example.regions) == ("", "", ())
    assert task(name).decode("", SIZE).error is None


@pytest.mark.parametrize("name", TASKS)
def test_a_label_that_cannot_be_written_is_left_out_alone(name, caplog):
    annotation_type = task(name).annotation_type
    good = rows_of(annotation_type)
    bad = replace(
        good[0],
        annotation_id="bad",
        text="x<loc_5>",
        regions=tuple(replace(r, label="x<loc_5>") for r in good[0].regions),
    )
    refused = []
    assert task(name).examples(IMAGE, [*good, bad], refused) == task(name).examples(IMAGE, good)
    assert len(refused) == 1 and "bad" in str(refused[0]) and "<loc_5>" in str(refused[0])
    with caplog.at_level(logging.WARNING, "florence.tasks"):
        task(name).examples(IMAGE, [bad])
    assert "<loc_5>" in caplog.text


def test_an_invalid_region_is_refused():
    refused = []
    rows = objects(("dog", (math.nan, 1, 2, 3), ()), CAT) + [row("<OD>", "cow")]
    (example,) = task("<OD>").examples(IMAGE, rows, refused)
    assert [r.label for r in example.regions] == ["cat"]
    assert len(refused) == 2


def test_phrases_come_in_the_order_of_the_caption_each_at_its_own_span():
    (example,) = task("<CAPTION_TO_PHRASE_GROUNDING>").examples(IMAGE, rows_of("<CAPTION_TO_PHRASE_GROUNDING>"))
    assert [(r.label, r.span) for r in example.regions] == [("a dog", (0, 5)), ("a dog", (14, 19)), ("a cat", (24, 29))]
    assert example.input == example.text == CAPTION
    assert example.target.count("a dog") == 2


def test_white_space_around_a_caption_moves_no_span():
    annotation_type = "<CAPTION_TO_PHRASE_GROUNDING>"
    (example,) = task(annotation_type).examples(
        IMAGE, [row(annotation_type, "  a dog ", Region("a dog", box=(1, 2, 30, 40), span=(2, 7)))]
    )
    assert (example.input, example.regions[0].span) == ("a dog", (0, 5))
    assert task(annotation_type).decode(example.target, SIZE, example.input).regions[0].span == (0, 5)


def test_text_is_read_line_by_line():
    (example,) = task("<OCR>").examples(IMAGE, rows_of("<OCR_WITH_REGION>"))
    assert example.target == "HELLO\nWORLD\nbelow"


@given(
    st.lists(
        st.tuples(st.floats(0, 600), st.floats(0, 440), st.floats(1, 40), st.floats(1, 40)), min_size=1, max_size=8
    ),
    st.randoms(),
)
@settings(max_examples=60, deadline=None)
def test_reading_order_depends_on_regions_alone(boxes, random):
    regions = [Region(f"w{i}", box=(x, y, x + w, y + h)) for i, (x, y, w, h) in enumerate(boxes)]
    shuffled = regions[:]
    random.shuffle(shuffled)
    assert reading_order(regions, SIZE) == reading_order(shuffled, SIZE)
    assert len(reading_order(regions, SIZE)) == len(regions)


def test_open_vocabulary_has_an_example_for_each_label_and_takes_joined_names():
    found = task("<OPEN_VOCABULARY_DETECTION>").examples(IMAGE, rows_of("<OD>"))
    assert [(e.input, len(e.regions)) for e in found] == [("cat", 1), ("dog", 2)]
    assert task("<OPEN_VOCABULARY_DETECTION>").prompt("dog<and>cat") == "Locate dog<and>cat in the image."
    with pytest.raises(EncodeError):
        task("<OPEN_VOCABULARY_DETECTION>").prompt("dog<and>")


@pytest.mark.parametrize(
    "name,given",
    [
        ("<OD>", "dog"),
        ("<CAPTION_TO_PHRASE_GROUNDING>", ""),
        ("<CAPTION_TO_PHRASE_GROUNDING>", "a<loc_1>"),
        ("<REGION_TO_CATEGORY>", "dog"),
        ("<REGION_TO_CATEGORY>", "<loc_1><loc_2>"),
        ("<REGION_TO_CATEGORY>", "<loc_1><loc_2><loc_3><loc_4>x"),
        ("<REGION_TO_OCR>", ""),
    ],
)
def test_a_wrong_input_is_refused(name, given):
    with pytest.raises(EncodeError):
        task(name).prompt(given)


# ---------------------------------------------------------------- polygons


@given(st.integers(0, 10_000), st.integers(3, 400))
@settings(max_examples=60, deadline=None)
def test_polygons_are_short_clockwise_and_close_to_the_shape(seed, count):
    rng = np.random.default_rng(seed)
    shape = circle(rng.uniform(150, 400), rng.uniform(120, 300), rng.uniform(20, 100), rng.uniform(20, 100), count)
    if seed % 2:
        shape = tuple(v for i in range(len(shape) - 2, -2, -2) for v in shape[i : i + 2])
    (short,) = simplify_polygons((shape,), SIZE)
    assert 6 <= len(short) <= 2 * MAX_POINTS
    assert polygon_area(short) > 0
    assert short[1] == min(short[1::2])
    assert mask_iou(rasterise([short], *SIZE), rasterise([shape], *SIZE)) > 0.93


def test_polygons_keep_the_largest_polygons():
    shapes = tuple(circle(100 * i, 100, 5 * i, 5 * i) for i in range(1, 6))
    assert len(simplify_polygons(shapes, SIZE)) == MAX_POLYGONS
    areas = [polygon_area(p) for p in simplify_polygons(shapes, SIZE)]
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize(
    "shape",
    [
        (5.0, 5.0) * 3,
        (5.0, 5.0, 5.1, 5.0, 5.1, 5.1),
        tuple(float(i // 2 % 300) if i % 2 == 0 else 7.0 for i in range(800)),
    ],
)
def test_degenerate_polygons_stay_polygons(shape):
    refused = []
    annotation_type = "<REFERRING_EXPRESSION_SEGMENTATION>"
    (example,) = task(annotation_type).examples(
        replace(IMAGE, width=20_000, height=20_000),
        [row(annotation_type, "a", Region("a", polygons=(shape,)))],
        refused,
    )
    assert not refused
    assert task(annotation_type).decode(example.target, (20_000, 20_000), "a").error is None


# ---------------------------------------------------------------- shortening, garbage


PARAGRAPH = 'First a dog. "Then a cat?" It costs 1.5 (or 2)! The U.S. flag… And an end without a stop'


@pytest.mark.parametrize("name", ["<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>"])
def test_a_caption_is_shortened_by_whole_sentences(name):
    (example,) = task(name).examples(IMAGE, [row(name, PARAGRAPH)])
    found = {
        short.target
        for n in range(len(PARAGRAPH))
        if (short := task(name).truncate(example, lambda text, n=n: len(text) <= n)) and short.text == short.target
    }
    assert found == {PARAGRAPH[:12], PARAGRAPH[:26], PARAGRAPH[:47], PARAGRAPH[:56], PARAGRAPH[:62]}
    assert task(name).truncate(example, lambda text: len(text) < 12) is None
    assert {
        p.target for p in task(name).truncations(replace(example, target="一只狗。一只猫。", text="一只狗。一只猫。"))
    } == {"一只狗。"}


@pytest.mark.parametrize("name", ["<OCR>", "<OCR_WITH_REGION>"])
def test_strings_are_shortened_by_whole_ones(name):
    (example,) = task(name).examples(IMAGE, rows_of("<OCR_WITH_REGION>"))
    found = [
        short.text
        for n in range(len(example.target))
        if (short := task(name).truncate(example, lambda text, n=n: len(text) <= n))
    ]
    assert list(dict.fromkeys(found)) == ["HELLO", "HELLO\nWORLD"]
    for short in task(name).truncations(example):
        assert task(name).decode(short.target, SIZE).text == short.text


@pytest.mark.parametrize(
    "name", ["<REGION_TO_CATEGORY>", "<REGION_TO_DESCRIPTION>", "<REGION_TO_OCR>", "<VQA>", "<CLASSIFICATION>"]
)
def test_answers_whose_part_would_be_another_answer_are_left_out(name):
    for example in task(name).examples(IMAGE, rows_of(task(name).annotation_type)):
        assert task(name).truncate(example, lambda text, whole=example.target: len(text) < len(whole)) is None


def test_polygons_are_shortened_by_polygons_and_then_objects():
    annotation_type = "<REFERRING_EXPRESSION_SEGMENTATION>"
    first, second = ((circle(100, 100, 40, 40, 5), circle(200, 100, 9, 9, 5)), (circle(500, 100, 40, 40, 5),))
    (example,) = task(annotation_type).examples(
        IMAGE, [row(annotation_type, "all", Region("all", polygons=first), Region("all", polygons=second))]
    )
    parts = task(annotation_type).truncations(example)
    assert [
        (len(task(annotation_type).decode(p.target, SIZE, "all").regions[0].polygons), "<poly>" in p.target)
        for p in parts
    ] == [(1, False), (2, False)]
    assert all(p.regions == example.regions[:1] for p in parts)
    assert example.target == f"<poly>{parts[1].target}</poly>" + example.target[len(parts[1].target) + 13 :]
    assert example.target.count("<poly>") == 2


@pytest.mark.parametrize("name", [*TASKS, *FINE_TUNED])
def test_a_shortened_example_is_legal_and_as_long_as_it_may_be(name):
    annotation_type = task(name).annotation_type
    rows = rows_of(annotation_type)
    if annotation_type == "<OD>":
        rows += objects(
            *((f"c{i}", (60.0 * i, 200, 60.0 * i + 50, 300), (circle(60 * i, 250, 20, 40, 9),)) for i in range(9))
        )
    for example in task(name).examples(IMAGE, rows):
        lengths = range(0, len(example.target) + 1)
        last = 0
        for limit in lengths:
            short = task(name).truncate(example, lambda text, limit=limit: len(text) <= limit)
            if short is None:
                assert last == 0
                continue
            assert last <= len(short.target) <= limit
            answer = task(name).decode(short.target, SIZE, short.input)
            assert answer.error is None
            if name.startswith("<REGION_TO") or not answer.regions:
                continue
            assert [r.label for r in answer.regions] == [r.label for r in short.regions]
            last = len(short.target)
        assert task(name).truncate(example, lambda text: True) == example


piece = st.one_of(
    st.sampled_from(
        [
            *(f"<loc_{i}>" for i in (0, 5, 999, 1000)),
            "<sep>",
            "<poly>",
            "</poly>",
            "<and>",
            "<s>",
            "dog",
            " ",
            "<",
            "\n",
        ]
    ),
    st.text(max_size=4),
)


@given(
    st.sampled_from(TASKS),
    st.lists(piece, max_size=30).map("".join),
    st.integers(1, 20_000),
    st.integers(1, 20_000),
    st.text(max_size=5),
)
@settings(max_examples=300, deadline=None)
def test_garbage_is_an_answer_with_an_error_and_never_a_crash(name, text, width, height, given):
    answer = task(name).decode(text, (width, height), given)
    assert len(answer.regions) == len(answer.spans) == len(answer.label_spans)
    for region in answer.regions:
        x0, y0, x1, y1 = region.bounds
        assert 0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height
    if "<s>" in text or "<loc_1000>" in text:
        assert answer.error is not None and answer.error.task == name


def test_tasks_are_made_of_the_annotation_types():
    assert {task(name).annotation_type for name in TASKS} == set(BASE_TYPES)
