"""The promotion rule (docs/adr/0017): may a model take the champion's place?

With dᵢ = newᵢ − championᵢ the change of a task's score on image i against one reference, over the n images that both
models were scored on, s² the variance of d, τ the standard deviation that training with another seed gives the task's
score, and k the number of models that were compared with this champion, this one included,

    V    = s² / n + 2 τ²
    L(α) = mean of d − t(1 − α; n − 1) √V

a model is accepted if

    L(α / k²) > m      for the primary task: m is ``promotion.margin``, −m where ``promotion.mode`` is not_worse
    L(β) > −δ          for every other score, and for every score against the anchor, the first champion of the
                       workspace: δ is the task's margin, β ``promotion.task_alpha``

The chance that a model which is not better in the primary task is accepted is at most α (1 + 1/4 + 1/9 + …) < 1.65 α,
however many are compared with one champion. Of the other scores every single one has to pass, so that the chance that
a model is accepted of which any task is worse by its margin is at most α without a correction for their number
(intersection–union test: Berger, "Multiparameter Hypothesis Testing and Acceptance Sampling", 1982). Several steps
cannot add up to a loss, since the anchor stays.

A first model has no champion to beat. It is accepted if L(α) > 0 for the primary task against the model that training
began with, scored as it is, and against the shuffled-image baseline.

Images that are locked (`is_locked`) decide nothing. Their changes are stated beside: the champion was not chosen by
its scores on them. None is locked where the others would be fewer than ``promotion.min_images``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from florence.config import PromotionSettings
from florence.evaluate.references import REFERENCE_ORDER
from florence.evaluate.scores import SCORES, round_figure
from florence.metrics import METRICS
from florence.tasks import task as find_task

Values = Mapping[str, float]
"""Image id → the model's value on it."""
Scores = dict[tuple[str, str], dict[str, float]]
"""(task, reference) → values."""
Opponent = Literal["champion", "anchor", "initial", "shuffled"]
"""What a model is compared with: ``initial`` is the model that training began with."""
FIRST_OPPONENTS = {"initial": "by the model that training began with", "shuffled": "with the images shuffled"}
"""What a first model is compared with, in words."""
POWER = 0.8
"""Chance of passing for which the number of images that would be needed is stated."""
LISTED = 3
"""Scores that a reason names."""
LEVEL = 0.95
"""Of two-sided intervals."""


@dataclass(frozen=True, slots=True)
class Opponents:
    """What a model is compared with: tables of schema SCORES.

    ``champion``: no rows: there is none (see `make_baseline`). ``anchor``: no rows: it is the champion. ``initial``: of
    the model that training began with. ``shuffled``: the new model's own with the images shuffled. ``attempt``: k, how
    many models were compared with this champion, this one included.
    """

    champion: pa.Table
    shuffled: pa.Table = field(default_factory=SCORES.empty_table)
    initial: pa.Table = field(default_factory=SCORES.empty_table)
    anchor: pa.Table = field(default_factory=SCORES.empty_table)
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class ScoreChange:
    """The change of a task's score from ``before`` (of the opponent ``against``) to ``after``.

    Both are means over the ``n`` images that both have. ``deviation``: s. ``low``, ``high``: 95% interval of the
    change, over images and training seeds; None for one image. ``bound``: L, which has to be above ``least``; both None
    where the change decides nothing. ``locked``: of the locked images.
    """

    task: str
    reference: str
    against: Opponent
    before: float
    after: float
    change: float
    n: int
    deviation: float
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    least: float | None = None
    locked: bool = False

    @property
    def passes(self) -> bool:
        """Whether the change allows the promotion."""
        return self.bound is None or self.least is None or self.bound > self.least


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a model is accepted.

    ``reason``: a sentence for people. ``changes``: of every score that could be compared, the decisive one first.
    """

    accepted: bool
    reason: str
    changes: tuple[ScoreChange, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return what metrics/decision.json holds: accepted, reason, and a row for each change."""
        rows = [
            {
                name: round_figure(value) if isinstance(value, float) else value
                for name, value in asdict(change).items()
                if value is not None
            }
            for change in self.changes
        ]
        return {"accepted": self.accepted, "reason": self.reason, "changes": rows}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Decision:
        """Return the decision that `to_json` wrote, figures to six digits."""
        return cls(values["accepted"], values["reason"], tuple(ScoreChange(**row) for row in values["changes"]))


def decide_promotion(candidate: pa.Table, opponents: Opponents, promotion: PromotionSettings) -> Decision:
    """Decide whether the candidate may become the champion, by the rule above.

    ``candidate``: table of schema SCORES. Only scores against the same reference are compared, image by image: for
    detection F1 at IoU 0.5, not AP. The primary task is decided by its best reference with ``promotion.min_images``
    images or more. Where none has so many nothing can be shown, and the champion stays; a first model is then accepted
    untested, and the reason says so. Scores on fewer images are reported and decide nothing.
    """
    promotion = _unlock_few(candidate, promotion)
    if not len(opponents.champion):
        return _decide_first(candidate, opponents, promotion)
    new = _split_values(candidate, promotion)
    changes, locked = [], []
    tables: dict[Opponent, pa.Table] = {"champion": opponents.champion, "anchor": opponents.anchor}
    for against, table in tables.items():
        old = _split_values(table, promotion)
        changes += _compare_scores(new.decisive, old.decisive, against, promotion)
        locked += [replace(c, locked=True) for c in _compare_scores(new.locked, old.locked, against, promotion)]
    decisive = _choose_decisive({(c.task, c.reference): c.n for c in changes if c.against == "champion"}, promotion)
    if decisive is None:
        return Decision(
            False,
            f"no held-out image has a {promotion.primary_task} score of both models, "
            "so it cannot be shown that the new one is better; the champion stays",
            tuple(changes + locked),
        )
    alpha = promotion.alpha / opponents.attempt**2
    tested = []
    for change in changes:
        is_primary = change.against == "champion" and (change.task, change.reference) == decisive
        margin = promotion.find_margin(change.task, METRICS.get(find_task(change.task).metric).highest)
        if change.n >= promotion.min_images and is_primary:
            change = _set_bound(change, alpha, promotion.least_change, promotion)
        elif change.n >= promotion.min_images and margin is not None:
            change = _set_bound(change, promotion.task_alpha, -margin, promotion)
        tested.append((not is_primary, change))
    tested.sort(key=lambda pair: pair[0])  # stable: the others keep their order
    primary, others = tested[0][1], [change for _, change in tested[1:]]
    return _decide_with_champion(primary, others, alpha, tuple([primary, *others, *locked]), promotion)


def is_locked(image_id: str, fraction: float) -> bool:
    """Whether a held-out image decides nothing: ``fraction`` of all, by the hash of their ids."""
    return int.from_bytes(hashlib.sha256(f"locked|{image_id}".encode()).digest()[:8], "big") < fraction * 2**64


def _unlock_few(candidate: pa.Table, promotion: PromotionSettings) -> PromotionSettings:
    """Return settings that lock no image, where the others would be too few for the primary task."""
    values = _split_values(candidate, promotion).decisive
    most = max((len(found) for (task, _), found in values.items() if task == promotion.primary_task), default=0)
    return promotion if most >= promotion.min_images else promotion.model_copy(update={"locked_fraction": 0.0})


def make_baseline(scores: pa.Table) -> pa.Table:
    """Return the scores of a model as those of a champion.

    A champion without any score is one row of nulls, so that it is not taken for no champion.
    """
    return scores if len(scores) else pa.Table.from_pylist([dict.fromkeys(SCORES.names)], schema=SCORES)


# ---------------------------------------------------------------- with a champion


def _decide_with_champion(
    primary: ScoreChange,
    others: list[ScoreChange],
    alpha: float,
    changes: tuple[ScoreChange, ...],
    promotion: PromotionSettings,
) -> Decision:
    level = f"{100 * (1 - alpha):.4g}%"
    figures = (
        f"{primary.task}, {primary.before:.3f} before, is {primary.after:.3f} now ({primary.change:+z.3f}, "
        f"on {_count_images(primary)}{_name_measure(primary.task, ', by ')})"
    )
    if primary.bound is None or primary.least is None:
        return Decision(
            False,
            f"{figures}; {promotion.min_images} images are needed to show that it is better, so the champion stays",
            changes,
        )
    wanted = "better" if primary.least >= 0 else f"not worse by {-primary.least:g}"
    if not primary.passes:
        more = _images_needed(primary, promotion, alpha, primary.change - primary.least)
        return Decision(
            False,
            f"{figures}; it is not shown to be {wanted}: at least {primary.bound:+z.3f} with {level} confidence{more}",
            changes,
        )
    summary = f"{figures}, which is {wanted}: at least {primary.bound:+z.3f} with {level} confidence"
    if failed := [change for change in others if not change.passes]:
        named = "; ".join(_describe_fall(change, promotion) for change in failed[:LISTED])
        rest = f"; and {len(failed) - LISTED} more" if len(failed) > LISTED else ""
        return Decision(False, f"{summary}; but not shown to have kept their quality: {named}{rest}", changes)
    tests = sum(change.bound is not None for change in others)
    kept = (
        f"the other {tests} scores that are tested have fallen by less than their margins"
        if tests
        else "no other score has enough images to be tested"
    )
    return Decision(True, f"{summary}; {kept}", changes)


def _describe_fall(change: ScoreChange, promotion: PromotionSettings) -> str:
    margin = -(change.least or 0.0)
    since = " since the first champion" if change.against == "anchor" else ""
    more = _images_needed(change, promotion, promotion.task_alpha, margin) if change.change > -margin / 2 else ""
    return (
        f"{change.task} {change.before:.3f} → {change.after:.3f}{since} on {_count_images(change)}, "
        f"may have fallen by {-(change.bound or 0.0):.3f} where {margin:g} is allowed{more}"
    )


def _images_needed(change: ScoreChange, promotion: PromotionSettings, alpha: float, distance: float) -> str:
    """Return how many images would tell, in words: a change so far above what is allowed passes with `POWER`."""
    from scipy.special import ndtri

    variance = (max(distance, 0.0) / float(ndtri(1 - alpha) + ndtri(POWER))) ** 2
    variance -= 2 * _seed_deviation(change.task, promotion) ** 2
    if variance <= 0:
        return ""
    needed = int(np.ceil(change.deviation**2 / variance))
    return f" ({needed} images would tell, if it is as it seems)" if change.n < needed <= 100_000 else ""


def _count_images(change: ScoreChange) -> str:
    return f"{change.n} held-out image{'s' * (change.n != 1)} against {change.reference}"


def _name_measure(name: str, before: str, after: str = "") -> str:
    """Return what is compared image by image, where it is another measure than the task's score in tables."""
    metric = METRICS.get(find_task(name).metric)
    return f"{before}the mean over images of {metric.per_image_name}{after}" if metric.per_image_name else ""


# ---------------------------------------------------------------- the first model


def _decide_first(candidate: pa.Table, opponents: Opponents, promotion: PromotionSettings) -> Decision:
    task = promotion.primary_task
    new = {key: values for key, values in _split_values(candidate, promotion).decisive.items() if key[0] == task}
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
    tables: dict[Opponent, pa.Table] = {"initial": opponents.initial, "shuffled": opponents.shuffled}
    changes, missing = [], []
    for against, table in tables.items():
        old = _split_values(table, promotion).decisive
        found = _compare_scores({decisive: values}, old, against, promotion)
        if not found:
            missing.append(against)
        elif found[0].n >= promotion.min_images:
            changes.append(_set_bound(found[0], promotion.alpha, 0.0, promotion))
        else:
            changes.append(found[0])
    kept = tuple(changes)
    if len(values) < promotion.min_images:
        return Decision(
            True, f"the first model, accepted untested: {score}; {promotion.min_images} images are needed", kept
        )
    if missing:
        lacking = (
            f"evaluate.shuffled_image_tasks does not name {task}: no shuffled-image baseline"
            if "shuffled" in missing
            else f"no {task} score of the model that training began with"
        )
        return Decision(True, f"the first model, accepted untested: {score}; {lacking} to compare with", kept)
    compared = " and ".join(f"{change.before:.3f} {FIRST_OPPONENTS[change.against]}" for change in changes)
    score = f"{score}; {compared}"
    if failed := [FIRST_OPPONENTS[change.against] for change in changes if not change.passes]:
        return Decision(False, f"the first model is not shown to be better than {' or '.join(failed)}: {score}", kept)
    return Decision(True, f"the first model: {score}", kept)


# ---------------------------------------------------------------- figures


class _Split(NamedTuple):
    """Values of the images that decide, and of those that are locked."""

    decisive: Scores
    locked: Scores


def _split_values(table: pa.Table, promotion: PromotionSettings) -> _Split:
    found = _Split({}, {})
    locked = {i: is_locked(i, promotion.locked_fraction) for i in table["image_id"].unique().to_pylist() if i}
    for row in table.to_pylist():
        if row["value"] is not None:
            side = found[locked[row["image_id"]]]
            side.setdefault((row["task"], row["reference"]), {})[row["image_id"]] = row["value"]
    return found


def _compare_scores(
    after: Scores, before: Scores, against: Opponent, promotion: PromotionSettings
) -> list[ScoreChange]:
    """Return the change of every score that both sides have on some image, sorted."""
    changes = []
    for key in sorted(after.keys() & before.keys()):
        shared = sorted(after[key].keys() & before[key].keys())
        if shared:
            old, new = (np.asarray([side[key][image] for image in shared]) for side in (before, after))
            changes.append(_measure_change(key, old, new, against, promotion))
    return changes


def _measure_change(
    key: tuple[str, str],
    old: np.ndarray,
    new: np.ndarray,
    against: Opponent,
    promotion: PromotionSettings,
) -> ScoreChange:
    """Return a change with its interval. ``old``, ``new``: (n,), of the same images."""
    d = new - old
    deviation = float(d.std(ddof=1)) if len(d) > 1 else 0.0
    means = float(old.mean()), float(new.mean()), float(d.mean())
    change = ScoreChange(*key, against, *means, len(d), deviation)
    if len(d) < 2:
        return change
    half = _half_width(change, (1 - LEVEL) / 2, promotion)
    return replace(change, low=change.change - half, high=change.change + half)


def _set_bound(change: ScoreChange, alpha: float, least: float, promotion: PromotionSettings) -> ScoreChange:
    return replace(change, bound=change.change - _half_width(change, alpha, promotion), least=least)


def _half_width(change: ScoreChange, alpha: float, promotion: PromotionSettings) -> float:
    """t(1 − α; n − 1) √V."""
    from scipy.special import stdtrit

    variance = change.deviation**2 / change.n + 2 * _seed_deviation(change.task, promotion) ** 2
    return float(stdtrit(change.n - 1, 1 - alpha) * np.sqrt(variance))


def _seed_deviation(task: str, promotion: PromotionSettings) -> float:
    """τ, in units of the task's score."""
    return promotion.find_seed_deviation(task, METRICS.get(find_task(task).metric).highest)


def _choose_decisive(images: Mapping[tuple[str, str], int], promotion: PromotionSettings) -> tuple[str, str] | None:
    """Return the primary task's best reference with enough images, else the one with most; None without any."""
    found = sorted(
        ((key, n) for key, n in images.items() if key[0] == promotion.primary_task and n),
        key=lambda pair: REFERENCE_ORDER.index(pair[0][1]),
    )
    enough = [key for key, n in found if n >= promotion.min_images]
    return enough[0] if enough else max(found, key=lambda pair: pair[1], default=(None, 0))[0]
