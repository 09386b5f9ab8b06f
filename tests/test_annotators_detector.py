"""Detectors of the transformers library, against the library's own results for one picture."""

from __future__ import annotations

import json
import re
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
import yaml
from hub_models import DETECTORS, LABELS, bert_tokenizer, checkpoint
from PIL import Image

from florence.annotators import ANNOTATORS, ImageBatch
from florence.errors import FlorenceError, ModelError, SettingsError
from florence.hub.models import load_config, load_model, load_processor, weights_version
from florence.images import decode_image
from florence.imaging.boxes import object_claims, suppress_overlaps
from florence.records import Claim, ImageRecord

HOPEFUL = {"threshold": 0.05, "nms_iou": 1.0, "most": 1000}


def record(pixels: np.ndarray, name: str = "x.png") -> ImageRecord:
    return ImageRecord("0" * 64, pixels.shape[1], pixels.shape[0], "mine", name, "", None, "train")


def batch(*pictures: np.ndarray) -> ImageBatch:
    return ImageBatch(tuple(record(p, f"{i}.png") for i, p in enumerate(pictures)), pictures)


def make_detector(architecture: str, **options: Any):
    found = ANNOTATORS.get("detector")(name="objects", **{"model": checkpoint(architecture), **options})
    found.load()
    return found


@lru_cache(maxsize=1)
def pictures() -> tuple[np.ndarray, ...]:
    """Return a photo at odd sizes, upright and lying, a grey one, a noisy one and a very small one."""
    import skimage

    with Image.open(Path(skimage.__path__[0]) / "data/chelsea.png") as image:
        photo = image.convert("RGB")
        sizes = [np.asarray(photo.resize(size)) for size in ((131, 97), (83, 140), (131, 97))]
        grey = np.repeat(np.asarray(photo.convert("L").resize((60, 61)))[..., None], 3, axis=2)
    return (
        *sizes[:2],
        np.ascontiguousarray(sizes[2][:, ::-1]),
        grey,
        np.random.default_rng(0).integers(0, 255, (3, 6, 3), dtype=np.uint8),
    )


def by_the_library(
    architecture: str, pixels: np.ndarray, threshold: float
) -> list[tuple[float, str, tuple[float, ...]]]:
    """Return (score, label, box inside the image) of model, processor and post-processing called directly."""
    processor, model = (
        hf.AutoImageProcessor.from_pretrained(checkpoint(architecture)),
        hf.AutoModelForObjectDetection.from_pretrained(checkpoint(architecture)).eval(),
    )
    height, width = pixels.shape[:2]
    with torch.no_grad():
        output = model(**processor(images=Image.fromarray(pixels), return_tensors="pt"))
    (found,) = processor.post_process_object_detection(output, threshold=threshold, target_sizes=[(height, width)])
    rows = []
    for score, label, (x0, y0, x1, y1) in zip(
        found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist(), strict=True
    ):
        box = (min(max(x0, 0), width), min(max(y0, 0), height), min(max(x1, 0), width), min(max(y1, 0), height))
        if model.config.id2label[label] != "N/A" and box[0] < box[2] and box[1] < box[3]:
            rows.append((score, model.config.id2label[label], box))
    return sorted(set(rows), key=lambda row: (-row[0], row[1:]))


def rows(claims: list[Claim]) -> list[tuple[float, str, tuple[float, ...]]]:
    for claim in claims:
        (region,) = claim.regions
        assert claim.task == "<OD>" and region.label == claim.text and region.score == claim.score
    return [(claim.score, claim.text, claim.regions[0].box) for claim in claims]


@pytest.mark.parametrize("architecture", DETECTORS)
def test_it_says_what_the_library_says_of_each_picture_alone(architecture: str):
    found = make_detector(architecture, **HOPEFUL).annotate(batch(*pictures()[:4]))
    assert len({str(rows(claims)) for claims in found}) == 4, "all pictures get one answer: the test tells nothing"
    for pixels, claims in zip(pictures(), found, strict=False):
        expected = by_the_library(architecture, pixels, HOPEFUL["threshold"])
        assert expected and [row[1] for row in rows(claims)] == [row[1] for row in expected]
        np.testing.assert_allclose([row[0] for row in rows(claims)], [row[0] for row in expected], rtol=1e-6)
        np.testing.assert_allclose([row[2] for row in rows(claims)], [row[2] for row in expected], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("architecture", DETECTORS)
def test_the_others_in_the_batch_change_nothing(architecture: str):
    detector = make_detector(architecture, threshold=0.05)
    together = detector.annotate(batch(*pictures()[:4]))
    assert detector.annotate(batch(*pictures()[3::-1])) == together[::-1]
    assert [detector.annotate(batch(pixels))[0] for pixels in pictures()[:4]] == together


@pytest.mark.parametrize("architecture", ["detr", "yolos", "d_fine"])
def test_pictures_of_one_size_can_go_together_as_on_a_gpu(architecture: str):
    detector = make_detector(architecture, **HOPEFUL)
    same = batch(pictures()[0], pictures()[2])
    both = detector._detect(same.records, [detector._network_input(pixels) for pixels in same.pixels])
    for claims, one_by_one in zip(both, detector.annotate(same), strict=True):
        assert [row[1] for row in rows(claims)] == [row[1] for row in rows(one_by_one)]
        np.testing.assert_allclose([row[2] for row in rows(claims)], [row[2] for row in rows(one_by_one)], atol=1e-2)


def test_sizes_are_kept_apart_where_pictures_go_together():
    from florence.annotators.detector import _group_by_size

    given = [make_detector("detr")._network_input(pixels) for pixels in pictures()[:3]]
    assert _group_by_size([*given, ModelError("broken"), given[1]], one_by_one=False) == [[0, 2], [1, 4]]
    assert _group_by_size([*given, ModelError("broken")], one_by_one=True) == [[0], [1], [2]]


def test_files_of_one_grey_channel_and_of_three_pixels_height_are_read(tmp_path: Path):
    Image.fromarray(pictures()[3][..., 0]).save(tmp_path / "grey.png")
    pixels = decode_image((tmp_path / "grey.png").read_bytes(), "grey.png")
    detector = make_detector("rt_detr", **HOPEFUL)
    assert rows(detector.annotate(batch(pixels))[0]) == rows(detector.annotate(batch(pictures()[3]))[0]) != []
    low = detector.annotate(batch(pictures()[4]))[0]
    np.testing.assert_allclose(
        [row[2] for row in rows(low)],
        [row[2] for row in by_the_library("rt_detr", pictures()[4], HOPEFUL["threshold"])],
        atol=1e-4,
    )
    assert low


def test_a_picture_that_the_model_can_not_take_costs_itself_alone():
    thin = np.zeros((1, 5000, 3), np.uint8)
    detector = make_detector("detr", threshold=0.05)
    first, failed, last = detector.annotate(batch(pictures()[0], thin, pictures()[1]))
    assert isinstance(failed, ModelError) and "1.png (5000 × 1 pixels)" in str(failed)
    assert [first, last] == detector.annotate(batch(*pictures()[:2]))


def test_names_are_changed_and_dropped_and_unused_labels_are_never_claimed():
    plain = make_detector("yolos", **HOPEFUL)
    assert plain.vocabulary() == ("cat", "cup", "dog", "traffic light")
    changed = make_detector("yolos", **HOPEFUL, names={"traffic light": "lamp", "dog": "cat", "cat": None})
    assert changed.vocabulary() == ("cat", "cup", "lamp")
    labels, other = (
        [row for claims in found.annotate(batch(*pictures()[:4])) for row in rows(claims)] for found in (plain, changed)
    )
    assert {label for _, label, _ in labels} == {"cat", "cup", "dog", "traffic light"}
    renamed = {"traffic light": "lamp", "dog": "cat", "cup": "cup"}
    assert sorted(other) == sorted((score, renamed[label], box) for score, label, box in labels if label != "cat")


def test_boxes_of_two_labels_of_one_name_that_overlap_are_one_object():
    twice = make_detector(
        "conditional_detr", threshold=0.05, nms_iou=0.999, names={"cup": "cat", "dog": "cat"}
    ).annotate(batch(pictures()[0]))[0]
    once = make_detector("conditional_detr", threshold=0.05, nms_iou=0.999).annotate(batch(pictures()[0]))[0]
    boxes = [claim.regions[0].box for claim in twice if claim.text == "cat"]
    assert len(boxes) == len(set(boxes)) and sum(claim.text in ("cat", "dog", "cup") for claim in once) > len(boxes)


def test_a_name_for_a_label_that_the_model_does_not_have_is_refused():
    with pytest.raises(SettingsError, match=r"annotators\.objects\.names.*no label 'horse'; it has N/A, cat, cup"):
        make_detector("rt_detr", names={"horse": "pony"})


def test_vocabulary_and_version_need_no_weights(tmp_path: Path):
    folder = tmp_path / "hollow"
    shutil.copytree(checkpoint("detr"), folder)
    (folder / "model.safetensors").write_bytes(b"nothing that could be read")
    detector = ANNOTATORS.get("detector")(name="objects", model=str(folder))
    assert set(detector.vocabulary()) == set(LABELS) - {"N/A"} and len(detector.version) == 12
    with pytest.raises(ModelError, match="hollow/model.safetensors cannot be read"):
        detector.load()


def test_the_version_follows_the_files_of_a_folder_and_the_revision_of_a_name(tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("detr"), folder)
    detector = ANNOTATORS.get("detector")(name="objects", model=str(folder))
    before = detector.version
    settings = (folder / "preprocessor_config.json").read_text()
    (folder / "preprocessor_config.json").write_text(settings.replace("160", "192"))
    assert detector.version != before
    assert weights_version("someone/model", "abc") == "someone/model@abc" != weights_version("someone/model", None)


# ---------------------------------------------------------------- what is refused


def read_refusal(model: str) -> str:
    detector = ANNOTATORS.get("detector")(name="objects", model=model)
    with pytest.raises(ModelError) as error:
        assert detector.version
        detector.load()
    return str(error.value)


def test_a_checkpoint_of_another_class_is_refused():
    assert "AutoModelForObjectDetection" in read_refusal(checkpoint("sam")) and "SamConfig" in read_refusal(
        checkpoint("sam")
    )


def test_a_checkpoint_without_its_heads_is_refused(tmp_path: Path):
    hf.AutoModelForObjectDetection.from_pretrained(checkpoint("detr")).model.save_pretrained(tmp_path)
    shutil.copy(Path(checkpoint("detr")) / "preprocessor_config.json", tmp_path)
    assert re.search(r"no whole checkpoint.*(bbox_predictor|class_labels_classifier)", read_refusal(str(tmp_path)))


def test_a_configuration_of_more_layers_than_there_are_tensors_is_refused_at_once(tmp_path: Path):
    shutil.copytree(checkpoint("detr"), tmp_path / "model")
    path = tmp_path / "model/config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "encoder_layers": 100_000}))
    assert "100,000 layers, and there are" in read_refusal(str(tmp_path / "model"))
    path.write_text(
        json.dumps({**values, "backbone_config": {**values["backbone_config"], "depths": [1, 1, 1, 50_000]}})
    )
    assert "50,003 layers, and there are" in read_refusal(str(tmp_path / "model"))


def test_weights_that_would_have_to_be_unpickled_are_refused(tmp_path: Path):
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(Path(checkpoint("detr")) / name, tmp_path)
    torch.save(
        hf.AutoModelForObjectDetection.from_pretrained(checkpoint("detr")).state_dict(), tmp_path / "pytorch_model.bin"
    )
    assert re.search(
        r"weights in \.safetensors files; found config\.json, preprocessor_config\.json, pytorch_model\.bin",
        read_refusal(str(tmp_path)),
    )
    with pytest.raises(ModelError, match="safetensors"):
        load_model("AutoModelForObjectDetection", str(tmp_path), None, "cpu")


def test_a_folder_without_a_processor_and_a_backbone_of_timm_are_refused(tmp_path: Path):
    bare, timm = tmp_path / "bare", tmp_path / "timm"
    shutil.copytree(checkpoint("detr"), bare)
    (bare / "preprocessor_config.json").unlink()
    assert "AutoImageProcessor" in read_refusal(str(bare)) and "whole checkpoint" in read_refusal(str(bare))
    shutil.copytree(checkpoint("detr"), timm)
    hf.DetrConfig(backbone="resnet50", use_timm_backbone=True, id2label={0: "cat"}).save_pretrained(timm)
    assert "timm" in read_refusal(str(timm))


def test_a_processor_that_gives_no_boxes_is_refused(tmp_path: Path):
    shutil.copytree(checkpoint("detr"), tmp_path / "model")
    hf.ViTImageProcessorPil().save_pretrained(tmp_path / "model")
    assert "gives no boxes" in read_refusal(str(tmp_path / "model"))


def test_a_hub_that_cannot_be_reached_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (
        lambda: load_config("nobody/nothing", None),
        lambda: load_processor("AutoTokenizer", "nobody/nothing", "abc"),
    ):
        with pytest.raises(ModelError, match=r"nobody/nothing cannot be loaded.*is the hub reached"):
            load()
    assert load_processor("AutoTokenizer", str(_tokenizer()), None)("a cat").input_ids[0] == 101


def _tokenizer() -> Path:
    folder = Path(checkpoint("detr")).parent / "tokenizer"
    bert_tokenizer().save_pretrained(folder)
    return folder


def test_scores_that_are_no_numbers_are_an_error_and_half_precision_is_not(tmp_path: Path):
    broken, half = tmp_path / "broken", tmp_path / "half"
    model = hf.AutoModelForObjectDetection.from_pretrained(checkpoint("rt_detr"))
    for folder in (half, broken):
        shutil.copytree(checkpoint("rt_detr"), folder)
    model.half().save_pretrained(half)
    detector = ANNOTATORS.get("detector")(name="objects", model=str(half))
    detector.load()
    assert detector.annotate(batch(pictures()[0]))[0]
    with torch.no_grad():
        model.model.decoder.class_embed[-1].bias.fill_(float("nan"))
    model.save_pretrained(broken)
    with pytest.raises(ModelError, match="NaN or infinity"):
        ANNOTATORS.get("detector")(name="objects", model=str(broken)).load()
    with torch.no_grad():
        detector._network.model.decoder.class_embed[-1].bias.fill_(float("nan"))
    (failed,) = detector.annotate(batch(pictures()[0]))
    assert isinstance(failed, FlorenceError) and "not numbers" in str(failed) and "0.png" in str(failed)


def test_a_device_that_is_not_there_is_refused():
    detector = ANNOTATORS.get("detector")(name="objects", model=checkpoint("detr"))
    detector.device = "cuda:7"
    with pytest.raises(ModelError, match="cuda:7"):
        detector.load()


# ---------------------------------------------------------------- boxes


def test_of_boxes_under_one_name_the_best_is_kept():
    found = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 9]], float)
    names = ["cat", "cat", "dog", "cat", "dog"]
    claims = object_claims(found, np.array([0.5, 0.9, 0.4, 0.3, 0.6]), names, 100, 100, 0.5, 10)
    assert rows(claims) == [(0.9, "cat", (1, 0, 11, 10)), (0.6, "dog", (0, 0, 10, 9)), (0.3, "cat", (50, 50, 60, 60))]
    assert rows(object_claims(found, np.array([0.5, 0.9, 0.4, 0.3, 0.6]), names, 100, 100, 0.5, 2)) == rows(claims)[:2]
    assert object_claims(np.zeros((0, 4)), np.zeros(0), [], 100, 100, 0.5, 10) == []


def test_boxes_are_cut_to_the_image_and_those_outside_or_without_numbers_are_left_out():
    found = np.array(
        [
            [-5, -5, 20, 20],
            [90, 10, 130, 20],
            [101, 10, 120, 20],
            [30, 30, 30, 40],
            [np.nan, 0, 10, 10],
            [40, 40, 50, 50],
            [60, 60, 70, np.inf],
            [80, 80, 70, 70],
        ]
    )
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, np.nan, 0.3, 1.01])
    assert suppress_overlaps(found, scores, 100, 50, 0.5, 10) == [((0, 0, 20, 20), 0.9), ((90, 10, 100, 20), 0.8)]


def test_the_order_of_equals_does_not_follow_the_networks_order():
    found = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]], float)
    reversed_boxes = suppress_overlaps(found[::-1], np.full(3, 0.5), 100, 100, 0.5, 2)
    assert (
        reversed_boxes
        == suppress_overlaps(found, np.full(3, 0.5), 100, 100, 0.5, 2)
        == [((0, 0, 10, 10), 0.5), ((20, 20, 30, 30), 0.5)]
    )


def test_the_documents_settings_are_taken_by_these_annotators():
    text = (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8")
    seen = set()
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S):
        for name, section in yaml.safe_load(block).get("annotators", {}).items():
            if section["use"] in ANNOTATORS.names():
                options = {
                    key: value
                    for key, value in section.items()
                    if key not in ("use", "sources", "device", "required", "family", "complete")
                }
                ANNOTATORS.get(section["use"])(name=name, **options)
                seen.add(section["use"])
    assert {"detector", "grounder", "segmenter", "onnx_detector"} <= seen
