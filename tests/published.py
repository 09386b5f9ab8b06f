"""A checkpoint in the published layout (transformers' conversion of Florence-2-base), thin enough for a test.

Its weights are random. Of BART's vocabulary it has the size, the order and the special tokens, not the words.
"""

from __future__ import annotations

import json
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AddedToken,
    BartConfig,
    BartTokenizer,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2VisionConfig,
)

from florence.codec.locations import TOKENS

MERGES = 50000
MARKS = (
    "<od>",
    "</od>",
    "<ocr>",
    "</ocr>",
    *TOKENS,
    "<cap>",
    "</cap>",
    "<ncap>",
    "</ncap>",
    "<dcap>",
    "</dcap>",
    "<grounding>",
    "</grounding>",
    "<seg>",
    "</seg>",
    "<sep>",
    "<region_cap>",
    "</region_cap>",
    "<region_to_desciption>",
    "</region_to_desciption>",
    "<proposal>",
    "</proposal>",
    "<poly>",
    "</poly>",
    "<and>",
)
"""Tokens that the published processor adds to BART's 50,265, in its order; transformers' conversion adds <image>."""
IDS = {
    "<s>": 0,
    "<pad>": 1,
    "</s>": 2,
    "<unk>": 3,
    "<|endoftext|>": 50260,
    "<mask>": 50264,
    "<od>": 50265,
    "</ocr>": 50268,
    "<loc_0>": 50269,
    "<loc_999>": 51268,
    "<cap>": 51269,
    "<sep>": 51279,
    "<poly>": 51286,
    "</poly>": 51287,
    "<and>": 51288,
    "<image>": 51289,
}
"""Their ids in the published vocabulary."""
ROWS = 51328
"""Of the published embeddings: 51,290 tokens, filled up to a multiple of 64."""
SIDE = 768
BANNED = ["it", "I", "me", "the image", "a group", "a set"]
"""Some of the phrases that the published post-processor drops."""
POST_PROCESSING: dict[str, Any] = {
    "ocr": {"pattern": r"(.+?)" + r"<loc_(\d+)>" * 8, "area_threshold": 0.0},
    "phrase_grounding": {"banned_grounding_tokens": BANNED},
    "pure_text": {},
    "description_with_bboxes": {},
    "description_with_polygons": {},
    "polygons": {},
    "bboxes": {},
    "description_with_bboxes_or_polygons": {},
}
VISION = {
    "drop_path_rate": 0.1,
    "patch_size": [7, 3, 3, 3],
    "patch_stride": [4, 2, 2, 2],
    "patch_padding": [3, 1, 1, 1],
    "patch_prenorm": [False, True, True, True],
    "num_heads": [4, 8, 16, 32],
    "num_groups": [4, 8, 16, 32],
    "window_size": 12,
    "max_temporal_embeddings": 100,
    "max_position_embeddings": 50,
    # published: widths 128, 256, 512, 1024, nine blocks in the third stage, projected to 768
    "embed_dim": [16, 32, 64, 128],
    "depths": [1, 1, 2, 1],
    "projection_dim": 96,
}
TEXT = {
    "vocab_size": len(MARKS) + 50265,
    "activation_dropout": 0.1,
    "attention_dropout": 0.1,
    "dropout": 0.1,
    "max_position_embeddings": 1024,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    # published: width 768, six and six layers, inner width 3,072, weights of standard deviation 0.02
    "d_model": 96,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 384,
    "decoder_ffn_dim": 384,
    "init_std": 0.3,
}
GENERATION = {
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "num_beams": 3,
    "no_repeat_ngram_size": 3,
    "early_stopping": True,
}


def tokenizer() -> Any:
    """Return a tokenizer with BART's layout: 256 bytes and 50,000 merges between its special tokens.

    The merges are those that come with the package, then pairs of bytes.
    """
    ours = json.loads(resources.files("florence.model").joinpath("vocabulary.json").read_text(encoding="utf-8"))[
        "model"
    ]
    letters = sorted(piece for piece in ours["vocab"] if len(piece) == 1)
    merges = [tuple(pair) for pair in ours["merges"]]
    merged_tokens: dict[str, tuple[str, str]] = {}
    for pair in (*merges, *product(letters, letters)):
        merged_tokens.setdefault("".join(pair), pair)
    kept = dict(list(merged_tokens.items())[:MERGES])
    assert len(letters) == 256 and len(kept) == MERGES
    tokens = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        *letters,
        *kept,
        "<|endoftext|>",
        "madeupword0000",
        "madeupword0001",
        "madeupword0002",
        "<mask>",
    ]
    found = BartTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=list(kept.values()),
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        model_max_length=1024,
    )
    found.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS], special_tokens=True)
    return found


def _build(words: Any, seed: int) -> Any:
    """Return the model with random weights of ``seed``."""
    whole = Florence2Config(
        vision_config=Florence2VisionConfig(**VISION),
        text_config=BartConfig(**TEXT),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Florence2ForConditionalGeneration(whole)
        model.resize_token_embeddings(len(words), 64, mean_resizing=False)
        with torch.no_grad():  # a head tied to its embeddings repeats what it reads, unless the layers between say more
            model.get_input_embeddings().weight.normal_(0, 0.1)
    for name, value in GENERATION.items():
        setattr(model.generation_config, name, value)
    return model


IMAGE_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "processor_class": "Florence2Processor",
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "resample": 3,
    "do_center_crop": False,
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": None,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "image_seq_length": (SIDE // 32) ** 2 + 1,
}


def _write_settings(folder: Path) -> None:
    """Write the settings of the tokenizer and of the processor."""
    ends = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    _json(
        folder / "tokenizer_config.json",
        {
            **ends,
            "tokenizer_class": "BartTokenizer",
            "processor_class": "Florence2Processor",
            "model_max_length": 1024,
            "add_prefix_space": False,
            "trim_offsets": True,
            "errors": "replace",
            "clean_up_tokenization_spaces": False,
            "image_token": "<image>",
            "extra_special_tokens": {"image_token": "<image>"},
        },
    )
    _json(folder / "special_tokens_map.json", {**ends, "image_token": "<image>"})
    _json(folder / "preprocessor_config.json", IMAGE_PROCESSOR)
    _json(
        folder / "processor_config.json",
        {
            "processor_class": "Florence2Processor",
            "num_additional_image_tokens": 0,
            "post_processor_config": POST_PROCESSING,
        },
    )


def write(folder: Path, seed: int = 0) -> Path:
    """Write every file of a published folder.

    Weights in half precision, the processor's settings in two files, the vocabulary in tokenizer.json and
    in BART's own two.
    """
    words = tokenizer()
    words.add_tokens(AddedToken("<image>", special=True, normalized=False), special_tokens=True)
    model = _build(words, seed)
    model.half().save_pretrained(folder)
    words.save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    _json(folder / "vocab.json", content["vocab"])
    merges = (" ".join(pair) for pair in content["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    _write_settings(folder)
    return folder


def _json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
