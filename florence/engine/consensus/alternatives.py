"""Alternatives: claims of one annotator about a place for which it has a claim of better score.

A detector whose output is exported whole states several names and several boxes of one object. Taken for objects of
their own, they would be confirmed by the alternatives of other detectors. Where many of an annotator's claims are such,
only the best of each place has a vote. Where few are, they are two objects that overlap, or one claimed twice.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from florence.engine.consensus.boxes import BoxClaims
from florence.engine.filters.reasons import choose_first_reason
from florence.engine.pairs import find_suppressed, list_ranked_pairs
from florence.geometry import paired_iou

ALTERNATIVE_IOU = 0.4
"""Least IoU of two claims about one place."""
LEAST_SCORE = 0.1
"""Claims with a lower score have no vote either, where an annotator states alternatives."""
MIN_SHARE, MIN_CLAIMS = 0.2, 50
"""Share of an annotator's claims that must be alternatives of others before they count as such, and its claims."""


def find_alternatives(boxes: BoxClaims) -> np.ndarray:
    """Return (m,) which claims with a vote have a better one, by score, of the same annotator about the same place."""
    scored = np.flatnonzero((boxes.reason == "") & ~np.isnan(boxes.score))
    better, worse = list_ranked_pairs(boxes.score[scored], boxes.annotator[scored], boxes.scope[scored])
    better, worse = scored[better], scored[worse]
    overlap = paired_iou(boxes.bounds[better], boxes.bounds[worse])
    same_place = (boxes.score[better] > boxes.score[worse]) & (overlap >= ALTERNATIVE_IOU)
    return find_suppressed(better[same_place], worse[same_place], len(boxes))


def measure_alternatives(boxes: BoxClaims, alternative: np.ndarray, count: int) -> np.ndarray:
    """Return (A,) which of ``count`` annotators state alternatives. ``alternative``: (m,), see `find_alternatives`."""
    claims = np.bincount(boxes.annotator[boxes.reason == ""], minlength=count)
    found = np.bincount(boxes.annotator[alternative], minlength=count)
    return (claims >= MIN_CLAIMS) & (found >= MIN_SHARE * claims)


def drop_alternatives(boxes: BoxClaims, alternative: np.ndarray, states_alternatives: np.ndarray) -> BoxClaims:
    """Return the claims; of annotators that state alternatives (A,) these, and low scores, have no vote."""
    affected = states_alternatives[boxes.annotator] & (boxes.reason == "")
    masks = [("alternative", alternative & affected), ("low_score", (boxes.score < LEAST_SCORE) & affected)]
    return replace(boxes, reason=np.where(affected, choose_first_reason(len(boxes), masks), boxes.reason))
