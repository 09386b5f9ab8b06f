"""Pairs listed, joined and suppressed all at once, against one after the other."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.engine.pairs import find_suppressed, join_pairs, list_pairs

pairs = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)).filter(lambda pair: pair[0] != pair[1]), max_size=60)


@settings(deadline=None)
@given(pairs, st.lists(st.integers(0, 5), min_size=15, max_size=15))
def test_claims_join_as_they_would_one_pair_after_the_other(found, annotators):
    clusters = [{k} for k in range(15)]
    for a, b in found:
        one, other = (next(c for c in clusters if k in c) for k in (a, b))
        if one is not other and not {annotators[k] for k in one} & {annotators[k] for k in other}:
            clusters = [c for c in clusters if c is not one and c is not other] + [one | other]
    expected = [min(next(c for c in clusters if k in c)) for k in range(15)]
    a, b = np.asarray(found, int).reshape(-1, 2).T
    assert join_pairs(a, b, np.asarray(annotators)).tolist() == expected


@settings(deadline=None)
@given(pairs)
def test_rows_are_suppressed_as_they_would_be_one_after_the_other(found):
    # a smaller number is better
    better, worse = np.sort(np.asarray(found, int).reshape(-1, 2), axis=1).T
    expected: list[bool] = []
    for k in range(15):
        expected.append(any(b == k and not expected[a] for a, b in zip(better.tolist(), worse.tolist(), strict=True)))
    assert find_suppressed(better, worse, 15).tolist() == expected


@given(st.lists(st.integers(0, 4), max_size=20).map(sorted))
def test_pairs_are_all_pairs_of_an_image(group):
    a, b = list_pairs(np.asarray(group, int))
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == {
        (i, j) for j in range(len(group)) for i in range(j) if group[i] == group[j]
    } and len(a) == len(set(zip(a.tolist(), b.tolist(), strict=True)))
