"""The rule of promotion, case by case; bounds against SciPy's t-test."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from scipy import stats

from florence.config import PromotionSettings
from florence.evaluate import SCORES, Decision, Opponents, decide_promotion, is_locked, make_baseline

NONE = SCORES.empty_table()
RULE = PromotionSettings(locked_fraction=0, seed_deviation=0)


def scores(values: dict[str, list[float]], reference: str = "truth") -> pa.Table:
    """Task → one value an image; images are numbered."""
    rows = [
        {"image_id": f"{reference}{index:04d}", "task": task, "reference": reference, "value": float(value)}
        for task, found in values.items()
        for index, value in enumerate(found)
    ]
    return pa.Table.from_pylist(rows, schema=SCORES)


def spread(mean: float, n: int = 100, seed: int = 0, width: float = 0.2) -> list[float]:
    """Values around a mean that is met exactly."""
    noise = np.random.default_rng(seed).normal(0, width, n)
    return list(mean + noise - noise.mean())


def decide(new: pa.Table, old: pa.Table, rule: PromotionSettings = RULE, **more) -> Decision:
    """Decide about a model against a champion."""
    return decide_promotion(new, Opponents(old, **more), rule)


def bound_of(new: list[float], old: list[float], alpha: float) -> float:
    """Return the one-sided lower bound of the mean change, by SciPy."""
    found = stats.ttest_rel(new, old, alternative="greater").confidence_interval(1 - alpha)
    return float(found.low)


# ---------------------------------------------------------------- with a champion


def test_a_model_that_is_shown_to_be_better_is_accepted():
    old, new = spread(0.4), spread(0.5, seed=2)
    decision = decide(
        scores({"<OD>": new, "<OCR>": spread(0.51, seed=3, width=0.01)}), scores({"<OD>": old, "<OCR>": [0.5] * 100})
    )
    assert decision.accepted
    assert "held-out images against truth, by the mean over images of F1 at IoU 0.5)" in decision.reason
    assert "<OD>, 0.400 before, is 0.500 now" in decision.reason
    assert "the other 1 scores that are tested have fallen by less than their margins" in decision.reason
    first, other = decision.changes
    assert (first.task, first.n, first.least) == ("<OD>", 100, 0.0) and first.change == pytest.approx(0.1)
    assert first.bound == pytest.approx(bound_of(new, old, 0.05))
    interval = stats.ttest_rel(new, old).confidence_interval(0.95)
    assert (first.low, first.high) == pytest.approx((interval.low, interval.high))
    assert (other.task, other.least) == ("<OCR>", -0.05) and other.passes


def test_a_rise_that_may_be_chance_is_not_enough():
    old, new = spread(0.4), spread(0.42, seed=2)
    decision = decide(scores({"<OD>": new}), scores({"<OD>": old}))
    assert bound_of(new, old, 0.05) < 0 and not decision.accepted
    assert "it is not shown to be better: at least -0.0" in decision.reason and "95% confidence" in decision.reason
    needed = int(decision.reason.split("(")[-1].split(" images would tell")[0])
    more = scores({"<OD>": spread(0.42, needed, 2)}), scores({"<OD>": spread(0.4, needed)})
    assert 300 < needed < 3000 and decide(*more).accepted, "as many images as the reason names do tell"


def test_another_training_seed_counts():
    new, old = scores({"<OD>": spread(0.43, width=0.05)}), scores({"<OD>": spread(0.4, seed=1, width=0.05)})
    assert decide(new, old).accepted
    known = PromotionSettings(locked_fraction=0, seed_deviation=0.02)
    decision = decide(new, old, known)
    (change,) = decision.changes
    half = stats.t.ppf(0.95, 99) * math.sqrt(change.deviation**2 / 100 + 2 * 0.02**2)
    assert not decision.accepted and change.bound == pytest.approx(change.change - half)
    by_task = PromotionSettings(locked_fraction=0, seed_deviation=0.02, seed_deviations={"<OD>": 0.001})
    assert decide(new, old, by_task).accepted


def test_the_more_models_were_compared_with_a_champion_the_more_is_needed():
    old, new = spread(0.4), spread(0.46, seed=2)
    tables = scores({"<OD>": new}), scores({"<OD>": old})
    for attempt in (1, 2, 3):
        decision = decide(*tables, attempt=attempt)
        assert decision.changes[0].bound == pytest.approx(bound_of(new, old, 0.05 / attempt**2))
    assert decide(*tables).accepted and not decision.accepted and "99.44% confidence" in decision.reason


def test_a_task_that_may_have_fallen_by_its_margin_stops_it():
    od = {"<OD>": spread(0.4)}, {"<OD>": spread(0.6, seed=2)}
    old = scores({**od[0], "<OCR>": spread(0.5, width=0.1), "<VQA>": [0.5] * 100})
    for mean, accepted in ((0.49, True), (0.455, False), (0.4, False)):
        ocr = spread(mean, seed=4, width=0.1)
        decision = decide(scores({**od[1], "<OCR>": ocr, "<VQA>": [0.5] * 100}), old)
        bound = bound_of(ocr, spread(0.5, width=0.1), 0.1)
        assert decision.accepted == accepted == (bound > -0.05)
        if not accepted:
            assert f"<OCR> 0.500 → {mean:.3f} on 100 held-out images" in decision.reason
            assert f"may have fallen by {-bound:.3f} where 0.05 is allowed" in decision.reason
            assert "<VQA>" not in decision.reason


def test_a_task_with_too_wide_an_interval_is_not_shown_to_have_kept_its_quality():
    od = {"<OD>": spread(0.4)}, {"<OD>": spread(0.6, seed=2)}
    old, new = {**od[0], "<OCR>": spread(0.5, 40, width=0.3)}, {**od[1], "<OCR>": spread(0.5, 40, 3, width=0.3)}
    decision = decide(scores(new), scores(old))
    assert not decision.accepted and "<OCR> 0.500 → 0.500" in decision.reason and "images would tell" in decision.reason
    assert decide(scores(new), scores(old), PromotionSettings(**of(RULE), task_margins={"<OCR>": 0.2})).accepted
    nothing = decide(scores(new), scores(old), PromotionSettings(**of(RULE), task_margins={"<OCR>": None}))
    assert nothing.accepted and nothing.changes[1].bound is None


def of(rule: PromotionSettings) -> dict:
    """Return the settings that are not defaults."""
    return rule.model_dump(exclude_unset=True)


def test_margins_and_seeds_of_captions_are_on_their_scale():
    od = {"<OD>": spread(0.4)}, {"<OD>": spread(0.6, seed=2)}
    new, old = scores({**od[1], "<CAPTION>": [2.6] * 100}), scores({**od[0], "<CAPTION>": [3.0] * 100})
    assert decide(new, old).accepted, "0.4 of 10"
    assert not decide(new, old, PromotionSettings(locked_fraction=0, seed_deviation=0.01)).accepted


def test_single_tasks_are_tested_without_a_correction_for_their_number():
    tasks = ["<OCR>", "<CAPTION>", "<DETAILED_CAPTION>", "<REGION_PROPOSAL>", "<REGION_TO_CATEGORY>", "<REGION_TO_OCR>"]
    fine = {"<OD>": [1.0] * 40, **{task: [0.5] * 40 for task in tasks}}
    old = {"<OD>": [0.0] * 40, **{task: [0.5] * 40 for task in tasks}}
    bad = {**fine, "<OCR>": list(0.5 - 0.04 + np.random.default_rng(0).normal(0, 0.1, 40))}
    assert decide(scores(fine), scores(old)).accepted and not decide(scores(bad), scores(old)).accepted
    assert not decide(scores({k: bad[k] for k in ("<OD>", "<OCR>")}), scores({k: old[k] for k in fine})).accepted


def test_losses_do_not_add_up_against_the_first_champion():
    anchor = scores({"<OD>": spread(0.3), "<OCR>": [0.5] * 100})
    champion = scores({"<OD>": spread(0.4, seed=1), "<OCR>": [0.47] * 100})
    new = scores({"<OD>": spread(0.6, seed=2), "<OCR>": [0.44] * 100})
    assert decide(new, champion).accepted
    decision = decide(new, champion, anchor=anchor)
    assert not decision.accepted and "<OCR> 0.500 → 0.440 since the first champion" in decision.reason
    assert {(c.task, c.against) for c in decision.changes} == {
        (task, against) for task in ("<OD>", "<OCR>") for against in ("champion", "anchor")
    }


def test_newer_data_of_the_same_quality_may_be_asked_for():
    old, new = scores({"<OD>": spread(0.4)}), scores({"<OD>": spread(0.395, seed=2, width=0.02)})
    near = scores({"<OD>": spread(0.4, seed=2, width=0.02)})
    rule = PromotionSettings(**of(RULE), mode="not_worse", margin=0.05)
    assert not decide(near, old).accepted and decide(new, old, rule).accepted
    assert "not worse by 0.05" in decide(new, old, rule).reason
    assert not decide(scores({"<OD>": spread(0.36, seed=2, width=0.02)}), old, rule).accepted
    asked = PromotionSettings(**of(RULE), margin=0.05)
    better = scores({"<OD>": spread(0.46, seed=2)})
    assert decide(better, old).accepted and not decide(better, old, asked).accepted


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mode": "not_worse"}, "margin: with mode not_worse it has to be above 0"),
        ({"task_margins": {"<OCR>": 0}}, "task_margins: <OCR> is 0"),
        ({"seed_deviations": {"<OCR>": -1}}, "seed_deviations: <OCR> is -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict, words: str):
    with pytest.raises(ValidationError, match=words):
        PromotionSettings(**values)


def test_scores_on_too_few_images_are_reported_and_decide_nothing():
    old = scores({"<OD>": spread(0.4), "<CAPTION>": [2.0] * 29})
    new = scores({"<OD>": spread(0.5), "<CAPTION>": [0.1] * 29})
    decision = decide(new, old)
    assert decision.accepted and "no other score has enough images" in decision.reason
    (change,) = [change for change in decision.changes if change.task == "<CAPTION>"]
    assert change.bound is None and change.change == pytest.approx(-1.9) and change.n == 29
    assert not decide(new, old, PromotionSettings(**of(RULE), min_images=29)).accepted


def test_scores_against_different_references_are_never_compared():
    old = scores({"<OD>": spread(0.6)}, "consensus")
    new = pa.concat_tables([scores({"<OD>": spread(0.1)}, "truth"), scores({"<OD>": spread(0.9, seed=2)}, "consensus")])
    decision = decide(new, old)
    assert decision.accepted and [change.reference for change in decision.changes] == ["consensus"]


def test_the_best_reference_with_enough_images_decides_and_the_others_must_not_fall():
    old = pa.concat_tables([scores({"<OD>": spread(0.4, 40)}), scores({"<OD>": spread(0.6)}, "consensus")])
    fallen = pa.concat_tables([scores({"<OD>": spread(0.7, 40)}), scores({"<OD>": spread(0.3)}, "consensus")])
    decision = decide(fallen, old)
    assert not decision.accepted and decision.changes[0].reference == "truth" and "against consensus" in decision.reason
    few = pa.concat_tables([scores({"<OD>": [0.4] * 3}), scores({"<OD>": spread(0.6)}, "consensus")])
    better = pa.concat_tables([scores({"<OD>": [0.1] * 3}), scores({"<OD>": spread(0.8)}, "consensus")])
    assert decide(better, few).accepted


def test_with_few_photos_the_champion_stays():
    old = make_baseline(scores({"<OD>": [0.3, 0.5]}, "consensus"))
    decision = decide(scores({"<OD>": [0.9, 0.9]}, "consensus"), old, PromotionSettings())
    assert not decision.accepted and "on 2 held-out images" in decision.reason
    assert "30 images are needed to show that it is better" in decision.reason
    one = decide(scores({"<OD>": [0.9]}), scores({"<OD>": [0.3]}))
    assert not one.accepted and one.changes[0].low is None
    assert Decision.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False))).to_json() == one.to_json()


def test_a_champion_that_was_never_scored_is_a_champion():
    unscored = make_baseline(NONE)
    assert len(unscored) == 1 and len(make_baseline(scores({"<OD>": [1.0]}))) == 1
    for new in (NONE, scores({"<OD>": [1.0] * 50})):
        decision = decide(new, unscored)
        assert not decision.accepted and "the champion stays" in decision.reason


# ---------------------------------------------------------------- locked images


def test_locked_images_decide_nothing_and_are_shown():
    rule = PromotionSettings(locked_fraction=0.3, seed_deviation=0)
    ids = [f"truth{index:04d}" for index in range(200)]
    locked = [is_locked(image, 0.3) for image in ids]
    assert 40 < sum(locked) < 80
    old = scores({"<OD>": spread(0.4, 200)})
    worse = scores({"<OD>": [0.3 if out else v for out, v in zip(locked, spread(0.5, 200, 2), strict=True)]})
    decision = decide(worse, old, rule)
    assert decision.accepted
    deciding, beside = decision.changes
    assert (deciding.n, beside.n) == (200 - sum(locked), sum(locked)) and beside.locked and not deciding.locked
    assert beside.bound is None and beside.after == pytest.approx(0.3)
    better = scores({"<OD>": [0.9 if out else v for out, v in zip(locked, spread(0.4, 200), strict=True)]})
    assert not decide(better, old, rule).accepted


def test_no_image_is_locked_where_the_others_would_be_too_few():
    rule = PromotionSettings(locked_fraction=0.3, seed_deviation=0)
    decision = decide(scores({"<OD>": spread(0.8, 35)}), scores({"<OD>": spread(0.4, 35, 1)}), rule)
    assert decision.accepted and decision.changes[0].n == 35


def test_which_images_are_locked_depends_on_their_ids_alone():
    ids = [f"{index:x}" for index in range(4000)]
    few, many = ({i for i in ids if is_locked(i, share)} for share in (0.1, 0.4))
    assert few < many and len(few) / 4000 == pytest.approx(0.1, abs=0.02)
    assert len(many) / 4000 == pytest.approx(0.4, abs=0.03) and not any(is_locked(i, 0.0) for i in ids)


# ---------------------------------------------------------------- the first model


def first(new: pa.Table, initial: pa.Table, shuffled: pa.Table) -> Decision:
    """Decide about a first model."""
    return decide_promotion(new, Opponents(NONE, shuffled=shuffled, initial=initial), RULE)


def test_the_first_model_must_look_at_the_picture_and_be_better_than_where_it_began():
    new, low = scores({"<OD>": spread(0.3)}), scores({"<OD>": spread(0.02, seed=5)})
    decision = first(new, low, low)
    assert decision.accepted and decision.reason == (
        "the first model: <OD> 0.300, the mean over images of F1 at IoU 0.5, on 100 held-out images against truth; "
        "0.020 by the model that training began with and 0.020 with the images shuffled"
    )
    same = scores({"<OD>": spread(0.3, seed=5)})
    for initial, shuffled, words in (
        (low, same, "with the images shuffled"),
        (same, low, "by the model that training began with"),
    ):
        blind = first(new, initial, shuffled)
        assert not blind.accepted and f"is not shown to be better than {words}: " in blind.reason


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (NONE, "no held-out image has anything to score <OD> against"),
        (scores({"<CAPTION>": [1.0] * 50}), "no held-out image has anything to score <OD> against"),
        (
            scores({"<OD>": [0.0, 0.1]}, "consensus"),
            "<OD> 0.050, the mean over images of F1 at IoU 0.5, on 2 held-out images against consensus; "
            "30 images are needed",
        ),
        (scores({"<OD>": [0.1] * 50}), "evaluate.shuffled_image_tasks does not name <OD>: no shuffled-image baseline"),
    ],
)
def test_a_first_model_that_can_not_be_tested_is_accepted_and_it_is_said(new: pa.Table, words: str):
    decision = first(new, NONE, NONE)
    assert decision.accepted and "accepted untested" in decision.reason and words in decision.reason


def test_a_decision_survives_its_file_and_is_repeatable():
    old, new = (
        scores({"<OD>": spread(0.4), "<CAPTION>": spread(2.0)}),
        scores({"<OD>": spread(0.5), "<CAPTION>": spread(1.9)}),
    )
    decisions = [decide(new, old) for _ in range(2)]
    texts = [json.dumps(decision.to_json(), sort_keys=True, allow_nan=False) for decision in decisions]
    assert texts[0] == texts[1]
    again = Decision.from_json(json.loads(texts[0]))
    assert (again.accepted, again.reason, len(again.changes)) == (decisions[0].accepted, decisions[0].reason, 2)
    assert again.to_json() == decisions[0].to_json()
