"""Versions of a text as a network of places, and which of what is said there is in the text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from florence.engine.consensus.annotator_models import AnnotatorModels
from florence.engine.consensus.fitting import FitOptions, fit_annotator_models
from florence.engine.consensus.label_matrix import ItemClaims, build_label_matrix
from florence.engine.consensus.posterior import infer_posterior
from florence.engine.wording.alignment import align_sequences
from florence.engine.wording.sequences import CodeSequences, compute_offsets
from florence.engine.wording.tokens import TokenizedTexts, decode_keys


@dataclass(frozen=True)
class Network:
    """Every place that a version has a token for, in order. ``item``: (p,); ``token``: (p, turns), index of each version's token, -1 where it has none;
    ``keys``: (p, turns), its key, -1.
    """

    item: np.ndarray
    token: np.ndarray
    keys: np.ndarray

    @property
    def there(self) -> np.ndarray:
        """(p, turns): who has a token there."""
        return self.token >= 0

    @property
    def key(self) -> np.ndarray:
        """(p,) what its first version says there."""
        return self.keys[np.arange(len(self.keys)), self.there.argmax(axis=1)]

    def heaviest(self, weight: np.ndarray) -> np.ndarray:
        """(p,) the turn of the first to say the key that most of the ``weight`` (p, turns) says; of equals the first."""
        mass = np.full(self.keys.shape, -1.0)
        for turn in range(self.keys.shape[1]):
            mine = self.there[:, turn]
            mass[mine, turn] = in_order(
                weight[mine] * (self.there[mine] & (self.keys[mine] == self.keys[mine, turn, None]))
            )
        return mass.argmax(axis=1)


def in_order(values: np.ndarray) -> np.ndarray:
    """(n,) of (n, k), added up in order: the same values give the same sum, however many zeros stand between them."""
    total = np.zeros(len(values))
    for column in values.T:
        total += column
    return total


def network(rows: CodeSequences, turns: np.ndarray) -> Network:
    """The network of each of n texts whose versions are the ``rows`` in ``turns`` (n, k). Version after version joins, all texts at once."""
    item = np.repeat(np.arange(len(turns)), rows.lengths[turns[:, 0]])
    token = np.full((len(item), turns.shape[1]), -1, np.int64)
    token[:, 0] = rows.positions(turns[:, 0])
    for turn in range(1, turns.shape[1]):
        joining = np.flatnonzero(turns[:, turn] >= 0)
        network = Network(item, token, np.where(token >= 0, rows.keys[token], -1))
        places = CodeSequences(network.key, compute_offsets(np.bincount(item, minlength=len(turns))))
        said, at = rows.select(turns[joining, turn]), rows.positions(turns[joining, turn])
        to, _ = align_sequences(said, places.select(joining))
        # a token that nobody else has comes after the one before it
        base = np.repeat(np.arange(len(joining)) * (len(item) + 1), said.lengths)
        after = np.maximum.accumulate(base + to + 1) - base
        begin = np.repeat(places.offsets[joining], said.lengths)
        token[(begin + to)[to >= 0], turn] = at[to >= 0]
        alone = np.full((int((to < 0).sum()), turns.shape[1]), -1, np.int64)
        alone[:, turn] = at[to < 0]
        where = (begin + after)[to < 0]
        item = np.insert(item, where, np.repeat(joining, said.lengths)[to < 0])
        token = np.insert(token, where, alone, axis=0)
    return Network(item, token, np.where(token >= 0, rows.keys[token], -1))


# ---------------------------------------------------------------- which words are right


def likely(
    network: Network,
    texts: TokenizedTexts,
    line: np.ndarray,
    differ: np.ndarray,
    annotator: np.ndarray,
    capped: int | None,
    cap: float,
    count: int,
    known: AnnotatorModels | None = None,
) -> tuple[np.ndarray, AnnotatorModels]:
    """(p, turns) how likely what a version says at a place is a word of the text, 0 where it says nothing there; and how far each annotator's words are to be trusted.

    Places are things that annotators see or not, and name right or not, as objects in a picture are: how often each leaves out which word follows from all texts.
    ``line``, ``annotator``: (n, k) of the texts' versions, -1 for none; the network is of those that ``differ``, and of the others all say the same. ``known``: what other texts
    told of ``count`` annotators.
    """
    own = annotator[differ][network.item]
    who, there, said = own, network.there, network.keys
    if known is None:
        same = texts.select(line[~differ, 0])
        whole = np.repeat(annotator[~differ], same.lengths, axis=0)
        who = np.concatenate([own, whole])
        there = np.concatenate([network.there, whole >= 0])
        said = np.concatenate([network.keys, np.where(whole >= 0, same.keys[:, None], -1)])
    looked = np.zeros((len(who), count), bool)
    thing, turn = np.nonzero(who >= 0)
    looked[thing, who[thing, turn]] = True
    thing, turn = np.nonzero(there)
    keys, code = np.unique(said[thing, turn], return_inverse=True)
    claims = ItemClaims(thing, who[thing, turn], code.reshape(-1), np.full(len(thing), np.nan))
    matrix = build_label_matrix(claims, looked)
    names = decode_keys(keys)
    if known is None:
        models = fit_annotator_models(matrix, FitOptions(capped, cap), names)
    else:
        models = known.for_labels(names, matrix.label_count)
    correct = infer_posterior(matrix, models, capped, cap).correct[: len(own)]
    return np.where(network.there, correct[np.arange(len(own))[:, None], np.maximum(own, 0)], 0.0), models
