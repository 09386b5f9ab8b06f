"""Checkpoints of models of pictures and texts in the format of the published ones.

They have random weights and a few thousand parameters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SIDE = 32
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)


def clip(folder: Path, seed: int = 0) -> Path:
    """Write CLIP; its texts have at most 24 tokens, one per letter."""
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    vocabulary = {
        token: i
        for i, token in enumerate(
            [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
        )
    }
    words = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24)
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    text = {**TEXT, **ends, "vocab_size": len(words), "max_position_embeddings": 24, "projection_dim": 16}
    model = _build(
        CLIPModel, CLIPConfig(text_config=text, vision_config={**VISION, "projection_dim": 16}, projection_dim=16), seed
    )
    processor = CLIPProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}), words
    )
    return _save(folder, model, processor)


def siglip(folder: Path, seed: int = 0) -> Path:
    """Write SigLIP with a tokenizer as of SigLIP 2; its texts are padded to 24 tokens."""
    from transformers import GemmaTokenizer, SiglipConfig, SiglipModel, SiglipProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    vocabulary = {
        token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "▁", *(chr(c) for c in range(33, 127))])
    }
    words = GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=24)
    text = {
        **TEXT,
        "vocab_size": len(words),
        "max_position_embeddings": 24,
        "projection_size": 32,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }
    model = _build(SiglipModel, SiglipConfig(text_config=text, vision_config=VISION), seed)
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-1.0)
    return _save(folder, model, SiglipProcessor(SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}), words))


def blip(folder: Path, seed: int = 0) -> Path:
    """Write BLIP, which answers without a prompt."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    words = BertTokenizer(
        vocab={t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *_words()])},
        bos_token="[DEC]",
    )
    ends = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {
        **TEXT,
        **ends,
        "vocab_size": len(words),
        "encoder_hidden_size": 32,
        "max_position_embeddings": 64,
        "is_decoder": True,
        "projection_dim": 16,
    }
    model = _build(
        BlipForConditionalGeneration, BlipConfig(text_config=text, vision_config=VISION, projection_dim=16), seed
    )
    return _save(folder, model, BlipProcessor(BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), words))


def blip2(folder: Path, seed: int = 0) -> Path:
    """Write BLIP-2: a decoder alone, whose prompt has the tokens of the picture."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, GPT2Tokenizer, OPTConfig
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    words = GPT2Tokenizer(
        vocab={t: i for i, t in enumerate(["<s>", "<pad>", "</s>", "<unk>", *LETTERS])},
        merges=[],
        bos_token="</s>",
        eos_token="</s>",
        unk_token="</s>",
        pad_token="<pad>",
    )
    words.add_tokens(AddedToken("<image>", special=True, normalized=False), special_tokens=True)
    text = OPTConfig(
        vocab_size=len(words),
        hidden_size=32,
        word_embed_proj_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=64,
        max_position_embeddings=128,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
    )
    bridge = {**TEXT, "vocab_size": 8, "encoder_hidden_size": 32, "cross_attention_frequency": 1}
    picture = words.convert_tokens_to_ids("<image>")
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=bridge,
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=picture,
    )
    model = _build(Blip2ForConditionalGeneration, config, seed)
    return _save(
        folder,
        model,
        Blip2Processor(BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), words, num_query_tokens=4),
    )


FLORENCE_VISION = {
    "embed_dim": [8, 16, 16, 32],
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "num_groups": [1, 1, 2, 2],
    "window_size": 4,
    "projection_dim": 32,
    "patch_size": [7, 3, 3, 3],
    "patch_stride": [4, 2, 2, 2],
    "patch_padding": [3, 1, 1, 1],
    "patch_prenorm": [False, True, True, True],
    "max_position_embeddings": 50,
}


def florence(folder: Path, seed: int = 0) -> Path:
    """Write a small Florence-2."""
    from transformers import (
        BartConfig,
        BartTokenizer,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
        Florence2VisionConfig,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = BartTokenizer(
        vocab={t: i for i, t in enumerate(["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "<mask>"])},
        merges=[],
        model_max_length=256,
        extra_special_tokens={"image_token": "<image>"},
    )
    words.add_tokens(AddedToken("<image>", special=True, normalized=False), special_tokens=True)
    ends = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    text = {
        **ends,
        "vocab_size": len(words),
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 256,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
    }
    whole = Florence2Config(
        vision_config=Florence2VisionConfig(**FLORENCE_VISION),
        text_config=BartConfig(**text),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        **ends,
    )
    model = _build(Florence2ForConditionalGeneration, whole, seed)
    model.generation_config.update(num_beams=3, no_repeat_ngram_size=3, forced_bos_token_id=0, forced_eos_token_id=2)
    images = CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    images.image_seq_length = 5
    return _save(folder, model, Florence2Processor(images, words, post_processor_config={}))


LLAVA_PROCESSOR = {
    "patch_size": 8,
    "vision_feature_select_strategy": "default",
    "chat_template": TEMPLATE,
    "image_token": "<image>",
    "num_additional_image_tokens": 1,
}


def _llava_words() -> Any:
    """Return LLaVA's tokenizer of the few words of `_words`."""
    from transformers import PreTrainedTokenizerFast

    tokens = Tokenizer(models.WordLevel({t: i for i, t in enumerate(["<unk>", "<s>", "</s>", *_words()])}, "<unk>"))
    tokens.normalizer, tokens.pre_tokenizer, tokens.decoder = (
        normalizers.Lowercase(),
        pre_tokenizers.Whitespace(),
        decoders.WordPiece(),
    )
    tokens.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    words.add_tokens(AddedToken("<image>", special=True, normalized=False), special_tokens=True)
    return words


def llava(folder: Path, seed: int = 0, following: bool = False) -> Path:
    """Write LLaVA, a decoder alone with a chat template.

    ``following``: LLaVA-NeXT, where the number of a picture's tokens depends on its proportions.
    """
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextProcessor,
        LlavaProcessor,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    words = _llava_words()
    text = LlamaConfig(
        **TEXT, vocab_size=len(words), max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=None
    )
    values = {
        "image_token_index": words.convert_tokens_to_ids("<image>"),
        "vision_feature_select_strategy": "default",
        "vision_feature_layer": -2,
    }
    eye, size = (
        CLIPVisionConfig(**VISION),
        {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}},
    )
    if following:
        pins = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
        model = _build(
            LlavaNextForConditionalGeneration,
            LlavaNextConfig(vision_config=eye, text_config=text, image_grid_pinpoints=pins, **values),
            seed,
        )
        return _save(
            folder,
            model,
            LlavaNextProcessor(LlavaNextImageProcessorPil(image_grid_pinpoints=pins, **size), words, **LLAVA_PROCESSOR),
        )
    model = _build(LlavaForConditionalGeneration, LlavaConfig(vision_config=eye, text_config=text, **values), seed)
    return _save(folder, model, LlavaProcessor(CLIPImageProcessorPil(**size), words, **LLAVA_PROCESSOR))


def _words() -> list[str]:
    return [
        "a",
        "the",
        "cat",
        "dog",
        "ball",
        "tree",
        "red",
        "blue",
        "small",
        "big",
        "near",
        "on",
        "and",
        "user",
        "assistant",
        ":",
        "describe",
        "sentence",
        *map(str, range(40)),
    ]


def _build(model_class: type, config: Any, seed: int) -> Any:
    """Return a model whose answers depend on the picture: with weights of the usual size they hardly would."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1:
                    weight.normal_(0, 1.0 if "embed" in name else 1.5 / weight.shape[-1] ** 0.5)
    return model


def _save(folder: Path, model: Any, processor: Any) -> Path:
    if model.can_generate():
        # with weights at random it would write the token that stands for a picture
        model.generation_config.suppress_tokens = processor.tokenizer.convert_tokens_to_ids(["<image>"])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
