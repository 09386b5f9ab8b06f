"""The text decoder, one token at a time: transformers' own weights and numbers, without what a step does not need.

Keys and values of the tokens are kept in buffers that grow by doubling. Those of an encoded prompt are computed once,
and the beams of a row share them: a beam is one more query, not one more copy of the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FIRST_CAPACITY = 32
"""Tokens that the buffers hold at first."""


class Decoder:
    """Rows × beams that are decoded together. Used inside ``torch.inference_mode``.

    ``states`` (rows, length, width), ``mask`` (rows, length): of `florence.model.encoding.encode_prompts`; ``beams``:
    of each row.
    """

    def __init__(self, model: Any, states: torch.Tensor, mask: torch.Tensor | None, *, beams: int = 1) -> None:
        self.net, self.beams, self.length = model.model.language_model.decoder, beams, 0
        self.device = states.device
        self.layers = [_Layer(layer, states, beams) for layer in self.net.layers]
        self.mask = None if mask is None else _attention_bias(mask, states.dtype)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append ``tokens`` (rows, beams); return the last hidden states (rows, beams, width)."""
        net = self.net
        position = net.embed_positions.weight[self.length + net.embed_positions.offset]
        hidden = net.layernorm_embedding(net.embed_tokens(tokens) + position)
        for layer in self.layers:
            hidden = layer(hidden, self.length, self.mask)
        self.length += 1
        return hidden

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Continue with ``rows`` (k,) alone, in that order."""
        for layer in self.layers:
            layer.keep_rows(rows, self.beams)
        if self.mask is not None:
            self.mask = self.mask[rows]

    def reorder_beams(self, beams: torch.Tensor) -> None:
        """Let each beam continue the tokens of the beam ``beams`` (rows, beams) of its row."""
        import torch

        order = (torch.arange(len(beams), device=beams.device)[:, None] * self.beams + beams).flatten()
        for layer in self.layers:
            layer.past[:, :, :, : self.length] = layer.past[:, order, :, : self.length]


def _attention_bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return (rows, 1, 1, length): 0 where ``mask`` (rows, length) is 1, −∞ elsewhere."""
    import torch

    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask == 0, -torch.inf)
    return bias[:, None, None, :]


class _Layer:
    """One layer with its keys and values.

    ``past``: (2, rows·beams, heads, capacity, dim), of the tokens; ``prompt``: (rows, heads, length, dim) each.
    """

    def __init__(self, layer: Any, states: torch.Tensor, beams: int) -> None:
        self.layer = layer
        cross = layer.encoder_attn
        self.heads = cross.num_heads
        rows, length, _ = states.shape
        self.prompt = [
            project(states).view(rows, length, self.heads, -1).transpose(1, 2)
            for project in (cross.k_proj, cross.v_proj)
        ]
        self.past = states.new_empty((2, rows * beams, self.heads, FIRST_CAPACITY, self.prompt[0].shape[-1]))

    def __call__(self, hidden: torch.Tensor, length: int, mask: torch.Tensor | None) -> torch.Tensor:
        """Apply BART's post-norm layer to (rows, beams, width): self-attention, cross-attention, feed-forward."""
        from torch.nn.functional import scaled_dot_product_attention as attend

        layer = self.layer
        rows, beams, width = hidden.shape
        own, cross = layer.self_attn, layer.encoder_attn
        if length == self.past.shape[3]:
            self._grow()
        for part, project in enumerate((own.k_proj, own.v_proj)):
            self.past[part, :, :, length] = project(hidden).view(rows * beams, self.heads, -1)
        keys, values = self.past[:, :, :, : length + 1]
        query = own.q_proj(hidden).view(rows * beams, self.heads, 1, -1)
        attended = attend(query, keys, values, scale=own.scaling).reshape(rows, beams, width)
        hidden = layer.self_attn_layer_norm(hidden + own.out_proj(attended))
        query = cross.q_proj(hidden).view(rows, beams, self.heads, -1).transpose(1, 2)
        keys, values = self.prompt
        attended = attend(query, keys, values, attn_mask=mask, scale=cross.scaling)
        attended = attended.transpose(1, 2).reshape(rows, beams, width)
        hidden = layer.encoder_attn_layer_norm(hidden + cross.out_proj(attended))
        return layer.final_layer_norm(hidden + layer.fc2(layer.activation_fn(layer.fc1(hidden))))

    def _grow(self) -> None:
        import torch

        self.past = torch.cat([self.past, torch.empty_like(self.past)], dim=3)

    def keep_rows(self, rows: torch.Tensor, beams: int) -> None:
        """Continue with ``rows`` alone."""
        import torch

        self.prompt = [part[rows] for part in self.prompt]
        self.past = self.past[:, (rows[:, None] * beams + torch.arange(beams, device=rows.device)).flatten()]
