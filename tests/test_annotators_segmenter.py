"""SAM and SAM 2 against the library's own masks; which boxes get masks; masks as polygons."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hub_models import SEGMENTERS, checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from florence.annotators import ANNOTATORS, ImageBatch
from florence.annotators.segmenter import MAX_PROMPTS
from florence.errors import ModelError
from florence.geometry import Box, mask_iou, polygon_area, rasterise
from florence.imaging.polygons import mask_to_polygons
from florence.records import Annotation, Claim, ImageRecord, Region, annotate
from florence.scene.segmentation import add_polygons, segmentation_targets, target_boxes

GROUNDED, REFERRED = "<CAPTION_TO_PHRASE_GROUNDING>", "<REFERRING_EXPRESSION_SEGMENTATION>"
CAT, DOG = (20.0, 15.0, 70.0, 80.0), (60.5, 10.25, 135.0, 90.0)


@lru_cache(maxsize=16)
def _make_segmenter(architecture: str, options: tuple[tuple[str, Any], ...]):
    found = ANNOTATORS.get("segmenter")(name="segmenter", model=checkpoint(architecture), **dict(options))
    found.load()
    return found


def make_segmenter(architecture: str, **options: Any):
    return _make_segmenter(architecture, tuple(sorted(options.items())))


@lru_cache(maxsize=1)
def photo() -> np.ndarray:
    """Return a photo in landscape format with odd sides."""
    import skimage

    with Image.open(Path(skimage.__path__[0]) / "data/chelsea.png") as image:
        return np.asarray(image.convert("RGB").resize((141, 93)))


def record(pixels: np.ndarray | None = None) -> ImageRecord:
    pixels = photo() if pixels is None else pixels
    return ImageRecord("0" * 64, pixels.shape[1], pixels.shape[0], "mine", "x.png", "", None, "train")


def make_claims(*objects: tuple[str, Box, float], annotator: str = "a") -> tuple[Annotation, ...]:
    return annotate(
        "0" * 64,
        [Claim("<OD>", label, (Region(label, box=box, score=score),), score) for label, box, score in objects],
        annotator,
        "1",
    )


def phrase(text: str, label: str, *boxes: tuple[Box, float | None], annotator: str = "a") -> tuple[Annotation, ...]:
    start = text.index(label)
    regions = tuple(Region(label, box=box, score=score, span=(start, start + len(label))) for box, score in boxes)
    return annotate("0" * 64, [Claim(GROUNDED, text, regions, None)], annotator, "1")


def cut(
    architecture: str, claims: tuple[Annotation, ...], pixels: np.ndarray | None = None, **options: Any
) -> list[Claim]:
    pixels = photo() if pixels is None else pixels
    (found,) = make_segmenter(architecture, **options).annotate(ImageBatch((record(pixels),), (pixels,), (claims,)))
    assert isinstance(found, list), found
    return found


def drawn(region: Region) -> np.ndarray:
    return rasterise(region.polygons, photo().shape[1], photo().shape[0])


# ---------------------------------------------------------------- masks


def by_the_library(*boxes: Box, architecture: str = "sam") -> tuple[np.ndarray, list[float]]:
    """Return SAM's masks (n, height, width) and their estimated quality, of processor and model called directly."""
    processor, model = (
        hf.SamProcessor.from_pretrained(checkpoint(architecture)),
        hf.SamModel.from_pretrained(checkpoint(architecture)).eval(),
    )
    given = processor(images=Image.fromarray(photo()), input_boxes=[[list(box) for box in boxes]], return_tensors="pt")
    with torch.no_grad():
        output = model(
            pixel_values=given["pixel_values"], input_boxes=given["input_boxes"].float(), multimask_output=False
        )
    (masks,) = processor.post_process_masks(output.pred_masks, given["original_sizes"], given["reshaped_input_sizes"])
    return masks[:, 0].numpy(), output.iou_scores[0, :, 0].tolist()


def by_hand(*boxes: Box, architecture: str) -> tuple[np.ndarray, list[float]]:
    """Return SAM 2's masks and quality, from pixels stretched and normalised here."""
    model = hf.Sam2Model.from_pretrained(checkpoint(architecture)).eval()
    height, width = photo().shape[:2]
    small = np.asarray(Image.fromarray(photo()).resize((128, 128), Image.Resampling.BILINEAR), np.float64) / 255
    pixels = torch.from_numpy(
        ((small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)[None].astype(np.float32)
    )
    prompts = torch.tensor(
        [[[x0 * 128 / width, y0 * 128 / height, x1 * 128 / width, y1 * 128 / height] for x0, y0, x1, y1 in boxes]]
    )
    with torch.no_grad():
        output = model(pixel_values=pixels, input_boxes=prompts, multimask_output=False)
        masks = torch.nn.functional.interpolate(
            output.pred_masks[0], (height, width), mode="bilinear", align_corners=False
        )
    return (masks[:, 0] > 0).numpy(), output.iou_scores[0, :, 0].tolist()


@pytest.mark.parametrize(
    ("architecture", "reference"), [("sam", by_the_library), ("sam_2", by_hand), ("sam_2_video", by_hand)]
)
def test_masks_are_the_models_own(architecture: str, reference: Any):
    claims = cut(architecture, make_claims(("cat", CAT, 0.9), ("dog", DOG, 0.8)))
    assert [(claim.task, claim.text, claim.score) for claim in claims] == [
        (REFERRED, "the cat", 0.9),
        (REFERRED, "the dog", 0.8),
    ]
    masks, _ = reference(CAT, DOG, architecture=architecture)
    assert mask_iou(*masks) < 0.9, "both boxes get one mask: the test tells nothing"
    for claim, mask in zip(claims, masks, strict=True):
        (region,) = claim.regions
        assert region.label == claim.text and region.box is None and region.score == claim.score
        assert mask_iou(drawn(region), mask) >= 0.95
    finer = {
        claim.text: drawn(claim.regions[0])
        for claim in cut(architecture, make_claims(("cat", CAT, 0.9), ("dog", DOG, 0.8)), min_polygon_iou=0.98)
    }
    assert finer, "neither has a polygon that fine"
    for name, mask in zip(("the cat", "the dog"), masks, strict=True):
        assert name not in finer or mask_iou(finer[name], mask) >= 0.98


@pytest.mark.parametrize(
    ("architecture", "reference"), [("sam", by_the_library), ("sam_2", by_hand), ("sam_2_video", by_hand)]
)
def test_masks_with_a_low_score_of_the_model_are_not_claimed(architecture: str, reference: Any):
    _, expected = reference(CAT, DOG, architecture=architecture)
    low, high = sorted(expected)
    assert high - low > 1e-3
    (claim,) = cut(architecture, make_claims(("cat", CAT, 0.9), ("dog", DOG, 0.8)), min_iou=(low + high) / 2)
    assert claim.text == ("the cat" if expected[0] == high else "the dog")


@pytest.mark.parametrize("architecture", SEGMENTERS)
def test_a_picture_is_encoded_once_for_all_its_boxes(architecture: str):
    annotator = make_segmenter(architecture, min_iou=0.0)
    calls: list[int] = []
    hook = annotator._network.vision_encoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        boxes = [(28.0 * x, 23.0 * y, 28.0 * x + 28, 23.0 * y + 23) for y in range(4) for x in range(5)]
        (row,) = cut(
            architecture,
            phrase("a row of things", "a row of things", *((box, 0.9 - i / 100) for i, box in enumerate(boxes))),
            min_iou=0.0,
        )
        assert len(calls) == 1 and cut(architecture, ()) == [] and len(calls) == 1
    finally:
        hook.remove()
    last = [region for region in row.regions if region.box in boxes[MAX_PROMPTS:]]
    assert last and len(row.regions) > 10
    for region in (*last, row.regions[0]):
        (alone,) = cut(architecture, phrase("a row of things", "a row of things", (region.box, 0.9)), min_iou=0.0)
        assert mask_iou(drawn(region), drawn(alone.regions[0])) > 0.95
    assert min(mask_iou(drawn(region), drawn(other)) for region in last for other in row.regions) < 0.9, (
        "all boxes get one mask: the test tells nothing"
    )


@pytest.mark.parametrize("architecture", SEGMENTERS)
def test_others_in_the_batch_change_nothing(architecture: str):
    annotator = make_segmenter(architecture)
    pictures = (
        photo(),
        np.ascontiguousarray(photo()[:80, ::-1]),
        np.repeat(photo()[:60, :50, :1], 3, axis=2),
        photo()[:1, :1],
    )
    claims = (
        make_claims(("cat", CAT, 0.9)),
        make_claims(("dog", (5.0, 5.0, 90.0, 70.0), 0.9)),
        make_claims(("cat", (3.0, 3.0, 40.0, 50.0), 0.9)),
        make_claims(("dot", (0.0, 0.0, 1.0, 1.0), 0.9)),
    )
    records = tuple(record(pixels) for pixels in pictures)
    together = annotator.annotate(ImageBatch(records, pictures, claims))
    assert all(together[:3]) and together[3] == [], "a pixel has no polygon"
    for index in (3, 1, 0, 2):
        assert annotator.annotate(
            ImageBatch(records[index : index + 1], pictures[index : index + 1], claims[index : index + 1])
        ) == [together[index]]


def test_a_model_of_another_type_or_with_no_finite_numbers_is_refused(tmp_path: Path):
    annotator = ANNOTATORS.get("segmenter")(name="segmenter", model=checkpoint("detr"))
    with pytest.raises(ModelError, match="of type detr, which this annotator cannot prompt; allowed: sam, sam2"):
        annotator.load()
    shutil.copytree(checkpoint("sam"), tmp_path / "model")
    model = hf.SamModel.from_pretrained(checkpoint("sam"))
    with torch.no_grad():
        model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(float("nan"))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="NaN or infinity"):
        ANNOTATORS.get("segmenter")(name="segmenter", model=str(tmp_path / "model")).load()
    annotator = ANNOTATORS.get("segmenter")(name="segmenter", model=checkpoint("sam"))
    annotator.load()
    with torch.no_grad():
        annotator._network.mask_decoder.iou_prediction_head.proj_out.bias.fill_(float("nan"))
    (failed,) = annotator.annotate(ImageBatch((record(),), (photo(),), (make_claims(("cat", CAT, 0.9)),)))
    assert isinstance(failed, ModelError) and "not numbers" in str(failed)


# ---------------------------------------------------------------- which boxes get masks


def ask_about(
    *claims: tuple[Annotation, ...], most: int = 10, min_score: float = 0.3, min_alone: float = 0.6
) -> list[tuple[str, str, list[Box]]]:
    rows = [row for part in claims for row in part]
    return [
        (claim.task, claim.text, [region.box for region in claim.regions])
        for claim in segmentation_targets(record(), rows, most, min_score, min_alone)
    ]


def test_segmenter_and_grabcut_name_objects_alike():
    objects = make_claims(("cat", CAT, 0.9), ("cat", DOG, 0.8), ("cup", (10.0, 60.0, 50.0, 90.0), 0.5)) + make_claims(
        ("cup", (12.0, 60.0, 50.0, 90.0), 0.4), annotator="b"
    )
    names = [claim.text for claim in cut("sam", objects, min_iou=0.0)]
    assert set(names) == {"the leftmost cat", "the rightmost cat", "the cup"}
    masks = ANNOTATORS.get("masks")(name="masks", min_share=0.0, max_share=1.0)
    assert {claim.text for claim in masks.annotate(ImageBatch((record(),), (photo(),), (objects,)))[0]} <= set(names)


def test_phrases_are_claimed_again_with_polygons():
    text = "Ein Kätzchen 🐈 near a dog"
    objects = phrase(text, "Kätzchen 🐈", (CAT, 0.7), (DOG, None)) + phrase(text, "a dog", (DOG, 0.5))
    claims = cut("sam", objects)
    assert [(claim.task, claim.text, claim.regions[0].label) for claim in claims] == [
        (GROUNDED, text, "Kätzchen 🐈"),
        (GROUNDED, text, "a dog"),
    ]
    masks, _ = by_the_library(CAT, DOG)
    first, second = claims
    assert (
        [(region.box, region.score) for region in first.regions] == [(DOG, None), (CAT, 0.7)]
        and first.score == 0.7
        and second.score == 0.5
    )
    for region, mask in zip((*first.regions, *second.regions), (masks[1], masks[0], masks[1]), strict=True):
        assert text[slice(*region.span)] == region.label and mask_iou(drawn(region), mask) >= 0.95


def test_claims_of_several_annotators_of_one_phrase_and_region_are_merged():
    near = (62.0, 11.0, 134.0, 89.0)
    text = "a dog and a dog"
    first, second = phrase(text, "a dog", (DOG, 0.5), (CAT, 0.6)), phrase(text, "a dog", (near, 0.8), annotator="b")
    assert ask_about(first, second) == [(GROUNDED, text, [near, CAT])] == ask_about(second, first)
    other = annotate(
        "0" * 64, [Claim(GROUNDED, text, (Region("a dog", box=DOG, score=0.5, span=(10, 15)),), 0.5)], "a", "1"
    )
    assert ask_about(first, other) == [(GROUNDED, text, [CAT, DOG]), (GROUNDED, text, [DOG])], (
        "the second dog is another phrase"
    )


def test_boxes_of_objects_cost_no_more_and_of_the_others_the_best_are_taken():
    box = (5.0, 5.0, 20.0, 20.0)
    objects = (
        make_claims(("cat", CAT, 0.9))
        + phrase("a cat by a cup and a hat", "a cat", (CAT, 0.7))
        + phrase("a cat by a cup and a hat", "a cup", (DOG, 0.5))
        + phrase("a cat by a cup and a hat", "a hat", (box, 0.6))
    )
    assert [boxes for _, _, boxes in ask_about(objects, most=1)] == [[CAT], [CAT], [box]]
    assert target_boxes(segmentation_targets(record(), objects, 2, 0.3, 0.6)) == (CAT, DOG, box)
    assert [boxes for _, _, boxes in ask_about(objects, min_score=0.55)] == [[CAT], [CAT], [box]]


def test_boxes_beyond_the_image_are_cut_and_claims_without_a_box_are_left_out():
    text = "a dog"
    rows = [
        Claim(
            GROUNDED,
            text,
            (
                Region(text, box=(100.0, -5.0, 500.0, 50.0), span=(0, 5)),
                Region(text, box=(200.0, 0.0, 300.0, 9.0), span=(0, 5)),
                Region(text, span=(0, 5)),
                Region(text, box=DOG),
            ),
        )
    ]
    rows.append(
        Claim(GROUNDED, "a cat", (Region("a cat", polygons=((10.0, 10.0, 40.0, 10.0, 40.0, 30.0),), span=(0, 5)),))
    )
    assert ask_about(annotate("0" * 64, rows, "a", "1")) == [
        (GROUNDED, text, [(100.0, 0.0, 141.0, 50.0)]),
        (GROUNDED, "a cat", [(10.0, 10.0, 40.0, 30.0)]),
    ]


def test_an_empty_mask_is_not_claimed():
    targets = segmentation_targets(
        record(),
        make_claims(("cat", CAT, 0.9), ("cup", (5.0, 5.0, 20.0, 20.0), 0.9))
        + phrase("a dog", "a dog", (CAT, 0.8), (DOG, 0.6)),
        10,
        0.3,
        0.6,
    )
    shape = ((1.0, 1.0, 5.0, 1.0, 5.0, 5.0),)
    said_of = add_polygons(targets, {DOG: shape, CAT: ()})
    assert [(claim.text, claim.score, claim.regions) for claim in said_of] == [
        ("a dog", 0.6, (Region("a dog", box=DOG, polygons=shape, score=0.6, span=(0, 5)),))
    ]


# ---------------------------------------------------------------- polygons


def blob(seed: int, width: int = 90, height: int = 70) -> np.ndarray:
    """Return a mask of smooth shapes with holes, parts and specks."""
    import cv2

    noise = np.random.default_rng(seed).normal(size=(height, width))
    mask = cv2.GaussianBlur(noise, (0, 0), 1 + seed % 7) > 0
    return mask & (np.hypot(*np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]) < 0.9)


@pytest.mark.parametrize("min_polygon_iou", [0.8, 0.9, 0.95, 0.99])
def test_polygons_overlap_their_mask_as_asked(min_polygon_iou: float):
    lost = 0
    for seed in range(40):
        mask = blob(seed)
        found = mask_to_polygons(mask, min_polygon_iou)
        lost += not found
        assert not found or mask_iou(rasterise(found, 90, 70), mask) >= min_polygon_iou
        areas = [polygon_area(polygon) for polygon in found]
        assert areas == sorted(areas, reverse=True) and all(area > 0 for area in areas), "clockwise, the largest first"
        assert all(0 <= v <= (70 if i % 2 else 90) for polygon in found for i, v in enumerate(polygon))
    assert lost <= (8 if min_polygon_iou > 0.95 else 2)


def test_corners_are_as_few_as_min_polygon_iou_allows():
    ys, xs = np.mgrid[:400, :600]
    disk = np.hypot(xs - 300, ys - 200) < 150
    counts = [len(mask_to_polygons(disk, min_polygon_iou)[0]) // 2 for min_polygon_iou in (0.6, 0.9, 0.95, 0.99)]
    assert counts == sorted(counts) and 3 <= counts[0] < counts[2] <= 16 < counts[3] < 60
    box = np.zeros((50, 60), bool)
    box[10:30, 20:55] = True
    assert (
        sorted(set(mask_to_polygons(box, 1.0)[0])) == [10.5, 20.5, 29.5, 54.5]
        and len(mask_to_polygons(box, 1.0)[0]) == 8
    )


def test_a_ring_is_cut_through_and_specks_are_left_out():
    ys, xs = np.mgrid[:100, :100]
    distance = np.hypot(xs - 50, ys - 50)
    ring = (distance < 40) & (distance > 25)
    found = mask_to_polygons(ring, 0.95)
    assert len(found) >= 2 and mask_iou(rasterise(found, 100, 100), ring) >= 0.95
    dotted = distance < 40
    dotted[50, 50] = False
    dotted[2:8, 2:8] = True
    assert [len(mask_to_polygons(dotted, min_polygon_iou)) for min_polygon_iou in (0.95, 0.98)] == [1, 1]
    assert len(mask_to_polygons(dotted, 0.9995)) == 2, "where even specks are needed, they are there"


def test_what_has_no_area_has_no_polygons():
    for mask in (
        np.zeros((20, 20), bool),
        np.eye(20, dtype=bool),
        np.pad(np.ones((1, 1), bool), 5),
        np.pad(np.ones((1, 30), bool), 3),
        np.zeros((0, 0), bool),
    ):
        assert mask_to_polygons(mask, 0.9) == ()
    (whole,) = mask_to_polygons(np.ones((9, 12), bool), 1.0)
    assert {whole[i : i + 2] for i in range(0, 8, 2)} == {(0.5, 0.5), (11.5, 0.5), (11.5, 8.5), (0.5, 8.5)}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=9), st.sampled_from([0.5, 0.9, 1.0])
)
def test_any_small_mask_keeps_the_promise_or_has_none(rows: list[list[bool]], min_polygon_iou: float):
    mask = np.asarray(rows)
    found = mask_to_polygons(mask, min_polygon_iou)
    assert not found or mask_iou(rasterise(found, 7, len(rows)), mask) >= min_polygon_iou
