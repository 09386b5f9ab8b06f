"""What pictures look like, in few bits: by it copies of one picture are found."""

from __future__ import annotations

import numpy as np

HASHED, FLAT = 16, 8
"""Frequencies a side that a perceptual hash is made of, and the levels of grey, of 256, that a picture has to span to have one."""


def perceptual_hash(pixels: np.ndarray) -> str | None:
    """What a picture (height, width, 3) looks like, coarsely and in grey: 256 bits (imagehash's pHash) as 64 hexadecimal digits.

    Copies that are scaled, compressed again or a little brighter differ in few bits; different pictures in about half. None where there is next to nothing to see.
    """
    import imagehash
    from PIL import Image

    side = 4 * HASHED
    grey = Image.fromarray(pixels).convert("L").resize((side, side), Image.Resampling.LANCZOS)
    return None if np.ptp(np.asarray(grey).astype(int)) < FLAT else str(imagehash.phash(grey, hash_size=HASHED))
