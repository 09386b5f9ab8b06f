"""The pass that is learnt from, and what of the model learns: everything, some parts, or low-rank adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from florence.config import Lora, Train
from florence.errors import SettingsError
from florence.model.checkpoint import Checkpoint
from florence.model.encoding import encode, image_features
from florence.training.batches import Batch

if TYPE_CHECKING:
    import torch

PARTS = {
    "vision": ("model.vision_tower.",),
    "projector": ("model.multi_modal_projector.",),
    "encoder": ("model.language_model.encoder.",),
    "decoder": ("model.language_model.decoder.",),
    "embeddings": ("model.language_model.shared.", "lm_head."),
}
"""The parts that `train.freeze` names, by the beginnings of their parameters' names. Token embeddings are the head's weights, and tied to both stacks."""
TIED = ("model.language_model.encoder.embed_tokens.", "model.language_model.decoder.embed_tokens.")


class Learner(nn.Module):
    """Florence-2 over a `Batch`: each image is seen once, however many rows ask about it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.model = checkpoint.model
        self.tensor = checkpoint.tensor

    def forward(self, data: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(the sum of the target tokens' cross-entropies, which has a gradient, each of them (tokens,) float32, which has none), tokens in the order of ``data.targets``."""
        import torch

        if (
            not data.tasks
        ):  # of a process whose images have nothing to say: its gradients are 0, and others wait for them
            return sum(
                (p.sum() for p in self.parameters() if p.requires_grad), torch.zeros((), device=self.model.device)
            ) * 0.0, torch.zeros(0)
        put = partial(_put, device=self.model.device)
        text = self.model.model.language_model
        features = image_features(self.model, self.tensor(data.squares).to(self.model.device))
        shown, longest = features.shape[1], int(data.lengths.max())
        states = []
        for group in data.prompts:
            hidden, _ = encode(self.model, features, put(group.images), put(group.ids))
            states.append(nn.functional.pad(hidden, (0, 0, 0, longest - group.ids.shape[1])))
        encoded, losses = torch.cat(states), []
        for target in data.targets:
            lengths = data.lengths[target.rows]
            seen = np.arange(shown + target.prompt) < shown + lengths[:, None]
            hidden = text.decoder(
                input_ids=put(target.inputs),
                encoder_hidden_states=encoded.index_select(0, put(target.rows))[:, : shown + target.prompt],
                encoder_attention_mask=None if seen.all() else put(seen.astype(np.int64)),
                use_cache=False,
            ).last_hidden_state
            # the head, which is most of a small model's work, sees valid tokens alone
            logits = self.model.lm_head(hidden.flatten(0, 1).index_select(0, put(target.valid)))
            losses.append(nn.functional.cross_entropy(logits.float(), put(target.labels), reduction="none"))
        each = torch.cat(losses)
        return each.sum(), each.detach()


def _put(array: np.ndarray, device: Any) -> torch.Tensor:
    import torch

    return torch.from_numpy(array).to(device)


@contextmanager
def learning(checkpoint: Checkpoint, settings: Train) -> Iterator[Learner]:
    """The learner of ``checkpoint``: parts frozen, adapters put in, activations recomputed, as ``settings`` say. At the end adapters are merged into the
    weights and the model is as it was built, in evaluation mode. Raises SettingsError where nothing is left to train."""
    model = checkpoint.model.train()
    wrapped = None
    try:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(_part(name) not in settings.freeze)
        if settings.lora is not None:
            wrapped = _adapted(model, settings.lora, settings)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise SettingsError(f"train.freeze: nothing is left to train; freeze fewer of {', '.join(PARTS)}")
        with _recomputed(model, settings.gradient_checkpointing):
            yield Learner(checkpoint)
    finally:
        if wrapped is not None:
            wrapped.merge_and_unload()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        model.eval()


def _part(name: str) -> str:
    """The part that a parameter or module belongs to."""
    if name.startswith(TIED):
        return "embeddings"
    return next((part for part, beginnings in PARTS.items() if name.startswith(beginnings)), "")


def _adapted(model: Any, lora: Lora, settings: Train) -> Any:
    """Put adapters into ``model``; they alone have gradients."""
    import peft
    import torch

    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = [
        name for name in layers if name.rsplit(".", 1)[-1] in lora.targets and _part(name + ".") not in settings.freeze
    ]
    if not chosen:
        there = sorted({name.rsplit(".", 1)[-1] for name in layers if _part(name + ".") not in settings.freeze})
        raise SettingsError(
            f"train.lora.targets: no layer that is not frozen ends in {', '.join(lora.targets)}; there are {', '.join(there) or 'none'}"
        )
    torch.manual_seed(settings.seed)
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=chosen)  # type: ignore[arg-type]
    return peft.get_peft_model(model, config).base_model


@contextmanager
def _recomputed(model: Any, wanted: bool) -> Iterator[None]:
    """Activations of every layer computed again in the backward pass; transformers does so for the text alone."""
    from torch.utils.checkpoint import checkpoint
    from transformers.models.florence2.modeling_florence2 import Florence2VisionBlock

    if not wanted:
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
