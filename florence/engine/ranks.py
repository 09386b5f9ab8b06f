"""What rankers say of texts: how well each fits the image, or the region, that it is about. A ranker has no vote; it chooses among what others said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.metrics import same
from florence.records import CAPTIONS, AnnotatorProfile

DESCRIBED = "<DENSE_REGION_CAPTION>"


@dataclass(frozen=True)
class Ranks:
    """``captions``: (index of the image, text as `same` has it) → how well it fits, 0…1. ``image``, ``box``, ``score``, ``text``: (n,), (n, 4), (n,) and n texts of
    regions, in the order of the images.
    """

    captions: dict[tuple[int, str], float]
    image: np.ndarray
    box: np.ndarray
    score: np.ndarray
    text: tuple[str, ...]

    def fit(self, image: int, texts: Sequence[str]) -> list[float]:
        """How well each text fits the image, as a share of the one that fits best; 1 for all where a text was not ranked."""
        found = [self.captions.get((image, same(text))) for text in texts]
        known = [value for value in found if value is not None]
        best = max(known, default=0.0)
        return [value / best for value in known] if len(known) == len(found) and best > 0 else [1.0] * len(found)


NONE = Ranks({}, np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), ())


def read_ranks(claims: pa.Table, images: Sequence[str], profiles: Sequence[AnnotatorProfile]) -> Ranks:
    """The claims of rankers about ``images`` (ids). Of several rankers' scores of one text the mean counts."""
    rankers = pa.array([speaker.name for speaker in profiles if speaker.role == "ranker"], pa.string())
    table = claims.filter(pc.and_(pc.is_in(claims["annotator"], rankers), pc.is_valid(claims["score"])))
    if not len(table):
        return NONE
    image = pc.index_in(table["image_id"], value_set=pa.array(images, pa.string())).fill_null(-1).to_numpy()
    captions: dict[tuple[int, str], list[float]] = {}
    regions: dict[tuple[int, tuple[float, ...], str], list[float]] = {}
    rows = zip(image.tolist(), *(table[name].to_pylist() for name in ("task", "text", "regions", "score")), strict=True)
    for number, task, text, places, score in rows:
        if number < 0 or np.isnan(score):
            continue
        if task in CAPTIONS:
            captions.setdefault((number, same(text)), []).append(score)
        elif task == DESCRIBED and places and places[0]["box"] is not None:
            regions.setdefault((number, tuple(places[0]["box"]), text), []).append(score)
    keys = sorted(regions)
    return Ranks(
        {key: float(np.mean(values)) for key, values in captions.items()},
        np.asarray([key[0] for key in keys], np.int64),
        np.asarray([key[1] for key in keys], float).reshape(-1, 4),
        np.asarray([np.mean(regions[key]) for key in keys], float),
        tuple(key[2] for key in keys),
    )
