"""Which images a dear annotator is asked about, where it is not asked about all: those that look least like each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from florence.records import ImageRecord


def diverse(records: Sequence[ImageRecord], share: float) -> frozenset[str]:
    """The ids of a ``share`` of the images, rounded up, no two of them nearer than they have to be: each one taken is the farthest from all before it, by the bits of
    their perceptual hashes (farthest-first traversal, Gonzalez 1985). The first is that of the lowest id, as are those of equals; images without a hash come last.
    """
    known = sorted((record for record in records if record.phash is not None), key=lambda record: record.image_id)
    rest = sorted(record.image_id for record in records if record.phash is None)
    wanted = math.ceil(share * len(records))
    if not known:
        return frozenset(rest[:wanted])
    bits = np.unpackbits(
        np.asarray([np.frombuffer(bytes.fromhex(record.phash or ""), np.uint8) for record in known]), axis=1
    )
    chosen, away = [0], np.full(len(known), np.inf)
    while len(chosen) < min(wanted, len(known)):
        away = np.minimum(away, (bits != bits[chosen[-1]]).sum(axis=1))
        away[chosen] = -1
        chosen.append(int(away.argmax()))
    ids = [known[k].image_id for k in chosen]
    return frozenset([*ids, *rest[: wanted - len(ids)]][:wanted])
