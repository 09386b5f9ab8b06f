"""Which images a person sees first: those with the most wrong labels to be expected, unlike those chosen before.

The confidence p of a label is how likely it is right. Of image i, the number of labels of the name v that are expected
to be wrong, and that of all its labels, is

    w_iv = Σ_{kept, named v} (1 − p) + Σ_{dropped for low confidence, named v} p          W_i = Σ_v w_iv

A sum, not a mean: one doubtful label among twenty sure ones counts as much as one alone. What is dropped although it is
right is missing. All texts of one caption type count as one name. Images are chosen one by one, each time the one with
the largest

    g_i = (1 − ½ ℓ_i) Σ_v w_iv / (1 + n_v / M)          ℓ_i = max_j max(0, 1 − d_ij / D)          n_v = Σ_j w_jv

over the images j that are chosen: an image that looks like one of them counts half at least (d_ij: bits in which their
perceptual hashes differ), and a name counts less the more of it they show. Of equals the lower id comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.engine.claims import find_codes
from florence.records import CAPTIONS

OBJECTS = "<OD>"
SHOWN_TYPES = (OBJECTS, *CAPTIONS)
"""Annotation types that a reviewer is shown."""
VOTED_REASONS = ("", "low_confidence")
"""Drop reasons of labels that people review: none (kept), or a confidence that is too low."""
HASH_BYTES = 32
"""Bytes of a perceptual hash (`florence.images.perceptual_hash`)."""
LOOK_BITS = 64
"""D: bits from which on two perceptual hashes (256 bits) have nothing in common."""
LOOK_SHARE = 0.5
"""How much less an image counts that looks the same as one that is chosen."""
NAME_COUNT = 10.0
"""M: wrong labels of a name among the chosen images after which others of it count half."""
MAX_DIVERSE = 1000
"""Images that are chosen one by one; further ones follow in the order of W."""
POOL = 1000
"""Images that are looked at each time that one is chosen."""


@dataclass(frozen=True)
class Ranking:
    """Images in the order in which people see them.

    ``image_ids``; ``expected_wrong``: W of each; ``gain``: g when it was chosen, W of those beyond `MAX_DIVERSE`;
    ``all_wrong``: the sum of W over all images, ranked or not.
    """

    image_ids: tuple[str, ...]
    expected_wrong: np.ndarray
    gain: np.ndarray
    all_wrong: float

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True)
class _Doubts:
    """Images in the order of their ids, and m pairs (image, name) in that order.

    ``image_ids``: (n,); ``total``: (n,) W; ``image``, ``name``, ``wrong``: (m,), w; ``hashes``: (n, 4) words;
    ``hashed``: (n,) whether an image has a hash.
    """

    image_ids: np.ndarray
    total: np.ndarray
    image: np.ndarray
    name: np.ndarray
    wrong: np.ndarray
    hashes: np.ndarray
    hashed: np.ndarray

    def take(self, rows: np.ndarray) -> _Doubts:
        """Some of the images, in the order of ``rows`` (k,), which rises."""
        position = np.full(len(self.image_ids), -1)
        position[rows] = np.arange(len(rows))
        pairs = np.flatnonzero(position[self.image] >= 0)
        return _Doubts(
            self.image_ids[rows],
            self.total[rows],
            position[self.image[pairs]],
            self.name[pairs],
            self.wrong[pairs],
            self.hashes[rows],
            self.hashed[rows],
        )


def select_voted(labels: pa.Table) -> pa.Table:
    """Return the labels that people review: of `SHOWN_TYPES`, kept or dropped for low confidence."""
    return labels.filter(
        pc.and_(
            pc.and_(pc.is_in(labels["reason"], pa.array(VOTED_REASONS)), pc.is_valid(labels["confidence"])),
            pc.is_in(labels["task"], pa.array(SHOWN_TYPES)),
        )
    )


def rank_images(labels: pa.Table, images: pa.Table, count: int, *, leave_out: Sequence[str] = ()) -> Ranking:
    """Rank the images of ``labels`` that people should see first, ``count`` at most.

    ``labels``: a round's (schema `ANNOTATIONS`); ``images``: records with ``image_id`` and, where there is one,
    ``phash``. ``leave_out``: ids of images that are not ranked. Images without labels that were voted on are not
    ranked.
    """
    voted = select_voted(labels)
    voted = voted.filter(pc.invert(pc.is_in(voted["image_id"], pa.array(leave_out, pa.string()))))
    doubts = _sum_doubts(voted, images)
    order = np.argsort(-np.round(doubts.total, 9), kind="stable")
    wanted = min(count, len(order))
    diverse = min(wanted, MAX_DIVERSE)
    chosen, gain = _choose_diverse(doubts, diverse)
    taken = np.zeros(len(order), bool)
    taken[chosen] = True
    rest = order[~taken[order]][: wanted - diverse]
    rows = np.concatenate([chosen, rest])
    return Ranking(
        tuple(doubts.image_ids[rows].tolist()),
        doubts.total[rows],
        np.concatenate([gain, doubts.total[rest]]),
        float(doubts.total.sum()),
    )


def _sum_doubts(voted: pa.Table, images: pa.Table) -> _Doubts:
    confidence = np.clip(voted["confidence"].to_numpy(), 0, 1)
    wrong = np.where(voted["kept"].to_numpy(), 1 - confidence, confidence)
    of_captions = pc.not_equal(voted["task"], OBJECTS)
    names = pc.if_else(of_captions, voted["task"], pc.binary_join_element_wise("", voted["text"], "\n"))
    ids = pc.unique(voted["image_id"]).sort()
    image = find_codes(voted["image_id"], ids)
    name = names.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    width = int(name.max(initial=0)) + 1
    pairs, pair_of = np.unique(image * width + name, return_inverse=True)
    summed = np.bincount(pair_of, wrong, minlength=len(pairs))
    hashes, hashed = _read_hashes(ids, images)
    return _Doubts(
        np.asarray(ids.to_pylist(), object),
        np.bincount(image, wrong, minlength=len(ids)),
        pairs // width,
        pairs % width,
        summed,
        hashes,
        hashed,
    )


def _read_hashes(ids: pa.Array, images: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, 4) the perceptual hashes of images as 64-bit words, and (n,) which of them have one."""
    words, hashed = np.zeros((len(ids), 4), np.uint64), np.zeros(len(ids), bool)
    if "phash" not in images.column_names:
        return words, hashed
    known = images.filter(pc.is_valid(images["phash"]))
    row = find_codes(known["image_id"], ids)
    content = bytes.fromhex("".join(known["phash"].to_pylist()))
    found = np.frombuffer(content, np.uint8).reshape(len(known), HASH_BYTES)
    words[row[row >= 0]] = np.ascontiguousarray(found[row >= 0]).view(np.uint64)
    hashed[row[row >= 0]] = True
    return words, hashed


def _choose_diverse(doubts: _Doubts, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (count,) the images that are chosen one by one and (count,) their g.

    Each time only a pool of images is looked at: those with the largest g when the pool was made. g only falls, so none
    outside is the next one while the best inside is above what the best one outside was then.
    """
    choice, every = _Choice(doubts), np.arange(len(doubts.total))
    rows, pool, outside = every[:0], doubts, np.inf
    chosen, gain = np.zeros(count, np.int64), np.zeros(count)
    for k in range(count):
        worth = choice.measure(rows, pool) if len(rows) else np.zeros(0)
        if worth.max(initial=-1.0) <= outside:
            worth = choice.measure(every, doubts)
            order = np.argsort(-worth, kind="stable")
            rows = np.sort(order[:POOL])
            outside = worth[order[POOL]] if len(order) > POOL else -np.inf
            worth, pool = worth[rows], doubts.take(rows)
        best = int(worth.argmax())
        chosen[k], gain[k] = rows[best], worth[best]
        choice.add(int(rows[best]))
    return chosen, gain


class _Choice:
    """The images that are chosen so far."""

    def __init__(self, doubts: _Doubts) -> None:
        self._doubts = doubts
        self._begin = np.searchsorted(doubts.image, np.arange(len(doubts.total) + 1))
        self._shown = np.zeros(int(doubts.name.max(initial=0)) + 1)
        self._look = np.zeros(len(doubts.total))
        self._free = np.ones(len(doubts.total), bool)

    def measure(self, rows: np.ndarray, doubts: _Doubts) -> np.ndarray:
        """Return (k,) g of the images ``rows`` (k,), whose ``doubts`` these are; -1 of those that are chosen."""
        wrong = doubts.wrong / (1 + self._shown[doubts.name] / NAME_COUNT)
        worth = np.bincount(doubts.image, wrong, minlength=len(rows)) * (1 - LOOK_SHARE * self._look[rows])
        return np.where(self._free[rows], np.round(worth, 9), -1.0)

    def add(self, row: int) -> None:
        """Choose an image."""
        pairs = slice(self._begin[row], self._begin[row + 1])
        self._free[row] = False
        self._shown[self._doubts.name[pairs]] += self._doubts.wrong[pairs]
        if self._doubts.hashed[row]:
            distance = np.bitwise_count(self._doubts.hashes ^ self._doubts.hashes[row]).sum(axis=1, dtype=np.int64)
            look = np.where(self._doubts.hashed, np.clip(1 - distance / LOOK_BITS, 0, 1), 0)
            np.maximum(self._look, look, out=self._look)
