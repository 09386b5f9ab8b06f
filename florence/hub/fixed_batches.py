"""Batches of one fixed shape for hub models, so that an answer does not depend on what else is in the batch.

Kernels sum in an order that follows from the shape of their inputs. With the same shape each time, and nothing padded,
the answer to one input is the same to the last digit, whatever the others are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def group_by_shape(inputs: Sequence[Mapping[str, Any]], rows: int) -> Iterator[list[int]]:
    """Yield the indices of at most ``rows`` inputs whose tensors have equal shapes, so that none has to be padded."""
    groups: dict[tuple[tuple[str, tuple[int, ...]], ...], list[int]] = {}
    for index, tensors in enumerate(inputs):
        shapes = tuple((name, tuple(value.shape)) for name, value in sorted(tensors.items()))
        groups.setdefault(shapes, []).append(index)
    for group in groups.values():
        for start in range(0, len(group), rows):
            yield group[start : start + rows]


def fill_batch(inputs: Sequence[Mapping[str, Any]], rows: int, model: Any) -> dict[str, Any]:
    """Return inputs of one shape, (1, …) each, as one batch (rows, …) on the model's device and in its precision.

    Missing rows are filled with the first input.
    """
    import torch

    filled = [*inputs, *[inputs[0]] * (rows - len(inputs))]
    result = {}
    for name in inputs[0]:
        tensor = torch.cat([tensors[name] for tensors in filled])
        result[name] = tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
    return result
