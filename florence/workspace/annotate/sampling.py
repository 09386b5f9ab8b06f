"""A sample of images that look least like each other, for an annotator that is asked about a part of them.

Farthest-first traversal (Gonzalez 1985): with h(i) the perceptual hash of image i and T the images taken so far, the
next image is the i that maximises d(i) = min over j in T of Hamming(h(i), h(j)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from florence.records import ImageRecord


def sample_diverse(records: Sequence[ImageRecord], fraction: float) -> frozenset[str]:
    """Return the ids of a ``fraction`` of the images, rounded up, as far from each other as possible.

    The first is the one with the lowest id, which also comes first among equals; images without a hash come last.
    """
    known = sorted((record for record in records if record.phash is not None), key=lambda record: record.image_id)
    rest = sorted(record.image_id for record in records if record.phash is None)
    wanted = math.ceil(fraction * len(records))
    if not known:
        return frozenset(rest[:wanted])
    bits = np.unpackbits(
        np.asarray([np.frombuffer(bytes.fromhex(record.phash or ""), np.uint8) for record in known]), axis=1
    )
    chosen, distance = [0], np.full(len(known), np.inf)
    while len(chosen) < min(wanted, len(known)):
        distance = np.minimum(distance, (bits != bits[chosen[-1]]).sum(axis=1))
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    ids = [known[k].image_id for k in chosen]
    return frozenset([*ids, *rest[: wanted - len(ids)]][:wanted])
