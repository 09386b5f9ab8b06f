"""The text decoder, one token at a time: transformers' own weights and numbers, without what a step does not need.

What has been written is kept in buffers that grow by doubling. The keys and values of an encoded prompt are made once, and the beams of
a row share them: a beam is one more query, not one more copy of the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FIRST = 32
"""Tokens that the buffers hold at first."""


class Decoder:
    """Rows × beams that are written together. Used inside ``torch.inference_mode``.

    ``states`` (rows, length, width), ``mask`` (rows, length): of `florence.model.encoding.encode`; ``beams``: of each row.
    """

    def __init__(self, model: Any, states: torch.Tensor, mask: torch.Tensor | None, *, beams: int = 1) -> None:
        self.net, self.beams, self.written = model.model.language_model.decoder, beams, 0
        self.device = states.device
        self.layers = [_Layer(layer, states, beams) for layer in self.net.layers]
        self.mask = None if mask is None else _bias(mask, states.dtype)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """The last hidden states (rows, beams, width) after ``tokens`` (rows, beams), which follow all that was given before."""
        net = self.net
        place = net.embed_positions.weight[self.written + net.embed_positions.offset]
        hidden = net.layernorm_embedding(net.embed_tokens(tokens) + place)
        for layer in self.layers:
            hidden = layer(hidden, self.written, self.mask)
        self.written += 1
        return hidden

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with ``rows`` (k,) alone, in that order."""
        for layer in self.layers:
            layer.keep(rows, self.beams)
        if self.mask is not None:
            self.mask = self.mask[rows]

    def follow(self, beams: torch.Tensor) -> None:
        """Let each beam go on from what the beam ``beams`` (rows, beams) of its row has written."""
        import torch

        order = (torch.arange(len(beams), device=beams.device)[:, None] * self.beams + beams).flatten()
        for layer in self.layers:
            layer.past[:, :, :, : self.written] = layer.past[:, order, :, : self.written]


def _bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(rows, 1, 1, length): 0 where ``mask`` (rows, length) is 1, −∞ elsewhere."""
    import torch

    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask == 0, -torch.inf)[
        :, None, None, :
    ]


class _Layer:
    """One layer and what it remembers: ``past`` (2, rows·beams, heads, room, dim), keys and values of the tokens; ``seen``: those of the prompt."""

    def __init__(self, layer: Any, states: torch.Tensor, beams: int) -> None:
        self.layer = layer
        across = layer.encoder_attn
        self.heads = across.num_heads
        rows, length, _ = states.shape
        self.seen = [
            project(states).view(rows, length, self.heads, -1).transpose(1, 2)
            for project in (across.k_proj, across.v_proj)
        ]
        self.past = states.new_empty((2, rows * beams, self.heads, FIRST, self.seen[0].shape[-1]))

    def __call__(self, hidden: torch.Tensor, written: int, mask: torch.Tensor | None) -> torch.Tensor:
        """BART's post-norm layer of (rows, beams, width): own past, prompt, feed-forward."""
        from torch.nn.functional import scaled_dot_product_attention as attend

        layer = self.layer
        rows, beams, width = hidden.shape
        own, across = layer.self_attn, layer.encoder_attn
        if written == self.past.shape[3]:
            self._grow()
        for part, project in enumerate((own.k_proj, own.v_proj)):
            self.past[part, :, :, written] = project(hidden).view(rows * beams, self.heads, -1)
        keys, values = self.past[:, :, :, : written + 1]
        query = own.q_proj(hidden).view(rows * beams, self.heads, 1, -1)
        found = attend(query, keys, values, scale=own.scaling).reshape(rows, beams, width)
        hidden = layer.self_attn_layer_norm(hidden + own.out_proj(found))
        query = across.q_proj(hidden).view(rows, beams, self.heads, -1).transpose(1, 2)
        found = (
            attend(query, self.seen[0], self.seen[1], attn_mask=mask, scale=across.scaling)
            .transpose(1, 2)
            .reshape(rows, beams, width)
        )
        hidden = layer.encoder_attn_layer_norm(hidden + across.out_proj(found))
        return layer.final_layer_norm(hidden + layer.fc2(layer.activation_fn(layer.fc1(hidden))))

    def _grow(self) -> None:
        import torch

        self.past = torch.cat([self.past, torch.empty_like(self.past)], dim=3)

    def keep(self, rows: torch.Tensor, beams: int) -> None:
        """Go on with ``rows`` alone."""
        import torch

        self.seen = [part[rows] for part in self.seen]
        self.past = self.past[:, (rows[:, None] * beams + torch.arange(beams, device=rows.device)).flatten()]
