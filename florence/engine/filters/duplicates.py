"""Images that are nearly the same as others, by their perceptual hashes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from florence.engine.claims import Labels
from florence.engine.pairs import suppressed

BITS = 256
WIDE = 20
"""Bits of a band at most, fewer where there are few images. Hashes that differ in fewer than two bits for each band differ in one bit at most in one of the bands, so
that is where they are looked for.
"""
BLOCK = 1024
"""Images that are compared with each other first; those that remain of the others are taken four times as many at a time."""
REASON = "near_duplicate"


def drop_near_duplicates(parts: Sequence[Labels], copy: np.ndarray) -> list[Labels]:
    """Labels in which everything about an image that is a ``copy`` (images,) of another one is dropped."""
    if not copy.any():
        return list(parts)
    return [
        replace(
            part,
            reason=[r or (REASON if of else "") for r, of in zip(part.reason, copy[part.image].tolist(), strict=True)],
        )
        for part in parts
    ]


def find_near_duplicates(images: pa.Table, most: int | None) -> np.ndarray:
    """(n,) which training images differ in ``most`` bits or fewer from an image that stays: a held-out or gold one, or a training image of a smaller id; None: none does.

    Held-out and gold images stay in any case, as dropping their labels would only spoil what is measured on them. Images without a hash have no copies.
    """
    found = np.zeros(len(images), bool)
    if most is None or "phash" not in images.column_names:
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
    stays, others = np.flatnonzero(known & ~train), rest
    rest = rest[~_near(bits[stays], bits[rest], most)]
    size, kept = BLOCK, []
    while len(rest):
        block, rest = rest[:size], rest[size:]
        a, b = _pairs(bits[block], most)
        block = block[~suppressed(a, b, len(block))]
        kept.append(block)
        rest = rest[~_near(bits[block], bits[rest], most)]
        size *= 4
    found[others] = True
    found[np.concatenate([np.zeros(0, np.int64), *kept])] = False
    return found


def _pairs(bits: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (i < j) of hashes (n, BITS) that differ in ``most`` bits or fewer; some more than once."""
    words, found = _words(bits), []
    for band in _bands(most, len(bits)):
        keys = _keys(bits, band)
        for a, b in _candidates(keys, keys, len(band)):
            one = a < b
            found.append(np.stack([a[one], b[one]])[:, _differ(words[a[one]], words[b[one]]) <= most])
    a, b = np.concatenate([np.zeros((2, 0), np.int64), *found], axis=1)
    return a, b


def _near(bits: np.ndarray, others: np.ndarray, most: int) -> np.ndarray:
    """(m,) which of the ``others`` (m, BITS) differ from one of the hashes (n, BITS) in ``most`` bits or fewer."""
    found = np.zeros(len(others), bool)
    words, more = _words(bits), _words(others)
    for band in _bands(most, len(bits) + len(others)):
        rest = np.flatnonzero(~found)
        for a, b in _candidates(_keys(bits, band), _keys(others[rest], band), len(band)):
            found[rest[b[_differ(words[a], more[rest[b]]) <= most]]] = True
    return found


def _bands(most: int, count: int) -> list[np.ndarray]:
    """Which bits each band has, so wide that few of ``count`` hashes share one by chance."""
    wide = min(WIDE, count.bit_length() + 3)
    return np.array_split(np.arange(BITS), max(-(-BITS // wide), most // 2 + 1))


def _keys(bits: np.ndarray, band: np.ndarray) -> np.ndarray:
    """(n,) the bits of a band as one number."""
    key = np.zeros(len(bits), np.int32)
    for part in np.packbits(bits[:, band[0] : band[-1] + 1], axis=1).T:
        key = key << 8 | part
    return key >> -len(band) % 8


def _words(bits: np.ndarray) -> np.ndarray:
    """(n, BITS / 64) the same as 64-bit words."""
    return np.packbits(bits, axis=1).view(np.uint64)


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) in how many bits hashes differ."""
    return np.bitwise_count(a ^ b).sum(axis=1, dtype=np.int64)


def _candidates(keys: np.ndarray, others: np.ndarray, wide: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of one of the ``keys`` (n,) and one of the ``others`` (m,) that differ in one of ``wide`` bits at most."""
    order, turn = np.argsort(keys, kind="stable"), np.argsort(others, kind="stable")
    begin = np.concatenate([np.zeros(1, np.int32), np.cumsum(np.bincount(keys, minlength=1 << wide), dtype=np.int32)])
    # in the order of their keys, neighbours are looked up where neighbours are
    others = others[turn]
    for flip in [0, *(1 << bit for bit in range(wide))]:
        first = begin[others ^ flip]
        count = begin[(others ^ flip) + 1] - first
        there = np.flatnonzero(count)
        if len(there):
            first, count = first[there], count[there]
            b = np.repeat(turn[there], count)
            yield order[np.arange(len(b)) - np.repeat(np.cumsum(count) - count - first, count)], b
