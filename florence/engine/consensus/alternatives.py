"""Alternatives: claims of one annotator about a place for which it has a claim of better score.

A detector whose output is exported whole states several names and several boxes of one object. Taken for objects of
their own, they would be confirmed by the alternatives of other detectors. Where many of an annotator's claims are such,
only the best of each place has a vote. Where few are, they are two objects that overlap, or one claimed twice.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from florence.engine.consensus.boxes import BoxClaims
from florence.engine.pairs import find_suppressed, list_pairs
from florence.geometry import paired_iou

ALTERNATIVE_IOU = 0.4
"""Least IoU of two claims about one place."""
LEAST_SCORE = 0.1
"""Claims with a lower score have no vote either, where an annotator states alternatives."""
MIN_SHARE, MIN_CLAIMS = 0.2, 50
"""Share of an annotator's claims that must be alternatives of others before they count as such, and its claims."""


def find_alternatives(boxes: BoxClaims) -> np.ndarray:
    """Return (m,) which claims with a vote have a better one, by score, of the same annotator about the same place."""
    voting = np.flatnonzero((boxes.reason == "") & ~np.isnan(boxes.score))
    voting = voting[np.lexsort((voting, -boxes.score[voting], boxes.annotator[voting], boxes.scope[voting]))]
    group = boxes.scope[voting] * (int(boxes.annotator.max(initial=0)) + 1) + boxes.annotator[voting]
    better, worse = (voting[rows] for rows in list_pairs(group))
    above = boxes.score[better] > boxes.score[worse]
    better, worse = better[above], worse[above]
    near = paired_iou(boxes.bounds[better], boxes.bounds[worse]) >= ALTERNATIVE_IOU
    better, worse = better[near], worse[near]
    rank = np.empty(len(boxes), np.int64)
    rank[voting] = np.arange(len(voting))
    order = np.lexsort((rank[worse], rank[better]))
    return find_suppressed(better[order], worse[order], len(boxes))


def measure_alternatives(boxes: BoxClaims, alternative: np.ndarray, count: int) -> np.ndarray:
    """Return (A,) which of ``count`` annotators state alternatives. ``alternative``: (m,), see `find_alternatives`."""
    claims = np.bincount(boxes.annotator[boxes.reason == ""], minlength=count)
    found = np.bincount(boxes.annotator[alternative], minlength=count)
    return (claims >= MIN_CLAIMS) & (found >= MIN_SHARE * claims)


def drop_alternatives(boxes: BoxClaims, alternative: np.ndarray, states_alternatives: np.ndarray) -> BoxClaims:
    """Return the claims; of annotators that state alternatives (A,) these, and low scores, have no vote."""
    dropped = (alternative | (boxes.score < LEAST_SCORE)) & states_alternatives[boxes.annotator] & (boxes.reason == "")
    return replace(boxes, reason=np.where(dropped, "alternative", boxes.reason))
