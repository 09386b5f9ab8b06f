"""Images that are near-duplicates of others, by their perceptual hashes.

Two images are near-duplicates if the Hamming distance of their hashes (256 bits of the image's low-frequency DCT, see
`florence.images.perceptual_hash`) is at most d. Cut into k > d / 2 bands of bits, two such hashes differ in one bit at
most in at least one band (pigeonhole principle): only pairs that nearly agree in a band are compared in full, as in
Manku, Jain and Das Sarma (2007), Detecting near-duplicates for web crawling, WWW.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from florence.engine.labels import Labels
from florence.engine.pairs import find_suppressed

BITS = 256
MAX_BAND_BITS = 20
"""Bits of a band at most; fewer where there are few images."""
BLOCK = 1024
"""Images that are compared with each other first; each further block is four times as large."""
REASON = "near_duplicate"


def drop_near_duplicates(parts: Sequence[Labels], is_duplicate: np.ndarray) -> list[Labels]:
    """Return ``parts`` with a drop reason for every label of an image that ``is_duplicate`` (images,) of another."""
    if not is_duplicate.any():
        return list(parts)
    return [
        replace(
            part,
            reason=[
                reason or (REASON if duplicate else "")
                for reason, duplicate in zip(part.reason, is_duplicate[part.image].tolist(), strict=True)
            ],
        )
        for part in parts
    ]


def find_near_duplicates(images: pa.Table, max_distance: int | None) -> np.ndarray:
    """Return (n,) whether each image is a training image and a near-duplicate of an image that stays.

    The images that stay are held-out and gold images, and training images of a smaller id that are no near-duplicates
    themselves. Held-out and gold images always stay: dropping their labels would only spoil what is measured on them.
    ``max_distance``: bits; None finds nothing. An image without a hash has no near-duplicates.
    """
    found = np.zeros(len(images), bool)
    if max_distance is None or "phash" not in images.column_names:
        return found
    train = np.asarray(images["split"].to_pylist()) == "train"
    known = np.asarray(images["phash"].is_valid().to_pylist(), bool)
    if not (known & train).any():
        return found
    bits = np.zeros((len(images), BITS), np.uint8)
    whole = "".join(images["phash"].drop_null().to_pylist())
    bits[known] = np.unpackbits(np.frombuffer(bytes.fromhex(whole), np.uint8)).reshape(-1, BITS)
    ids = np.asarray(images["image_id"].to_pylist())
    rest = np.flatnonzero(known & train)
    rest = rest[np.argsort(ids[rest], kind="stable")]
    fixed, candidates = np.flatnonzero(known & ~train), rest
    rest = rest[~_match_any(bits[fixed], bits[rest], max_distance)]
    size, kept = BLOCK, []
    while len(rest):
        block, rest = rest[:size], rest[size:]
        a, b = _find_pairs(bits[block], max_distance)
        block = block[~find_suppressed(a, b, len(block))]
        kept.append(block)
        rest = rest[~_match_any(bits[block], bits[rest], max_distance)]
        size *= 4
    found[candidates] = True
    found[np.concatenate([np.zeros(0, np.int64), *kept])] = False
    return found


def _find_pairs(bits: np.ndarray, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs (i < j) of hashes (n, BITS) within ``max_distance``; a pair may come more than once."""
    words, found = _pack_words(bits), []
    for band in _split_bands(max_distance, len(bits)):
        keys = _pack_band(bits, band)
        for a, b in _find_candidates(keys, keys, len(band)):
            one = a < b
            near = _hamming_distance(words[a[one]], words[b[one]]) <= max_distance
            found.append(np.stack([a[one], b[one]])[:, near])
    a, b = np.concatenate([np.zeros((2, 0), np.int64), *found], axis=1)
    return a, b


def _match_any(bits: np.ndarray, others: np.ndarray, max_distance: int) -> np.ndarray:
    """Return (m,) whether each of ``others`` (m, BITS) is within ``max_distance`` of any hash of ``bits`` (n, BITS)."""
    found = np.zeros(len(others), bool)
    words, other_words = _pack_words(bits), _pack_words(others)
    for band in _split_bands(max_distance, len(bits) + len(others)):
        rest = np.flatnonzero(~found)
        for a, b in _find_candidates(_pack_band(bits, band), _pack_band(others[rest], band), len(band)):
            found[rest[b[_hamming_distance(words[a], other_words[rest[b]]) <= max_distance]]] = True
    return found


def _split_bands(max_distance: int, count: int) -> list[np.ndarray]:
    """Return the bits of each band, so wide that few of ``count`` hashes agree in one by chance."""
    wide = min(MAX_BAND_BITS, count.bit_length() + 3)
    return np.array_split(np.arange(BITS), max(-(-BITS // wide), max_distance // 2 + 1))


def _pack_band(bits: np.ndarray, band: np.ndarray) -> np.ndarray:
    """Return (n,) int32, the bits of a band as one number."""
    key = np.zeros(len(bits), np.int32)
    for part in np.packbits(bits[:, band[0] : band[-1] + 1], axis=1).T:
        key = key << 8 | part
    return key >> -len(band) % 8


def _pack_words(bits: np.ndarray) -> np.ndarray:
    """Return (n, BITS / 64) the hashes as 64-bit words."""
    return np.packbits(bits, axis=1).view(np.uint64)


def _hamming_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return (n,) in how many bits hashes (n, BITS / 64) differ."""
    return np.bitwise_count(a ^ b).sum(axis=1, dtype=np.int64)


def _find_candidates(keys: np.ndarray, others: np.ndarray, wide: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of ``keys`` (n,) and ``others`` (m,) whose ``wide`` bits differ in one at most, flip by flip."""
    order, other_order = np.argsort(keys, kind="stable"), np.argsort(others, kind="stable")
    begin = np.concatenate([np.zeros(1, np.int32), np.cumsum(np.bincount(keys, minlength=1 << wide), dtype=np.int32)])
    # in the order of their keys, neighbours are looked up where neighbours are
    others = others[other_order]
    for flip in [0, *(1 << bit for bit in range(wide))]:
        first = begin[others ^ flip]
        count = begin[(others ^ flip) + 1] - first
        there = np.flatnonzero(count)
        if len(there):
            first, count = first[there], count[there]
            b = np.repeat(other_order[there], count)
            yield order[np.arange(len(b)) - np.repeat(np.cumsum(count) - count - first, count)], b
