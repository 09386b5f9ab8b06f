"""The layout in which Florence-2 was first published, and its translation into transformers' own and back.

``microsoft/Florence-2-*`` keep the model as code of their own reads it: other names in config.json and of tensors, the
image's projection transposed, and a vocabulary without <image>. Since 4.56 transformers has the model itself, and the
same weights are published in its layout as ``florence-community/Florence-2-*``. Tensors keep their values and their
precision in both directions:

    python -m florence.model.convert FOLDER OUT            # older → transformers
    python -m florence.model.convert --back FOLDER OUT     # transformers → older

Sources: the published config.json, and the names that transformers' conversion reads and writes
(models/florence2/convert_florence2_original_pytorch_to_hf.py).
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence.codec.locations import TOKENS
from florence.errors import ModelError

if TYPE_CHECKING:
    import torch

PADDING = 64
"""Rows of the embeddings are filled up to a multiple of it, as in the published conversion."""


def _pairs(*names: str) -> tuple[str, ...]:
    return tuple(token for name in names for token in (f"<{name}>", f"</{name}>"))


ADDED_TOKENS = (
    *_pairs("od", "ocr"),
    *TOKENS,
    *_pairs("cap", "ncap", "dcap", "grounding", "seg"),
    "<sep>",
    *_pairs("region_cap", "region_to_desciption", "proposal", "poly"),  # misspelt in the published vocabulary too
    "<and>",
)
"""Tokens that the older processor adds to BART's vocabulary each time it is loaded, in its order."""
IMAGE_TOKEN = "<image>"

# ---------------------------------------------------------------- config.json

_VISION = {
    "drop_path_rate": ("drop_path_rate", 0.1),
    "patch_size": ("patch_size", [7, 3, 3, 3]),
    "patch_stride": ("patch_stride", [4, 2, 2, 2]),
    "patch_padding": ("patch_padding", [3, 1, 1, 1]),
    "patch_prenorm": ("patch_prenorm", [False, True, True, True]),
    "dim_embed": ("embed_dim", [256, 512, 1024, 2048]),
    "num_heads": ("num_heads", [8, 16, 32, 64]),
    "num_groups": ("num_groups", [8, 16, 32, 64]),
    "depths": ("depths", [1, 1, 9, 1]),
    "window_size": ("window_size", 12),
    "projection_dim": ("projection_dim", 1024),
}
"""Older name → (transformers' name, value where the older config.json has none)."""
_NESTED = {
    "visual_temporal_embedding": ("COSINE", "max_temporal_embeddings", "max_temporal_embeddings"),
    "image_pos_embed": ("learned_abs_2d", "max_pos_embeddings", "max_position_embeddings"),
}
"""Older section → (the only type that transformers has, its number, transformers' name of that number)."""
_FIXED = {"mlp_ratio": 4.0, "qkv_bias": True, "in_channels": 3, "activation_function": "gelu"}
"""What the older model has without a setting for it, under transformers' names."""
_POOLS = ["spatial_avg_pool", "temporal_avg_pool"]
_TEXT = {
    "vocab_size": 51289,
    "max_position_embeddings": 1024,
    "encoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
    "decoder_attention_heads": 16,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "activation_function": "gelu",
    "d_model": 1024,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "init_std": 0.02,
    "classifier_dropout": 0.0,
    "scale_embedding": False,
    "use_cache": True,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_bos_token_id": None,
    "forced_eos_token_id": 2,
    "tie_word_embeddings": True,
}
"""Settings of the language model, alike in both layouts, with the older layout's values where it has none."""
_IDS = ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id")
_GENERATION = (
    *_IDS,
    "forced_bos_token_id",
    "forced_eos_token_id",
    "num_beams",
    "no_repeat_ngram_size",
    "early_stopping",
    "length_penalty",
)
_CODE = {
    "AutoConfig": "configuration_florence2.Florence2Config",
    "AutoModelForCausalLM": "modeling_florence2.Florence2ForConditionalGeneration",
}


def is_older_config(values: Mapping[str, Any]) -> bool:
    """Return whether the values of a config.json are in the older layout."""
    vision, text = values.get("vision_config") or {}, values.get("text_config") or {}
    if not isinstance(vision, dict) or not isinstance(text, dict) or values.get("model_type") != "florence2":
        return False
    own = {"dim_embed", *_NESTED} & vision.keys() or text.get("model_type") == "florence2_language"
    return bool(own) or "configuration_florence2" in json.dumps(values.get("auto_map") or {})


def convert_config(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return transformers' values of an older config.json, without the id of <image>.

    Raises ModelError for what transformers' model has not.
    """
    vision, text = values.get("vision_config") or {}, values.get("text_config") or {}
    pools = vision.get("image_feature_source", _POOLS)
    if list(pools) != _POOLS:
        raise ModelError(f"{where}: image_feature_source {pools} is not known; {_POOLS} is expected")
    numbers: dict[str, Any] = {}
    for section, (only, older, new) in _NESTED.items():
        found = vision.get(section) or {}
        if found.get("type") != only or not isinstance(found.get(older), int):
            raise ModelError(f"{where}: vision_config.{section} {found} is not known; type {only} is expected")
        numbers[new] = found[older]
    language = {name: text.get(name, default) for name, default in _TEXT.items()}
    return {
        "vision_config": {new: vision.get(old, default) for old, (new, default) in _VISION.items()} | numbers,
        "text_config": {"model_type": "bart", **language, "num_hidden_layers": language["encoder_layers"]},
        "tie_word_embeddings": language["tie_word_embeddings"],
        **{name: language[name] for name in _IDS},
    }


def convert_config_back(values: Mapping[str, Any], rows: int, where: str) -> dict[str, Any]:
    """Return the older config.json of transformers' values. ``rows``: of the embeddings.

    Raises ModelError for what the older model has not.
    """
    vision, text = values["vision_config"], values["text_config"]
    if other := {name: vision[name] for name, only in _FIXED.items() if vision[name] != only}:
        raise ModelError(f"{where}: the older layout cannot say {other}; {_FIXED} is what its model has")
    sections = {section: {"type": only, older: vision[new]} for section, (only, older, new) in _NESTED.items()}
    return {
        "model_type": "florence2",
        "architectures": ["Florence2ForConditionalGeneration"],
        "auto_map": _CODE,
        "ignore_index": -100,
        "is_encoder_decoder": True,
        "projection_dim": vision["projection_dim"],
        "vocab_size": rows,
        **{name: text.get(name, _TEXT[name]) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "text_config": {
            "model_type": "florence2_language",
            "is_encoder_decoder": True,
            **{name: text.get(name, default) for name, default in _TEXT.items()},
            "vocab_size": rows,
            "num_hidden_layers": text["encoder_layers"],
        },
        "vision_config": {
            "model_type": "davit",
            **{old: vision[new] for old, (new, _) in _VISION.items()},
            **sections,
            "image_feature_source": _POOLS,
        },
    }


def generation_values(values: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of generation_config.json: those in an older config.json, and over them ``own``."""
    text = values.get("text_config") or {}
    found = {name: text.get(name, _TEXT.get(name)) for name in _GENERATION} | dict(own)
    return {name: value for name, value in found.items() if value is not None and not name.startswith("_")}


# ---------------------------------------------------------------- names of tensors

_PREFIXES = (
    ("language_model.lm_head", "lm_head"),
    ("language_model.model", "model.language_model"),
    ("image_pos_embed", "model.multi_modal_projector.image_position_embed"),
    ("visual_temporal_embed", "model.multi_modal_projector.visual_temporal_embed"),
    ("image_proj_norm", "model.multi_modal_projector.image_proj_norm"),
    ("vision_tower", "model.vision_tower"),
)
_PROJECTION = ("image_projection", "model.multi_modal_projector.image_projection.weight")
"""Transposed: (vision, text) in the older layout."""
_BIAS = "language_model.final_logits_bias"
"""Added to the logits by the older model, zero as published; transformers' model has none."""
_CONVOLUTION = re.compile(r"(vision_tower\.convs\.\d+)\.(\w+)(\..+)")
_BLOCK = re.compile(r"(vision_tower\.blocks\.\d+\.\d+\.(?:spatial|channel)_block)\.(.+)\.(weight|bias)")
_IN_BLOCK = {
    "conv1.fn.dw": "conv1",
    "conv2.fn.dw": "conv2",
    "ffn.norm": "norm2",
    "ffn.fn.net.fc1": "ffn.fc1",
    "ffn.fn.net.fc2": "ffn.fc2",
    **{
        older: new
        for kind in ("window_attn", "channel_attn")
        for older, new in (
            (f"{kind}.fn.qkv", f"{kind}.qkv"),
            (f"{kind}.fn.proj", f"{kind}.proj"),
        )
    },
}


def has_older_names(names: Mapping[str, Any]) -> bool:
    """Return whether tensors have the older layout's names."""
    return any(name.startswith(("language_model.model.", "language_model.lm_head.")) for name in names) or (
        _PROJECTION[0] in names
    )


def new_name(name: str) -> str:
    """Return transformers' name of an older tensor; a name that is not known stays."""
    if name == _PROJECTION[0]:
        return _PROJECTION[1]
    if found := _CONVOLUTION.fullmatch(name):
        head, part, tail = found.groups()
        name = f"{head}.{'conv' if part == 'proj' else part}{tail}"
    elif found := _BLOCK.fullmatch(name):
        head, part, tail = found.groups()
        name = f"{head}.{'norm1' if part.endswith('_attn.norm') else _IN_BLOCK.get(part, part)}.{tail}"
    for older, new in _PREFIXES:
        if name.startswith(older + "."):
            return new + name[len(older) :]
    return name


def older_name(name: str) -> str:
    """Return the older name of a tensor of transformers; a name that is not known stays."""
    if name == _PROJECTION[1]:
        return _PROJECTION[0]
    for older, new in _PREFIXES:
        if name.startswith(new + "."):
            name = older + name[len(new) :]
            break
    if found := _CONVOLUTION.fullmatch(name):
        head, part, tail = found.groups()
        return f"{head}.{'proj' if part == 'conv' else part}{tail}"
    if found := _BLOCK.fullmatch(name):
        head, part, tail = found.groups()
        kind = "window_attn" if head.endswith("spatial_block") else "channel_attn"
        backward = {new: older for older, new in _IN_BLOCK.items()} | {"norm1": f"{kind}.norm"}
        return f"{head}.{backward.get(part, part)}.{tail}"
    return name


def is_transposed(name: str) -> bool:
    """Return whether the older layout has the tensor of that name of transformers transposed."""
    return name == _PROJECTION[1]


def is_optional(name: str) -> bool:
    """Return whether the tensor of that older name has no counterpart in transformers' model."""
    return name == _BIAS


# ---------------------------------------------------------------- tensors


def _is_vocabulary(name: str) -> bool:
    return name.endswith(("shared.weight", "embed_tokens.weight", "lm_head.weight"))


def convert_tensors(
    tensors: Mapping[str, torch.Tensor], rename: Callable[[str], str], where: str
) -> dict[str, torch.Tensor]:
    """Return tensors under transformers' names. Raises ModelError for a bias of logits that is not zero."""
    bias = tensors.get(_BIAS)
    if bias is not None and bool(bias.any()):
        raise ModelError(f"{where}: {_BIAS} is not zero, and transformers' model has no such bias")
    return {
        rename(name): tensor.T.contiguous() if name == _PROJECTION[0] else tensor
        for name, tensor in tensors.items()
        if name != _BIAS
    }


def fill_up(tensors: Mapping[str, torch.Tensor], tokens: int) -> dict[str, torch.Tensor]:
    """Return transformers' tensors with embeddings of at least ``tokens`` tokens, <image> included.

    Rows that they lack are added, each the mean of the others: the logit of a mean is the mean of their logits, so that
    none of them is ever the likeliest token.
    """
    return {name: _fill_up(tensor, tokens) if _is_vocabulary(name) else tensor for name, tensor in tensors.items()}


def convert_tensors_back(tensors: Mapping[str, torch.Tensor], tokens: int) -> dict[str, torch.Tensor]:
    """Return transformers' tensors under the older names. Rows that `fill_up` added are left out.

    ``tokens``: of the vocabulary, without <image> where <image> is its last token.
    """
    result: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name == _PROJECTION[1]:
            tensor = tensor.T.contiguous()
        elif _is_vocabulary(name):
            tensor = _leave_out(tensor, tokens)
        result[older_name(name)] = tensor
    return result


def _fill_up(rows: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return ``rows`` (n, width) with rows for ``tokens`` tokens, filled up to a multiple of `PADDING`."""
    import torch

    if len(rows) >= tokens:
        return rows
    missing = -(-tokens // PADDING) * PADDING - len(rows)
    mean = rows.double().mean(dim=0, keepdim=True).to(rows.dtype)
    return torch.cat([rows, mean.expand(missing, -1)])


def _leave_out(rows: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return the first ``tokens`` of ``rows`` where `_fill_up` would add the others again, else all."""
    import torch

    kept = rows[:tokens]
    same = len(kept) < len(rows) and torch.equal(_fill_up(kept, tokens + 1), rows)
    return kept.contiguous() if same else rows


# ---------------------------------------------------------------- the tokenizer


def load_older_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of an older folder, with the tokens that its processor adds and <image>.

    Raises OSError or ValueError where there is none.
    """
    from transformers import AddedToken, AutoTokenizer, BartConfig, BartTokenizer

    # published with BART's own settings, which do not name a class; the folder's config.json is not for transformers
    has_class = read_json(folder / "tokenizer_config.json").get("tokenizer_class")
    if has_class:
        words = AutoTokenizer.from_pretrained(folder, config=BartConfig())
    else:
        words = BartTokenizer.from_pretrained(folder)
    if getattr(words, "image_token", None):
        return words
    words.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (*ADDED_TOKENS, IMAGE_TOKEN)],
        special_tokens=True,
    )
    with tempfile.TemporaryDirectory() as temporary:  # the only way to name the token of images
        words.save_pretrained(temporary)
        return AutoTokenizer.from_pretrained(temporary, extra_special_tokens={"image_token": IMAGE_TOKEN})


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, {} where there is no file. Raises ModelError for a file that has none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}): copy the checkpoint again") from None
    return found
