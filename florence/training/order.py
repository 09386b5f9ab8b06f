"""Which images a step sees: a pure function of (seed, step, number of images in each shard)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from florence.config import Train

Shards = tuple[int, ...]
"""Numbers of the shards in a window, in the order in which their images are counted."""


class Place(NamedTuple):
    """One image of a step: ``image`` counts the images of ``shards``, one shard after the other."""

    epoch: int
    shards: Shards
    image: int


@dataclass
class Order:
    """Shards in a seeded order an epoch, images mixed within windows of ``window`` shards; where one window holds all, one full shuffle.

    ``sizes``: (shards,) images that are learnt from in each.
    """

    sizes: np.ndarray
    window: int
    seed: int
    _epochs: dict[int, list[Shards]] = field(default_factory=dict)
    _mixed: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Images in an epoch."""
        return int(self.sizes.sum())

    @property
    def whole(self) -> bool:
        """Whether one window holds all shards."""
        return len(self.sizes) <= self.window

    def windows(self, epoch: int) -> list[Shards]:
        """The windows of an epoch, in order; those without an image are left out."""
        if epoch not in self._epochs:
            if len(self._epochs) > 2:
                self._epochs.clear()
            order = (
                np.arange(len(self.sizes))
                if self.whole
                else np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.sizes))
            )
            cut = (
                tuple(int(s) for s in order[first : first + self.window]) for first in range(0, len(order), self.window)
            )
            self._epochs[epoch] = [shards for shards in cut if self.sizes[list(shards)].sum()]
        return self._epochs[epoch]

    def places(self, first: int, count: int) -> list[Place]:
        """The places ``first`` … ``first + count`` − 1 of the endless sequence of epochs."""
        found: list[Place] = []
        while len(found) < count:
            epoch, offset = divmod(first + len(found), self.images)
            for number, shards in enumerate(self.windows(epoch)):
                size = int(self.sizes[list(shards)].sum())
                if offset < size:
                    mixed = self._permutation(epoch, number, size)[offset : offset + count - len(found)]
                    found += [Place(epoch, shards, int(index)) for index in mixed]
                    break
                offset -= size
        return found

    def after(self, place: Place) -> Shards:
        """The window that follows the one of ``place``."""
        windows = self.windows(place.epoch)
        number = windows.index(place.shards) + 1
        return windows[number] if number < len(windows) else self.windows(place.epoch + 1)[0]

    def _permutation(self, epoch: int, number: int, size: int) -> np.ndarray:
        key = (epoch, number)
        if key not in self._mixed:
            if len(self._mixed) > 2:
                self._mixed.clear()
            self._mixed[key] = np.random.default_rng([self.seed, 0, epoch, number + 1]).permutation(size)
        return self._mixed[key]


def steps_of(settings: Train, images: int) -> int:
    """The steps of a training on ``images`` images: ``settings.steps``, or fewer where that would pass over them too often."""
    return max(1, min(settings.steps, math.ceil(settings.max_epochs * images / settings.batch_size)))


def turn_of(settings: Train, steps: int, sparse: bool) -> int:
    """The first of the ``steps`` that learn from what is ``sparse``; ``steps`` where nothing is."""
    return round(steps * (1 - settings.sparse_share)) if sparse else steps


def side_of(settings: Train, step: int, steps: int, side: int) -> int:
    """The image size that step ``step`` of ``steps`` sees; ``side``: the model's own, where there are no stages."""
    done = 0.0
    for stage in settings.resolutions:
        done += stage.share
        if step < round(done * steps):
            return stage.image_size
    return settings.resolutions[-1].image_size if settings.resolutions else side
