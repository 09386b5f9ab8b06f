"""The sizes that a model can be built in, and initial weights that suit them."""

from __future__ import annotations

import math
from typing import Any

from florence.errors import UnknownNameError

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "nano": {
        "vision": {
            "depths": (1, 1, 1, 1),
            "patch_stride": (4, 2, 2, 1),
            "embed_dim": (32, 64, 96, 128),
            "num_heads": (2, 4, 4, 4),
            "num_groups": (2, 4, 4, 4),
            "window_size": 4,
            "projection_dim": 128,
            "drop_path_rate": 0.0,
            "initializer_range": 0.08,
        },
        "text": {
            "d_model": 128,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 512,
            "decoder_ffn_dim": 512,
            "max_position_embeddings": 512,
            "dropout": 0.0,
            "init_std": 128**-0.5,
        },
    },
    "base": {
        "vision": {
            "embed_dim": (128, 256, 512, 1024),
            "num_heads": (4, 8, 16, 32),
            "num_groups": (4, 8, 16, 32),
            "projection_dim": 768,
        },
        "text": {
            "d_model": 768,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "encoder_attention_heads": 12,
            "decoder_attention_heads": 12,
            "encoder_ffn_dim": 3072,
            "decoder_ffn_dim": 3072,
            "max_position_embeddings": 1024,
            "dropout": 0.1,
            "init_std": 0.02,
        },
    },
    "large": {
        "vision": {
            "embed_dim": (256, 512, 1024, 2048),
            "num_heads": (8, 16, 32, 64),
            "num_groups": (8, 16, 32, 64),
            "projection_dim": 1024,
        },
        "text": {
            "d_model": 1024,
            "encoder_layers": 12,
            "decoder_layers": 12,
            "encoder_attention_heads": 16,
            "decoder_attention_heads": 16,
            "encoder_ffn_dim": 4096,
            "decoder_ffn_dim": 4096,
            "max_position_embeddings": 4096,
            "dropout": 0.1,
            "init_std": 0.02,
        },
    },
}
"""``base`` and ``large`` as published (paper, table 9 and the released configurations); ``nano`` is ours."""
IMAGE_SIZES = {"nano": 96, "base": 768, "large": 768}


def make_config(preset: str, vocabulary: int, image_token: int) -> Any:
    """Return transformers' configuration of ``preset`` over ``vocabulary`` tokens. Raises UnknownNameError."""
    from transformers import BartConfig, Florence2Config, Florence2VisionConfig

    if preset not in PRESETS:
        raise UnknownNameError("preset", preset, PRESETS)
    parts = PRESETS[preset]
    vision = {"drop_path_rate": 0.1, "depths": (1, 1, 9, 1), **parts["vision"]}
    marks = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    text: dict[str, Any] = {
        "vocab_size": vocabulary,
        **marks,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "num_hidden_layers": parts["text"]["encoder_layers"],
        "scale_embedding": False,
        **parts["text"],
    }
    whole: dict[str, Any] = {
        "vision_config": Florence2VisionConfig(**vision),
        "text_config": BartConfig(**text),
        "image_token_id": image_token,
        **marks,
    }
    return Florence2Config(**whole)


def initialise(model: Any, locations: Any, seed: int) -> None:
    """Initialise the language model to suit its width, in place; ``locations``: (1000,) token ids.

    With BART's own 0.02 a model of width 128 ignores its image for hundreds of steps. Embeddings get the standard
    deviation 1/√d of the other weights, and those of locations vary smoothly from bin to bin, so that near locations
    start near each other: slow waves weigh most (1/k of the k-th), so that the model finds a region of the prompt in
    the image sooner.
    """
    import torch

    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        width = table.shape[1]
        std = model.config.text_config.init_std
        table.normal_(0.0, std, generator=random)
        table[model.config.text_config.pad_token_id] = 0
        waves = min(64, width)
        axis = (torch.arange(len(locations)) + 0.5) / len(locations)
        features = torch.cos(math.pi * axis[:, None] * torch.arange(1, waves + 1)) / torch.arange(1, waves + 1)
        mixed = features @ torch.randn(waves, width, generator=random)
        table[torch.as_tensor(locations)] = mixed / mixed.norm(dim=1, keepdim=True) * std * math.sqrt(width)
