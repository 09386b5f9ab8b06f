"""Churn: how the kept labels of one round differ from those of the round before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from florence.engine.claims import Claims, read_claims
from florence.engine.consensus.clusters import ClusterOverlap, cluster_claims
from florence.records import ANNOTATION_TYPES, fold_label

CHURN_IOU = 0.5
"""IoU from which boxes of two rounds are the same one."""
VQA, GROUNDING = ANNOTATION_TYPES.index("<VQA>"), ANNOTATION_TYPES.index("<CAPTION_TO_PHRASE_GROUNDING>")
WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)
"""One and the same box, for labels without a region."""


@dataclass(frozen=True)
class LabelChanges:
    """How many kept labels of an annotation type changed between two rounds.

    ``same``: the same text with the same box (a caption: the same text; a question: with the same answer); ``renamed``:
    another text with the same box; ``moved``: the same text with another box; ``added``, ``removed``: all others.
    """

    same: int
    renamed: int
    moved: int
    added: int
    removed: int

    @property
    def share(self) -> float:
        """1 − 2 · unchanged / labels of both rounds."""
        of = 2 * (self.same + self.renamed + self.moved) + self.added + self.removed
        return round(1 - 2 * self.same / of, 6) if of else 0.0


def measure_churn(before: pa.Table, after: pa.Table) -> dict[str, LabelChanges]:
    """Compare the kept labels of two rounds, by annotation type."""
    rows = read_claims(
        pa.concat_tables([_kept_labels(before, "a"), _kept_labels(after, "b")]),
        pa.table({name: pa.array([], pa.string()) for name in ("image_id", "annotator", "error")}),
        None,
    )
    label, question = _label_codes(rows)
    return {
        ANNOTATION_TYPES[code]: _compare(rows, np.flatnonzero(rows.annotation_type == code), label, question)
        for code in np.unique(rows.annotation_type).tolist()
    }


def _kept_labels(table: pa.Table, name: str) -> pa.Table:
    """The kept labels, by an annotator called ``name``."""
    kept = table.filter(table["kept"])
    names = pa.array([name] * len(kept), pa.string())
    return kept.set_column(kept.schema.get_field_index("annotator"), "annotator", names)


def _label_codes(rows: Claims) -> tuple[np.ndarray, np.ndarray]:
    """(n,) a number for what each label says, and (n,) for the question that it answers, -1 where it is no answer.

    A question's label says its answer, a phrase's label the phrase, all others their text.
    """
    codes: dict[str, int] = {}
    label = np.asarray([codes.setdefault(fold_label(text), len(codes)) for text in rows.texts], np.int64)[rows.text]
    question = label.copy()
    inner = np.flatnonzero(np.isin(rows.annotation_type, [VQA, GROUNDING]))
    inner = inner[np.isin(inner, rows.regions.claim)]
    texts = rows.regions.label.take(np.searchsorted(rows.regions.claim, inner)).to_pylist()
    asked = np.where(rows.annotation_type[inner] == VQA, label[inner], -1)
    label[inner] = [
        codes.setdefault(f"{about}\0{fold_label(text)}", len(codes))
        for about, text in zip(asked.tolist(), texts, strict=True)
    ]
    question[rows.annotation_type != VQA] = -1
    return label, question


def _compare(rows: Claims, left: np.ndarray, label: np.ndarray, question: np.ndarray) -> LabelChanges:
    """Pair the labels ``left`` of both rounds: first by text and box, then by box alone, then by text alone."""
    least = ClusterOverlap(CHURN_IOU, CHURN_IOU)
    pairs = []
    for by_text, by_box in ((True, True), (False, True), (True, False)):
        key = label if by_text else question
        left = left[np.lexsort((rows.annotator[left], key[left], rows.image[left]))]
        scope = np.unique(np.stack([rows.image[left], key[left]]), axis=1, return_inverse=True)[1].reshape(-1)
        bounds = _first_bounds(rows, left) if by_box else np.tile(WHOLE_IMAGE, (len(left), 1))
        cluster = cluster_claims(scope, rows.annotator[left], bounds, label[left], least)
        paired = np.bincount(cluster)[cluster] > 1
        pairs.append(int(paired.sum()) // 2)
        left = left[~paired]
    removed = int((rows.annotator[left] == 0).sum())
    unchanged, renamed, moved = pairs
    return LabelChanges(unchanged, renamed, moved, len(left) - removed, removed)


def _first_bounds(rows: Claims, chosen: np.ndarray) -> np.ndarray:
    """(n, 4) the bounds of the first region of each row, `WHOLE_IMAGE` for rows without."""
    first = rows.regions.claim.searchsorted(chosen)
    has_region = np.append(rows.regions.claim, -1)[first] == chosen
    bounds = np.append(rows.regions.bounds, np.zeros((1, 4)), axis=0)[np.where(has_region, first, -1)]
    has_bounds = has_region[:, None] & ~np.isnan(bounds).any(axis=1, keepdims=True)
    return np.where(has_bounds, bounds, np.asarray(WHOLE_IMAGE))
