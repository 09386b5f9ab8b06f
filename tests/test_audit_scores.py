"""The four scores of an audit: known errors come first, and parts agree with SciPy, scikit-learn and brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from audit_sets import NAMES, AuditSet, audit_set, draw_set, make_claims, make_given, make_images
from scipy import stats
from sklearn.linear_model import LogisticRegression

from florence.audit import boxes
from florence.audit.alignment import LEAST_IOU, NAME_GAIN, align_labels
from florence.audit.issues import KINDS
from florence.audit.logistic import fit_weights, predict_across_folds, shrunken_rate
from florence.audit.others import OtherItems, find_other_items
from florence.config import EngineSettings
from florence.geometry import box_iou
from florence.names import build_name_table


@pytest.fixture(scope="module")
def found() -> AuditSet:
    return draw_set(150, detectors=3)


def count_hits(found: AuditSet, kind: str, issues) -> tuple[int, int]:
    """Return how many of the k likeliest issues of a kind are known errors, and k: how many there are."""
    if kind == "missing":
        known = [(f"{k:064x}", box) for k, items in enumerate(found.removed) for _, box in items]
        chosen = [i for i in issues if i.kind == kind][: len(known)]
        boxes_of = {i: np.asarray([box for k, box in known if k == i]).reshape(-1, 4) for i, _ in known}
        hits = [
            i.image_id in boxes_of and box_iou(np.asarray([i.right_box]), boxes_of[i.image_id]).max() > 0.5
            for i in chosen
        ]
        return sum(hits), len(known)
    known = {(f"{k:064x}", n) for k, row in enumerate(found.errors) for n, one in enumerate(row) if one == kind}
    chosen = [i for i in issues if i.kind == kind][: len(known)]
    return len({(i.image_id, i.index) for i in chosen} & known), len(known)


@pytest.mark.parametrize("kind", KINDS)
def test_known_errors_come_first(found, kind):
    _, issues = audit_set(found)
    hits, count = count_hits(found, kind, issues)
    assert count >= 5 and hits >= 0.8 * count


@pytest.mark.parametrize("kind", ["missing", "misplaced"])
def test_one_annotator_is_enough(kind):
    one = draw_set(150, detectors=1)
    hits, count = count_hits(one, kind, audit_set(one)[1])
    assert hits >= 0.7 * count


def test_one_other_annotator_does_not_outvote_the_labels():
    one = draw_set(150, detectors=1)
    scores, _ = audit_set(one)
    assert scores.swapped.max() < 0.75 and scores.misplaced.max() < 0.75
    # a second annotator of the same family changes nothing; of another family it does
    two = draw_set(150)
    claims = make_claims(two)
    family = tuple(replace(profile, family="one") for profile in claims.profiles)
    related, _ = audit_set(two, replace(claims, profiles=family))
    apart, _ = audit_set(two, claims)
    assert max(related.swapped.max(), related.misplaced.max()) < 0.75
    assert min(apart.swapped.max(), apart.misplaced.max()) > 0.75


def test_many_claims_of_nothing_are_not_missing_labels():
    found = draw_set(150)
    rng = np.random.default_rng(5)
    for claims in found.claims.values():
        for image in claims:
            for _ in range(20):
                x, y, side = rng.uniform(0, 150), rng.uniform(0, 110), rng.uniform(20, 40)
                image.append((str(rng.choice(NAMES)), (x, y, x + side, y + side), float(rng.uniform(0.05, 0.8))))
    _, issues = audit_set(found)
    expected = sum(issue.probability for issue in issues if issue.kind == "missing")
    assert expected < 4 * sum(map(len, found.removed))


def test_probabilities_are_those_of_errors(found):
    scores, issues = audit_set(found)
    for kind in KINDS:
        expected = sum(issue.probability for issue in issues if issue.kind == kind)
        known = sum(map(len, found.removed)) if kind == "missing" else sum(row.count(kind) for row in found.errors)
        assert known / 2.5 <= expected <= known * 2.5, kind
    likely = [i for i in issues if i.probability >= 0.5 and i.kind != "missing"]
    right = [found.errors[int(i.image_id, 16)][i.index] == "" for i in likely]
    assert np.mean(right) < 0.35
    assert all(0 <= getattr(scores, kind).min() and getattr(scores, kind).max() < 1 for kind in KINDS)


def test_a_correction_is_the_truth(found):
    _, issues = audit_set(found)
    swapped = [i for i in issues if i.kind == "swapped" and i.probability > 0.5]
    truth = {(k, box): name for k, items in enumerate(found.truth) for name, box in items}
    assert swapped and all(truth[int(i.image_id, 16), i.box] == i.right_name for i in swapped)
    misplaced = [i for i in issues if i.kind == "misplaced" and i.probability > 0.9]
    for issue in misplaced:
        true = np.asarray([box for _, box in found.truth[int(issue.image_id, 16)]])
        assert box_iou(np.asarray([issue.right_box]), true).max() > box_iou(np.asarray([issue.box]), true).max()


def test_images_that_nobody_else_looked_at_have_no_issues(found):
    claims = make_claims(found)
    seen = [f"{k:064x}" for k in range(100)]
    rows = [row for row in claims.coverage.to_pylist() if row["image_id"] in seen]
    kept = claims.claims.filter([image in seen for image in claims.claims["image_id"].to_pylist()])
    coverage = claims.coverage.slice(0, 0).from_pylist(rows, schema=claims.coverage.schema)
    scores, issues = audit_set(found, replace(claims, claims=kept, coverage=coverage))
    assert issues and all(issue.image_id in seen for issue in issues)
    assert not scores.checked[make_given(found).image >= 100].any()


def test_images_without_given_labels_miss_none(found):
    given = make_given(found)
    unknown = replace(given, looked_at=np.arange(len(found.truth)) % 2 == 0)
    kept = unknown.looked_at[unknown.image]
    unknown = replace(
        unknown,
        image=unknown.image[kept],
        index=unknown.index[kept],
        box=unknown.box[kept],
        name=tuple(np.asarray(unknown.name)[kept].tolist()),
    )
    _, issues = audit_set(found, given=unknown)
    assert all(int(issue.image_id, 16) % 2 == 0 for issue in issues)


def test_silence_of_annotators_without_the_name_is_no_evidence():
    found = draw_set(150)
    for claims in found.claims.values():
        claims[:] = [[row for row in image if row[0] != "tree"] for image in claims]
    trees = np.asarray([name == "tree" for name in make_given(found).name])
    known, _ = audit_set(found, make_claims(found, ("cat", "dog", "cup", "boat")))
    right = np.asarray([error == "" for row in found.errors for error in row])
    spurious = np.asarray([error == "spurious" for row in found.errors for error in row])
    # neither is any tree likely to be spurious, nor are spurious labels of other names hidden by the trees
    assert known.spurious[trees & right].max() < 0.5
    assert np.median(known.spurious[~trees & spurious]) > np.median(known.spurious[trees & right])


def test_a_name_that_the_others_lack_is_not_swapped():
    found = draw_set(150)
    for claims in found.claims.values():  # a closed set: what is a tree is called a boat
        claims[:] = [[("boat" if name == "tree" else name, box, s) for name, box, s in image] for image in claims]
    trees = np.asarray([name == "tree" for name in make_given(found).name])
    scores, _ = audit_set(found, make_claims(found, ("cat", "dog", "cup", "boat")))
    assert scores.swapped[trees].max() < 0.1


def test_the_order_of_the_images_decides_nothing(found):
    turned = AuditSet(
        *(getattr(found, name)[::-1] for name in ("truth", "given", "errors", "removed")),
        {name: claims[::-1] for name, claims in found.claims.items()},
    )
    count = len(found.truth) - 1
    first = {(int(i.image_id, 16), i.kind, i.box) for i in audit_set(found)[1] if i.probability > 0.6}
    second = {(count - int(i.image_id, 16), i.kind, i.box) for i in audit_set(turned)[1] if i.probability > 0.6}
    assert len(first & second) >= 0.9 * max(len(first), len(second))


def test_people_are_asked_as_others_are_and_rankers_are_not(found):
    claims = make_claims(found)
    first, second, third = claims.profiles
    roles = replace(claims, profiles=(replace(first, role="human"), replace(second, role="ranker"), third))
    names = build_name_table(EngineSettings())
    items = find_other_items(roles, make_images(found).table(), EngineSettings(), names)
    assert items.annotators == ("detector0", "detector2") and items.asked.all()
    assert set(items.claim_annotator.tolist()) == {0, 1}


def test_nothing_to_audit():
    nothing = AuditSet([[], []], [[], []], [[], []], [[], []], {"d": [[], []]})
    nobody = make_given(nothing)
    assert len(nobody) == 0 and audit_set(nothing, given=nobody)[1] == ()
    only = draw_set(3)
    assert audit_set(replace(only, claims={"d": [[], [], []]}))[1]  # nobody else claims a thing: all may be spurious


# ---------------------------------------------------------------- parts, against peers


def test_weights_are_those_of_scikit_learn():
    rng = np.random.default_rng(3)
    x = np.concatenate([np.ones((300, 1)), rng.normal(size=(300, 3))], axis=1)
    y = (rng.random(300) < 1 / (1 + np.exp(-x @ np.asarray([0.5, 1.0, -2.0, 0.0])))).astype(float)
    peer = LogisticRegression(C=1 / 4.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, y)
    found = fit_weights(x, y, np.zeros(4), np.full(4, 4.0))
    assert found == pytest.approx(peer.coef_[0], abs=1e-4)


def test_without_data_weights_are_those_expected():
    expected = np.asarray([0.0, 0.7])
    found = fit_weights(np.zeros((0, 2)), np.zeros(0), expected, np.full(2, 4.0))
    assert found == pytest.approx(expected)
    assert predict_across_folds(np.ones((1, 1)), np.ones(1), np.zeros(1, int), np.zeros(1)).shape == (1,)


def test_rates_leave_the_own_image_out():
    key, y, group = np.asarray([0, 0, 0, 1]), np.asarray([1.0, 0.0, 1.0, 0.0]), np.asarray([0, 0, 1, 1])
    # of the first row: rows of key 0 in other groups are the third alone; the mean is 1/2, and counts for 10 rows
    assert shrunken_rate(key, y, group)[0] == pytest.approx((1 + 5) / (1 + 10))
    assert shrunken_rate(key, y, group)[3] == pytest.approx(0.5)


def test_the_likelihood_of_a_box_is_students_t():
    r, sigma = np.asarray([[0.1, -0.05, 0.0, 0.3]]), np.asarray([[0.07]])
    expected = np.prod(stats.t.pdf(r / sigma, 4) / sigma)
    assert boxes.measure_likelihood(r, sigma)[0] == pytest.approx(expected)


def test_labels_and_items_are_paired_as_by_brute_force():
    rng = np.random.default_rng(1)
    names = build_name_table(EngineSettings())
    for _ in range(20):
        given = make_given(AuditSet([[]], [[(n, random_box(rng)) for n in ("cat", "dog", "cat", "cup")]]))
        items = make_items([("cat", random_box(rng)), ("dog", random_box(rng)), ("cat", random_box(rng))])
        iou = box_iou(given.box, items.box)
        same = np.asarray([[a == b for b in items.name] for a in given.name])
        gain = np.where(iou >= np.where(same, LEAST_IOU, 0.4), iou + NAME_GAIN * same, 0.0)
        best = max(sum(gain[rows[k], k] for k in range(3)) for rows in itertools.permutations(range(4), 3))
        aligned = align_labels(given, items, names)
        pairs = [(k, item) for k, item in enumerate(aligned.item.tolist()) if item >= 0]
        assert sum(gain[k, item] for k, item in pairs) == pytest.approx(best)
        assert all(aligned.label[item] == k for k, item in pairs)


def random_box(rng: np.random.Generator) -> tuple[float, float, float, float]:
    x, y = rng.uniform(0, 30, 2)
    return (float(x), float(y), float(x + rng.uniform(20, 60)), float(y + rng.uniform(20, 60)))


def make_items(objects) -> OtherItems:
    """Return items that one annotator claims, all sure."""
    count = len(objects)
    box = np.asarray([box for _, box in objects])
    names = tuple(name for name, _ in objects)
    one = np.full(count, 0.999)
    zero = np.zeros(count, np.int64)
    return OtherItems(
        ("d",),
        zero,
        box,
        names,
        one,
        one,
        np.arange(count),
        zero,
        one,
        one,
        names,
        box,
        np.ones((1, 1), bool),
        (None,),
        ("d",),
    )
