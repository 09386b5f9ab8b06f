"""Checkpoint folders: every tensor is checked before it is read, and the layout first published is read and written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import published
import pytest
import torch
from hub_models import checkpoint as hub_checkpoint
from safetensors.torch import load_file, save_file

from florence.errors import ModelError
from florence.hub.models import REPUBLISHED, load_config, load_model
from florence.hub.weight_files import INDEX, WEIGHTS
from florence.model import convert
from florence.model.checkpoint import build, load
from florence.model.folders import open_folder
from florence.model.generate import Query, predict
from florence.model.older_layout import ADDED_TOKENS, is_older_config, new_name, older_name

Tensors = dict[str, torch.Tensor]
LAYER = "model.language_model.decoder.layers."
SHARED, HEAD = "model.language_model.shared.weight", "lm_head.weight"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def nano(tmp_path_factory) -> Path:
    """Return the folder of a small model in transformers' layout. Read only."""
    folder = tmp_path_factory.mktemp("nano") / "model"
    build("nano", image_size=64, seed=5).save(folder)
    return folder


def changed(source: Path, target: Path, change: Callable[[Tensors], object]) -> str:
    """Copy a checkpoint with its tensors changed."""
    shutil.copytree(source, target)
    tensors = load_file(target / WEIGHTS)
    change(tensors)
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    return str(target)


def picture() -> list[np.ndarray]:
    return [np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)]


def assert_alike(*folders: Path | str) -> None:
    """Check that models answer the same; where a tensor lies in memory may change the last digits of a score."""
    queries = [Query(0, "<OD>"), Query(0, "<CAPTION>")]
    found = [predict(load(str(folder)), picture(), queries, max_tokens=12) for folder in folders]
    texts, scores = ([[getattr(a, part) for a in answers] for answers in found] for part in ("text", "score"))
    assert all(text == texts[0] for text in texts) and np.allclose(scores, scores[:1], rtol=1e-5, atol=0)


def check(folder: Path | str) -> None:
    """Do what `load` does to find out whether a checkpoint is whole."""
    open_folder(str(folder)).load_model()


# ---------------------------------------------------------------- tensors


def drop(start: str) -> Callable[[Tensors], object]:
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(start)]


def replace(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: make(tensors[name])})


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


# ---------------------------------------------------------------- the layout first published


def test_names_of_tensors_in_both_layouts(nano: Path):
    """Pairs written down from the published checkpoint and transformers' conversion of it; all others go both ways."""
    block = "vision_tower.blocks.2.0."
    pairs = {
        "image_projection": "model.multi_modal_projector.image_projection.weight",
        "image_proj_norm.bias": "model.multi_modal_projector.image_proj_norm.bias",
        "image_pos_embed.row_embeddings.weight": (
            "model.multi_modal_projector.image_position_embed.row_embeddings.weight"
        ),
        "visual_temporal_embed.pos_idx_to_embed": "model.multi_modal_projector.visual_temporal_embed.pos_idx_to_embed",
        "language_model.model.shared.weight": "model.language_model.shared.weight",
        "language_model.lm_head.weight": "lm_head.weight",
        "language_model.model.decoder.layers.1.encoder_attn.k_proj.bias": (
            "model.language_model.decoder.layers.1.encoder_attn.k_proj.bias"
        ),
        "vision_tower.convs.3.proj.weight": "model.vision_tower.convs.3.conv.weight",
        "vision_tower.convs.3.norm.weight": "model.vision_tower.convs.3.norm.weight",
        f"{block}spatial_block.conv1.fn.dw.weight": f"model.{block}spatial_block.conv1.weight",
        f"{block}spatial_block.window_attn.norm.bias": f"model.{block}spatial_block.norm1.bias",
        f"{block}spatial_block.window_attn.fn.qkv.weight": f"model.{block}spatial_block.window_attn.qkv.weight",
        f"{block}channel_block.channel_attn.norm.bias": f"model.{block}channel_block.norm1.bias",
        f"{block}channel_block.channel_attn.fn.proj.bias": f"model.{block}channel_block.channel_attn.proj.bias",
        f"{block}channel_block.ffn.norm.weight": f"model.{block}channel_block.norm2.weight",
        f"{block}channel_block.ffn.fn.net.fc2.weight": f"model.{block}channel_block.ffn.fc2.weight",
    }
    assert {older: new_name(older) for older in pairs} == pairs
    assert {older_name(new): new for new in pairs.values()} == pairs
    names = list(load_file(nano / WEIGHTS))
    assert [new_name(older_name(name)) for name in names] == names
    assert len({older_name(name) for name in names}) == len(names)
    assert ADDED_TOKENS == published.MARKS


OLDER_CONFIG = {
    "_name_or_path": "florence2",
    "architectures": ["Florence2ForConditionalGeneration"],
    "auto_map": {"AutoConfig": "configuration_florence2.Florence2Config"},
    "ignore_index": -100,
    "model_type": "florence2",
    "torch_dtype": "float16",
    "vocab_size": 51289,
    "projection_dim": 96,
    "text_config": {
        **published.TEXT,
        "model_type": "florence2_language",
        "vocab_size": 51289,
        "add_bias_logits": False,
        "normalize_before": False,
        "num_beams": 3,
        "no_repeat_ngram_size": 3,
        "early_stopping": True,
        "label2id": {"LABEL_0": 0},
        "gradient_checkpointing": False,
    },
    "vision_config": {
        **{name: value for name, value in published.VISION.items() if not name.startswith("max_")},
        "model_type": "davit",
        "enable_checkpoint": False,
        "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": 100},
        "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": 50},
        "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
    },
}
"""As ``microsoft/Florence-2-base`` has it, at the sizes of `published`."""
OLDER_CONFIG["vision_config"]["dim_embed"] = OLDER_CONFIG["vision_config"].pop("embed_dim")


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """Return one model as it was first published and as transformers' conversion has it."""
    folder = tmp_path_factory.mktemp("both")
    new, older = published.write(folder / "new", seed=3), folder / "older"
    older.mkdir()
    tensors = {}
    for name, tensor in load_file(new / WEIGHTS).items():
        tensor = tensor[:51289] if name.endswith("shared.weight") else tensor
        tensors[older_name(name)] = (tensor.T if name.endswith("image_projection.weight") else tensor).contiguous()
    tensors["language_model.final_logits_bias"] = torch.zeros(1, 51289, dtype=torch.float16)
    save_file(tensors, older / WEIGHTS, metadata={"format": "pt"})
    (older / "config.json").write_text(json.dumps(OLDER_CONFIG))
    images = {**published.IMAGE_PROCESSOR, "auto_map": {"AutoProcessor": "processing_florence2.Florence2Processor"}}
    (older / "preprocessor_config.json").write_text(json.dumps(images))
    (older / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    words = json.loads((new / "tokenizer.json").read_text(encoding="utf-8"))
    words["added_tokens"] = [token for token in words["added_tokens"] if token["id"] < 50265]
    (older / "tokenizer.json").write_text(json.dumps(words))
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(new / name, older)
    return older, new


def test_the_layout_first_published_answers_as_transformers_conversion(both):
    older, new = (load(str(folder), image_size=96) for folder in both)
    assert len(older.tokenizer) == len(new.tokenizer) == 51290
    assert older.tokenizer.get_vocab() == new.tokenizer.get_vocab()
    assert older.model.config.image_token_id == new.model.config.image_token_id == 51289
    for name, value in published.GENERATION.items():
        assert getattr(older.model.generation_config, name) == value, name
    kept = ("vision_config", "text_config")
    ours, theirs = older.model.config.to_dict(), new.model.config.to_dict()
    differ = {
        name: (ours[part].get(name), theirs[part].get(name))
        for part in kept
        for name in theirs[part]
        if name not in ("dtype", "vocab_size") and ours[part].get(name) != theirs[part].get(name)
    }
    assert not differ
    queries = [Query(0, "<OD>"), Query(0, "<CAPTION>"), Query(0, "<OCR_WITH_REGION>")]
    one, two = (predict(model, picture(), queries, max_tokens=10) for model in (older, new))
    assert [answer.text for answer in one] == [answer.text for answer in two]
    assert np.allclose([answer.score for answer in one], [answer.score for answer in two], rtol=1e-6)


def test_both_directions_keep_every_tensor_to_the_byte(both, nano: Path, tmp_path: Path):
    older, _ = both
    convert.write_native(str(older), tmp_path / "native")
    convert.write_older(str(tmp_path / "native"), tmp_path / "back")
    before, after = load_file(older / WEIGHTS), load_file(tmp_path / "back" / WEIGHTS)
    before.pop("language_model.final_logits_bias")  # zero, and no part of transformers' model
    assert_same(before, after)
    rows = load_file(tmp_path / "native" / WEIGHTS)[SHARED]
    assert len(rows) == published.ROWS and rows.dtype == torch.float16
    convert.write_older(str(nano), tmp_path / "nano older")
    convert.write_native(str(tmp_path / "nano older"), tmp_path / "nano")
    assert_same(load_file(nano / WEIGHTS), load_file(tmp_path / "nano" / WEIGHTS))
    assert_alike(tmp_path / "nano", tmp_path / "nano older", nano)


def assert_same(one: Tensors, two: Tensors) -> None:
    assert one.keys() == two.keys()
    assert all(one[name].dtype == two[name].dtype and torch.equal(one[name], two[name]) for name in one)


def test_transformers_reads_what_was_converted(both, tmp_path: Path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    assert convert.main([str(both[0]), str(tmp_path / "native")]) == 0
    model, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "native", output_loading_info=True)
    assert not any(report.values())
    assert model.generation_config.no_repeat_ngram_size == 3
    processor = AutoProcessor.from_pretrained(tmp_path / "native")
    assert processor.num_image_tokens == 577
    assert processor(text="<OD>", images=picture()[0]).input_ids[0].count(51289) == 577


def test_the_older_layout_is_checked_by_its_own_names(nano: Path, tmp_path: Path, capsys):
    older = tmp_path / "older"
    convert.write_older(str(nano), older)
    bias = "language_model.final_logits_bias"
    name = "vision_tower.blocks.0.0.spatial_block.window_attn.fn.qkv.weight"
    for number, (change, message) in enumerate(
        (
            (drop(name), rf"1 of 228 are missing \({name}\)"),
            (
                replace("image_projection", lambda t: torch.zeros(128, 64)),
                r"have another shape \(image_projection \(128, 64\) for \(128, 128\)\)",
            ),
            (lambda tensors: tensors.update({bias: torch.ones(1, 4592)}), f"{bias} is not zero"),
            (lambda tensors: tensors.update({"vision_tower.head.weight": torch.ones(3)}), "1 more are no part of it"),
        )
    ):
        with pytest.raises(ModelError, match=message):
            check(changed(older, tmp_path / str(number), change))
    with pytest.raises(ModelError, match="image_feature_source"):
        check(with_config(older, tmp_path / "pools", "image_feature_source", ["last_frame"]))
    with pytest.raises(ModelError, match="visual_temporal_embedding"):
        check(with_config(older, tmp_path / "time", "visual_temporal_embedding", {"type": "LEARNED"}))
    assert convert.main([str(tmp_path / "0"), str(tmp_path / "out")]) == 1
    assert "are missing" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert convert.main([str(older), str(nano)]) == 1
    assert "is there already" in capsys.readouterr().err


def with_config(source: Path, target: Path, name: str, value: object) -> Path:
    shutil.copytree(source, target)
    values = json.loads((target / "config.json").read_text())
    values["vision_config"][name] = value
    (target / "config.json").write_text(json.dumps(values))
    return target


def test_names_or_configuration_alone_may_be_older(both, nano: Path, tmp_path: Path):
    """Weights converted by one program, config.json by none, and the other way about."""
    mixed = shutil.copytree(nano, tmp_path / "names")
    convert.write_older(str(nano), tmp_path / "older")
    shutil.copy(tmp_path / "older" / WEIGHTS, mixed)
    shutil.copy(nano / WEIGHTS, tmp_path / "older")
    assert_alike(mixed, tmp_path / "older", nano)


def test_configurations_are_told_apart(nano: Path):
    assert is_older_config(OLDER_CONFIG)
    assert is_older_config({"model_type": "florence2", "auto_map": OLDER_CONFIG["auto_map"]})
    assert not is_older_config(json.loads((nano / "config.json").read_text()))
    assert not is_older_config({"model_type": "bart"}) and not is_older_config({"vision_config": 3})
    assert open_folder(str(nano)).is_older is False


def test_names_on_the_hub_that_exist_in_both_layouts_are_told(nano: Path, monkeypatch, tmp_path: Path, caplog):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name, other in REPUBLISHED.items():
        with pytest.raises(ModelError, match=f"{name}' cannot be fetched.*published as {other}"):
            open_folder(name)
        with pytest.raises(ModelError, match=f"{name} cannot be loaded.*{other} has the same weights"):
            load_model("AutoModelForImageTextToText", name, None, "cpu")
    cached = tmp_path / "hub/models--microsoft--Florence-2-base"
    convert.write_older(str(nano), cached / "snapshots/0123")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("0123")
    assert open_folder("microsoft/Florence-2-base").is_older
    assert "same weights are published as florence-community/Florence-2-base" in caplog.text


def test_annotators_say_what_to_do_about_the_older_layout(nano: Path, tmp_path: Path):
    convert.write_older(str(nano), tmp_path / "older")
    for loaded in (
        lambda folder: load_config(folder, None),
        lambda folder: load_model("AutoModelForImageTextToText", folder, None, "cpu"),
    ):
        with pytest.raises(ModelError, match=r"layout in which Florence-2 was first published.*florence.model.convert"):
            loaded(str(tmp_path / "older"))


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
