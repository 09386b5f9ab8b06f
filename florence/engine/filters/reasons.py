"""Every reason that a label can be dropped for: the one list, and the rule which reason a label gets.

To add a reason:

1. write its name and its sentence here, in `DROP_REASONS`, and in the table of docs/snapshot.md;
2. write its filter, a function that returns (n,) booleans, beside the others: scores.py (scores and confidence),
   regions.py (boxes), texts.py (captions and other texts), phrases.py (phrases of captions), duplicates.py (images);
3. call it where the labels of an annotation type are filtered: for captions in texts.py (`apply_caption_filters`,
   `apply_parse_filters`), for the others in the modules of florence/engine/consensus. The order there is the order of
   precedence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DROP_REASONS: dict[str, str] = {
    "no_place": "it has no region, or a region without a place",
    "empty_text": "it has no letter and no digit; a name: nothing to be seen",
    "low_score": "its annotator's own score is below engine.min_score, or below 0.1 where it states alternatives",
    "alternative": "its annotator claims several things of many places, and has a better score for another one there",
    "low_phrase_score": "its annotator's score of the phrase is below engine.min_phrase_score",
    "alt_noise": "it describes no picture: an address, a file name, a list of search terms and the like",
    "language": "it is in another language than engine.language",
    "too_short": "it has fewer words than engine.min_words",
    "too_long": "it has more words than engine.max_words",
    "repetition": "it repeats the same words over and over",
    "blacklisted": "it names nothing to point at",
    "degenerate": "its box is thinner than engine.min_side",
    "near_full": "its box is nearly the whole image",
    "low_confidence": "it is too unlikely to be right, by all claims and by all annotators that claim nothing there",
    "duplicate": "another label of the same name has nearly the same box",
    "ranked_lower": "a ranker finds that another text fits the region better",
    "overlapping_phrase": "another phrase of the caption has nearly the same box",
    "repeated": "it draws a polygon in the box that another annotator has claimed for the phrase, and adds nothing",
    "rejected": "a person says that there is nothing",
    "too_many_objects": "the text names more objects than engine.max_objects",
    "simple_objects": "no object of the text is as complex as engine.min_object_complexity",
    "simple_actions": "no action of the text is as complex as engine.min_action_complexity",
    "no_caption": "the caption that it is a phrase of was not kept",
    "not_in_caption": "the caption that was kept does not have the phrase",
    "near_duplicate": "its image is nearly the same as another one",
}
"""Name of each reason (the ``reason`` column of labels) → what it says of the label."""

ReasonMask = tuple[str, np.ndarray]
"""A drop reason, and (n,) whether it applies to each row."""


def choose_first_reason(count: int, masks: Sequence[ReasonMask]) -> np.ndarray:
    """Return (count,) the first reason of ``masks`` that applies to each row; an empty string where none does."""
    result = np.full(count, "", dtype=object)
    for reason, applies in reversed(masks):
        result[applies] = reason
    return result
