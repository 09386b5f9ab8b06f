"""The captioner of hub models against transformers' own answer to one picture, for each type of model."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import language_models
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from florence.annotators import ANNOTATORS, ImageBatch
from florence.errors import ModelError, SettingsError
from florence.records import CAPTIONS, Claim, ImageRecord, Region, annotate

REGION_CAPTION = "<DENSE_REGION_CAPTION>"
ARCHITECTURES = ("blip", "blip2", "florence", "llava", "llava_next")
PROMPTS = {
    "blip": "",
    "blip2": "",
    "florence": "<CAPTION>",
    "llava": "describe the cat",
    "llava_next": "describe the cat",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    @cache
    def make_checkpoint(architecture: str) -> Path:
        path = tmp_path_factory.mktemp(architecture)
        if architecture == "llava_next":
            return language_models.llava(path, following=True)
        return getattr(language_models, architecture)(path)

    return make_checkpoint


def pictures(*shapes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        np.asarray(Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((w, h))) for h, w in shapes
    ]


SHAPES = (48, 64), (30, 120), (120, 30), (1, 1), (3, 40), (400, 7), (64, 48)


def captioner(path: Path, **options: Any):
    annotator = ANNOTATORS.get("hub_captioner")(
        name="writer", **{"model": str(path), "max_tokens": 10, "rows": 3, "tasks": ["<CAPTION>"], **options}
    )
    annotator.load()
    return annotator


def batch(images: list[np.ndarray], boxes: list[list[tuple]] | None = None) -> ImageBatch:
    records = tuple(
        ImageRecord(f"{i:064x}", p.shape[1], p.shape[0], "mine", f"{i}", "", None, "train")
        for i, p in enumerate(images)
    )
    claims = [
        annotate(
            r.image_id, [Claim("<OD>", "thing", (Region("thing", box=box, score=0.9),), 0.9) for box in b], "a", "1"
        )
        for r, b in zip(records, boxes or [[] for _ in images], strict=True)
    ]
    return ImageBatch(records, tuple(images), tuple(claims))


def alone(path: Path, image: Image.Image, prompt: str, beams: int) -> tuple[str, float]:
    """Return transformers' text of one picture by itself, and the mean probability of its tokens given earlier ones."""
    processor, model = AutoProcessor.from_pretrained(path), AutoModelForImageTextToText.from_pretrained(path).eval()
    if processor.chat_template:
        message = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}
        inputs = processor.apply_chat_template(
            [message], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
    else:
        inputs = processor(images=image, return_tensors="pt", **({"text": prompt} if prompt else {}))
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=10, num_beams=beams, do_sample=False)[0]
        architecture, input_ids = model.config.model_type, output[None, :-1]
        if architecture == "florence2":
            given, logits = 1, model(**inputs, decoder_input_ids=input_ids).logits[0]
        elif architecture == "blip":
            given, logits = (
                1,
                model.text_decoder(
                    input_ids=input_ids, encoder_hidden_states=model.vision_model(inputs["pixel_values"])[0]
                ).logits[0],
            )
        else:
            given = inputs["input_ids"].shape[1] if "input_ids" in inputs else model.config.num_query_tokens + 1
            more = {k: v for k, v in inputs.items() if k in ("pixel_values", "image_sizes")}
            logits = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **more).logits[0]
    ends = {processor.tokenizer.eos_token_id, processor.tokenizer.sep_token_id}
    tokens = output[given:].tolist()
    tokens = tokens[: next((i for i, t in enumerate(tokens) if t in ends), len(tokens))]
    special = set(processor.tokenizer.all_special_ids)
    chances = [float(logits[given - 1 + i].log_softmax(-1)[t]) for i, t in enumerate(tokens) if t not in special]
    return processor.decode(tokens, skip_special_tokens=True), math.exp(sum(chances) / max(len(chances), 1))


def same(text: str) -> str:
    return "".join(c for c in text if c.isprintable() and not c.isspace())


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_captions_equal_those_of_the_model_given_one_picture(folder, architecture: str, beams: int):
    images = pictures(*SHAPES[:4])
    annotator = captioner(folder(architecture), beams=beams, prompts={"<CAPTION>": PROMPTS[architecture]})
    texts = set()
    for pixels, claims in zip(images, annotator.annotate(batch(images)), strict=True):
        text, score = alone(folder(architecture), Image.fromarray(pixels), PROMPTS[architecture], beams)
        assert [(c.task, same(c.text), c.regions) for c in claims] == (
            [("<CAPTION>", same(text), ())] if same(text) else []
        )
        assert all(claim.score == pytest.approx(score, rel=1e-4) for claim in claims)
        texts.add(text)
    assert len(texts) > 1, "this model does not see the picture"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_do_not_depend_on_the_batch(folder, architecture: str):
    images = pictures(*SHAPES)
    annotator = captioner(folder(architecture), beams=2)
    together = annotator.annotate(batch(images))
    assert annotator.annotate(batch(images[::-1]))[::-1] == together
    assert [annotator.annotate(batch([one]))[0] for one in images] == together
    assert annotator.annotate(batch([])) == []


BOXES = [(4.0, 4.0, 30.0, 40.0), (20.5, 10.5, 60.0, 47.0)]


def test_objects_are_described_from_their_crops(folder):
    (pixels,) = pictures((48, 64))
    annotator = captioner(
        folder("llava"), tasks=[REGION_CAPTION], margin=0.25, beams=1, prompts={REGION_CAPTION: "describe the cat"}
    )
    claims = annotator.annotate(batch([pixels], [BOXES]))[0]
    assert annotator.needs == {"pixels", "claims"} and annotator.tasks == (REGION_CAPTION,)
    assert {claim.regions[0].box for claim in claims} == set(BOXES)
    # a quarter of its sides around it, in whole pixels, and no further than the picture goes
    corners = {BOXES[0]: (0, 0, 37, 48), BOXES[1]: (10, 1, 64, 48)}
    for claim in claims:
        x0, y0, x1, y1 = corners[claim.regions[0].box]
        text, score = alone(folder("llava"), Image.fromarray(pixels[y0:y1, x0:x1]), "describe the cat", 1)
        assert (claim.task, same(claim.text), claim.regions[0].label) == (REGION_CAPTION, same(text), claim.text)
        assert claim.score == claim.regions[0].score == pytest.approx(score, rel=1e-4)


def test_only_the_surest_objects_are_described(folder):
    (pixels,) = pictures((48, 64))
    rows = [
        Claim("<OD>", f"thing {i}", (Region("thing", box=(i * 12.0, 0.0, i * 12.0 + 11, 30.0), score=score),), score)
        for i, score in enumerate((0.5, 0.9, 0.7, 0.8))
    ]
    record = ImageRecord("0" * 64, 64, 48, "mine", "x", "", None, "train")
    given = ImageBatch((record,), (pixels,), (annotate(record.image_id, rows, "a", "1"),))
    claims = captioner(folder("llava"), tasks=[REGION_CAPTION], most=2).annotate(given)[0]
    assert [claim.regions[0].box[0] for claim in claims] == [12.0, 36.0]


def test_captions_alone_need_no_claims_of_others(folder):
    annotator = captioner(folder("florence"), tasks=list(CAPTIONS))
    assert annotator.needs == {"pixels"} and annotator.tasks == CAPTIONS
    given = batch(pictures((40, 40)))
    claims = annotator.annotate(ImageBatch(given.records, given.pixels))[0]
    assert [claim.task for claim in claims] == list(CAPTIONS)
    assert len({claim.text for claim in claims}) > 1, "each task has a prompt of its own"


def test_each_type_of_model_gets_its_own_prompts(folder):
    prompts = {
        architecture: [
            captioner(folder(architecture), tasks=["<CAPTION>", REGION_CAPTION])._model.prompt(task)
            for task in (*CAPTIONS, REGION_CAPTION)
        ]
        for architecture in ("florence", "blip", "llava")
    }
    assert prompts["florence"] == [*CAPTIONS, "<CAPTION>"]
    assert prompts["blip"] == [""] * 4
    assert len(set(prompts["llava"])) == 4 and all(prompts["llava"])


def test_several_captions_in_the_same_words_are_refused(folder):
    with pytest.raises(
        SettingsError, match=r"annotators\.writer\.prompts: <CAPTION> and <DETAILED_CAPTION> .*give each a prompt"
    ):
        captioner(folder("blip"), tasks=["<CAPTION>", "<DETAILED_CAPTION>"])
    captioner(folder("blip"), tasks=["<CAPTION>", "<DETAILED_CAPTION>"], prompts={"<DETAILED_CAPTION>": "a big"})


@pytest.mark.parametrize(
    ("option", "value"), [("tasks", ["<OD>"]), ("prompts", {"<OD>": "x"}), ("beams", 0), ("margin", 2)]
)
def test_wrong_options_are_refused(option: str, value):
    with pytest.raises(SettingsError, match=rf"annotators\.writer\.{option}"):
        ANNOTATORS.get("hub_captioner")(name="writer", model="x", **{option: value})


def test_a_model_of_another_class_is_refused_by_its_name(tmp_path):
    path = language_models.clip(tmp_path / "clip")
    with pytest.raises(ModelError, match="clip cannot be loaded by AutoModelForImageTextToText"):
        captioner(path)


def test_its_version_follows_the_weights(tmp_path):
    versions = set()
    for seed in (0, 1):
        language_models.blip(tmp_path, seed)
        versions.add(ANNOTATORS.get("hub_captioner")(name="w", model=str(tmp_path)).version)
    assert len(versions) == 2
