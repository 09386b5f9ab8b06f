"""The two halves of a pass: images once, then any number of prompts about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def image_features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What the language model sees of images (n, 3, side, side): (n, tokens, width)."""
    return model.model.get_image_features(pixels).pooler_output


def encode(model: Any, features: torch.Tensor, images: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The encoder's states (rows, length, width) of prompts (rows, tokens), each about the image whose index is in ``images`` (rows,),
    and their mask (rows, length). Prompts are filled up with the pad token on the right.

    The same states as transformers' forward pass gives for image tokens followed by the prompt, but each image is seen once.
    """
    import torch

    pad = model.config.text_config.pad_token_id
    words = model.get_input_embeddings()(prompts)
    joined = torch.cat([features[images], words], dim=1)
    seen = torch.ones(len(prompts), features.shape[1], dtype=torch.long, device=prompts.device)
    mask = torch.cat([seen, (prompts != pad).long()], dim=1)
    states = model.model.language_model.encoder(attention_mask=mask, inputs_embeds=joined).last_hidden_state
    return states, mask
