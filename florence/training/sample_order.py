"""Which images a step trains on: a pure function of (seed, step, number of images in each shard)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from florence.config import TrainSettings

Shards = tuple[int, ...]
"""Numbers of the shards in one shuffle buffer, in the order in which their images are counted."""


class StepPosition(NamedTuple):
    """One image of a step. ``image`` counts the images of ``shards``, one shard after the other."""

    epoch: int
    shards: Shards
    image: int


@dataclass
class SampleOrder:
    """Shards in a seeded order each epoch, images shuffled within buffers of ``buffer_size`` shards.

    Where one buffer holds all shards, this is one full shuffle. ``shard_sizes``: (shards,) training images in each.
    """

    shard_sizes: np.ndarray
    buffer_size: int
    seed: int
    _epochs: dict[int, list[Shards]] = field(default_factory=dict)
    _permutations: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Images in an epoch."""
        return int(self.shard_sizes.sum())

    @property
    def has_single_buffer(self) -> bool:
        """Whether one buffer holds all shards."""
        return len(self.shard_sizes) <= self.buffer_size

    def buffers(self, epoch: int) -> list[Shards]:
        """Return the shards of each buffer of an epoch, in order, without buffers that hold no image."""
        if epoch not in self._epochs:
            if len(self._epochs) > 2:
                self._epochs.clear()
            shards = len(self.shard_sizes)
            order = (
                np.arange(shards)
                if self.has_single_buffer
                else np.random.default_rng([self.seed, 0, epoch]).permutation(shards)
            )
            buffers = (
                tuple(int(shard) for shard in order[first : first + self.buffer_size])
                for first in range(0, shards, self.buffer_size)
            )
            self._epochs[epoch] = [buffer for buffer in buffers if self.shard_sizes[list(buffer)].sum()]
        return self._epochs[epoch]

    def positions(self, first: int, count: int) -> list[StepPosition]:
        """Return ``count`` positions of the endless sequence of epochs, from number ``first`` on."""
        found: list[StepPosition] = []
        while len(found) < count:
            epoch, offset = divmod(first + len(found), self.images)
            for number, shards in enumerate(self.buffers(epoch)):
                size = int(self.shard_sizes[list(shards)].sum())
                if offset < size:
                    shuffled = self._permutation(epoch, number, size)[offset : offset + count - len(found)]
                    found += [StepPosition(epoch, shards, int(index)) for index in shuffled]
                    break
                offset -= size
        return found

    def next_buffer(self, position: StepPosition) -> Shards:
        """Return the shards of the buffer that follows the one of ``position``."""
        buffers = self.buffers(position.epoch)
        number = buffers.index(position.shards) + 1
        return buffers[number] if number < len(buffers) else self.buffers(position.epoch + 1)[0]

    def _permutation(self, epoch: int, number: int, size: int) -> np.ndarray:
        key = (epoch, number)
        if key not in self._permutations:
            if len(self._permutations) > 2:
                self._permutations.clear()
            self._permutations[key] = np.random.default_rng([self.seed, 0, epoch, number + 1]).permutation(size)
        return self._permutations[key]


def count_steps(settings: TrainSettings, images: int) -> int:
    """Return the steps of a training on ``images`` images: ``settings.steps``, or fewer where `max_epochs` ends it."""
    return max(1, min(settings.steps, math.ceil(settings.max_epochs * images / settings.batch_size)))


def first_sparse_step(settings: TrainSettings, steps: int, has_sparse: bool) -> int:
    """Return the first of ``steps`` that trains the sparse tasks; ``steps`` where no image has labels for them."""
    return round(steps * (1 - settings.sparse_share)) if has_sparse else steps


def image_size_at(settings: TrainSettings, step: int, steps: int, image_size: int) -> int:
    """Return the image size of step ``step`` of ``steps``; without stages, ``image_size``, the model's own."""
    done = 0.0
    for stage in settings.resolutions:
        done += stage.share
        if step < round(done * steps):
            return stage.image_size
    return settings.resolutions[-1].image_size if settings.resolutions else image_size
