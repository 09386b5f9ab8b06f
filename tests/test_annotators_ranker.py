"""The ranker of hub models against transformers' own comparison of one picture with texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import language_models
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from florence.annotators import ANNOTATORS, ImageBatch
from florence.errors import ModelError, SettingsError
from florence.records import Annotation, Claim, ImageRecord, Region, annotate

DENSE = "<DENSE_REGION_CAPTION>"
BOX = (8.0, 4.0, 40.0, 36.0)
LONG = "a very long text about a cat that goes on well beyond what the model reads"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cache(lambda architecture: getattr(language_models, architecture)(tmp_path_factory.mktemp(architecture)))


def ranker(path: Path, **options: Any):
    annotator = ANNOTATORS.get("ranker")(name="judge", **{"model": str(path), "rows": 3, **options})
    annotator.load()
    return annotator


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((width, height)))


def batch(*images: tuple[np.ndarray, Sequence[Claim]]) -> ImageBatch:
    records = tuple(
        ImageRecord(f"{i:064x}", p.shape[1], p.shape[0], "mine", f"{i}", "", None, "train")
        for i, (p, _) in enumerate(images)
    )
    rows: tuple[tuple[Annotation, ...], ...] = tuple(
        annotate(r.image_id, claims, "a", "1") for r, (_, claims) in zip(records, images, strict=True)
    )
    return ImageBatch(records, tuple(p for p, _ in images), rows)


def at(task: str, text: str, box: tuple = BOX) -> Claim:
    return Claim(task, text, (Region(text, box=box, score=0.9),), 0.9)


CLAIMS = [
    Claim("<CAPTION>", "a cat", (), 0.9),
    Claim("<CAPTION>", "two dogs", (), 0.9),
    Claim("<CAPTION>", "a cat", (), 0.4),
    Claim("<MORE_DETAILED_CAPTION>", LONG, (), 0.9),
    at("<OD>", "cat"),
    at(DENSE, "a cat on a chair"),
]


def logits(path: Path, pixels: np.ndarray, texts: list[str]) -> np.ndarray:
    """Return transformers' scores of one picture with each text, padded and cut as the model cards state."""
    processor, model = AutoProcessor.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    how: dict[str, Any] = (
        {"padding": "max_length", "max_length": 24} if model.config.model_type == "siglip" else {"padding": True}
    )
    inputs = processor(images=Image.fromarray(pixels), text=texts, truncation=True, return_tensors="pt", **how)
    if model.config.model_type == "siglip":
        inputs.pop("attention_mask", None)
    with torch.inference_mode():
        return model(**inputs).logits_per_image[0].double().numpy()


def softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(values - values.max()) / np.exp(values - values.max()).sum()


@pytest.mark.parametrize("architecture", ["clip", "siglip"])
def test_scores_are_the_model_s_own(folder, architecture: str):
    pixels = picture(0)
    claims = ranker(folder(architecture), margin=0).annotate(batch((pixels, CLAIMS)))[0]
    captions, region_texts = [c for c in claims if not c.regions], [c for c in claims if c.regions]
    assert [(c.task, c.text) for c in captions] == [
        ("<CAPTION>", "a cat"),
        ("<CAPTION>", "two dogs"),
        ("<MORE_DETAILED_CAPTION>", LONG),
    ]
    assert [(c.task, c.text, c.regions[0].box) for c in region_texts] == [
        (DENSE, text, BOX) for text in ("cat", "a cat on a chair", "a chair")
    ]
    whole = logits(folder(architecture), pixels, [c.text for c in captions])
    part = logits(folder(architecture), pixels[4:36, 8:40], [c.text for c in region_texts])
    if architecture == "siglip":
        expected = 1 / (1 + np.exp(-whole)), 1 / (1 + np.exp(-part))
    else:
        scale = float(AutoModel.from_pretrained(folder(architecture)).logit_scale.detach().exp())
        expected = np.clip(2.5 * whole / scale, 0, 1), softmax(part)
    assert [c.score for c in captions] == pytest.approx(expected[0], abs=1e-5)
    assert [c.score for c in region_texts] == pytest.approx(expected[1], abs=1e-5)
    assert all(c.score == c.regions[0].score and c.text == c.regions[0].label for c in region_texts)
    assert len({round(c.score, 4) for c in claims}) > 3


def test_a_higher_temperature_decides_less_and_a_margin_shows_more(folder):
    pixels, path = picture(1), folder("clip")
    texts = ["cat", "a cat on a chair", "a chair"]
    annotator = ranker(path, margin=0.25, temperature=4.0).annotate(batch((pixels, CLAIMS)))[0]
    assert [c.score for c in annotator if c.regions] == pytest.approx(
        softmax(logits(path, pixels[0:44, 0:48], texts) / 4), abs=1e-5
    )


@pytest.mark.parametrize("architecture", ["clip", "siglip"])
def test_answers_do_not_depend_on_the_batch(folder, architecture: str):
    images = [
        (picture(0), CLAIMS),
        (picture(1, 10, 200), []),
        (picture(2, 200, 10), [Claim("<CAPTION>", "ein Kätzchen 🐈", (), None)]),
        (picture(3, 1, 1), [Claim("<CAPTION>", "a cat", (), 0.2)]),
        (picture(4), [at("<OD>", "dog", (0.0, 0.0, 1.0, 1.0)), at("<OD>", "cat", (3.2, 0.0, 64.0, 48.0))]),
    ]
    annotator = ranker(folder(architecture))
    together = annotator.annotate(batch(*images))
    assert [len(claims) for claims in together] == [6, 0, 1, 1, 2]
    assert annotator.annotate(batch(*images[::-1]))[::-1] == together
    assert [annotator.annotate(batch(one))[0] for one in images] == together
    assert annotator.annotate(batch()) == []


def test_it_scores_only_the_tasks_of_its_settings(folder):
    claims = ranker(folder("clip"), tasks=["<CAPTION>"]).annotate(batch((picture(0), CLAIMS)))[0]
    assert [c.text for c in claims] == ["a cat", "two dogs"]
    annotator = ranker(folder("clip"), tasks=[DENSE], most=1)
    claims = annotator.annotate(batch((picture(0), [*CLAIMS, at("<OD>", "dog", (50.0, 0.0, 60.0, 10.0))])))[0]
    assert annotator.tasks == (DENSE,) and {c.regions[0].box for c in claims} == {BOX}


def test_it_is_a_ranker_whose_version_follows_the_weights(tmp_path):
    versions = set()
    for seed in (0, 1):
        language_models.clip(tmp_path, seed)
        annotator = ANNOTATORS.get("ranker")(name="judge", model=str(tmp_path))
        versions.add(annotator.version)
    assert len(versions) == 2 and annotator.role == "ranker"


def test_a_model_that_compares_nothing_is_refused(tmp_path):
    path = language_models.llava(tmp_path / "llava")
    with pytest.raises(ModelError, match=r"does not compare pictures with texts: name a CLIP or SigLIP"):
        ranker(path)
    with pytest.raises(SettingsError, match=r"annotators\.judge\.tasks.*<OD> is not annotated here"):
        ANNOTATORS.get("ranker")(name="judge", model="x", tasks=["<OD>"])
