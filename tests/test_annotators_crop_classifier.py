"""Names of boxes that others claimed, on photos whose objects are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from annotation_runs import annotate_all, collect_scenes, make_settings
from annotator_options import options
from PIL import Image

from florence.annotators import ANNOTATORS, ImageBatch
from florence.config import settings_from
from florence.packaged_models import imagenet
from florence.records import Annotation, Claim, ImageRecord, Region, annotate
from florence.store import Store
from florence.workspace.annotate import list_annotators, read_profiles
from florence.workspace.annotate.annotators import bind_labels, make_annotator

CAT, CUP = (0.0, 0.0, 398.0, 300.0), (173.0, 18.0, 405.0, 310.0)
"""Boxes in chelsea.png and coffee.png, by eye."""


def photo(name: str, package: str = "skimage", folder: str = "data") -> np.ndarray:
    root = Path(__import__(package).__path__[0])
    with Image.open(root / folder / name) as image:
        return np.asarray(image.convert("RGB"))


def boxed(
    *objects: tuple[str, tuple[float, float, float, float], float | None], by: str = "a"
) -> tuple[Annotation, ...]:
    claims = [Claim("<OD>", label, (Region(label, box=box, score=score),), score) for label, box, score in objects]
    return annotate("0" * 64, claims, by, "1")


def name_boxes(pixels: np.ndarray, claims: tuple[Annotation, ...], **options) -> list[Claim]:
    annotator = ANNOTATORS.get("crop_classifier")(name="names", **options)
    annotator.load()
    record = ImageRecord("0" * 64, pixels.shape[1], pixels.shape[0], "mine", "x", "", None, "train")
    return annotator.annotate(ImageBatch((record,), (pixels,), (claims,)))[0]


@pytest.mark.parametrize("weights", ["lite0", "lite2"])
def test_an_object_gets_its_own_name_in_the_box_of_another_annotator(weights: str):
    (claim,) = name_boxes(photo("chelsea.png"), boxed(("dog", CAT, 0.7)), weights=weights)
    assert (claim.task, claim.text, claim.regions[0].label, claim.regions[0].box) == ("<OD>", "cat", "cat", CAT)
    assert claim.score == claim.regions[0].score and 0.7 < claim.score < 1


def test_two_pictures_side_by_side_are_told_apart_by_their_boxes():
    cat, cup = photo("chelsea.png")[:, :400], photo("coffee.png")[:300]
    pixels = np.concatenate([cat, cup], axis=1)
    left, right = (0.0, 0.0, 398.0, 300.0), (573.0, 18.0, 805.0, 300.0)
    found = name_boxes(pixels, boxed(("thing", right, 0.9), ("thing", left, 0.8)))
    assert [(claim.text, claim.regions[0].box) for claim in found] == [("cup", right), ("cat", left)]


def test_a_place_that_several_have_boxed_is_named_once_in_the_best_box():
    near = (4.0, 3.0, 390.0, 300.0)
    claims = (*boxed(("cat", near, 0.4)), *boxed(("cat", CAT, 0.8), by="b"))
    assert [claim.regions[0].box for claim in name_boxes(photo("chelsea.png"), claims)] == [CAT]
    assert len(name_boxes(photo("chelsea.png"), claims, nms_iou=0.99)) == 2


def test_what_it_cannot_name_gets_no_name():
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    assert name_boxes(noise, boxed(("thing", (20.0, 20.0, 280.0, 280.0), 0.9))) == []
    tiny = boxed(("cat", (0.0, 0.0, 10.0, 200.0), 0.9), ("cat", CAT, 0.01))
    assert name_boxes(photo("chelsea.png"), tiny) == [], "a strip, and a box that nobody is sure of"


def test_a_person_is_not_called_by_what_is_worn():
    person, pixels = (13.0, 22.0, 512.0, 600.0), photo("grace_hopper.jpg", "matplotlib", "mpl-data/sample_data")
    assert name_boxes(pixels, boxed(("person", person, 0.9))) == []
    assert name_boxes(pixels, boxed(("person", person, 0.9)), min_confidence=0)[0].text not in imagenet.WORN
    assert "military uniform" not in ANNOTATORS.get("crop_classifier")(name="names").vocabulary()


def test_only_boxes_of_objects_are_named_and_without_any_nothing_is():
    caption = annotate("0" * 64, [Claim("<CAPTION>", "a cat")], "b", "1")
    assert name_boxes(photo("chelsea.png"), caption) == []
    assert name_boxes(photo("chelsea.png"), ()) == []


def logits_of(values: dict[int, float]) -> np.ndarray:
    logits = np.full(1000, -20.0)
    logits[list(values)] = list(values.values())
    return logits


@pytest.mark.parametrize("weights", list(imagenet.SIDES))
def test_confidence_grows_with_the_probability_and_a_name_sums_its_classes(weights: str):
    every, fine = imagenet.choosable_labels("coarse"), imagenet.choosable_labels("fine")
    tabby, chihuahua = {281: 0.0, 282: 0.0}, {151: 0.5}
    label, confidence = imagenet.best_name(logits_of(tabby | chihuahua), weights, every)
    surer = imagenet.best_name(logits_of({281: 3.0, 282: 3.0} | chihuahua), weights, every)
    assert label == surer[0] == "cat" and 0 < confidence < surer[1] < 1
    assert imagenet.best_name(logits_of(tabby | chihuahua), weights, fine)[0] == "chihuahua"
    flat = imagenet.best_name(np.zeros(1000), weights, every)
    assert flat[1] < 0.1, "a picture of nothing in particular is not a dog, though 118 classes are dogs"


@pytest.mark.parametrize("weights", list(imagenet.SIDES))
def test_a_list_of_names_helps_where_the_right_one_is_in_it_and_is_no_evidence_where_none_is(weights: str):
    between = logits_of({345: 0.0, 347: 0.8, 850: -2.0})  # a cow or a bison
    assert imagenet.best_name(between, weights, imagenet.choosable_labels("coarse"))[0] == "buffalo"
    label, confidence = imagenet.best_name(between, weights, imagenet.choosable_labels("coarse", ("cow", "dog")))
    assert label == "cow" and confidence > 0.5
    for labels in (("guitar",), ("guitar", "dog"), ("person",)):
        assert imagenet.best_name(between, weights, imagenet.choosable_labels("coarse", labels))[1] < 0.1, labels
    assert imagenet.best_name(between, weights, imagenet.choosable_labels("coarse", ("fnord",))) == ("", 0.0)


def test_names_of_others_stand_for_classes_by_the_table_of_names():
    fine, members = imagenet.class_labels("fine")
    labels = ("animal", "bag", "couch", "fnord", "kite", "laptop", "sports ball", "suitcase", "TV", "wine glass")
    known, rows = imagenet.choosable_labels("coarse", labels)
    found = {
        label: {fine[int(members[:, k].argmax())] for k in np.flatnonzero(row)}
        for label, row in zip(known, rows, strict=True)
    }
    assert set(labels) - set(known) == {"fnord", "kite", "suitcase"}, "a kite is a bird there; bags stand for bag"
    assert found["TV"] == {"television"} and found["couch"] == {"studio couch"} and found["laptop"] == {"laptop"}
    assert {"basketball", "tennis ball"} <= found["sports ball"] and "goblet" in found["wine glass"]
    assert {"tabby", "zebra", "goldfish"} <= found["animal"] and "television" not in found["animal"]


def test_the_names_of_the_annotators_before_it_are_those_to_choose_from():
    model = options("onnx_detector") | {"labels": ["cow", "guitar", "fnord"]}
    settings = settings_from(
        {
            "sources": {},
            "annotators": {
                "tags": {"use": "activation", "weights": "lite0", "sources": ["*"]},
                "boxes": {"use": "onnx_detector", "sources": ["*"], **model},
                "names": {"use": "crop_classifier", "sources": ["*"]},
                "more": {"use": "crop_classifier", "sources": ["*"], "labels": ["dog"]},
            },
        }
    )
    found = {}
    for one in list_annotators(settings):
        bind_labels(settings, one)
        found[one.name] = make_annotator(settings, one.name)[0].vocabulary()
    assert found["names"] == ("cow", "guitar") and found["more"] == ("dog",)
    anybody = {"use": "endpoint", "url": "http://localhost:1/x", "version": "1", "tasks": ["<OD>"], "sources": ["*"]}
    settings = settings_from(
        {"sources": {}, "annotators": {"a": anybody, "names": {"use": "crop_classifier", "sources": ["*"]}}}
    )
    bind_labels(settings, list_annotators(settings)[1])
    assert len(make_annotator(settings, "names")[0].vocabulary()) > 400, "who may give any name leaves all names open"


def test_worn_names_are_names_of_classes():
    known = {label for names in ("coarse", "fine") for label in imagenet.class_labels(names)[0]}
    assert imagenet.WORN <= known, sorted(imagenet.WORN - known)


def test_a_run_tells_it_the_names_before_it_declares_its_own(tmp_path: Path):
    model = options("onnx_detector") | {"labels": ["cow", "red wine", "fnord"]}
    settings = make_settings(
        {
            "boxes": {"use": "onnx_detector", "sources": ["*"], **model},
            "names": {"use": "crop_classifier", "weights": "lite0", "sources": ["*"], "most": 1},
        }
    )
    store = Store(str(collect_scenes(tmp_path / "store")))
    make_annotator(settings, "names")[0].known_labels = None
    done = annotate_all(settings, store)
    assert done["names"].left == 0 and not done["names"].error
    (names,) = (one for one in list_annotators(settings) if one.name == "names")
    assert store.read_json(f"annotators/{names.key}.json")["vocabulary"] == ["cow", "red wine"]
    boxes, profile = read_profiles(settings, store, list_annotators(settings))
    assert profile.names_only and profile.family == "imagenet" and profile.vocabulary == ("cow", "red wine")
    assert not boxes.names_only and boxes.family
