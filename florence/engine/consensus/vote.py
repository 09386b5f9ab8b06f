"""The vote on items: of all claims about one the most likely right, with its posterior as confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from florence.engine.consensus.annotator_models import AnnotatorModels
from florence.engine.consensus.label_matrix import LabelMatrix
from florence.engine.consensus.posterior import infer_by_scores

MAX_RIGHT = 0.99
"""The most that an annotator of texts is taken to be right."""


@dataclass(frozen=True)
class ItemVotes:
    """The vote on n items.

    ``annotator``: (n,), whose claim is taken; ``confidence``: (n,), how likely that claim is right; ``weight``: (n, A),
    how likely each claim is right.
    """

    annotator: np.ndarray
    confidence: np.ndarray
    weight: np.ndarray


def vote_on_items(
    matrix: LabelMatrix, models: AnnotatorModels, student: int | None, cap: float, *, by_label: bool = False
) -> ItemVotes:
    """Vote on each item. The student's evidence is at most the share ``cap`` of all; what a person claims holds.

    ``by_label``: take the label with the largest posterior, although a hypernym of it is right whenever it is; else
    take the claim that is most likely right.
    """
    posterior = infer_by_scores(matrix, models, student, cap)
    weight = posterior.correct
    rank = (
        np.where(matrix.first, np.round(posterior.label, 9), -1)
        if by_label
        else np.where(matrix.present, np.round(weight, 9), -1)
    )
    annotator = rank.argmax(axis=1)
    confidence = weight[np.arange(len(annotator)), annotator]
    if matrix.human is not None:
        by_person = matrix.present[:, matrix.human]
        annotator = np.where(by_person, matrix.human, annotator)
        confidence = np.where(by_person, 1.0, confidence)
        weight[by_person] = 0
        weight[by_person, matrix.human] = 1
    return ItemVotes(annotator, np.clip(confidence, 0, 1), weight)


def log_odds_weight(right: np.ndarray, choices: float) -> np.ndarray:
    """Return the weight 0…1 of claims that are ``right`` so often among so many ``choices``: log odds against chance.

    log(p / (1 − p) · (choices − 1)), as a share of its value at `MAX_RIGHT`, clipped to 0…1.
    """
    right = np.clip(right, 0.001, MAX_RIGHT)
    odds = np.log(right / (1 - right) * (choices - 1))
    return np.clip(odds / np.log(MAX_RIGHT / (1 - MAX_RIGHT) * (choices - 1)), 0, 1)
