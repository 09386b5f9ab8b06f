"""The two halves of the encoder's pass: images once, then any number of prompts about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def encode_images(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return the image tokens (n, tokens, width) of normalised images (n, 3, side, side)."""
    return model.model.get_image_features(pixel_values).pooler_output


def encode_prompts(
    model: Any, features: torch.Tensor, images: torch.Tensor, input_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the encoder's states (rows, length, width) of prompts, and their mask (rows, length).

    ``features``: of `encode_images`; ``images``: (rows,) index of the image of each prompt; ``input_ids``: (rows,
    tokens), padded on the right. The mask is None where no prompt is padded. The states are those of transformers'
    forward pass over image tokens followed by the prompt, but each image is encoded once.
    """
    import torch

    embeddings = model.get_input_embeddings()(input_ids)
    joined = torch.cat([features.index_select(0, images).to(embeddings.dtype), embeddings], dim=1)
    is_token = input_ids != model.config.text_config.pad_token_id
    # a mask costs a pass over it in every layer
    is_padded = not bool(is_token.all())
    mask = torch.nn.functional.pad(is_token, (features.shape[1], 0), value=True).long() if is_padded else None
    return model.model.language_model.encoder(attention_mask=mask, inputs_embeds=joined).last_hidden_state, mask
