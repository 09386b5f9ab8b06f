"""The two halves of a pass: images once, then any number of prompts about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def image_features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What the language model sees of images (n, 3, side, side): (n, tokens, width)."""
    return model.model.get_image_features(pixels).pooler_output


def encode(
    model: Any, features: torch.Tensor, images: torch.Tensor, prompts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The encoder's states (rows, length, width) of prompts (rows, tokens), each about the image whose index is in ``images`` (rows,),
    and their mask (rows, length), None where no prompt is filled up. Prompts are filled up with the pad token on the right.

    The same states as transformers' forward pass gives for image tokens followed by the prompt, but each image is seen once.
    """
    import torch

    words = model.get_input_embeddings()(prompts)
    joined = torch.cat([features.index_select(0, images).to(words.dtype), words], dim=1)
    there = prompts != model.config.text_config.pad_token_id
    # a mask costs a pass over it at every layer
    mask = None if bool(there.all()) else torch.nn.functional.pad(there, (features.shape[1], 0), value=True).long()
    return model.model.language_model.encoder(attention_mask=mask, inputs_embeds=joined).last_hidden_state, mask
