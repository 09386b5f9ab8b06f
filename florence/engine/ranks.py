"""Scores of rankers: how well a text fits the image or region that it describes. A ranker chooses; it does not vote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.records import CAPTIONS, AnnotatorProfile, fold_label

REGION_TEXTS = "<DENSE_REGION_CAPTION>"


@dataclass(frozen=True)
class RankerScores:
    """The scores of texts, 0…1. ``captions``: (index of the image, normalised text) → score. Of region texts, in order
    of images: ``image``, ``score``: (n,); ``box``: (n, 4), pixels; ``text``: n strings.
    """

    captions: dict[tuple[int, str], float]
    image: np.ndarray
    box: np.ndarray
    score: np.ndarray
    text: tuple[str, ...]

    def relative_scores(self, image: int, captions: Sequence[str]) -> list[float]:
        """Return the score of each caption over the best one's; 1 for all where one of them has no score."""
        found = [self.captions.get((image, fold_label(text))) for text in captions]
        known = [value for value in found if value is not None]
        best = max(known, default=0.0)
        return [value / best for value in known] if len(known) == len(found) and best > 0 else [1.0] * len(found)


NO_RANKER_SCORES = RankerScores({}, np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), ())


def read_ranker_scores(claims: pa.Table, images: Sequence[str], profiles: Sequence[AnnotatorProfile]) -> RankerScores:
    """Read the claims of rankers about ``images`` (ids). Of several scores of one text the mean is taken."""
    rankers = pa.array([profile.name for profile in profiles if profile.role == "ranker"], pa.string())
    table = claims.filter(pc.and_(pc.is_in(claims["annotator"], rankers), pc.is_valid(claims["score"])))
    if not len(table):
        return NO_RANKER_SCORES
    image = pc.index_in(table["image_id"], value_set=pa.array(images, pa.string())).fill_null(-1).to_numpy()
    captions: dict[tuple[int, str], list[float]] = {}
    by_region: dict[tuple[int, tuple[float, ...], str], list[float]] = {}
    rows = zip(image.tolist(), *(table[name].to_pylist() for name in ("task", "text", "regions", "score")), strict=True)
    for number, task, text, regions, score in rows:
        if number < 0 or np.isnan(score):
            continue
        if task in CAPTIONS:
            captions.setdefault((number, fold_label(text)), []).append(score)
        elif task == REGION_TEXTS and regions and regions[0]["box"] is not None:
            by_region.setdefault((number, tuple(regions[0]["box"]), text), []).append(score)
    keys = sorted(by_region)
    return RankerScores(
        {key: float(np.mean(values)) for key, values in captions.items()},
        np.asarray([key[0] for key in keys], np.int64),
        np.asarray([key[1] for key in keys], float).reshape(-1, 4),
        np.asarray([np.mean(by_region[key]) for key in keys], float),
        tuple(key[2] for key in keys),
    )
