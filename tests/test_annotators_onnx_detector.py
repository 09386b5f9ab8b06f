"""Detectors in ONNX files that the test writes, so that their answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from onnx_models import brightness, constant, red_finder

from florence.annotators import ANNOTATORS, ImageBatch
from florence.annotators.onnx_detector import _providers
from florence.errors import ModelError, SettingsError
from florence.geometry import box_iou
from florence.imaging.onnx_outputs import read_detections
from florence.records import Claim, ImageRecord

Box = tuple[float, float, float, float]
THREE = ("cat", "dog", "cup")


def make_detector(model: str, layout: str, labels: Any = THREE, **options: Any):
    found = ANNOTATORS.get("onnx_detector")(name="objects", model=model, layout=layout, labels=labels, **options)
    found.load()
    return found


def annotate_pictures(annotator: Any, *pictures: np.ndarray) -> list[list[Claim]]:
    records = tuple(
        ImageRecord("0" * 64, p.shape[1], p.shape[0], "mine", f"{i}.png", "", None, "train")
        for i, p in enumerate(pictures)
    )
    return annotator.annotate(ImageBatch(records, pictures))


def rows(claims: list[Claim]) -> list[tuple[str, Box, float]]:
    return [(claim.text, claim.regions[0].box, claim.score) for claim in claims]


def canvas(width: int, height: int, box: Box | None = None, colour: tuple[int, int, int] = (230, 20, 10)) -> np.ndarray:
    pixels = np.full((height, width, 3), (40, 45, 50), np.uint8)
    if box:
        x0, y0, x1, y1 = (int(v) for v in box)
        pixels[y0:y1, x0:x1] = colour
    return pixels


def centre_boxes(*boxes: Box) -> np.ndarray:
    """Return boxes (n, 4) as centre, width and height."""
    x0, y0, x1, y1 = np.asarray(boxes, float).T
    return np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1)


# ---------------------------------------------------------------- pictures of any size


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize(("width", "height"), [(333, 101), (97, 405), (128, 96), (1000, 701), (33, 31)])
def test_what_is_red_is_found_where_it_is(tmp_path: Path, resize: str, width: int, height: int):
    truth = (round(width * 0.3), round(height * 0.2), round(width * 0.8), round(height * 0.7))
    ((found,),) = (
        rows(claims)
        for claims in annotate_pictures(
            make_detector(red_finder(tmp_path / "red.onnx", (96, 128)), "yolo", resize=resize),
            canvas(width, height, truth),
        )
    )
    label, box, score = found
    assert label == "dog" and score == pytest.approx(0.9)
    one = (
        max(width / 128, height / 96) if resize == "letterbox" else max(width / 128, 1),
        max(width / 128, height / 96) if resize == "letterbox" else max(height / 96, 1),
    )
    np.testing.assert_allclose(box, truth, atol=1.01 * max(one))
    assert box_iou(np.asarray(box), np.asarray(truth))[0, 0] > 0.85


def test_grey_and_single_pixels_and_pictures_without_red_give_nothing(tmp_path: Path):
    annotator = make_detector(red_finder(tmp_path / "red.onnx", (96, 128)), "yolo")
    grey = np.repeat(np.random.default_rng(0).integers(0, 255, (50, 70, 1), dtype=np.uint8), 3, axis=2)
    assert annotate_pictures(annotator, canvas(50, 60), grey, np.zeros((1, 1, 3), np.uint8), canvas(5000, 1)) == [
        [],
        [],
        [],
        [],
    ]
    assert rows(annotate_pictures(annotator, canvas(1, 1, (0, 0, 1, 1)))[0]) == [
        ("dog", (0, 0, 1, 1), pytest.approx(0.9))
    ]


def test_the_order_of_channels_is_that_of_the_settings(tmp_path: Path):
    annotator = make_detector(red_finder(tmp_path / "red.onnx", (96, 128)), "yolo", order="bgr")
    red, blue = canvas(200, 100, (20, 20, 90, 80)), canvas(200, 100, (20, 20, 90, 80), (10, 20, 230))
    assert [len(claims) for claims in annotate_pictures(annotator, red, blue)] == [0, 1]


@pytest.mark.parametrize("element_type", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8])
def test_mean_and_deviation_are_taken_channel_by_channel(tmp_path: Path, element_type: int):
    model = brightness(tmp_path / "mean.onnx", (32, 64), element_type)
    pixels = np.full((10, 20, 3), (110, 60, 210), np.uint8)
    if element_type == TensorProto.UINT8:
        given: dict[str, Any] = {}
        expected = ("cup", 210 / 255)
        with pytest.raises(SettingsError, match="takes bytes"):
            make_detector(model, "yolo", mean=(1.0, 1.0, 1.0))
    else:
        given = {"mean": (100.0, 50.0, 200.0), "std": (100.0, 20.0, 40.0)}
        expected = ("dog", 0.5)
    ((found,),) = (
        rows(claims) for claims in annotate_pictures(make_detector(model, "yolo", resize="stretch", **given), pixels)
    )
    assert (found[0], found[2]) == (expected[0], pytest.approx(expected[1], abs=2e-3)) and found[1] == pytest.approx(
        (5, 2.5, 15, 7.5)
    )
    if element_type == TensorProto.FLOAT:
        reversed_order = {"order": "bgr", "mean": (200.0, 50.0, 100.0), "std": (40.0, 20.0, 100.0)}
        assert rows(annotate_pictures(make_detector(model, "yolo", resize="stretch", **reversed_order), pixels)[0])[0][
            ::2
        ] == (
            "dog",
            pytest.approx(0.5),
        )


def test_around_a_letterboxed_picture_there_is_grey(tmp_path: Path):
    model = brightness(tmp_path / "mean.onnx", (64, 64))
    ((found,),) = (
        rows(claims)
        for claims in annotate_pictures(
            make_detector(model, "yolo", threshold=0.1), np.full((20, 40, 3), 255, np.uint8)
        )
    )
    assert found[2] == pytest.approx((255 + 114) / 2 / 255, rel=1e-5)


# ---------------------------------------------------------------- layouts


BOXES: tuple[Box, ...] = ((8, 20, 24, 40), (30, 16, 60, 44))
"""In an input of 64 × 64, to which a picture of 200 × 100 comes at 64 × 32, 16 pixels down."""
SCORES = np.array([[0.1, 0.8, 0.2], [0.7, 0.1, 0.6]])


def to_picture(box: Box) -> Box:
    """Return a box of that input in the pixels of a picture of 200 × 100."""
    x0, y0, x1, y1 = box
    return (x0 / 0.32, max((y0 - 16) / 0.32, 0.0), x1 / 0.32, min((y1 - 16) / 0.32, 100.0))


def detect(
    tmp_path: Path, outputs: dict[str, np.ndarray], layout: str = "yolo", **options: Any
) -> list[tuple[str, Box, float]]:
    return rows(
        annotate_pictures(
            make_detector(constant(tmp_path / "model.onnx", outputs), layout, **{"resize": "letterbox", **options}),
            canvas(200, 100),
        )[0]
    )


EXPECTED = [
    ("dog", pytest.approx(to_picture(BOXES[0])), pytest.approx(0.8)),
    ("cat", pytest.approx(to_picture(BOXES[1])), pytest.approx(0.7)),
]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shares", [False, True])
def test_yolo_rows_of_boxes_and_scores(tmp_path: Path, transposed: bool, shares: bool):
    plain = np.concatenate([centre_boxes(*BOXES) / (64 if shares else 1), SCORES], axis=1)[None]
    assert detect(tmp_path, {"output0": plain.transpose(0, 2, 1) if transposed else plain}) == EXPECTED


def test_yolo_rows_with_objectness(tmp_path: Path):
    sure = np.array([[0.5], [1.0]])
    found = detect(tmp_path, {"output": np.concatenate([centre_boxes(*BOXES), sure, SCORES], axis=1)[None]})
    assert found == [EXPECTED[1], ("dog", EXPECTED[0][1], pytest.approx(0.4))]


def test_yolo_rows_after_suppression(tmp_path: Path):
    rest = np.zeros((3, 6))
    last = np.array([[*BOXES[0], 0.8, 1], [*BOXES[1], 0.7, 0], [0, 20, 9, 40, 0.9, 7], [0, 20, 9, 40, 0.9, -1]])
    found = detect(tmp_path, {"output": np.concatenate([last, rest])[None]})
    assert found == EXPECTED, "labels that are not in the list are padding"


def test_six_columns_are_raw_where_the_strides_give_so_many_rows(tmp_path: Path):
    cells = 8 * 8 + 4 * 4 + 2 * 2
    raw = np.zeros((1, cells, 6))
    raw[0, :2, :4], raw[0, :2, 4:] = centre_boxes(*BOXES), SCORES[:, 1:]
    two = [("cat", EXPECTED[0][1], EXPECTED[0][2]), ("dog", EXPECTED[1][1], pytest.approx(0.6))]
    assert detect(tmp_path, {"output": raw}, labels=("cat", "dog")) == two
    three_anchors = np.zeros((1, 3 * cells, 6))
    three_anchors[0, :2, :4], three_anchors[0, :2, 4], three_anchors[0, :2, 5] = centre_boxes(*BOXES), 1.0, (0.8, 0.7)
    assert [score for _, _, score in detect(tmp_path, {"output": three_anchors}, labels=("cat",))] == pytest.approx(
        [0.8, 0.7]
    )
    assert detect(tmp_path, {"output": np.array([[[*BOXES[0], 0.8, 1]]])}, labels=("cat", "dog")) == EXPECTED[:1]


@pytest.mark.parametrize(("shape", "count"), [((1, 7, 84), 2), ((1, 252, 8), 4)])
def test_a_list_of_labels_that_is_one_off_is_refused(tmp_path: Path, shape: tuple[int, ...], count: int):
    model = constant(tmp_path / "model.onnx", {"output0": np.zeros(shape)})
    with pytest.raises(
        ModelError,
        match=rf"C = {count} labels: found output0 \(1, .*expected \(1, 4 \+ C, cells\).*list of labels complete",
    ):
        make_detector(model, "yolo", labels=THREE[:2] if count == 2 else (*THREE, "owl"))
    assert make_detector(model, "yolo", labels=THREE)


def nanodet(points: int, at: int, sides: tuple[int, int, int, int], bins: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (1, points, 3) and sides (1, points, 4 · bins) with one box at one point."""
    scores, distances = np.full((1, points, 3), 0.01), np.zeros((1, points, 4 * bins))
    scores[0, at, 2] = 0.75
    for side, distance in enumerate(sides):
        distances[0, at, side * bins + distance] = 60.0  # a softmax that leaves nothing to the others
    return scores, distances


def test_nanodet_plus_has_four_strides_and_points_at_corners(tmp_path: Path):
    scores, sides = nanodet(64 + 16 + 4 + 1, 64 + 2 * 4 + 1, (1, 1, 2, 0))  # third row, second column of stride 16
    expected = [("cup", pytest.approx(to_picture((16 - 16, 32 - 16, 16 + 32, 32))), pytest.approx(0.75))]
    assert detect(tmp_path, {"output": np.concatenate([scores, sides], axis=2)}, "nanodet") == expected


def test_nanodet_before_it_has_three_and_points_in_the_middle(tmp_path: Path):
    scores, sides = nanodet(64 + 16 + 4, 3 * 8 + 4, (1, 1, 2, 1), bins=17)
    expected = [("cup", pytest.approx(to_picture((36 - 8, 28 - 8, 36 + 16, 28 + 8))), pytest.approx(0.75))]
    assert detect(tmp_path, {"output": np.concatenate([scores, sides], axis=2)}, "nanodet") == expected
    parts: dict[str, np.ndarray] = {}
    for stride, start, stop in ((32, 80, 84), (8, 0, 64), (16, 64, 80)):
        parts |= {f"cls_pred_stride_{stride}": scores[:, start:stop], f"dis_pred_stride_{stride}": sides[:, start:stop]}
    assert detect(tmp_path, parts, "nanodet") == expected


def test_nanodet_sides_are_means_over_bins(tmp_path: Path):
    scores, sides = nanodet(84, 3 * 8 + 4, (1, 1, 2, 1))
    sides[0, 3 * 8 + 4, 0:8] = np.log([0.5, 0.5, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9])
    ((_, box, _),) = detect(tmp_path, {"output": np.concatenate([scores, sides], axis=2)}, "nanodet")
    assert box[0] == pytest.approx((36 - 4) / 0.32, abs=1e-3)


@pytest.mark.parametrize("size", [(64, 64), (72, 100), (416, 416)])
def test_nanodet_has_a_point_for_every_cell_even_a_part_of_one(size: tuple[int, int]):
    points = sum(-(-size[0] // s) * -(-size[1] // s) for s in (8, 16, 32, 64))
    assert len(read_detections("nanodet", {"output": np.zeros((1, points, 3 + 32))}, 3, size).scores) == points


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def test_detr_with_each_label_for_itself_and_with_nothing_as_one_more(tmp_path: Path):
    boxes = {"pred_boxes": centre_boxes(*BOXES)[None] / 64}
    assert detect(tmp_path, {"logits": logit(SCORES)[None], **boxes}, "detr") == EXPECTED
    chances = np.array([[0.05, 0.8, 0.05, 0.1], [0.7, 0.1, 0.1, 0.1]])
    assert detect(tmp_path, {**boxes, "logits": np.log(chances)[None]}, "detr") == EXPECTED, (
        "with three labels both outputs have four columns"
    )
    nothing = np.array([[0.05, 0.05, 0.1, 0.8], [0.7, 0.1, 0.1, 0.1]])
    assert detect(tmp_path, {"logits": np.log(nothing)[None], **boxes}, "detr") == EXPECTED[1:]
    unnamed = {"a": np.log(chances)[None], "b": boxes["pred_boxes"]}
    assert detect(tmp_path, unnamed, "detr") == EXPECTED, "without telling names the boxes come second"


def test_overlaps_thresholds_and_numbers_are_those_of_the_settings(tmp_path: Path):
    near = (9, 20, 25, 40)
    raw = {"output": np.concatenate([centre_boxes(*BOXES, near), [*SCORES, [0.1, 0.75, 0.1]]], axis=1)[None]}
    assert detect(tmp_path, raw) == EXPECTED
    assert [label for label, _, _ in detect(tmp_path, raw, nms_iou=0.95)] == ["dog", "dog", "cat"]
    assert detect(tmp_path, raw, threshold=0.75) == EXPECTED[:1] and detect(tmp_path, raw, most=1) == EXPECTED[:1]
    assert detect(tmp_path, raw, threshold=0.95) == []


# ---------------------------------------------------------------- labels, versions, errors


def test_labels_can_stand_in_a_file_and_empty_ones_are_dropped(tmp_path: Path):
    names = tmp_path / "names.txt"
    names.write_text("\ufeffKatze \r\n\r\nTaße\n\n", encoding="utf-8")
    raw = {"output": np.concatenate([centre_boxes(*BOXES), SCORES], axis=1)[None]}
    assert detect(tmp_path, raw, labels=str(names)) == [("Katze", EXPECTED[1][1], EXPECTED[1][2])]
    assert make_detector(str(tmp_path / "model.onnx"), "yolo", labels=str(names)).vocabulary() == ("Katze", "Taße")
    names.write_text("\n\n")
    with pytest.raises(SettingsError, match="names.txt is empty"):
        make_detector(str(tmp_path / "model.onnx"), "yolo", labels=str(names))
    with pytest.raises(SettingsError, match="nowhere.txt cannot be read"):
        make_detector(str(tmp_path / "model.onnx"), "yolo", labels=str(tmp_path / "nowhere.txt"))


def test_the_version_follows_the_file_its_weights_beside_it_and_the_labels(tmp_path: Path):
    model, names = Path(red_finder(tmp_path / "red.onnx", (96, 128))), tmp_path / "names.txt"
    names.write_text("a\nb\nc")
    annotator = ANNOTATORS.get("onnx_detector")(name="objects", model=str(model), layout="yolo", labels=str(names))
    versions = [annotator.version]
    names.write_text("a\nb\nd")
    versions.append(annotator.version)
    (tmp_path / "red.onnx.data").write_bytes(b"weights")
    versions.append(annotator.version)
    red_finder(model, (96, 64))
    versions.append(annotator.version)
    assert len(set(versions)) == 4


@pytest.mark.parametrize(
    ("outputs", "layout", "message"),
    [
        ({"a": np.zeros((1, 9, 100))}, "yolo", r"found a \(1, 9, 100\); expected \(1, 4 \+ C, cells\)"),
        ({"a": np.zeros((1, 50, 35))}, "nanodet", r"found a \(1, 50, 35\); expected \(1, points, C"),
        ({"a": np.zeros((1, 84, 3)), "b": np.zeros((1, 80, 32))}, "nanodet", r"found a .*, b .*; expected"),
        ({"a": np.zeros((1, 5, 4)), "b": np.zeros((1, 6, 3))}, "detr", r"found a .*, b .*; expected \(1, queries, 4\)"),
        ({"a": np.zeros((1, 5, 8))}, "detr", r"expected \(1, queries, 4\)"),
        ({"a": np.full((1, 2, 7), 3.5)}, "yolo", r"scores from 3\.5 to 3\.5; 0…1 is expected.*sigmoid"),
        ({"a": np.full((1, 2, 7), np.nan)}, "yolo", r"not numbers"),
    ],
)
def test_outputs_that_do_not_fit_are_refused_when_the_file_is_opened(
    tmp_path: Path, outputs: dict[str, np.ndarray], layout: str, message: str
):
    with pytest.raises(ModelError, match=rf"model\.onnx: .*{message}"):
        make_detector(constant(tmp_path / "model.onnx", outputs), layout)


def test_inputs_that_are_no_picture_are_refused(tmp_path: Path):
    raw = {"output": np.zeros((1, 1, 7))}
    for shape, inputs, element_type in (
        ((1, 4, 64, 64), 1, TensorProto.FLOAT),
        ((1, 3, 64), 1, TensorProto.FLOAT),
        ((1, 3, 64, 64), 2, TensorProto.FLOAT),
        ((1, 3, 64, 64), 1, TensorProto.INT64),
    ):
        with pytest.raises(ModelError, match="one input .* is expected; found images tensor"):
            make_detector(constant(tmp_path / "model.onnx", raw, shape, inputs, element_type), "yolo")
    free = constant(tmp_path / "model.onnx", raw, (1, 3, "height", "width"))
    with pytest.raises(SettingsError, match=r"annotators\.objects\.size: .* takes any size .*set one"):
        make_detector(free, "yolo")
    assert make_detector(free, "yolo", size=64)._size == (64, 64) and make_detector(
        free, "yolo", size=(48, 64)
    )._size == (48, 64)
    with pytest.raises(SettingsError, match=r"\[32, 32\] is not the input of"):
        make_detector(constant(tmp_path / "model.onnx", raw), "yolo", size=32)
    with pytest.raises(SettingsError, match=r"annotators\.objects\.std.*above 0"):
        make_detector(free, "yolo", std=(1.0, 0.0, 1.0))


def test_what_is_no_onnx_file_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"annotators\.objects\.model: .*none\.onnx is not a file"):
        assert ANNOTATORS.get("onnx_detector")(
            name="objects", model=str(tmp_path / "none.onnx"), layout="yolo", labels=THREE
        ).version
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ModelError, match="text.onnx cannot be opened"):
        make_detector(str(tmp_path / "text.onnx"), "yolo")


def test_it_computes_on_its_device():
    gpu = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert _providers("cpu", gpu) == _providers("auto", gpu[1:]) == ["CPUExecutionProvider"]
    assert _providers("auto", gpu)[0] == ("CUDAExecutionProvider", {"device_id": 0}) and _providers("cuda:1", gpu)[0][
        1
    ] == {"device_id": 1}
    for device, available in (("cuda", gpu[1:]), ("tpu", gpu), ("cuda:x", gpu)):
        with pytest.raises(ModelError, match=f"device '{device}' cannot be used"):
            _providers(device, available)
