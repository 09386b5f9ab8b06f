"""Claims of several annotators joined into clusters."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.engine.consensus.clusters import ClusterOverlap, cluster_claims
from florence.geometry import box_iou, paired_iou

OVERLAP = ClusterOverlap(iou=0.5, same_iou=0.3)

boxes = st.lists(
    st.tuples(*(st.integers(low, high) for low, high in ((0, 3), (0, 2), (0, 60), (0, 60), (5, 40), (5, 40), (0, 2)))),
    max_size=14,
)


@settings(deadline=None)
@given(boxes)
def test_a_cluster_has_one_claim_of_an_annotator_and_claims_that_overlap(rows):
    rows = sorted(rows)
    group, annotator, code = (np.asarray([r[k] for r in rows], np.int64) for k in (1, 0, 6))
    group, order = np.sort(group), np.argsort(group, kind="stable")
    annotator, code = annotator[order], code[order]
    bounds = np.asarray([(r[2], r[3], r[2] + r[4], r[3] + r[5]) for r in rows], float).reshape(-1, 4)[order]
    cluster = cluster_claims(group, annotator, bounds, code, OVERLAP)
    overlap = box_iou(bounds, bounds)
    for number in set(cluster.tolist()):
        members = np.flatnonzero(cluster == number)
        assert len(set(annotator[members].tolist())) == len(members) and len(set(group[members].tolist())) == 1
        for k in members:
            near = [overlap[k, m] >= (0.3 if code[k] == code[m] else 0.5) for m in members if m != k]
            assert any(near) or len(members) == 1
    # nothing that could join is left apart: two clusters without a common annotator hold no pair that overlaps enough
    for a in range(len(rows)):
        for b in range(a):
            if cluster[a] != cluster[b] and group[a] == group[b] and overlap[a, b] >= 0.5:
                assert set(annotator[cluster == cluster[a]].tolist()) & set(annotator[cluster == cluster[b]].tolist())


@settings(deadline=None)
@given(boxes)
def test_overlaps_of_pairs_equal_those_of_the_matrix(rows):
    bounds = np.asarray([(r[2], r[3], r[2] + r[4], r[3] + r[5]) for r in rows], float).reshape(-1, 4)
    assert np.allclose(paired_iou(bounds, bounds[::-1]), np.diag(box_iou(bounds, bounds[::-1])))


def test_the_best_overlap_wins_and_the_same_label_comes_first():
    group, bounds = np.zeros(3, np.int64), np.asarray([(0, 0, 10, 10), (1, 0, 11, 10), (3, 0, 13, 10)], float)
    assert cluster_claims(group, np.asarray([0, 1, 1]), bounds, np.asarray([0, 1, 2]), OVERLAP).tolist() == [0, 0, 1]
    assert cluster_claims(group, np.asarray([0, 1, 1]), bounds, np.asarray([0, 1, 0]), OVERLAP).tolist() == [0, 1, 0]
