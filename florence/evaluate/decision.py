"""The promotion rule (docs/adr/0007): may a model take the champion's place?

With dᵢ = newᵢ − championᵢ the change of a task's score on image i against one reference, over the images that both
models were scored on, a model is accepted if

    mean of d > 0 for the primary task, and
    no other score falls significantly: p̃ ≥ α wherever mean of d < 0,

where p̃ is the one-sided paired bootstrap p-value of "it did not fall" (`florence.metrics.bootstrap`), corrected by
Holm's method over all scores with enough images. Without a champion, its primary score has to be above that of the
shuffled-image baseline: mean of d > 0 and p_rise < α for dᵢ = newᵢ − shuffledᵢ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from florence.config import EvaluateSettings, PromotionSettings
from florence.evaluate.references import REFERENCE_ORDER
from florence.evaluate.scores import SCORES, round_figure
from florence.metrics import METRICS
from florence.metrics.bootstrap import Interval, bootstrap_difference, correct_p_values
from florence.tasks import task as find_task

Values = Mapping[str, float]
"""Image id → the model's value on it."""
MIN_RESAMPLES = 10_000
"""Least number of resamples: no p-value is below 1 / MIN_RESAMPLES, and Holm multiplies it by the number of tests."""
Scores = Mapping[tuple[str, str], Values]
"""(task, reference) → values."""


@dataclass(frozen=True, slots=True)
class ScoreChange:
    """The change of a task's score from ``before`` (the champion's) to ``after``.

    Both are means over the ``n`` images that both models have; for a first model ``before`` is that of the
    shuffled-image baseline. ``low``, ``high``: 95% interval of the change, paired over images. ``p``: Holm-corrected
    p-value of "it did not fall"; None where images are too few to test it.
    """

    task: str
    reference: str
    before: float
    after: float
    change: float
    low: float
    high: float
    n: int
    p: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a model is accepted.

    ``reason``: a sentence for people. ``changes``: of every score that could be compared, the decisive one first.
    """

    accepted: bool
    reason: str
    changes: tuple[ScoreChange, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return what metrics/decision.json holds: accepted, reason, and task → reference → figures."""
        tasks: dict[str, dict[str, dict[str, Any]]] = {}
        for change in self.changes:
            values = {
                key: round_figure(value)
                for key, value in asdict(change).items()
                if key not in ("task", "reference") and value is not None
            }
            tasks.setdefault(change.task, {})[change.reference] = values
        return {"accepted": self.accepted, "reason": self.reason, "tasks": tasks}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Decision:
        """Return the decision that `to_json` wrote, figures to six digits."""
        found = [
            ScoreChange(task, reference, **figures)
            for task, references in values["tasks"].items()
            for reference, figures in references.items()
        ]
        return cls(values["accepted"], values["reason"], tuple(found))


def decide_promotion(
    candidate: pa.Table,
    champion: pa.Table,
    shuffled: pa.Table,
    promotion: PromotionSettings,
    evaluate: EvaluateSettings,
) -> Decision:
    """Decide whether the candidate may become the champion, by the rule above.

    Tables of schema SCORES: the new model's scores, the champion's (see `make_baseline`; no rows: there is none), and
    the new model's with the images shuffled. Only scores against the same reference are compared, image by image: for
    detection F1 at IoU 0.5, not AP. The primary task is decided by its best reference with ``promotion.min_images``
    images or more; where none has so many, by the one with most, and the reason says so. Without an image that both
    models have the champion stays. A first model that cannot be tested is accepted, and the reason says that too.
    """
    new, old, shuffled = (_read_values(table) for table in (candidate, champion, shuffled))
    if not len(champion):
        return _decide_first(new, shuffled, promotion, evaluate)
    changes = {
        key: change for key in new if (change := _compare_scores(key, new[key], old.get(key, {}), evaluate)) is not None
    }
    decisive = _choose_decisive({key: change.n for key, (change, _) in changes.items()}, promotion)
    if decisive is None:
        return Decision(
            False,
            f"no held-out image has a {promotion.primary_task} score of both models, "
            "so it cannot be shown that the new one is better; the champion stays",
            _sort_changes(changes, None),
        )
    tests = {
        key: found.p_fall
        for key, (change, found) in changes.items()
        if change.n >= promotion.min_images and key != decisive
    }
    corrected = correct_p_values({" ".join(key): p for key, p in tests.items()})
    changes = {
        key: (replace(change, p=corrected.get(" ".join(key))), found) for key, (change, found) in changes.items()
    }
    fallen = [
        change
        for key, (change, _) in sorted(changes.items())
        if change.p is not None and change.change < 0 and change.p < promotion.alpha
    ]
    return _decide_with_champion(changes[decisive][0], fallen, len(tests), _sort_changes(changes, decisive), promotion)


def _name_measure(name: str, before: str, after: str = "") -> str:
    """Return what is compared image by image, where it is another measure than the task's score in tables."""
    metric = METRICS.get(find_task(name).metric)
    return f"{before}the mean over images of {metric.per_image_name}{after}" if metric.per_image_name else ""


def _decide_with_champion(
    primary: ScoreChange,
    fallen: list[ScoreChange],
    tests: int,
    changes: tuple[ScoreChange, ...],
    promotion: PromotionSettings,
) -> Decision:
    images = f"{primary.n} held-out image{'s' * (primary.n != 1)} against {primary.reference}"
    summary = (
        f"{primary.task} {'rose' if primary.change > 0 else 'did not rise'}: "
        f"{primary.before:.3f} before, {primary.after:.3f} now "
        f"({primary.change:+.3f}, 95% interval {primary.low:+.3f} to {primary.high:+.3f}, on {images}"
        f"{_name_measure(primary.task, ', by ')})"
    )
    if primary.n < promotion.min_images:
        summary += f", which are too few to be sure ({promotion.min_images} are needed)"
    if fallen:
        lost = "; ".join(
            f"{c.task} {c.before:.3f} → {c.after:.3f} on {c.n} images against {c.reference}, corrected {_format_p(c.p)}"
            for c in fallen
        )
        return Decision(False, f"{summary}; but significantly lower: {lost}", changes)
    if primary.change <= 0:
        return Decision(False, summary, changes)
    others = (
        f"none of {tests} other scores fell significantly" if tests else "no other score has enough images to be tested"
    )
    return Decision(True, f"{summary}; {others}", changes)


def _decide_first(new: Scores, shuffled: Scores, promotion: PromotionSettings, evaluate: EvaluateSettings) -> Decision:
    task = promotion.primary_task
    decisive = _choose_decisive({key: len(values) for key, values in new.items()}, promotion)
    if decisive is None:
        return Decision(
            True, f"the first model, accepted untested: no held-out image has anything to score {task} against"
        )
    values = new[decisive]
    score = (
        f"{task} {sum(values.values()) / len(values):.3f}{_name_measure(task, ', ', ',')} "
        f"on {len(values)} held-out image{'s' * (len(values) != 1)} against {decisive[1]}"
    )
    found = _compare_scores(decisive, values, shuffled.get(decisive, {}), evaluate)
    if len(values) < promotion.min_images:
        return Decision(
            True,
            f"the first model, accepted untested: {score}; {promotion.min_images} images are needed",
            (found[0],) if found else (),
        )
    if found is None:
        return Decision(
            True,
            f"the first model, accepted untested: {score}; "
            f"evaluate.shuffled_image_tasks does not name {task}: no shuffled-image baseline to compare with",
        )
    change, test = found
    accepted = test.p_rise < promotion.alpha and change.change > 0
    verdict = "the first model" if accepted else "rejected: not significantly above the shuffled-image baseline"
    return Decision(
        accepted,
        f"{verdict}: {score}, {change.before:.3f} with the images shuffled ({_format_p(test.p_rise)})",
        (change,),
    )


def _format_p(value: float | None) -> str:
    return "p < 0.001" if value is not None and value < 0.001 else f"p = {value:.3f}"


def make_baseline(scores: pa.Table) -> pa.Table:
    """Return the scores of a model as those of a champion.

    A champion without any score is one row of nulls, so that it is not taken for no champion.
    """
    return scores if len(scores) else pa.Table.from_pylist([dict.fromkeys(SCORES.names)], schema=SCORES)


def _read_values(table: pa.Table) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in table.to_pylist():
        if row["value"] is not None:
            found.setdefault((row["task"], row["reference"]), {})[row["image_id"]] = row["value"]
    return found


def _compare_scores(
    key: tuple[str, str], after: Values, before: Values, evaluate: EvaluateSettings
) -> tuple[ScoreChange, Interval] | None:
    found = bootstrap_difference(after, before, resamples=max(evaluate.bootstrap, MIN_RESAMPLES), seed=evaluate.seed)
    if found is None:
        return None
    shared = after.keys() & before.keys()
    old, new = (sum(side[image] for image in sorted(shared)) / found.n for side in (before, after))
    return ScoreChange(*key, old, new, found.mean, found.low, found.high, found.n), found


def _choose_decisive(images: Mapping[tuple[str, str], int], promotion: PromotionSettings) -> tuple[str, str] | None:
    """Return the primary task's best reference with enough images, else the one with most; None without any."""
    found = sorted(
        ((key, n) for key, n in images.items() if key[0] == promotion.primary_task and n),
        key=lambda pair: REFERENCE_ORDER.index(pair[0][1]),
    )
    enough = [key for key, n in found if n >= promotion.min_images]
    return enough[0] if enough else max(found, key=lambda pair: pair[1], default=(None, 0))[0]


def _sort_changes(
    changes: Mapping[tuple[str, str], tuple[ScoreChange, Interval]], first: tuple[str, str] | None
) -> tuple[ScoreChange, ...]:
    return tuple(changes[key][0] for key in sorted(changes, key=lambda key: (key != first, key)))
