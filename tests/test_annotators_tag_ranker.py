"""The ranker without a hub, on the photos that come in packages: right captions score above others."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image

from florence.annotators import ANNOTATORS, ImageBatch
from florence.annotators.tag_ranker import text_tags
from florence.errors import SettingsError
from florence.packaged_models.imagenet import class_labels
from florence.records import CAPTIONS, Annotation, Claim, ImageRecord, Region, annotate
from florence.sources.samples import SamplesSource

DENSE = "<DENSE_REGION_CAPTION>"
CAPTION_BY_EYE = {
    "skimage/astronaut.png": "a smiling woman in an orange space suit",
    "skimage/camera.png": "a man with a camera on a tripod",
    "skimage/chelsea.png": "a tabby cat looking down",
    "skimage/clock_motion.png": "a blurred clock",
    "skimage/coffee.png": "a cup of coffee on a wooden table",
    "skimage/coins.png": "rows of ancient coins",
    "skimage/hubble_deep_field.jpg": "many galaxies in a black sky",
    "skimage/moon.png": "craters on the moon",
    "skimage/motorcycle_left.png": "a red motorcycle in a garage",
    "skimage/page.png": "a page of printed text",
    "skimage/rocket.jpg": "a rocket on its launch pad at dusk",
    "skimage/text.png": "handwriting on paper",
    "sklearn/china.jpg": "a Chinese temple above a lake",
    "sklearn/flower.jpg": "an orange dahlia",
    "matplotlib/grace_hopper.jpg": "an old woman in a navy uniform",
}
"""Written by eye. Pictures from a microscope are left out: ImageNet has no names for what they show."""


@lru_cache(maxsize=1)
def photos() -> dict[str, np.ndarray]:
    found = {}
    for image in SamplesSource(packages=["skimage", "sklearn", "matplotlib"]).images(frozenset()):
        found[image.name] = np.asarray(Image.open(io.BytesIO(image.data)).convert("RGB"))
    return found


def batch(claims_of: dict[str, list[Claim]], pixels: dict[str, np.ndarray]) -> ImageBatch:
    records = tuple(
        ImageRecord(f"{i:064x}", pixels[name].shape[1], pixels[name].shape[0], "mine", name, "", None, "train")
        for i, name in enumerate(claims_of)
    )
    claims: tuple[tuple[Annotation, ...], ...] = tuple(
        annotate(r.image_id, rows, "a", "1") for r, rows in zip(records, claims_of.values(), strict=True)
    )
    return ImageBatch(records, tuple(pixels[name] for name in claims_of), claims)


def ranker(**options):
    annotator = ANNOTATORS.get("tag_ranker")(name="judge", **{"weights": "lite0", **options})
    annotator.load()
    return annotator


def scores(claims_of: dict[str, list[Claim]], pixels: dict[str, np.ndarray], **options) -> dict[str, dict[str, float]]:
    return {
        name: {c.text: c.score for c in claims}
        for name, claims in zip(claims_of, ranker(**options).annotate(batch(claims_of, pixels)), strict=True)
    }


def share_scored_lower(table: dict[str, dict[str, float]], right: dict[str, str]) -> float:
    """Return the share of other pictures' captions that score below a picture's own."""
    pairs = [
        (row[right[name]] > score) + 0.5 * (row[right[name]] == score)
        for name, row in table.items()
        for text, score in row.items()
        if text != right[name]
    ]
    return float(np.mean(pairs))


def test_captions_written_by_eye_score_above_those_of_other_photos():
    claims = {name: [Claim("<CAPTION>", text) for text in CAPTION_BY_EYE.values()] for name in CAPTION_BY_EYE}
    table = scores(claims, photos())
    assert share_scored_lower(table, CAPTION_BY_EYE) >= 0.9
    right = [table[name][CAPTION_BY_EYE[name]] for name in CAPTION_BY_EYE]
    wrong = [score for name, row in table.items() for text, score in row.items() if text != CAPTION_BY_EYE[name]]
    assert np.mean(right) > 0.65 and np.mean(wrong) < 0.35


def test_captions_composed_of_found_objects_score_above_those_of_other_photos():
    objects, captioner = (
        ANNOTATORS.get("activation")(name="objects", weights="lite0", scales=(1.0,)),
        ANNOTATORS.get("captioner")(name="captioner"),
    )
    objects.load()
    everything = batch({name: [] for name in photos()}, photos())
    found = tuple(
        annotate(r.image_id, claims, "a", "1")
        for r, claims in zip(everything.records, objects.annotate(everything), strict=True)
    )
    captioned = captioner.annotate(ImageBatch(everything.records, everything.pixels, found))
    # where nothing was found the captioner names colours, which are no classes of ImageNet
    captions = {
        name: {c.task: c.text for c in claims}
        for name, claims, rows in zip(photos(), captioned, found, strict=True)
        if any(row.score > 0.6 for row in rows)
    }
    assert len(captions) >= 5
    for task in CAPTIONS:
        right = {name: texts[task] for name, texts in captions.items()}
        claims_of = {name: [Claim(task, text) for text in right.values()] for name in right}
        assert share_scored_lower(scores(claims_of, photos()), right) >= 0.9, task


def test_a_text_that_names_nothing_gets_a_middle_score():
    claims = {"skimage/chelsea.png": [Claim("<CAPTION>", text) for text in ("a cat", "a kitten", "a picture", "a car")]}
    row = scores(claims, photos())["skimage/chelsea.png"]
    assert row["a cat"] > 0.9 and row["a kitten"] > 0.9 and 0.3 < row["a picture"] < 0.7 and row["a car"] < 0.1


def test_each_box_is_scored_by_its_pixels():
    cat, cup = (
        np.asarray(Image.fromarray(photos()[name]).resize((300, 240)))
        for name in ("skimage/chelsea.png", "skimage/coffee.png")
    )
    pixels = {"both": np.concatenate([cat, cup], axis=1)}
    left, right = (0.0, 0.0, 300.0, 240.0), (300.0, 0.0, 600.0, 240.0)
    rows = [
        Claim("<OD>", label, (Region(label, box=box, score=0.9),), 0.9)
        for box in (left, right)
        for label in ("cat", "cup")
    ]
    claims = ranker(margin=0.0).annotate(batch({"both": rows}, pixels))[0]
    by_place = {box: {c.text: c.score for c in claims if c.regions[0].box == box} for box in (left, right)}
    assert by_place[left]["cat"] > 0.9 > 0.1 > by_place[left]["cup"]
    assert by_place[right]["cup"] > 0.9 > 0.1 > by_place[right]["cat"]
    assert all(c.task == DENSE for c in claims)


def test_the_score_is_the_chance_of_agreement_against_that_of_any_two():
    pixels = photos()["skimage/coffee.png"]
    annotator = ranker()
    (claims,) = annotator.annotate(batch({"x": [Claim("<CAPTION>", "a cup of coffee")]}, {"x": pixels}))
    agree = float(annotator._class_probabilities(pixels) @ text_tags(["a cup of coffee"], 0.05)[0])
    assert claims[0].score == pytest.approx(agree / (agree + 1 / 1000), rel=1e-6)


def test_a_name_stands_for_all_of_its_classes():
    names, members = class_labels("coarse")
    (dogs,) = text_tags(["dog"], 0.05)
    assert dogs[members[names.index("dog")] == 1].sum() > 0.95
    assert dogs.sum() == pytest.approx(1)


def test_answers_do_not_depend_on_the_batch():
    rng = np.random.default_rng(0)
    pixels = {
        f"{h}x{w}": rng.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in ((1, 1), (3, 200), (200, 3), (60, 40))
    }
    texts = [[Claim("<CAPTION>", f"a {word}")] for word in ("cat", "dog", "bird", "Kätzchen 🐈")]
    claims_of = dict(zip(pixels, texts, strict=True))
    annotator = ranker()
    together = annotator.annotate(batch(claims_of, pixels))
    assert [annotator.annotate(batch({name: claims_of[name]}, pixels))[0] for name in claims_of] == together
    assert all(len(claims) == 1 for claims in together)


def test_it_is_a_ranker_and_refuses_other_tasks():
    assert ANNOTATORS.get("tag_ranker")(name="judge").role == "ranker"
    with pytest.raises(SettingsError, match=r"annotators\.judge\.tasks.*<OD> is not annotated here"):
        ANNOTATORS.get("tag_ranker")(name="judge", tasks=["<OD>"])
