"""Inputs of hub models in rows of one shape and number: what a model says of one then does not depend on the others beside it, to the last digit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def in_rows(inputs: Sequence[Mapping[str, Any]], rows: int) -> Iterator[list[int]]:
    """The indices of at most ``rows`` inputs at a time whose tensors are alike in shape, so that nothing has to be padded."""
    groups: dict[tuple[tuple[str, tuple[int, ...]], ...], list[int]] = {}
    for index, given in enumerate(inputs):
        groups.setdefault(tuple((name, tuple(value.shape)) for name, value in sorted(given.items())), []).append(index)
    for group in groups.values():
        for start in range(0, len(group), rows):
            yield group[start : start + rows]


def stacked(inputs: Sequence[Mapping[str, Any]], rows: int, model: Any) -> dict[str, Any]:
    """Inputs of one shape as one batch of exactly ``rows``, the first one repeated at its end, on the model's device and in its precision."""
    import torch

    filled = [*inputs, *[inputs[0]] * (rows - len(inputs))]
    result = {}
    for name in inputs[0]:
        tensor = torch.cat([given[name] for given in filled])
        result[name] = tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
    return result
