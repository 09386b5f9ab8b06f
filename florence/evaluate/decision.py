"""Whether a model may take the champion's place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from florence.config import EvaluateSettings, PromotionSettings
from florence.evaluate.references import REFERENCE_ORDER
from florence.evaluate.scores import SCORES, round_figure
from florence.metrics.bootstrap import Interval, bootstrap_difference, correct_p_values

Values = Mapping[str, float]
"""Image id → the model's value there."""
MIN_RESAMPLES = 10_000
"""At least: a p-value is no smaller than one in so many, and is multiplied by the number of tests."""
Scores = Mapping[tuple[str, str], Values]
"""(task, reference) → values."""


@dataclass(frozen=True, slots=True)
class ScoreChange:
    """How a task's score changed from ``before`` (the champion's) to ``after``: means over the ``n`` images that both have.

    For a first champion ``before`` is the control's. ``low``, ``high``: 95% interval of the change, paired over images. ``p``: the
    chance of such a fall where there is none, Holm-corrected for the number of tests; None where it decides nothing, because images are too few.
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
    """``reason``: a sentence for people. ``changes``: every task that could be compared, the one that decided first."""

    accepted: bool
    reason: str
    changes: tuple[ScoreChange, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """As metrics/decision.json holds it: accepted, reason, and task → reference → figures."""
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
        """What `to_json` wrote, figures to six digits."""
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
    """The rule of promotion. Tables of schema SCORES: the new model's scores, the champion's (see `baseline`; no rows: there is none), and the new model's on shuffled images.

    With a champion: accepted if the mean of ``promotion.primary_task`` over the images that both have is higher, and no task is significantly
    lower (one-sided, paired over images, Holm-corrected over all tasks and references with ``promotion.min_images`` images or more). Scores are
    compared with scores against the same reference. The primary task is judged by its best reference that has enough images; where
    none has, by the one with most, and the reason says so. Without an image that both have, the champion stays.

    Without a champion: accepted if the primary score is significantly above its control; also where that could not be tested, which
    the reason says. The value of an image is the metric's own for one image: for detection F1 at IoU 0.5, not AP.
    """
    new, old, shuffled = (_values(table) for table in (candidate, champion, shuffled))
    if not len(champion):
        return _first(new, shuffled, promotion, evaluate)
    changes = {key: change for key in new if (change := _change(key, new[key], old.get(key, {}), evaluate)) is not None}
    decisive = _decisive({key: change.n for key, (change, _) in changes.items()}, promotion)
    if decisive is None:
        return Decision(
            False,
            f"no held-out image has a {promotion.primary_task} score of both models, so it cannot be shown that the new one is better; "
            "the champion stays",
            _sorted(changes, None),
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
    return _decided(changes[decisive][0], fallen, len(tests), _sorted(changes, decisive), promotion)


def _decided(
    primary: ScoreChange,
    fallen: list[ScoreChange],
    tests: int,
    changes: tuple[ScoreChange, ...],
    promotion: PromotionSettings,
) -> Decision:
    images = f"{primary.n} held-out image{'s' * (primary.n != 1)} against {primary.reference}"
    moved = (
        f"{primary.task} {'rose' if primary.change > 0 else 'did not rise'}: {primary.before:.3f} before, {primary.after:.3f} now "
        + (f"({primary.change:+.3f}, 95% interval {primary.low:+.3f} to {primary.high:+.3f}, on {images})")
    )
    if primary.n < promotion.min_images:
        moved += f", which are too few to be sure ({promotion.min_images} are needed)"
    if fallen:
        lost = "; ".join(
            f"{c.task} {c.before:.3f} → {c.after:.3f} on {c.n} images against {c.reference}, corrected {_p(c.p)}"
            for c in fallen
        )
        return Decision(False, f"{moved}; but significantly lower: {lost}", changes)
    if primary.change <= 0:
        return Decision(False, moved, changes)
    others = (
        f"none of {tests} other scores fell significantly" if tests else "no other score has enough images to be tested"
    )
    return Decision(True, f"{moved}; {others}", changes)


def _first(new: Scores, shuffled: Scores, promotion: PromotionSettings, evaluate: EvaluateSettings) -> Decision:
    task = promotion.primary_task
    decisive = _decisive({key: len(values) for key, values in new.items()}, promotion)
    if decisive is None:
        return Decision(
            True, f"the first model, accepted untested: no held-out image has anything to score {task} against"
        )
    values = new[decisive]
    told = f"{task} {sum(values.values()) / len(values):.3f} on {len(values)} held-out image{'s' * (len(values) != 1)} against {decisive[1]}"
    found = _change(decisive, values, shuffled.get(decisive, {}), evaluate)
    if len(values) < promotion.min_images:
        return Decision(
            True,
            f"the first model, accepted untested: {told}; {promotion.min_images} images are needed",
            (found[0],) if found else (),
        )
    if found is None:
        return Decision(
            True,
            f"the first model, accepted untested: {told}; evaluate.shuffled_image_tasks does not name {task}, so nothing shows that it looks at pictures",
        )
    change, sure = found
    accepted = sure.p_rise < promotion.alpha and change.change > 0
    verdict = "the first model" if accepted else "rejected, for the model does not look at the picture"
    above = "" if accepted else "not significantly above "
    return Decision(
        accepted,
        f"{verdict}: {told}, {above}{change.before:.3f} with the images shuffled ({_p(sure.p_rise)})",
        (change,),
    )


def _p(value: float | None) -> str:
    return "p < 0.001" if value is not None and value < 0.001 else f"p = {value:.3f}"


def make_baseline(scores: pa.Table) -> pa.Table:
    """The scores of a model as those of a champion: a champion that could not be scored at all is one row of nulls, so that it is not taken for none."""
    return scores if len(scores) else pa.Table.from_pylist([dict.fromkeys(SCORES.names)], schema=SCORES)


def _values(table: pa.Table) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in table.to_pylist():
        if row["value"] is not None:
            found.setdefault((row["task"], row["reference"]), {})[row["image_id"]] = row["value"]
    return found


def _change(
    key: tuple[str, str], after: Values, before: Values, evaluate: EvaluateSettings
) -> tuple[ScoreChange, Interval] | None:
    found = bootstrap_difference(after, before, resamples=max(evaluate.bootstrap, MIN_RESAMPLES), seed=evaluate.seed)
    if found is None:
        return None
    shared = after.keys() & before.keys()
    old, new = (sum(side[image] for image in sorted(shared)) / found.n for side in (before, after))
    return ScoreChange(*key, old, new, found.mean, found.low, found.high, found.n), found


def _decisive(images: Mapping[tuple[str, str], int], promotion: PromotionSettings) -> tuple[str, str] | None:
    """The primary task's best reference with enough images, else the one with most; None without any."""
    found = sorted(
        ((key, n) for key, n in images.items() if key[0] == promotion.primary_task and n),
        key=lambda pair: REFERENCE_ORDER.index(pair[0][1]),
    )
    enough = [key for key, n in found if n >= promotion.min_images]
    return enough[0] if enough else max(found, key=lambda pair: pair[1], default=(None, 0))[0]


def _sorted(
    changes: Mapping[tuple[str, str], tuple[ScoreChange, Interval]], first: tuple[str, str] | None
) -> tuple[ScoreChange, ...]:
    return tuple(changes[key][0] for key in sorted(changes, key=lambda key: (key != first, key)))
