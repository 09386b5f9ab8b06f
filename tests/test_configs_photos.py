"""The recommended set of models for photos: every step from boxes to ranks, with small checkpoints in their places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hub_models import checkpoint
from language_models import clip, llava

from florence.annotators import ImageBatch
from florence.config import Settings, merged, settings_from
from florence.records import Annotation, Claim, ImageRecord, Region, annotate
from florence.workspace.annotate import find_family, find_sources_without_detector, list_annotators
from florence.workspace.annotate.annotators import bind_labels, make_annotator
from flows.doctor import hub

ROOT = Path(__file__).parents[1]
PHOTOS = yaml.safe_load((ROOT / "configs/photos.yaml").read_text(encoding="utf-8"))
TEMPLATE = yaml.safe_load((ROOT / "florence/template/params.yaml").read_text(encoding="utf-8"))
LICENCES = ("Apache-2.0", "BSD-3-Clause", "MIT")


def settings_with(models: dict[str, dict[str, Any]]) -> Settings:
    """Return the settings of a new workspace with the set for photos, and ``models`` over those of its annotators."""
    return settings_from(
        merged(merged(TEMPLATE, PHOTOS), {"sources": {"mine": {"use": "samples"}}, "annotators": models})
    )


def test_each_model_has_a_permissive_licence_in_its_comment_and_a_family_of_its_own():
    text = (ROOT / "configs/photos.yaml").read_text(encoding="utf-8")
    for key, section in PHOTOS["annotators"].items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"  {key}: "))
        assert any(line.endswith(f" {licence}") for licence in LICENCES), line
        assert section["model"] in text and section["revision"]
    settings = settings_with({})
    families = [find_family(settings, key) for key in PHOTOS["annotators"]]
    assert len(set(families)) == len(families) and all("/" in family for family in families)
    assert find_sources_without_detector(settings) == []


def test_the_set_goes_from_boxes_to_ranks(tmp_path: Path):
    small = {
        "boxes": {"model": checkpoint("rt_detr"), "threshold": 0.0, "most": 4},
        "masks": {"model": checkpoint("sam_2"), "min_score": 0.0, "min_alone": 0.0, "min_iou": 0.0},
        "captioner": {"model": str(llava(tmp_path / "llava")), "max_tokens": 8, "min_alone": 0.0, "min_score": 0.0},
        "phrases": {"model": checkpoint("grounding_dino"), "box_threshold": 0.0, "text_threshold": 0.0},
        "ranker": {"model": str(clip(tmp_path / "clip"))},
        "tags_small": {"min_confidence": 1.0},
    }
    settings = settings_with(small)
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (6, 8, 3), np.uint8), np.ones((24, 24, 1), np.uint8))
    record = ImageRecord("0" * 64, pixels.shape[1], pixels.shape[0], "mine", "a.png", "", None, "train")
    whole = Region("dog", box=(0.0, 0.0, 192.0, 144.0), score=0.9)
    claims: dict[str, tuple[Annotation, ...]] = {
        "crowd": annotate("0" * 64, [Claim("<OD>", "dog", (whole,))], "x", "1")
    }
    done: dict[str, set[str]] = {}
    for one in list_annotators(settings):
        annotator, _ = make_annotator(settings, one.name)
        bind_labels(settings, one)
        annotator.load()
        known = tuple(row for name in ("crowd", *one.depends_on) for row in claims.get(name, ()))
        (answer,) = annotator.annotate(
            ImageBatch((record,), (pixels,), (known,) if "claims" in annotator.needs else ())
        )
        assert isinstance(answer, list), (one.name, answer)
        claims[one.name] = annotate("0" * 64, answer, one.name, one.version)
        done[one.name] = {claim.task for claim in answer}
    assert done["boxes"] == {"<OD>"} and done["masks"] == {"<REFERRING_EXPRESSION_SEGMENTATION>"}
    assert done["captioner"] == {"<CAPTION>", "<DENSE_REGION_CAPTION>"} == done["ranker"]
    assert set(make_annotator(settings, "names")[0].vocabulary()) <= {"cat", "dog", "traffic light", "cup"}


# ---------------------------------------------------------------- florence doctor


MODELS = [(f"annotators.{key}.model", section["model"], "main") for key, section in PHOTOS["annotators"].items()]


def test_without_a_network_doctor_says_so_once_for_all(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "find_cached_commit", lambda name, revision: "abc" if "siglip" in name else "")
    checks = list(hub.check_hub_models(MODELS))
    assert [check.name for check in checks] == [where for where, _, _ in MODELS]
    for check, (_, name, _) in zip(checks, MODELS, strict=True):
        assert name in check.found
        if "siglip" in name:
            assert check.status == "ok" and "at commit abc" in check.found
        else:
            assert check.status == "warn" and "the hub is not reached" in check.found, check


def test_a_model_that_the_hub_has_not_is_a_fault_and_one_that_it_has_is_told_with_its_licence(
    monkeypatch: pytest.MonkeyPatch,
):
    states = {"a/good": ("ok", "the hub has it, at commit 5, licence mit"), "a/bad": ("fail", "the hub has no such")}
    asked = []

    def ask(name: str, revision: str | None) -> tuple[str, str]:
        asked.append((name, revision))
        return states[name]

    monkeypatch.setattr(hub, "ask_hub", ask)
    checks = list(hub.check_hub_models([("x", "a/good", "v1"), ("y", "a/bad", None)]))
    assert [check.status for check in checks] == ["ok", "fail"] and asked == [("a/good", "v1"), ("a/bad", None)]
    assert "licence mit" in checks[0].found and "correct the name" in checks[1].remedy
