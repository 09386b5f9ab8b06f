"""The layout in which Florence-2 was first published: read, written, checked by its own names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import published
import pytest
import torch
from model_folders import SHARED, Tensors, assert_alike, changed, check, drop, picture, replace
from safetensors.torch import load_file, save_file

from florence.errors import ModelError
from florence.hub.models import REPUBLISHED, load_config, load_model
from florence.hub.weight_files import WEIGHTS
from florence.model import convert
from florence.model.checkpoint import build, load
from florence.model.folders import open_folder
from florence.model.generate import Query, predict
from florence.model.older_layout import ADDED_TOKENS, is_older_config, new_name, older_name


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def nano(tmp_path_factory) -> Path:
    """Return the folder of a small model in transformers' layout. Read only."""
    folder = tmp_path_factory.mktemp("nano") / "model"
    build("nano", image_size=64, seed=5).save(folder)
    return folder


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
