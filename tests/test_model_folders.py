"""Checkpoint folders: every tensor is checked before it is read, and damaged files are named with the remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub_models import checkpoint as hub_checkpoint
from model_folders import HEAD, LAYER, SHARED, Tensors, assert_alike, changed, check, drop, replace
from safetensors.torch import load_file, save_file

from florence.errors import ModelError
from florence.hub.models import load_model
from florence.hub.weight_files import INDEX, WEIGHTS
from florence.model.checkpoint import build, load


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def nano(tmp_path_factory) -> Path:
    """Return the folder of a small model in transformers' layout. Read only."""
    folder = tmp_path_factory.mktemp("nano") / "model"
    build("nano", image_size=64, seed=5).save(folder)
    return folder


# ---------------------------------------------------------------- tensors

NORM = "model.multi_modal_projector.image_proj_norm.weight"
FAULTS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "no decoder layers": (drop(LAYER), r"52 of 228 are missing \(model.language_model.decoder.layers.0"),
    "one tensor less": (drop(NORM), rf"1 of 228 are missing \({NORM}\)"),
    "no vision": (drop("model.vision_tower."), r"are missing \(model.vision_tower.blocks.0.0"),
    "no buffer": (drop("model.multi_modal_projector.visual"), "1 of 228 are missing"),
    "no embeddings": (drop(SHARED), "4 of 228 are missing"),
    "another layer": (
        lambda tensors: tensors.update({f"{LAYER}2.fc1.bias": torch.zeros(512)}),
        r"1 more are no part of it \(model.language_model.decoder.layers.2.fc1.bias\)",
    ),
    "an adapter": (
        lambda tensors: tensors.update({"base_model.model.lora_A.weight": torch.zeros(4, 4)}),
        "1 more are no part of it",
    ),
    "another shape": (replace(NORM, lambda t: t[:-1].clone()), rf"1 of 228 have another shape \({NORM} \(127,\) for"),
    "transposed": (
        replace("model.multi_modal_projector.image_projection.weight", lambda t: torch.zeros(128, 127)),
        "have another shape",
    ),
    "whole numbers": (replace(NORM, lambda t: t.to(torch.int8)), rf"1 of 228 are no floats \({NORM} I8\).*quantised"),
    "eight bits": (replace(NORM, lambda t: t.to(torch.float8_e4m3fn)), "are no floats.*F8_E4M3"),
    "NaN": (replace(NORM, lambda t: t * torch.nan), rf"1 weights hold NaN or infinity \({NORM}\)"),
    "infinity": (replace(f"{LAYER}0.fc1.bias", lambda t: t + torch.inf), "NaN or infinity .*fc1.bias"),
    "a head of its own": (
        lambda tensors: tensors.update({HEAD: tensors[SHARED] + 1}),
        f"{HEAD} and {SHARED} differ.*tie_word_embeddings",
    ),
    "other names": (
        lambda tensors: [tensors.update({f"module.{name}": tensors.pop(name)}) for name in list(tensors)],
        "228 of 228 are missing.*225 more are no part of it.*another library's names",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_the_model_s_are_refused_by_name(fault: str, nano: Path, tmp_path: Path):
    change, message = FAULTS[fault]
    with pytest.raises(ModelError, match=message):
        check(changed(nano, tmp_path / "model", change))


def test_one_of_tied_weights_is_enough_whichever_it_is(nano: Path, tmp_path: Path):
    folders = [nano]
    for number, name in enumerate(
        (HEAD, "model.language_model.encoder.embed_tokens.weight", "model.language_model.decoder.embed_tokens.weight")
    ):
        folder = changed(
            nano, tmp_path / str(number), lambda tensors, name=name: tensors.update({name: tensors.pop(SHARED)})
        )
        folders.append(Path(folder))
    both = changed(nano, tmp_path / "both", lambda tensors: tensors.update({HEAD: tensors[SHARED].clone()}))
    assert_alike(*folders, both)


def test_a_model_saved_without_its_head_is_read(nano: Path, tmp_path: Path):
    def strip(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    assert_alike(changed(nano, tmp_path / "base", strip), nano)
    with pytest.raises(ModelError, match=r"1 of 228 are missing \(language_model.encoder.layernorm_embedding.bias\)"):
        check(changed(tmp_path / "base", tmp_path / "less", drop("language_model.encoder.layernorm_embedding.bias")))


def test_a_config_that_does_not_fit_its_weights_is_refused(nano: Path, tmp_path: Path):
    for number, (section, name, value, message) in enumerate(
        (
            ("text_config", "decoder_layers", 3, "26 of 254 are missing"),
            ("text_config", "decoder_layers", 1, "26 more are no part of it"),
            ("text_config", "vocab_size", 5000, "have another shape"),
            ("vision_config", "embed_dim", [32, 64, 96, 64], "have another shape"),
            ("vision_config", "num_heads", [2, 4], "no model that can be built"),
            ("text_config", "tie_word_embeddings", "nonsense", "config"),
            ("text_config", "encoder_layers", 10**6, r"1,000,00\d layers, and there are 225 tensors"),
            ("text_config", "activation_function", "bogus", "no model that can be built"),
            ("text_config", "decoder_start_token_id", 10**7, "of .*10000000.* some are no token"),
            ("text_config", "decoder_start_token_id", None, "some are no token"),
            ("text_config", "pad_token_id", 10**7, "no model that can be built"),
            ("vision_config", "window_size", 0, "no model that can be built .*zero"),
            ("vision_config", "num_heads", [3, 3, 3, 3], "no model that can be built .*shape"),
        )
    ):
        folder = shutil.copytree(nano, tmp_path / str(number))
        values = json.loads((folder / "config.json").read_text())
        values[section][name] = value
        (folder / "config.json").write_text(json.dumps(values))
        with pytest.raises(ModelError, match=message):
            check(folder)


# ---------------------------------------------------------------- files


def cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) * 2 // 3])


def shard(folder: Path, lost: bool = True) -> None:
    """Write the weights in three shards with an index; the second is lost."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    index = {}
    for number in range(3):
        file = f"model-0000{number + 1}-of-00003.safetensors"
        part = {name: tensors[name] for name in names[number::3]}
        index |= dict.fromkeys(part, file)
        if not lost or number != 1:
            save_file(part, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


def pickle_instead(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def no_index(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).unlink()


def index_elsewhere(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"a": "../other/model.safetensors"}}))


def index_without_metadata(folder: Path) -> None:
    shard(folder, lost=False)
    (folder / INDEX).write_text(json.dumps({"weight_map": json.loads((folder / INDEX).read_text())["weight_map"]}))


def change_images(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        values = json.loads((folder / "processor_config.json").read_text())
        values["image_processor"] |= changes
        (folder / "processor_config.json").write_text(json.dumps(values))

    return change


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, r"model.safetensors cannot be read: it ends after [\d,]+ bytes"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "it ends after 0 bytes"),
    "a web page": (lambda f: (f / WEIGHTS).write_bytes(b"<!DOCTYPE html><html>" * 40), "no safetensors file"),
    "git lfs": (
        lambda f: (f / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "git lfs pull",
    ),
    "lost shard": (shard, r"lacks 1 of 3 shards of weights \(model-00002-of-00003.safetensors\)"),
    "no index": (no_index, "neither model.safetensors nor model.safetensors.index.json"),
    "index elsewhere": (index_elsewhere, "no index of weights"),
    "broken index": (lambda f: (shard(f), (f / INDEX).write_text("{")), "no index of weights"),
    "a pickle": (pickle_instead, "pytorch_model.bin, which may be a pickle and is not read.*save_pretrained"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "has no weights"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "index without metadata": (index_without_metadata, "no index of weights .*metadata"),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text('{"peft_type": "LORA"}'), "merge_and_unload"),
    "a deep config": (
        lambda f: (f / "config.json").write_text('{"a":' + "[" * 9999 + "]" * 9999 + "}"),
        "config.json cannot be read",
    ),
    "no number": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace("float32", "float99")),
        "no configuration of Florence-2",
    ),
    "tokenizer of nothing": (lambda f: (f / "tokenizer.json").write_text("null"), "no tokenizer can be read"),
    "settings of no tokenizer": (lambda f: (f / "tokenizer_config.json").write_text("[]"), "no tokenizer can be read"),
    "no size": (change_images(size={"height": 0, "width": 0}), "no image processor .*size 0"),
    "one mean": (change_images(image_mean=[0.5]), "no image processor .*image_mean"),
    "no deviation": (change_images(image_std=[0, 1, 1]), "no image processor .*image_std"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
    "no tokenizer": (
        lambda f: [path.unlink() for path in f.glob("tokenizer*")],
        "no tokenizer can be read",
    ),
    "no processor": (lambda f: (f / "processor_config.json").unlink(), "no image processor"),
    "another model": (
        lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
        "'bert' model, no Florence-2",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_are_missing_or_damaged_are_named_with_the_remedy(damage: str, nano: Path, tmp_path: Path):
    make, message = DAMAGES[damage]
    folder = shutil.copytree(nano, tmp_path / "model")
    make(folder)
    with pytest.raises(ModelError, match=message):
        load(str(folder))


def test_shards_are_read_as_one(nano: Path, tmp_path: Path):
    folder = shutil.copytree(nano, tmp_path / "model")
    shard(folder, lost=False)
    assert_alike(folder, nano)


# ---------------------------------------------------------------- models of annotators

CLASS = "AutoModelForObjectDetection"


def test_a_hub_model_whose_settings_cannot_be_used_is_refused(tmp_path: Path):
    source = Path(hub_checkpoint("detr"))
    values = json.loads((source / "config.json").read_text())
    changes = ({"d_model": "a"}, {"d_model": 0}, {"d_model": None}, {"activation_function": "bogus"})
    texts = [json.dumps(values | change) for change in (*changes, {"id2label": {"a": "b"}})]
    for number, text in enumerate([*texts, "", "[]", "null", "{"]):
        folder = shutil.copytree(source, tmp_path / str(number))
        (folder / "config.json").write_text(text)
        with pytest.raises(ModelError, match=f"{folder} cannot be loaded by {CLASS} .*whole checkpoint"):
            load_model(CLASS, str(folder), None, "cpu")


def test_a_hub_model_whose_weights_are_not_whole_is_refused(tmp_path: Path):
    source = Path(hub_checkpoint("detr"))
    assert load_model(CLASS, str(source), None, "cpu") is not None
    head = "class_labels_classifier.weight"
    faults: dict[str, tuple[Callable[[Tensors], object], str]] = {
        "missing": (drop(head), rf"1 weights are missing \({head}\)"),
        "shape": (replace(head, lambda t: t[:-1].clone()), rf"1 weights have another shape \({head} \(5, 32\) for"),
        "nan": (replace(head, lambda t: t * torch.nan), "NaN or infinity"),
        "deeper": (
            lambda tensors: tensors.update({"model.decoder.layers.1.self_attn.k_proj.bias": torch.zeros(32)}),
            "1 weights are of layers that its config.json does not have",
        ),
    }
    for name, (change, message) in faults.items():
        with pytest.raises(ModelError, match=message):
            load_model(CLASS, changed(source, tmp_path / name, change), None, "cpu")
    for name, (damage, message) in DAMAGES.items():
        if name in ("cut", "empty", "git lfs", "lost shard", "a pickle", "no weights"):
            folder = shutil.copytree(source, tmp_path / name)
            damage(folder)
            with pytest.raises(ModelError, match=message):
                load_model(CLASS, str(folder), None, "cpu")
