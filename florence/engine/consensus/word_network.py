"""Versions of a text as a word transition network, and the posterior of each word in it.

As in ROVER (Fiscus 1997, A post-processing system to yield reduced word error rates: recognizer output voting error
reduction), versions are aligned one after the other into a row of slots, in each of which a version has a token or
none. ROVER votes by frequency and score; here a slot is an item of `florence.engine.consensus.annotator_models`: an
annotator with a version of the text is asked about its slots, its token is its label, and a missing token is silence.
Different tokens have no similarity, so with y_ja the token of version a in slot j

    P(y_ja is right | y_j) = P(z_j = y_ja | y_j)    (equations 9 and 11 of `florence.engine.consensus.posterior`),

and recall r_a, which says how much a missing token proves, is how often annotator a has a word that is in the text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from florence.engine.consensus.annotator_models import AnnotatorModels
from florence.engine.consensus.fitting import FitOptions, fit_annotator_models
from florence.engine.consensus.label_matrix import AnnotatorTraits, ItemClaims, build_label_matrix
from florence.engine.consensus.posterior import infer_posterior
from florence.engine.wording.alignment import align_sequences
from florence.engine.wording.sequences import CodeSequences, compute_offsets
from florence.engine.wording.tokens import TokenizedTexts, decode_keys

WORD_PRECISION = 0.95
"""Share right of the words of annotators of which nothing is known: they leave words out more often than add any."""


@dataclass(frozen=True)
class VersionTable:
    """Up to k versions of n texts. ``row``: (n, k) row of ``texts``, -1 for none; ``annotator``, ``weight``: (n, k)."""

    texts: TokenizedTexts
    row: np.ndarray
    annotator: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class WordVoters:
    """The annotators that vote on words. ``count``: how many; ``student``: the one whose evidence is at most ``cap`` of
    all; ``models``: estimated from other texts, None to estimate them from these. ``families``: (A,), see
    `AnnotatorTraits`.
    """

    count: int
    student: int | None = None
    cap: float = 1.0
    models: AnnotatorModels | None = None
    families: np.ndarray | None = None


@dataclass(frozen=True)
class WordNetwork:
    """The s slots of n texts, in order. ``text``: (s,), of each slot; ``token``: (s, k), index of each version's token,
    -1 for none; ``keys``: (s, k), its code, -1 for none.
    """

    text: np.ndarray
    token: np.ndarray
    keys: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """(s, k): whether a version has a token in a slot."""
        return self.token >= 0

    @property
    def first_key(self) -> np.ndarray:
        """(s,) the key of the first version with a token in the slot."""
        return self.keys[np.arange(len(self.keys)), self.present.argmax(axis=1)]

    def heaviest_version(self, weight: np.ndarray) -> np.ndarray:
        """Return (s,) the first version with the key that has most of the ``weight`` (s, k); of equals the first."""
        mass = np.full(self.keys.shape, -1.0)
        for k in range(self.keys.shape[1]):
            mine = self.present[:, k]
            mass[mine, k] = sum_in_order(
                weight[mine] * (self.present[mine] & (self.keys[mine] == self.keys[mine, k, None]))
            )
        return mass.argmax(axis=1)


def sum_in_order(values: np.ndarray) -> np.ndarray:
    """Return (n,) the row sums of (n, k), added in order: zeros in between do not change the sum."""
    total = np.zeros(len(values))
    for column in values.T:
        total += column
    return total


def build_word_network(sequences: CodeSequences, versions: np.ndarray) -> WordNetwork:
    """Return the network of n texts whose versions are rows ``versions`` (n, k) of ``sequences``, -1 for none.

    Version after version is aligned with the first keys of the slots so far and joins them, for all texts at once.
    """
    text = np.repeat(np.arange(len(versions)), sequences.lengths[versions[:, 0]])
    token = np.full((len(text), versions.shape[1]), -1, np.int64)
    token[:, 0] = sequences.positions(versions[:, 0])
    for k in range(1, versions.shape[1]):
        joining = np.flatnonzero(versions[:, k] >= 0)
        network = WordNetwork(text, token, np.where(token >= 0, sequences.keys[token], -1))
        slots = CodeSequences(network.first_key, compute_offsets(np.bincount(text, minlength=len(versions))))
        version, at = sequences.select(versions[joining, k]), sequences.positions(versions[joining, k])
        target, _ = align_sequences(version, slots.select(joining))
        # a token without a counterpart gets a slot of its own after the one of the token before it
        base = np.repeat(np.arange(len(joining)) * (len(text) + 1), version.lengths)
        after = np.maximum.accumulate(base + target + 1) - base
        begin = np.repeat(slots.offsets[joining], version.lengths)
        token[(begin + target)[target >= 0], k] = at[target >= 0]
        alone = np.full((int((target < 0).sum()), versions.shape[1]), -1, np.int64)
        alone[:, k] = at[target < 0]
        where = (begin + after)[target < 0]
        text = np.insert(text, where, np.repeat(joining, version.lengths)[target < 0])
        token = np.insert(token, where, alone, axis=0)
    return WordNetwork(text, token, np.where(token >= 0, sequences.keys[token], -1))


def infer_words(
    network: WordNetwork, versions: VersionTable, differ: np.ndarray, voters: WordVoters
) -> tuple[np.ndarray, AnnotatorModels]:
    """Return (s, k) how likely each version's token is a word of the text, 0 where it has none, and the annotator
    models.

    ``differ``: (n,) the texts whose versions differ, of which ``network`` is. The tokens of the others, where all
    versions agree, count where the models are estimated.
    """
    own = versions.annotator[differ][network.text]
    annotator, present, keys = own, network.present, network.keys
    if voters.models is None:
        same = versions.texts.select(versions.row[~differ, 0])
        whole = np.repeat(versions.annotator[~differ], same.lengths, axis=0)
        annotator = np.concatenate([own, whole])
        present = np.concatenate([network.present, whole >= 0])
        keys = np.concatenate([network.keys, np.where(whole >= 0, same.keys[:, None], -1)])
    coverage = np.zeros((len(annotator), voters.count), bool)
    slot, column = np.nonzero(annotator >= 0)
    coverage[slot, annotator[slot, column]] = True
    slot, column = np.nonzero(present)
    known, label = np.unique(keys[slot, column], return_inverse=True)
    claims = ItemClaims(slot, annotator[slot, column], label.reshape(-1), np.full(len(slot), np.nan))
    traits = AnnotatorTraits.of(voters.count)
    if voters.families is not None:
        traits = replace(traits, families=voters.families)
    matrix = build_label_matrix(claims, coverage, traits=traits)
    names = decode_keys(known)
    if voters.models is None:
        models = fit_annotator_models(matrix, FitOptions(voters.student, voters.cap, precision=WORD_PRECISION), names)
    else:
        models = voters.models.for_labels(names, matrix.label_count)
    correct = infer_posterior(matrix, models, voters.student, voters.cap).correct[: len(own)]
    return np.where(network.present, correct[np.arange(len(own))[:, None], np.maximum(own, 0)], 0.0), models
