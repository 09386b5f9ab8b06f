"""The second look at an object: the model is asked to name what is in the box of each object it has found.

In <OD> a name comes before its box, so it is less certain than the name of a box that is given. How likely that name is
right follows from the scores of both looks by `florence.model.confidence.SecondLook`, where it was fitted. Where it was
not, two looks of one model are not two witnesses: names that agree have the higher of the two scores, and a name that
differs from the first look's has `DISAGREEMENT_FACTOR` times its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from florence.codec.grammar import box_tokens
from florence.model.confidence import Calibration, ModelCalibrations
from florence.model.generate import Query
from florence.records import Region, fold_label
from florence.tasks import Answer

OBJECTS, CATEGORY = "<OD>", "<REGION_TO_CATEGORY>"
DISAGREEMENT_FACTOR = 0.5
"""What the score of a name is multiplied by where the first look gave another name and nothing is calibrated."""


def list_second_queries(image: int, regions: Sequence[Region], size: tuple[int, int]) -> list[Query]:
    """Return the query about the box of each region. ``size``: width and height of the image, in pixels."""
    return [Query(image, CATEGORY, box_tokens(region.bounds, size)) for region in regions]


def has_name(second: Answer) -> bool:
    """Return whether a second look gives a name."""
    return bool(second.text.strip()) and second.error is None and second.score is not None


def names_agree(region: Region, second: Answer) -> bool:
    """Return whether both looks give the same name."""
    return fold_label(second.text) == fold_label(region.label)


def score_by_rule(first: float, second: float, agree: bool) -> float:
    """Return the score of two looks where nothing is calibrated."""
    return max(first, second) if agree else second * DISAGREEMENT_FACTOR


def rename_region(region: Region, second: Answer, calibrations: ModelCalibrations, source: str = "") -> Region:
    """Return the region under the name of the second look, where there is one, with the confidence of both looks.

    ``region``, ``second``: with the model's own scores. ``source``: of the image, empty where it is not known.
    """
    first = calibrate_score(region.score, calibrations.get(OBJECTS), source)
    if not has_name(second) or second.score is None:
        return replace(region, score=first)
    agree = names_agree(region, second)
    if calibrations.second_look is not None:
        score = calibrations.second_look.confidence(region.score or 0.0, second.score, agree, source)
    else:
        own = calibrate_score(second.score, calibrations.get(CATEGORY), source)
        score = score_by_rule(first or 0.0, own or 0.0, agree)
    return replace(region, label=second.text.strip(), score=score)


def calibrate_score(score: float | None, calibration: Calibration | None, source: str) -> float | None:
    """Return the confidence of a score, the score itself where there is no calibration."""
    return score if score is None or calibration is None else calibration.confidence(score, source)
