"""Grounders of the transformers library, against its own outputs; and the spans of what they ground."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hub_models import GROUNDERS, checkpoint
from PIL import Image

from florence.annotators import ANNOTATORS, ImageBatch
from florence.errors import ModelError, SettingsError
from florence.geometry import box_iou
from florence.records import Annotation, Claim, ImageRecord, annotate

HOPEFUL = {"box_threshold": 0.0, "text_threshold": 0.0, "nms_iou": 1.0, "most": 1000}


@lru_cache(maxsize=32)
def _make_grounder(architecture: str, options: tuple[tuple[str, Any], ...]):
    found = ANNOTATORS.get("grounder")(name="grounder", model=checkpoint(architecture), **dict(options))
    found.load()
    return found


def make_grounder(architecture: str, **options: Any):
    return _make_grounder(architecture, tuple(sorted(options.items())))


@lru_cache(maxsize=1)
def photo() -> np.ndarray:
    """Return a photo in landscape format with odd sides."""
    import skimage

    with Image.open(Path(skimage.__path__[0]) / "data/chelsea.png") as image:
        return np.asarray(image.convert("RGB").resize((141, 93)))


def captions(*texts: str, task: str = "<CAPTION>", annotator: str = "a") -> tuple[Annotation, ...]:
    return annotate("0" * 64, [Claim(task, text, (), 0.9) for text in texts], annotator, "1")


def ground(
    architecture: str, claims: tuple[Annotation, ...], pixels: np.ndarray | None = None, **options: Any
) -> list[Claim]:
    pixels = photo() if pixels is None else pixels
    record = ImageRecord("0" * 64, pixels.shape[1], pixels.shape[0], "mine", "x.png", "", None, "train")
    (found,) = make_grounder(architecture, **{**HOPEFUL, **options}).annotate(
        ImageBatch((record,), (pixels,), (claims,))
    )
    assert isinstance(found, list), found
    for claim in found:
        assert claim.task == "<CAPTION_TO_PHRASE_GROUNDING>" and claim.regions
        spans = {region.span for region in claim.regions}
        assert len(spans) == 1 and all(claim.text[slice(*region.span)] == region.label for region in claim.regions)
        scores = [region.score for region in claim.regions]
        assert scores == sorted(scores, reverse=True) and claim.score == pytest.approx(np.mean(scores))
    return found


def cut(boxes: np.ndarray) -> np.ndarray:
    height, width = photo().shape[:2]
    return np.clip(boxes, 0, [width, height, width, height])


def same(claim: Claim, boxes: np.ndarray, scores: np.ndarray) -> None:
    """Assert that the claim's regions are those boxes (n, 4), cut to the image, with those scores (n,)."""
    expected = [
        (round(float(score), 4), *np.round(box, 2))
        for box, score in zip(cut(boxes), scores, strict=True)
        if box[0] < photo().shape[1] and box[1] < photo().shape[0]
    ]
    there = [(round(float(region.score), 4), *np.round(region.box, 2)) for region in claim.regions]
    expected = [row for row in sorted(set(map(tuple, expected))) if row[1] < row[3] and row[2] < row[4]]
    assert there and len(there) == len(expected)
    np.testing.assert_allclose(sorted(there), expected, atol=0.02)


# ---------------------------------------------------------------- Grounding DINO


def dino(prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (q, 4) in pixels and scores (q, tokens) of a prompt, of model and processor called directly."""
    processor, model = (
        hf.AutoProcessor.from_pretrained(checkpoint("grounding_dino")),
        hf.AutoModelForZeroShotObjectDetection.from_pretrained(checkpoint("grounding_dino")).eval(),
    )
    with torch.no_grad():
        given = processor(images=Image.fromarray(photo()), text=prompt, return_tensors="pt")
        output = model(**given)
    (found,) = processor.post_process_grounded_object_detection(
        output, given["input_ids"], threshold=-1, text_threshold=2, target_sizes=[photo().shape[:2]]
    )
    return found["boxes"].numpy(), output.logits[0].sigmoid().numpy()


def test_a_phrases_boxes_come_from_its_tokens():
    claims = ground("grounding_dino", captions("A dog near two cats"))
    assert [claim.regions[0].label for claim in claims] == ["A dog", "two cats"]
    boxes, scores = dino("a dog. two cats.")
    # [CLS] a dog . two cat ##s . [SEP]
    for claim, tokens in zip(claims, ([1, 2], [4, 5, 6]), strict=True):
        same(claim, boxes, scores[:, tokens].max(axis=1))
    assert {region.score for region in claims[0].regions} != {region.score for region in claims[1].regions}


def test_the_library_finds_the_same_for_one_phrase():
    processor, model = (
        hf.AutoProcessor.from_pretrained(checkpoint("grounding_dino")),
        hf.AutoModelForZeroShotObjectDetection.from_pretrained(checkpoint("grounding_dino")).eval(),
    )
    with torch.no_grad():
        given = processor(images=Image.fromarray(photo()), text="a dog.", return_tensors="pt")
        output = model(**given)
    (found,) = processor.post_process_grounded_object_detection(
        output, given["input_ids"], threshold=0.6, text_threshold=0.6, target_sizes=[photo().shape[:2]]
    )
    own = {
        round(region.score, 4)
        for region in ground("grounding_dino", captions("a dog"), box_threshold=0.6, text_threshold=0.6)[0].regions
    }
    tokens = output.logits[0, :, 1:3].sigmoid().max(dim=1).values
    best = tokens >= output.logits[0].sigmoid().max(dim=1).values
    theirs = {round(float(score), 4) for score in found["scores"]}
    assert {round(float(score), 4) for score in tokens[best & (tokens > 0.6)]} <= own & theirs


def test_phrases_that_share_words_have_scores_of_their_own():
    claims = ground("grounding_dino", captions("a red dog near a dog"))
    boxes, scores = dino("a red dog. a dog.")
    for claim, tokens in zip(claims, ([1, 2, 3], [5, 6]), strict=True):
        same(claim, boxes, scores[:, tokens].max(axis=1))


def test_all_captions_of_a_picture_are_asked_for_at_once_and_each_phrase_once():
    claims = ground(
        "grounding_dino",
        captions("a dog", "The dog and a tree", "a dog")
        + captions("A dog with a man", task="<DETAILED_CAPTION>")
        + captions("a dog", annotator="b"),
    )
    assert [(claim.text, claim.regions[0].label) for claim in claims] == [
        ("a dog", "a dog"),
        ("The dog and a tree", "The dog"),
        ("The dog and a tree", "a tree"),
        ("A dog with a man", "A dog"),
        ("A dog with a man", "a man"),
    ]
    boxes, scores = dino("a dog. the dog. a tree. a man.")
    same(claims[0], boxes, scores[:, [1, 2]].max(axis=1))
    same(claims[2], boxes, scores[:, [7, 8]].max(axis=1))
    assert [r.box for r in claims[0].regions] == [r.box for r in claims[3].regions]


def test_more_phrases_than_the_model_takes_are_asked_for_in_parts():
    annotator = make_grounder("grounding_dino", **HOPEFUL)
    phrases = [
        f"a {colour} {noun}"
        for colour in ("red", "brown", "blue")
        for noun in ("dog", "cat", "ball", "tree", "man", "sign", "dot")
    ] + ["a " + "x" * 90, "two balls"]
    parts = list(annotator._split_phrases(phrases))
    assert [phrase for part in parts for phrase in part] == [*phrases[:-2], phrases[-1]] and len(parts) == 2
    for part in parts:
        prompt, owners = annotator._join_phrases(part)
        assert prompt["input_ids"].shape[1] <= 64 and sorted(set(owners.tolist())) == [-1, *range(len(part))]
    text = "There are " + ", ".join(phrases[:-2]) + " and two balls."
    claims = ground("grounding_dino", captions(text))
    assert [claim.regions[0].label for claim in claims] == [*phrases[:-2], "two balls"]
    prompt = " ".join(f"{phrase}." for phrase in parts[-1])
    boxes, scores = dino(prompt)
    end = len(annotator._processor.tokenizer(prompt).input_ids)
    same(claims[-1], boxes, scores[:, end - 5 : end - 2].max(axis=1))  # two ball ##s . [SEP]


@pytest.mark.parametrize(
    "phrase",
    ["Mr. Smith's dog", "St. Mary's", "a 3.5 m tree", "What?! a sign", "Über-dog", "İ dog", "犬 dog", "a\u200bdog"],
)
def test_every_token_of_a_phrase_is_its_own_and_none_ends_it(phrase: str):
    from florence.annotators.grounder import _prompt_phrase

    annotator = make_grounder("grounding_dino", **HOPEFUL)
    prompt, owners = annotator._join_phrases(
        [_prompt_phrase("a cat"), _prompt_phrase(phrase), _prompt_phrase("two dots")]
    )
    ids = prompt["input_ids"][0].tolist()
    assert [ids[i] for i in range(len(ids)) if owners[i] == -1] == [101, 1012, 1012, 1012, 102]
    assert not {1012, 1029} & {ids[i] for i in range(len(ids)) if owners[i] >= 0}
    assert owners[owners >= 0].tolist() == sorted(owners[owners >= 0].tolist()) and set(owners.tolist()) == {
        -1,
        0,
        1,
        2,
    }
    assert (
        owners.tolist()[1:3] == [0, 0]
        and ids[1:3] == annotator._processor.tokenizer("a cat", add_special_tokens=False).input_ids
    )


def test_a_box_needs_a_good_phrase_and_a_phrase_a_good_box():
    boxes, scores = dino("a dog. two cats.")
    phrases = np.stack([scores[:, [1, 2]].max(axis=1), scores[:, [4, 5, 6]].max(axis=1)], axis=1)
    high = float(np.quantile(phrases, 0.6))
    low = float(np.median(phrases[phrases.max(axis=1) > high].min(axis=1)))
    claims = ground("grounding_dino", captions("A dog near two cats"), box_threshold=high, text_threshold=low)
    for index, claim in enumerate(claims):
        mine = (phrases.max(axis=1) > high) & (phrases[:, index] > low)
        same(claim, boxes[mine], phrases[mine, index])
        assert 0 < mine.sum() < len(boxes)


# ---------------------------------------------------------------- OWL


@pytest.mark.parametrize("architecture", ["owl_v2", "owl_vit"])
def test_owl_scores_each_phrase_and_its_boxes_are_in_the_pictures_pixels(architecture: str):
    claims = ground(architecture, captions("A dog near two cats"))
    processor, model = (
        hf.AutoProcessor.from_pretrained(checkpoint(architecture)),
        hf.AutoModelForZeroShotObjectDetection.from_pretrained(checkpoint(architecture)).eval(),
    )
    with torch.no_grad():
        output = model(**processor(images=Image.fromarray(photo()), text=[["a dog", "two cats"]], return_tensors="pt"))
    height, width = photo().shape[:2]
    # OWLv2 pads below and to the right until the picture is a square, so its shares are of the longer side.
    scale = np.asarray([width, width] if architecture == "owl_v2" else [width, height])
    shares = output.pred_boxes[0].numpy()
    boxes = np.concatenate(
        [(shares[:, :2] - shares[:, 2:] / 2) * scale, (shares[:, :2] + shares[:, 2:] / 2) * scale], axis=1
    )
    for index, claim in enumerate(claims):
        same(claim, boxes, output.logits[0, :, index].sigmoid().numpy())


def test_long_phrases_are_cut_for_owl():
    long = "a dog-ball-tree-cat-man-sign-dot-dog-ball-tree-cat"
    assert ground("owl_v2", captions(long))[0].regions[0].label == long


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("architecture", GROUNDERS)
def test_others_in_the_batch_change_nothing(architecture: str):
    annotator = make_grounder(architecture)
    pictures = (
        photo(),
        np.ascontiguousarray(photo()[:80, ::-1]),
        np.repeat(photo()[:60, :50, :1], 3, axis=2),
        photo()[:1, :1],
    )
    claims = (
        captions("A dog near two cats"),
        captions("a man with a red ball", "a tree"),
        captions("a sign"),
        captions("a dot"),
    )
    records = tuple(ImageRecord("0" * 64, p.shape[1], p.shape[0], "mine", "x.png", "", None, "train") for p in pictures)
    together = annotator.annotate(ImageBatch(records, pictures, claims))
    assert all(together) and len({str(found) for found in together}) == 4
    for index in (3, 1, 0, 2):
        assert annotator.annotate(
            ImageBatch(records[index : index + 1], pictures[index : index + 1], claims[index : index + 1])
        ) == [together[index]]


def test_overlapping_boxes_of_a_phrase_are_one():
    most = ground("grounding_dino", captions("a dog"), nms_iou=0.3)[0].regions
    boxes = np.asarray([region.box for region in most])
    assert 1 < len(boxes) < 30 and (box_iou(boxes, boxes) - np.eye(len(boxes))).max() <= 0.3
    assert ground("grounding_dino", captions("a dog"), nms_iou=0.3, most=1)[0].regions == most[:1]


def test_quotes_pronouns_and_long_captions_are_left_alone():
    text = 'He sees it near a sign that says "BEWARE OF THE DOG".'
    assert [claim.regions[0].label for claim in ground("owl_v2", captions(text))] == ["a sign"]
    assert ground("owl_v2", captions(text), max_characters=len(text) - 1) == []
    assert ground("owl_v2", captions("It runs.") + captions("")) == [] and ground("owl_v2", ()) == []


def test_only_captions_of_the_tasks_asked_for():
    claims = captions("a dog") + captions("two cats", task="<DETAILED_CAPTION>")
    assert [claim.text for claim in ground("owl_v2", claims, captions=("<DETAILED_CAPTION>",))] == ["two cats"]
    with pytest.raises(SettingsError, match=r"annotators\.grounder\.captions.*<OD> is not annotated here"):
        ANNOTATORS.get("grounder")(name="grounder", model="x", captions=("<OD>",))


def test_a_detector_is_refused_and_so_is_one_that_answers_with_no_numbers(tmp_path: Path):
    annotator = ANNOTATORS.get("grounder")(name="grounder", model=checkpoint("detr"))
    with pytest.raises(ModelError, match="cannot be loaded by Auto"):
        annotator.load()
    model = hf.AutoModelForZeroShotObjectDetection.from_pretrained(checkpoint("owl_v2"))
    with torch.no_grad():
        model.class_head.logit_shift.bias.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    hf.AutoProcessor.from_pretrained(checkpoint("owl_v2")).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="NaN or infinity"):
        ANNOTATORS.get("grounder")(name="grounder", model=str(tmp_path)).load()
    annotator = ANNOTATORS.get("grounder")(name="grounder", model=checkpoint("owl_v2"))
    annotator.load()
    with torch.no_grad():
        annotator._network.class_head.logit_shift.bias.fill_(float("nan"))
    record = ImageRecord("0" * 64, 141, 93, "mine", "x.png", "", None, "train")
    (failed,) = annotator.annotate(ImageBatch((record,), (photo(),), (captions("a dog"),)))
    assert isinstance(failed, ModelError) and "not numbers" in str(failed)
