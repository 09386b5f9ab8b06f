"""Which images an annotator is asked about that is asked about a part of them: the ones that look least like each other.

Farthest-first traversal (Gonzalez 1985): each image taken is the farthest from all before it, d(i) = min over the taken j of
Hamming(hash i, hash j), by the bits of their perceptual hashes.
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
