"""Categories of photos, and boxes by class activation, against boxes drawn by eye and composed pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence.annotators import ANNOTATORS, ImageBatch
from florence.errors import SettingsError
from florence.geometry import box_iou
from florence.packaged_models.imagenet import cell_scores, class_labels, coarse_classes, load_network
from florence.records import Claim, ImageRecord

CAT = (0.0, 0.0, 0.92, 1.0)
CUP = (0.28, 0.04, 0.70, 0.77)
"""By eye, as shares of width and height."""


def photo(name: str) -> np.ndarray:
    import skimage

    with Image.open(Path(skimage.__path__[0]) / "data" / name) as image:
        return np.asarray(image.convert("RGB"))


def annotate_picture(pixels: np.ndarray, **options) -> list[Claim]:
    height, width = pixels.shape[:2]
    chosen = {"weights": "lite0", "scales": (1.0, 2.0), "tasks": ("<OD>",), **options}
    annotator = ANNOTATORS.get("activation")(name="objects", **chosen)
    annotator.load()
    return annotator.annotate(
        ImageBatch((ImageRecord("0" * 64, width, height, "mine", "x", "", None, "train"),), (pixels,))
    )[0]


def overlap(claim: Claim, share: tuple[float, float, float, float], pixels: np.ndarray) -> float:
    height, width = pixels.shape[:2]
    return float(box_iou(np.asarray(claim.regions[0].box), np.asarray(share) * [width, height, width, height])[0, 0])


def tags(pixels: np.ndarray, **options) -> list[tuple[str, float | None]]:
    return [(claim.text, claim.score) for claim in annotate_picture(pixels, tasks=("<CLASSIFICATION>",), **options)]


@pytest.mark.parametrize("weights", ["lite0", "lite2"])
def test_by_default_a_photo_gets_a_tag_and_no_box(weights: str):
    annotator = ANNOTATORS.get("activation")(name="tags", weights=weights)
    annotator.load()
    pixels = photo("chelsea.png")
    record = ImageRecord("0" * 64, 451, 300, "mine", "x", "", None, "train")
    (claim,) = annotator.annotate(ImageBatch((record,), (pixels,)))[0]
    assert annotator.tasks == ("<CLASSIFICATION>",) and claim.task == "<CLASSIFICATION>"
    assert (claim.text, claim.regions[0].label, claim.regions[0].box) == ("cat", "cat", (0.0, 0.0, 451.0, 300.0))
    assert claim.score == claim.regions[0].score and 0.8 < claim.score < 1


def test_photos_of_what_the_classifier_does_not_know_get_no_tag():
    assert tags(photo("coffee.png"))[0][0] == "cup" and tags(photo("motorcycle_left.png"))[0][0] == "motorcycle"
    for name in ("astronaut.png", "cell.png", "coins.png", "hubble_deep_field.jpg", "ihc.png", "retina.jpg"):
        assert tags(photo(name)) == [], name
    assert tags(np.full((200, 300, 3), 128, np.uint8)) == []


def test_what_a_person_wears_is_no_tag():
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert [name for name, _ in tags(pixels, min_confidence=0.0)] != ["military uniform"] and tags(pixels) == []


def test_both_types_are_claimed_where_both_are_asked_for():
    claims = annotate_picture(photo("chelsea.png"), tasks=("<OD>", "<CLASSIFICATION>"))
    assert [claim.task for claim in claims] == ["<OD>", "<CLASSIFICATION>"]
    assert {claim.text for claim in claims} == {"cat"}


@pytest.mark.parametrize("weights", ["lite0", "lite2"])
def test_the_cat_is_found_where_it_is(weights: str):
    pixels = photo("chelsea.png")
    first = annotate_picture(pixels, weights=weights)[0]
    assert first.text == "cat" and first.score > 0.6
    assert overlap(first, CAT, pixels) > 0.6


def test_the_cup_is_found_where_it_is_and_a_mirrored_one_mirrored():
    pixels = photo("coffee.png")
    first, mirrored = annotate_picture(pixels)[0], annotate_picture(np.ascontiguousarray(pixels[:, ::-1]))[0]
    assert first.text == mirrored.text == "cup"
    assert overlap(first, CUP, pixels) > 0.5
    x0, y0, x1, y1 = mirrored.regions[0].box
    width = pixels.shape[1]
    assert box_iou(np.asarray(first.regions[0].box), np.asarray([width - x1, y0, width - x0, y1]))[0, 0] > 0.7


def test_a_picture_within_a_large_picture_is_found_where_it_is():
    cat = np.asarray(Image.fromarray(photo("chelsea.png")).resize((900, 600)))
    pixels = np.full((1200, 2400, 3), 120, np.uint8)
    pixels[500:1100, 1400:2300] = cat
    claims = [claim for claim in annotate_picture(pixels) if claim.text == "cat"]
    assert box_iou(np.asarray(claims[0].regions[0].box), np.asarray([1400, 500, 2300, 1100]))[0, 0] > 0.5


def test_a_plain_picture_shows_nothing():
    assert annotate_picture(np.full((200, 300, 3), 128, np.uint8), min_probability=0.9) == []


def test_fine_names_are_breeds():
    assert [claim.text for claim in annotate_picture(photo("chelsea.png"), names="fine")][0] == "egyptian cat"


def test_each_class_has_one_name_and_its_parent():
    numbers = [number for members in coarse_classes().values() for number in members]
    assert len(numbers) == len(set(numbers)) and set(numbers) <= set(range(1000))
    fine, coarser = class_labels("fine"), class_labels("coarse")
    for names, members in (fine, coarser):
        assert len(set(names)) == len(names) == len(members) and (members.sum(axis=0) == 1).all()
        assert all(label == label.lower() and "," not in label and "(" not in label for label in names)
    coarse_name = {
        name: coarser[0][int(coarser[1][:, fine[1][fine[0].index(name)] == 1].argmax(axis=0)[0])] for name in EXPECTED
    }
    assert coarse_name == EXPECTED


EXPECTED = {
    "goldfish": "fish",
    "great white shark": "shark",
    "bald eagle": "bird",
    "king penguin": "bird",
    "tree frog": "frog",
    "green mamba": "snake",
    "tarantula": "spider",
    "chihuahua": "dog",
    "mexican hairless": "dog",
    "red wolf": "wolf",
    "red fox": "fox",
    "tabby": "cat",
    "egyptian cat": "cat",
    "cougar": "cougar",
    "lion": "lion",
    "ice bear": "bear",
    "weevil": "beetle",
    "monarch": "butterfly",
    "hare": "rabbit",
    "zebra": "zebra",
    "hog": "pig",
    "gorilla": "ape",
    "titi": "monkey",
    "african elephant": "elephant",
    "giant panda": "panda",
    "puffer": "fish",
    "ambulance": "car",
    "fire engine": "truck",
    "school bus": "bus",
    "moped": "motorcycle",
    "mountain bike": "bicycle",
    "yawl": "boat",
    "liner": "ship",
    "airliner": "airplane",
    "steam locomotive": "train",
    "folding chair": "chair",
    "four-poster": "bed",
    "espresso": "cup",
    "wine bottle": "bottle",
    "palace": "building",
    "laptop": "computer",
    "television": "screen",
    "volleyball": "ball",
    "daisy": "flower",
    "bolete": "mushroom",
}
"""Fine names and their coarse names, chosen over the whole range of classes."""


def test_scores_of_cells_average_to_those_of_the_whole_network():
    import cv2
    import torch

    pixels = photo("coffee.png")
    cells = cell_scores(load_network("lite0"), pixels, (288, 192))
    with torch.inference_mode():
        image = cv2.resize(pixels, (288, 192), interpolation=cv2.INTER_AREA).astype(np.float32)
        whole = load_network("lite0")(torch.from_numpy(((image - 127) / 128).transpose(2, 0, 1)[None].copy()))[
            0
        ].numpy()
    assert cells.shape == (1000, 6, 9)
    assert np.abs(cells.mean(axis=(1, 2)) - whole).max() < 1e-3


def test_threads_change_neither_the_answer_nor_stay_changed():
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = annotate_picture(photo("coffee.png"), scales=(1.0,))
        torch.set_num_threads(2)
        assert annotate_picture(photo("coffee.png"), scales=(1.0,)) == one
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("weights", "lite9", "lite0"),
        ("scales", [9.0], "between 0.5 and 4"),
        ("min_probability", 2, "less than or equal to 1"),
        ("tasks", ["<CAPTION>"], "<CAPTION> is not annotated here"),
    ],
)
def test_wrong_options_are_refused_with_what_is_allowed(option: str, value, message: str):
    with pytest.raises(SettingsError, match=rf"annotators\.objects\.{option}.*{message}"):
        ANNOTATORS.get("activation")(name="objects", **{option: value})
