"""The model as it is trained: the loss of a batch, and which weights change (all, some parts, or low-rank adapters)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from florence.config import LoraSettings, TrainSettings
from florence.errors import SettingsError
from florence.model.checkpoint import Checkpoint
from florence.model.encoding import encode_images, encode_prompts
from florence.training.batches import TargetGroup, TrainingBatch

if TYPE_CHECKING:
    import torch

PARTS = {
    "vision": ("model.vision_tower.",),
    "projector": ("model.multi_modal_projector.",),
    "encoder": ("model.language_model.encoder.",),
    "decoder": ("model.language_model.decoder.",),
    "embeddings": ("model.language_model.shared.", "lm_head."),
}
"""The parts that `train.freeze` names, by the prefixes of their parameters' names. Token embeddings are the weights of
the head, and tied to encoder and decoder."""
TIED = ("model.language_model.encoder.embed_tokens.", "model.language_model.decoder.embed_tokens.")


class TrainableModel(nn.Module):
    """Florence-2 over a `TrainingBatch`: each image is encoded once, however many rows ask about it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.model = checkpoint.model
        self.normalise = checkpoint.normalise

    def forward(self, batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the target tokens' cross-entropies, and each of them.

        The sum has a gradient; the cross-entropies (tokens,) float32, in the order of ``batch.targets``, have none.
        """
        import torch

        if not batch.tasks:
            # the images of this process have no example: its gradients are 0, and the other processes wait for them
            zero = torch.zeros((), device=self.model.device)
            return sum((p.sum() for p in self.parameters() if p.requires_grad), zero) * 0.0, torch.zeros(0)
        encoded, image_tokens = self._encode(batch)
        losses = [self._losses(batch, target, encoded, image_tokens) for target in batch.targets]
        each = torch.cat(losses)
        return each.sum(), each.detach()

    def _encode(self, batch: TrainingBatch) -> tuple[torch.Tensor, int]:
        """Return the encoder's states (rows, length, width), padded on the right, and the number of image tokens."""
        import torch

        put = partial(_to_device, device=self.model.device)
        features = encode_images(self.model, self.normalise(batch.pixel_values).to(self.model.device))
        longest, states = int(batch.prompt_lengths.max()), []
        for group in batch.prompts:
            hidden, _ = encode_prompts(self.model, features, put(group.images), put(group.input_ids))
            states.append(nn.functional.pad(hidden, (0, 0, 0, longest - group.input_ids.shape[1])))
        return torch.cat(states), features.shape[1]

    def _losses(
        self, batch: TrainingBatch, target: TargetGroup, encoded: torch.Tensor, image_tokens: int
    ) -> torch.Tensor:
        """Return the cross-entropies (tokens,) of one group of targets."""
        put = partial(_to_device, device=self.model.device)
        length = image_tokens + target.prompt_length
        mask = np.arange(length) < image_tokens + batch.prompt_lengths[target.rows][:, None]
        hidden = self.model.model.language_model.decoder(
            input_ids=put(target.decoder_input_ids),
            encoder_hidden_states=encoded.index_select(0, put(target.rows))[:, :length],
            encoder_attention_mask=None if mask.all() else put(mask.astype(np.int64)),
            use_cache=False,
        ).last_hidden_state
        # the head is most of a small model's work: it is applied to the tokens that count alone
        logits = self.model.lm_head(hidden.flatten(0, 1).index_select(0, put(target.valid)))
        return nn.functional.cross_entropy(logits.float(), put(target.labels), reduction="none")


def _to_device(array: np.ndarray, device: Any) -> torch.Tensor:
    import torch

    return torch.from_numpy(array).to(device)


@contextmanager
def make_trainable(checkpoint: Checkpoint, settings: TrainSettings) -> Iterator[TrainableModel]:
    """Yield the model of ``checkpoint`` with parts frozen, adapters added and activations recomputed, by ``settings``.

    At the end adapters are merged into the weights and the model is as it was built, in evaluation mode. Raises
    SettingsError where nothing is left to train.
    """
    model = checkpoint.model.train()
    adapted = None
    try:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(part_of(name) not in settings.freeze)
        if settings.lora is not None:
            adapted = _add_adapters(model, settings.lora, settings)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise SettingsError(f"train.freeze: nothing is left to train; freeze fewer of {', '.join(PARTS)}")
        with _recompute_activations(model, settings.gradient_checkpointing):
            yield TrainableModel(checkpoint)
    finally:
        if adapted is not None:
            adapted.merge_and_unload()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        model.eval()


def part_of(name: str) -> str:
    """Return the part of the model (`PARTS`) that a parameter or module belongs to."""
    if name.startswith(TIED):
        return "embeddings"
    return next((part for part, prefixes in PARTS.items() if name.startswith(prefixes)), "")


def _add_adapters(model: Any, lora: LoraSettings, settings: TrainSettings) -> Any:
    """Add adapters to ``model``; they alone have gradients then."""
    import peft
    import torch

    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    trained = [name for name in layers if part_of(name + ".") not in settings.freeze]
    chosen = [name for name in trained if name.rsplit(".", 1)[-1] in lora.targets]
    if not chosen:
        endings = sorted({name.rsplit(".", 1)[-1] for name in trained})
        raise SettingsError(
            f"train.lora.targets: no layer that is not frozen ends in {', '.join(lora.targets)}; "
            f"there are {', '.join(endings) or 'none'}"
        )
    torch.manual_seed(settings.seed)
    alpha: Any = lora.alpha  # peft says int, and takes any number
    config = peft.LoraConfig(r=lora.rank, lora_alpha=alpha, lora_dropout=lora.dropout, target_modules=chosen)
    return peft.get_peft_model(model, config).base_model


@contextmanager
def _recompute_activations(model: Any, is_wanted: bool) -> Iterator[None]:
    """Recompute the activations of every layer in the backward pass; transformers does so for text layers alone."""
    from torch.utils.checkpoint import checkpoint
    from transformers.models.florence2.modeling_florence2 import Florence2VisionBlock

    if not is_wanted:
        yield
        return
    blocks = [module for module in model.modules() if isinstance(module, Florence2VisionBlock)]
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    try:
        yield
    finally:
        model.gradient_checkpointing_disable()
        for block in blocks:
            del block.forward
