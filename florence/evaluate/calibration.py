"""Calibration: maps from scores to confidences, fitted on held-out images.

The map f of some answers is a smoothed isotonic regression. The rising function with the least Σ (f(sᵢ) − yᵢ)², where
yᵢ is 1 if the answer with score sᵢ is correct, else 0, is level on blocks of answers; of a block of n answers of which
k are correct the value is

    (k + 1) / (n + 2)

(Laplace's rule of succession), and what no longer rises after that is pooled once more, with weights n + 2. So no
confidence is 0 or 1, and an end that rests on few answers says less. Of a source s with n_s answers and a map f_s°,

    f_s = (n_s f_s° + K f) / (n_s + K)        K = `PRIOR_ANSWERS`

with f the map of all answers. For a source that the calibration has no answer of, a confidence above the base rate b,
the share of all answers that are correct, is shrunk towards it: b + λ (f − b). With two sources or more, λ_s is the
best such factor for source s where f and b are those of the other sources,

    λ_s = Σ_{i in s} (f(sᵢ) − b) (yᵢ − b) / Σ_{i in s} (f(sᵢ) − b)²,  clipped to 0…1        λ = (½ + Σ_s λ_s) / (1 + S)

over the S sources with `MIN_ANSWERS_OF_SOURCE` answers; with one source λ is ½.

Two looks at an object's name have the score s = σ(w₀ + w₁ logit p + w₂ logit q), by a logistic regression (with an L2
penalty on w₁ and w₂) on whether the second look's name is right, one for names that agree and one for names that
differ; then s is calibrated like any score. Nothing is assumed about how far the looks depend on each other.

Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", 2002; Platt,
"Probabilistic Outputs for Support Vector Machines", 1999.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from florence.metrics import GradedAnswers
from florence.metrics.calibration import expected_calibration_error
from florence.model.confidence import DEFAULT_TRANSFER, LEAST, Calibration, Curve, SecondLook

FOLDS = 5
"""Folds of the images: the error of each is measured with a map that was fitted on the others."""
MIN_ANSWERS = 100
"""Answers below which nothing is fitted."""
PRIOR_ANSWERS = 20
"""K: answers that the map of all sources counts for in that of one source."""
MIN_ANSWERS_OF_SOURCE = 20
"""Answers of a source from which it shows how far the maps of other sources hold for it."""
MIN_LOOKS = 20
"""Pairs of looks, agreeing or differing, from which weights of their scores are fitted."""


@dataclass(frozen=True, slots=True)
class GradedLooks:
    """Pairs of looks at n objects.

    ``examples`` (n,): number of the example; ``first``, ``second`` (n,): scores, 0…1; ``agree`` (n,) bool: whether both
    give the same name; ``rule`` (n,): the score of the pair where nothing is calibrated; ``correct`` (n,) bool: whether
    the second look's name is right.
    """

    examples: np.ndarray
    first: np.ndarray
    second: np.ndarray
    agree: np.ndarray
    rule: np.ndarray
    correct: np.ndarray


@dataclass(frozen=True, slots=True)
class GradedImages:
    """Graded answers with what they are about: ``images`` and ``sources`` of each example.

    ``looks``: pairs of looks at objects, whose examples are the same; None for none.
    """

    answers: GradedAnswers
    images: tuple[str, ...]
    sources: tuple[str, ...]
    looks: GradedLooks | None = None


def join_graded(parts: Sequence[GradedImages]) -> GradedImages:
    """Return one part or more, of different images, as one."""
    starts = np.cumsum([0, *(len(part.images) for part in parts)])[:-1].tolist()
    answers = GradedAnswers(
        np.concatenate([part.answers.examples + start for part, start in zip(parts, starts, strict=True)]),
        np.concatenate([part.answers.scores for part in parts]),
        np.concatenate([part.answers.correct for part in parts]),
    )
    pairs = [(part.looks, start) for part, start in zip(parts, starts, strict=True) if part.looks is not None]
    looks = None
    if pairs:
        looks = GradedLooks(
            np.concatenate([found.examples + start for found, start in pairs]),
            *(
                np.concatenate([getattr(found, name) for found, _ in pairs])
                for name in ("first", "second", "agree", "rule", "correct")
            ),
        )
    images, sources = ([value for part in parts for value in getattr(part, name)] for name in ("images", "sources"))
    return GradedImages(answers, tuple(images), tuple(sources), looks)


def fit_calibration(
    answers: GradedAnswers, images: Sequence[str], sources: Sequence[str] | None = None
) -> Calibration | None:
    """Return the calibration of scored answers.

    ``images``, ``sources``: the image of each example, and its source; None: not known, and the map holds for images
    whose source is not known either. None for fewer than `MIN_ANSWERS`, for answers that are all correct or all wrong,
    or all of one image.
    """
    scores, correct = answers.scores, answers.correct.astype(float)
    source = _sources_of(answers.examples, sources)
    if not _can_be_fitted(correct):
        return None
    held_out = np.full(len(scores), np.nan)
    for inside in _split_folds(answers.examples, images):
        found = _fit_curves(scores[~inside], correct[~inside], source[~inside])
        held_out[inside] = found.confidences(scores[inside], source[inside])
    return _make_calibration(_fit_curves(scores, correct, source), scores, correct, held_out)


def fit_second_look(
    looks: GradedLooks, images: Sequence[str], sources: Sequence[str] | None = None
) -> SecondLook | None:
    """Return how two looks at an object's name are combined; None where `fit_calibration` has none."""
    correct = looks.correct.astype(float)
    source = _sources_of(looks.examples, sources)
    if not _can_be_fitted(correct):
        return None
    held_out = np.full(len(correct), np.nan)
    for inside in _split_folds(looks.examples, images):
        scores = _score_looks(looks, _fit_weights(looks, ~inside))
        found = _fit_curves(scores[~inside], correct[~inside], source[~inside])
        held_out[inside] = found.confidences(scores[inside], source[inside])
    weights = _fit_weights(looks, np.ones(len(correct), bool))
    curves = _fit_curves(_score_looks(looks, weights), correct, source)
    calibration = _make_calibration(curves, looks.rule, correct, held_out)
    return None if calibration is None else SecondLook(*weights, calibration)


def _sources_of(examples: np.ndarray, sources: Sequence[str] | None) -> np.ndarray:
    return np.asarray(["" if sources is None else sources[example] for example in examples.tolist()], object)


def _can_be_fitted(correct: np.ndarray) -> bool:
    return len(correct) >= MIN_ANSWERS and 0 < correct.sum() < len(correct)


def _split_folds(examples: np.ndarray, images: Sequence[str]) -> Iterator[np.ndarray]:
    """Yield (n,) which answers are in each fold; all answers about one image are in one fold."""
    fold = np.asarray(
        [int(hashlib.sha256(images[example].encode()).hexdigest()[:8], 16) % FOLDS for example in examples.tolist()]
    )
    for part in range(FOLDS):
        inside = fold == part
        if inside.any() and not inside.all():
            yield inside


# ---------------------------------------------------------------- curves


@dataclass(frozen=True, slots=True)
class _Curves:
    """The maps of some answers. ``sources``: by source; the other fields: see `Calibration`."""

    whole: Curve
    sources: dict[str, Curve]
    base_rate: float
    transfer: float

    def confidences(self, scores: np.ndarray, source: np.ndarray) -> np.ndarray:
        """Return (n,) the confidence of each score."""
        calibration = Calibration(
            self.whole.scores,
            self.whole.confidences,
            0.0,
            0.0,
            0,
            self.base_rate,
            self.transfer,
            self.sources,
        )
        return np.asarray([calibration.confidence(s, name) for s, name in zip(scores.tolist(), source, strict=True)])


def _make_calibration(
    curves: _Curves, scores: np.ndarray, correct: np.ndarray, held_out: np.ndarray
) -> Calibration | None:
    """``scores`` (n,): what the confidences replace; ``held_out`` (n,): confidences, NaN where not measured."""
    is_measured = ~np.isnan(held_out)
    if not is_measured.any():  # all of one image
        return None
    return Calibration(
        curves.whole.scores,
        curves.whole.confidences,
        expected_calibration_error(scores, correct),
        expected_calibration_error(held_out[is_measured], correct[is_measured]),
        len(correct),
        curves.base_rate,
        curves.transfer,
        curves.sources,
    )


def _fit_curves(scores: np.ndarray, correct: np.ndarray, source: np.ndarray) -> _Curves:
    """Return the maps of one answer or more."""
    whole = fit_smoothed_isotonic(scores, correct)
    names = sorted(set(source.tolist()))
    curves = {}
    for name in names:
        inside = source == name
        curves[name] = _shrink(fit_smoothed_isotonic(scores[inside], correct[inside]), whole, int(inside.sum()))
    base_rate = round(float((correct.sum() + 1) / (len(correct) + 2)), 6)
    return _Curves(whole, curves, base_rate, _fit_transfer(scores, correct, source, names))


def _shrink(curve: Curve, whole: Curve, n: int) -> Curve:
    """Return the mean of the map of a source with ``n`` answers and that of all, by n and `PRIOR_ANSWERS`."""
    knots = sorted({*curve.scores, *whole.scores})
    values = [(n * curve(at) + PRIOR_ANSWERS * whole(at)) / (n + PRIOR_ANSWERS) for at in knots]
    return Curve(tuple(knots), tuple(round(value, 6) for value in values))


def _fit_transfer(scores: np.ndarray, correct: np.ndarray, source: np.ndarray, names: Sequence[str]) -> float:
    """Return λ."""
    found = [DEFAULT_TRANSFER]
    for name in names:
        inside = source == name
        if inside.sum() < MIN_ANSWERS_OF_SOURCE or inside.all():
            continue
        others, base_rate = fit_smoothed_isotonic(scores[~inside], correct[~inside]), correct[~inside].mean()
        stated = np.interp(scores[inside], others.scores, others.confidences) - base_rate
        if (total := float(stated @ stated)) > LEAST:
            found.append(float(np.clip(stated @ (correct[inside] - base_rate) / total, 0, 1)))
    return round(float(np.mean(found)), 6)


def fit_smoothed_isotonic(scores: np.ndarray, correct: np.ndarray) -> Curve:
    """Return the map of one answer or more, to six digits. ``scores``, ``correct`` (n,): 1 or 0."""
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(scores, kind="stable")
    ranked, right = np.asarray(scores, float)[order], np.asarray(correct, float)[order]
    level = IsotonicRegression().fit_transform(ranked, right)
    block = np.r_[0, np.cumsum(np.diff(level) > 1e-12)]
    n = np.bincount(block).astype(float)
    values = (np.bincount(block, weights=right) + 1) / (n + 2)
    values = np.asarray(IsotonicRegression().fit_transform(np.arange(len(n)), values, sample_weight=n + 2))
    first = np.r_[0, np.cumsum(n)[:-1]].astype(int)
    last = np.cumsum(n).astype(int) - 1
    knots = np.stack([ranked[first], ranked[last]], axis=1).ravel()
    heights = np.repeat(values, 2)
    # the inner knots of blocks at one height, and a second knot at one place, say nothing
    inner = np.r_[False, (heights[1:-1] == heights[:-2]) & (heights[1:-1] == heights[2:]), False]
    keep = ~inner & ~np.r_[False, (np.diff(knots) == 0) & (np.diff(heights) == 0)]
    return Curve(
        tuple(round(float(value), 6) for value in knots[keep]),
        tuple(round(float(value), 6) for value in heights[keep]),
    )


# ---------------------------------------------------------------- two looks

_Weights = tuple[tuple[float, float, float], tuple[float, float, float]]


def _score_looks(looks: GradedLooks, weights: _Weights) -> np.ndarray:
    """Return (n,) s of each pair."""
    w = np.where(looks.agree[:, None], *(np.asarray(found)[None] for found in weights))
    return 1 / (1 + np.exp(-w[:, 0] - w[:, 1] * _logits(looks.first) - w[:, 2] * _logits(looks.second)))


def _fit_weights(looks: GradedLooks, rows: np.ndarray) -> _Weights:
    """Return the weights of pairs that agree and of those that differ, fitted to ``rows`` (n,) bool."""
    agree, differ = (_fit_logistic(looks, rows & side) for side in (looks.agree, ~looks.agree))
    return agree, differ


def _fit_logistic(looks: GradedLooks, rows: np.ndarray) -> tuple[float, float, float]:
    """Return w₀, w₁, w₂; of few pairs, or pairs that are all right or all wrong, the log-odds of their share alone."""
    from sklearn.linear_model import LogisticRegression

    correct = looks.correct[rows].astype(float)
    share = (correct.sum() + 1) / (len(correct) + 2)
    if len(correct) < MIN_LOOKS or not 0 < correct.sum() < len(correct):
        return round(float(np.log(share / (1 - share))), 6), 0.0, 0.0
    features = np.stack([_logits(looks.first[rows]), _logits(looks.second[rows])], axis=1)
    model = LogisticRegression().fit(features, correct)
    base, (first, second) = float(model.intercept_[0]), model.coef_[0].tolist()
    return round(base, 6), round(first, 6), round(second, 6)


def _logits(scores: np.ndarray) -> np.ndarray:
    kept = np.clip(scores, LEAST, 1 - LEAST)
    return np.log(kept / (1 - kept))
