"""Small checkpoints with random weights, made with the real classes and saved as on a hub.

Each has a config.json, safetensors and the processor's files.

`checkpoint` makes each one once per process.
"""

from __future__ import annotations

import json
import string
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as hf

LABELS = ("cat", "dog", "traffic light", "N/A", "cup")
WORDS = (
    "a",
    "an",
    "the",
    "and",
    "with",
    "near",
    "cat",
    "dog",
    "ball",
    "dot",
    "tree",
    "man",
    "sign",
    "red",
    "brown",
    "two",
)
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "layer_type": "basic"}
LAYERS = {
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "d_model": 32,
}
SIDES = {"shortest_edge": 96, "longest_edge": 160}


def save(
    folder: Path,
    build: Callable[[Any], Any],
    config: Any,
    *parts: Any,
    gain: float = 1.5,
    seed: int = 0,
    change: Callable[[Any], Any] | None = None,
) -> str:
    """Save a model of ``config`` and its processors as a checkpoint; return the path of the folder.

    Every matrix is drawn anew with ``gain`` times the deviation that keeps a signal's size: with the usual small ones
    all images get nearly one answer. ``seed``: of the weights, chosen so that answers differ. ``change`` is applied to
    the model after that.
    """
    torch.manual_seed(seed)
    model = build(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, gain / max(weight[0].numel(), 1) ** 0.5)
        if change:
            change(model)
    for part in (model, *parts):
        part.save_pretrained(folder)
    return str(folder)


def _labels() -> dict[str, Any]:
    return {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}


# ---------------------------------------------------------------- detectors


def detr(folder: Path) -> str:
    """Write DETR with a small ResNet."""
    config = hf.DetrConfig(
        backbone_config=hf.ResNetConfig(**RESNET, out_features=["stage4"]),
        use_timm_backbone=False,
        num_queries=20,
        **LAYERS,
        **_labels(),
    )
    return save(folder, hf.DetrForObjectDetection, config, hf.DetrImageProcessorPil(size=SIDES), seed=3)


def conditional_detr(folder: Path) -> str:
    """Write Conditional DETR."""
    config = hf.ConditionalDetrConfig(
        backbone_config=hf.ResNetConfig(**RESNET, out_features=["stage4"]),
        use_timm_backbone=False,
        num_queries=20,
        **LAYERS,
        **_labels(),
    )
    return save(folder, hf.ConditionalDetrForObjectDetection, config, hf.ConditionalDetrImageProcessorPil(size=SIDES))


def yolos(folder: Path) -> str:
    """Write YOLOS, which is given no mask of its padding."""
    config = hf.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[96, 160],
        patch_size=16,
        num_detection_tokens=20,
        **_labels(),
    )
    return save(folder, hf.YolosForObjectDetection, config, hf.YolosImageProcessorPil(size=SIDES), seed=5)


def _real_time(width: int) -> dict[str, Any]:
    return {
        "encoder_hidden_dim": 32,
        "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "d_model": 32,
        "num_queries": 20,
        "decoder_in_channels": [32] * 3,
        "decoder_ffn_dim": 32,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "num_denoising": 0,
        "encoder_in_channels": [width, width + 8, width + 16],
        **_labels(),
    }


def rt_detr(folder: Path) -> str:
    """Write RT-DETR."""
    backbone = hf.RTDetrResNetConfig(
        **{**RESNET, "hidden_sizes": [8, 16, 24, 32]}, out_features=["stage2", "stage3", "stage4"]
    )
    config = hf.RTDetrConfig(backbone_config=backbone, **_real_time(16))
    return save(
        folder, hf.RTDetrForObjectDetection, config, hf.RTDetrImageProcessorPil(size={"height": 96, "width": 96})
    )


def d_fine(folder: Path) -> str:
    """Write D-FINE."""
    stages = {
        "stage_in_channels": [16, 16, 24, 32],
        "stage_mid_channels": [8] * 4,
        "stage_out_channels": [16, 24, 32, 40],
        "stage_num_blocks": [1] * 4,
        "stage_numb_of_layers": [1] * 4,
    }
    backbone = hf.HGNetV2Config(
        **stages, stem_channels=[3, 8, 16], hidden_sizes=[16, 24, 32, 40], depths=[1] * 4, out_indices=[2, 3, 4]
    )
    config = hf.DFineConfig(backbone_config=backbone, **_real_time(24))
    return save(
        folder, hf.DFineForObjectDetection, config, hf.RTDetrImageProcessorPil(size={"height": 96, "width": 96}), seed=4
    )


DETECTORS = {"detr": detr, "conditional_detr": conditional_detr, "yolos": yolos, "rt_detr": rt_detr, "d_fine": d_fine}


# ---------------------------------------------------------------- grounders


def bert_tokenizer() -> Any:
    """Return a tokenizer of letters and a few words, with the special tokens where Grounding DINO looks for them."""
    special_tokens = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    pieces = [
        *WORDS,
        *(letter for letter in string.ascii_lowercase + string.digits + "-'," if letter not in WORDS),
        *(f"##{letter}" for letter in string.ascii_lowercase + string.digits),
    ]
    vocabulary = special_tokens | {piece: 200 + i for i, piece in enumerate(pieces)}
    taken = set(vocabulary.values())
    return hf.BertTokenizer(
        vocabulary | {f"[unused{i}]": i for i in range(1030) if i not in taken}, model_max_length=512
    )


def clip_tokenizer(longest: int) -> Any:
    """Return CLIP's tokenizer without merges: every byte is a token."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = ["<pad>", *letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return hf.CLIPTokenizer(
        {token: i for i, token in enumerate(tokens)}, [], pad_token="<pad>", model_max_length=longest
    )


def grounding_dino(folder: Path) -> str:
    """Write Grounding DINO with a small Swin and a small BERT."""
    swin = hf.SwinConfig(
        image_size=96,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 2],
        window_size=4,
        out_indices=[2, 3, 4],
    )
    bert = hf.BertConfig(
        vocab_size=1030, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config = hf.GroundingDinoConfig(
        backbone_config=swin,
        text_config=bert,
        num_queries=30,
        max_text_len=64,
        fusion_droppath=0.0,
        **{**LAYERS, "decoder_layers": 2},
    )
    processor = hf.GroundingDinoProcessor(hf.GroundingDinoImageProcessorPil(size=SIDES), bert_tokenizer())
    return save(folder, hf.GroundingDinoForObjectDetection, config, processor)


def owl_v2(folder: Path) -> str:
    """Write OWLv2, which pads images to squares."""
    towers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.Owlv2Config(
        text_config={
            **towers,
            "vocab_size": 515,
            "max_position_embeddings": 16,
            "bos_token_id": 513,
            "eos_token_id": 514,
        },
        vision_config={**towers, "image_size": 96, "patch_size": 16},
        projection_dim=32,
    )
    processor = hf.Owlv2Processor(hf.Owlv2ImageProcessorPil(size={"height": 96, "width": 96}), clip_tokenizer(16))
    return save(folder, hf.Owlv2ForObjectDetection, config, processor)


def owl_vit(folder: Path) -> str:
    """Write OWL-ViT, which stretches them."""
    towers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.OwlViTConfig(
        text_config={
            **towers,
            "vocab_size": 515,
            "max_position_embeddings": 16,
            "bos_token_id": 513,
            "eos_token_id": 514,
        },
        vision_config={**towers, "image_size": 96, "patch_size": 16},
        projection_dim=32,
    )
    processor = hf.OwlViTProcessor(hf.OwlViTImageProcessorPil(size={"height": 96, "width": 96}), clip_tokenizer(16))
    return save(folder, hf.OwlViTForObjectDetection, config, processor)


GROUNDERS = {"grounding_dino": grounding_dino, "owl_v2": owl_v2, "owl_vit": owl_vit}


# ---------------------------------------------------------------- segmenters


def _smooth(model: Any) -> None:
    """Smooth the masks of a random model, so that its own estimate of their quality is about 0.8."""
    for name, weight in model.mask_decoder.named_parameters():
        if name.startswith("upscale_conv") and weight.ndim == 4:
            weight.copy_(weight[..., :1, :1].expand_as(weight))
        if name == "iou_prediction_head.proj_out.weight":
            weight.mul_(0.02)
        if name == "iou_prediction_head.proj_out.bias":
            weight.fill_(1.4 if model.config.model_type != "sam" else 0.8)  # SAM 2 puts a sigmoid after it


def sam(folder: Path) -> str:
    """Write SAM at 128 pixels a side."""
    vision = hf.SamVisionConfig(
        hidden_size=32,
        output_channels=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=128,
        patch_size=8,
        window_size=4,
        global_attn_indexes=[1],
        num_pos_feats=16,
        mlp_dim=32,
    )
    prompts = hf.SamPromptEncoderConfig(hidden_size=32, image_size=128, patch_size=8, mask_input_channels=4)
    decoder = hf.SamMaskDecoderConfig(hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=32)
    config = hf.SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    side = {"height": 128, "width": 128}
    processor = hf.SamProcessor(
        hf.SamImageProcessorPil(
            size={"longest_edge": 128},
            pad_size=side,
            mask_size={"longest_edge": 32},
            mask_pad_size={"height": 32, "width": 32},
        )
    )
    return save(folder, hf.SamModel, config, processor, seed=4, change=_smooth)


class _Sam2Files:
    """The files of SAM 2's processor, which itself cannot be made without torchvision."""

    def save_pretrained(self, folder: Path) -> None:
        shared = {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "rescale_factor": 1 / 255,
            "resample": 2,
        }
        own = {
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "size": {"height": 128, "width": 128},
            "mask_size": {"height": 32, "width": 32},
        }
        files = {
            "preprocessor_config.json": {
                **shared,
                **own,
                "image_processor_type": "Sam2ImageProcessorFast",
                "processor_class": "Sam2Processor",
            }
        }
        files["processor_config.json"] = {
            "point_pad_value": -10,
            "processor_class": "Sam2Processor",
            "target_size": 128,
        }
        for name, content in files.items():
            (Path(folder) / name).write_text(json.dumps(content), encoding="utf-8")


def _sam_2_parts() -> dict[str, Any]:
    stages = {
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3],
    }
    backbone = hf.Sam2HieraDetConfig(
        hidden_size=8, image_size=[128, 128], window_positional_embedding_background_size=[4, 4], **stages
    )
    vision = hf.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    prompts = {"hidden_size": 32, "image_size": 128, "mask_input_channels": 4}
    return {
        "vision_config": vision,
        "prompt_encoder_config": prompts,
        "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    }


def sam_2(folder: Path) -> str:
    """Write SAM 2 at 128 pixels a side."""
    return save(folder, hf.Sam2Model, hf.Sam2Config(**_sam_2_parts()), _Sam2Files(), seed=10, change=_smooth)


def sam_2_video(folder: Path) -> str:
    """Return the same model as the hub has it: with the parts that follow objects through films."""
    images = hf.Sam2Model.from_pretrained(checkpoint("sam_2")).state_dict()
    memory = {
        "memory_attention_hidden_size": 32,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 32,
        "memory_attention_rope_feat_sizes": [8, 8],
    }
    encoder = {
        "memory_encoder_hidden_size": 32,
        "memory_encoder_output_channels": 16,
        "mask_downsampler_embed_dim": 32,
        "memory_fuser_embed_dim": 32,
        "memory_fuser_intermediate_dim": 32,
        "memory_fuser_num_layers": 1,
    }
    return save(
        folder,
        hf.Sam2VideoModel,
        hf.Sam2VideoConfig(**_sam_2_parts(), **memory, **encoder, image_size=128),
        _Sam2Files(),
        change=lambda model: model.load_state_dict(images, strict=False),
    )


SEGMENTERS = {"sam": sam, "sam_2": sam_2, "sam_2_video": sam_2_video}


# ---------------------------------------------------------------- all of them


ARCHITECTURES: dict[str, Callable[[Path], str]] = {**DETECTORS, **GROUNDERS, **SEGMENTERS}


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="hub-")  # removed when the process ends


@cache
def checkpoint(architecture: str) -> str:
    """Return the folder of a checkpoint of one of `ARCHITECTURES`. Read only: others use it too."""
    return ARCHITECTURES[architecture](Path(_folder().name) / architecture)
