"""The second look at objects on held-out images: asked, graded, and calibrated together with the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from florence.engine.second_look import (
    OBJECTS,
    calibrate_score,
    has_name,
    list_second_queries,
    names_agree,
    score_by_rule,
)
from florence.evaluate.calibration import GradedLooks
from florence.metrics import Prediction, Reference, grade_regions
from florence.model.confidence import Calibration
from florence.model.generate import Query
from florence.tasks import Answer


def ask_second_looks(
    pictures: Sequence[tuple[str, np.ndarray]],
    answers: Mapping[tuple[str, str, str], Answer],
    predict: Callable[[Sequence[np.ndarray], Sequence[Query]], Sequence[Answer]],
) -> dict[str, list[Answer]]:
    """Return a second look at each object found in some pictures (id, pixels), by image id.

    ``answers``: by (image id, task, input). Objects without a score, and answers that break the grammar, are left out.
    """
    queries: list[Query] = []
    counts: dict[str, int] = {}
    for index, (image, pixels) in enumerate(pictures):
        answer = answers.get((image, OBJECTS, ""))
        if answer is None or answer.error is not None or any(region.score is None for region in answer.regions):
            continue
        found = list_second_queries(index, answer.regions, (pixels.shape[1], pixels.shape[0]))
        queries += found
        counts[image] = len(found)
    looks = iter(predict([pixels for _, pixels in pictures], queries) if queries else ())
    return {image: [next(looks) for _ in range(count)] for image, count in counts.items() if count}


def grade_second_looks(
    predictions: Sequence[Prediction],
    second_looks: Mapping[str, Sequence[Answer]],
    right: Sequence[Reference],
    sources: Sequence[str],
    objects: Calibration | None,
) -> GradedLooks:
    """Return which pairs of looks name an object rightly.

    ``predictions``: of <OD>, one for each reference in ``right``, of images of ``sources``. ``objects``: calibration of
    the first look, for the rule that the result is compared with.
    """
    renamed, pairs = [], []
    for prediction, source in zip(predictions, sources, strict=True):
        seconds = second_looks.get(prediction.image_id, ())
        regions = []
        for region, second in zip(prediction.regions, seconds, strict=bool(seconds)):
            if has_name(second) and region.score is not None and second.score is not None:
                agree = names_agree(region, second)
                rule = score_by_rule(calibrate_score(region.score, objects, source) or 0.0, second.score, agree)
                pairs.append((region.score, second.score, agree, rule))
                regions.append(replace(region, label=second.text.strip()))
        renamed.append(replace(prediction, regions=tuple(regions)))
    graded = list(grade_regions(renamed, right))
    values = np.asarray(pairs, float).reshape(-1, 4)
    return GradedLooks(
        np.asarray([example for example, _, _ in graded], int),
        values[:, 0],
        values[:, 1],
        values[:, 2] > 0,
        values[:, 3],
        np.asarray([correct for _, _, correct in graded], bool),
    )
