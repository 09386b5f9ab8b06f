"""The rule of promotion, case by case."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from florence.config import EvaluateSettings, PromotionSettings
from florence.evaluate import SCORES, Decision, decide_promotion, make_baseline

NONE = SCORES.empty_table()
RULE, HOW = PromotionSettings(), EvaluateSettings()


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


def test_improves_and_nothing_falls():
    old = scores({"<OD>": spread(0.4), "<CAPTION>": spread(2.0, seed=1)})
    new = scores({"<OD>": spread(0.43, seed=2), "<CAPTION>": spread(1.99, seed=3)})
    decision = decide_promotion(new, old, NONE, RULE, HOW)
    assert decision.accepted
    assert "held-out images against truth, by the mean over images of F1 at IoU 0.5)" in decision.reason
    assert "<OD> rose: 0.400 before, 0.430 now" in decision.reason and "none of 1 other scores fell" in decision.reason
    first = decision.changes[0]
    assert (
        (first.task, first.n, first.p) == ("<OD>", 100, None)
        and first.change == pytest.approx(0.03)
        and first.low < 0.03 < first.high
    )


def test_the_primary_must_rise():
    old = scores({"<OD>": spread(0.4), "<CAPTION>": spread(2.0)})
    for mean in (0.4, 0.39):
        decision = decide_promotion(scores({"<OD>": spread(mean), "<CAPTION>": spread(3.0)}), old, NONE, RULE, HOW)
        assert not decision.accepted and "<OD> did not rise" in decision.reason


def test_another_task_falls_significantly():
    old = scores({"<OD>": spread(0.4), "<CAPTION>": spread(2.0), "<OCR>": spread(0.5)})
    new = scores({"<OD>": spread(0.5), "<CAPTION>": spread(1.8, seed=4), "<OCR>": spread(0.5)})
    decision = decide_promotion(new, old, NONE, RULE, HOW)
    assert not decision.accepted
    assert (
        "significantly lower: <CAPTION> 2.000 → 1.800 on 100 images" in decision.reason
        and "<OCR>" not in decision.reason
    )
    fallen = {change.task: change.p for change in decision.changes}
    assert fallen["<CAPTION>"] < 0.001 and fallen["<OCR>"] == 1.0


def test_a_fall_on_too_few_images_is_reported_and_decides_nothing():
    old = scores({"<OD>": spread(0.4), "<CAPTION>": [2.0] * 29})
    new = scores({"<OD>": spread(0.5), "<CAPTION>": [0.1] * 29})
    decision = decide_promotion(new, old, NONE, RULE, HOW)
    assert decision.accepted and "no other score has enough images" in decision.reason
    (change,) = [change for change in decision.changes if change.task == "<CAPTION>"]
    assert change.p is None and change.change == pytest.approx(-1.9) and change.n == 29
    enough = decide_promotion(new, old, NONE, PromotionSettings(min_images=29), HOW)
    assert not enough.accepted


def test_many_tasks_are_corrected_for():
    tasks = [f"<T{i}>" for i in range(14)]
    draw = np.random.default_rng(3)
    alone = None
    for _ in range(200):  # a fall whose p lies between level / 14 and level
        values = draw.normal(-0.03, 0.1, 40)
        z = values.mean() / (values.std() / np.sqrt(40))
        if -2.2 < z < -1.9:
            alone = values
            break
    assert alone is not None
    old = scores({"<OD>": [0.0] * 40, "<CAPTION>": [0.0] * 40, **{t: [0.0] * 40 for t in tasks}})
    fell = {"<OD>": [1.0] * 40, "<CAPTION>": list(alone)}
    assert not decide_promotion(scores(fell), old, NONE, RULE, HOW).accepted
    assert decide_promotion(scores({**fell, **{t: [0.0] * 40 for t in tasks}}), old, NONE, RULE, HOW).accepted


def test_scores_against_different_references_are_never_compared():
    old = scores({"<OD>": spread(0.9)}, "consensus")
    new = pa.concat_tables([scores({"<OD>": spread(0.1)}, "truth"), scores({"<OD>": spread(0.95)}, "consensus")])
    decision = decide_promotion(new, old, NONE, RULE, HOW)
    assert decision.accepted and [change.reference for change in decision.changes] == ["consensus"]


def test_the_best_reference_with_enough_images_decides_and_the_others_must_not_fall():
    old = pa.concat_tables([scores({"<OD>": spread(0.4, 40)}), scores({"<OD>": spread(0.6)}, "consensus")])
    fallen = pa.concat_tables([scores({"<OD>": spread(0.5, 40)}), scores({"<OD>": spread(0.3)}, "consensus")])
    decision = decide_promotion(fallen, old, NONE, RULE, HOW)
    assert not decision.accepted and decision.changes[0].reference == "truth" and "against consensus" in decision.reason
    few = pa.concat_tables([scores({"<OD>": [0.4] * 3}), scores({"<OD>": spread(0.6)}, "consensus")])
    better = pa.concat_tables([scores({"<OD>": [0.1] * 3}), scores({"<OD>": spread(0.7)}, "consensus")])
    assert decide_promotion(better, few, NONE, RULE, HOW).accepted


def test_the_first_model_must_look_at_the_picture():
    new = scores({"<OD>": spread(0.3)})
    decision = decide_promotion(new, NONE, scores({"<OD>": spread(0.02, seed=5)}), RULE, HOW)
    assert decision.accepted and decision.reason == (
        "the first model: <OD> 0.300, the mean over images of F1 at IoU 0.5, on 100 held-out images against truth, "
        "0.020 with the images shuffled (p < 0.001)"
    )
    blind = decide_promotion(new, NONE, scores({"<OD>": spread(0.3, seed=5)}), RULE, HOW)
    assert (
        not blind.accepted
        and "rejected: not significantly above the shuffled-image baseline" in blind.reason
        and "0.300 with the images shuffled" in blind.reason
    )


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
    decision = decide_promotion(new, NONE, NONE, RULE, HOW)
    assert decision.accepted and "accepted untested" in decision.reason and words in decision.reason


def test_with_few_photos_a_later_model_needs_an_improvement_all_the_same():
    old = make_baseline(scores({"<OD>": [0.3, 0.5]}, "consensus"))
    better = decide_promotion(scores({"<OD>": [0.4, 0.5]}, "consensus"), old, NONE, RULE, HOW)
    assert better.accepted and "too few to be sure" in better.reason and "on 2 held-out images" in better.reason
    assert not decide_promotion(scores({"<OD>": [0.3, 0.5]}, "consensus"), old, NONE, RULE, HOW).accepted


def test_a_champion_that_was_never_scored_is_a_champion():
    unscored = make_baseline(NONE)
    assert len(unscored) == 1 and len(make_baseline(scores({"<OD>": [1.0]}))) == 1
    for new in (NONE, scores({"<OD>": [1.0] * 50})):
        decision = decide_promotion(new, unscored, NONE, RULE, HOW)
        assert not decision.accepted and "the champion stays" in decision.reason


def test_a_decision_survives_its_file_and_is_repeatable():
    old, new = (
        scores({"<OD>": spread(0.4), "<CAPTION>": spread(2.0)}),
        scores({"<OD>": spread(0.5), "<CAPTION>": spread(1.9)}),
    )
    decisions = [decide_promotion(new, old, NONE, RULE, HOW) for _ in range(2)]
    texts = [json.dumps(decision.to_json(), sort_keys=True, allow_nan=False) for decision in decisions]
    assert texts[0] == texts[1]
    again = Decision.from_json(json.loads(texts[0]))
    assert (again.accepted, again.reason, len(again.changes)) == (decisions[0].accepted, decisions[0].reason, 2)
    assert again.to_json() == decisions[0].to_json()
