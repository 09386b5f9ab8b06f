"""How often models are promoted that should be, and that should not: the promotion rule on drawn scores.

Scores of images are drawn as detection's are: the share found of one to six things, each with a chance that depends on
the image, the task, and how good a model is at it; captions, on their scale, likewise. Training with another seed
moves every task of a model by a draw of its own. Nothing is normal, and images are hard or easy for all models alike.

The rule is compared with the one of before (any rise of the primary task; no other score falls significantly, by
Holm's method) and with one that tests the primary task alone.

    python benchmarks/promotion.py
    python benchmarks/promotion.py --trials 200 --seed-deviation 0.02
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _common import print_table
from scipy.stats import norm

from florence.config import PromotionSettings
from florence.evaluate import SCORES, Opponents, decide_promotion
from florence.records import TASKS

PRIMARY = "<OD>"
CAPTIONS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>", "<REGION_TO_DESCRIPTION>")
"""Tasks whose values are 0 to 10."""
ROUNDS = 10
"""Of null models that are compared with one champion."""
TRUTH = 200_000
"""Things that a model's true score is worked out from."""


@dataclass(frozen=True)
class Images:
    """Held-out images: ``ease`` (tasks, n) 0…1, the chance that a thing is found; ``things`` (tasks, n)."""

    ease: np.ndarray
    things: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int) -> Images:
        """Draw n images: some are hard for every task, and each task has its own hard ones."""
        common, own = rng.normal(0, 0.8, n), rng.normal(0, 0.8, (len(TASKS), n))
        ease = 1 / (1 + np.exp(-(0.6 + common + own)))
        return cls(ease, rng.integers(1, 7, (len(TASKS), n)))

    def score(self, rng: np.random.Generator, skill: np.ndarray) -> np.ndarray:
        """Return (tasks, n) values of a model that finds ``skill`` (tasks,) more of the things than another one.

        Two thirds of what is found depends on the image alone, as two trainings of one recipe mostly agree.
        """
        chance = np.clip(self.ease + skill[:, None], 0.0, 1.0)
        fixed = np.random.default_rng(int(self.things.sum())).random((*self.things.shape, 6))
        drawn = np.where(rng.random(fixed.shape) < 2 / 3, fixed, rng.random(fixed.shape))
        there = np.arange(6) < self.things[..., None]
        return ((drawn < chance[..., None]) & there).sum(axis=2) / self.things


def true_gain(skill: float) -> float:
    """Return how much a model's true score rises by ``skill``, which some images leave no room for."""
    rng = np.random.default_rng(0)
    images = Images.draw(rng, TRUTH // len(TASKS))
    return float((np.clip(images.ease + skill, 0, 1) - images.ease).mean())


def tabulate(values: np.ndarray) -> pa.Table:
    """Return (tasks, n) values as a table of scores."""
    n = values.shape[1]
    scale = np.asarray([10.0 if task in CAPTIONS else 1.0 for task in TASKS])
    return pa.table(
        {
            "image_id": np.tile([f"image {i:05d}" for i in range(n)], len(TASKS)),
            "task": np.repeat(TASKS, n),
            "reference": np.repeat("truth", len(TASKS) * n),
            "value": (values * scale[:, None]).ravel(),
        },
        schema=SCORES,
    )


def decide_now(new: np.ndarray, old: np.ndarray, attempt: int, settings: PromotionSettings) -> bool:
    """Return what the rule says."""
    return decide_promotion(tabulate(new), Opponents(tabulate(old), attempt=attempt), settings).accepted


def decide_before(new: np.ndarray, old: np.ndarray, attempt: int, settings: PromotionSettings) -> bool:
    """Accept any rise of the primary task where no other one falls significantly, corrected by Holm's method."""
    d = new - old
    z = d.mean(axis=1) / np.maximum(d.std(axis=1, ddof=1) / np.sqrt(d.shape[1]), 1e-9)
    primary = TASKS.index(PRIMARY)
    p = np.sort(norm.cdf(np.delete(z, primary)))
    corrected = np.maximum.accumulate(p * np.arange(len(p), 0, -1))
    return bool(d[primary].mean() > 0 and (corrected >= settings.alpha).all())


def decide_primary(new: np.ndarray, old: np.ndarray, attempt: int, settings: PromotionSettings) -> bool:
    """Accept where the primary task alone rises significantly over images; seeds and other tasks are not asked."""
    d = (new - old)[TASKS.index(PRIMARY)]
    return bool(d.mean() > norm.ppf(1 - settings.alpha) * d.std(ddof=1) / np.sqrt(len(d)))


RULES: Mapping[str, Callable[..., bool]] = {
    "the rule": decide_now,
    "any rise, no significant fall": decide_before,
    "the primary task's test alone": decide_primary,
}


def gains_of(name: str) -> np.ndarray:
    """Return (tasks,) by how much the challenger's chances differ from the champion's in a scenario."""
    gain = np.zeros(len(TASKS))
    primary, others = TASKS.index(PRIMARY), [TASKS.index(t) for t in ("<OCR>", "<REGION_TO_CATEGORY>")]
    match name:
        case "0.01 lower everywhere":
            gain[:] = -0.01
        case "two other tasks 0.05 lower":
            gain[others] = -0.05
        case "0.05 higher, two other tasks 0.05 lower":
            gain[:] = 0.05
            gain[others] = -0.05
        case "0.05 higher everywhere":
            gain[:] = 0.05
        case "0.1 higher everywhere":
            gain[:] = 0.1
        case "0.05 higher in the primary task alone":
            gain[primary] = 0.05
        case _:
            pass
    # what an image has no room for is made up for, so that the score differs by what the scenario says
    made_up = {g: g * g / true_gain(g) for g in np.unique(gain[gain != 0])}
    return np.asarray([made_up.get(g, 0.0) for g in gain])


SCENARIOS = (
    "equal, another seed",
    "0.01 lower everywhere",
    "two other tasks 0.05 lower",
    "0.05 higher, two other tasks 0.05 lower",
    "0.05 higher in the primary task alone",
    "0.05 higher everywhere",
    "0.1 higher everywhere",
)


def measure_scenario(name: str, n: int, given: argparse.Namespace, settings: PromotionSettings) -> dict[str, float]:
    """Return the share of trials in which each rule promotes."""
    gain, accepted = gains_of(name), dict.fromkeys(RULES, 0)
    for trial in range(given.trials):
        rng = np.random.default_rng([given.seed, n, SCENARIOS.index(name), trial])
        images = Images.draw(rng, n)
        seeds = rng.normal(0, given.seed_deviation, (2, len(TASKS)))
        old, new = images.score(rng, seeds[0]), images.score(rng, seeds[1] + gain)
        for rule, decide in RULES.items():
            accepted[rule] += decide(new, old, 1, settings)
    return {rule: count / given.trials for rule, count in accepted.items()}


def measure_rounds(n: int, given: argparse.Namespace, settings: PromotionSettings) -> dict[str, tuple[float, float]]:
    """Return, for each rule, how often any of `ROUNDS` equal models is promoted, and the champion's bias.

    The bias is by how many standard errors the last champion's primary score on these images is above the true one.
    """
    primary = TASKS.index(PRIMARY)
    promoted, bias = dict.fromkeys(RULES, 0), {rule: [] for rule in RULES}
    for trial in range(given.trials):
        rng = np.random.default_rng([given.seed, n, 99, trial])
        images = Images.draw(rng, n)
        skills = rng.normal(0, given.seed_deviation, (ROUNDS + 1, len(TASKS)))
        scores = [images.score(rng, skill) for skill in skills]
        fresh = Images.draw(rng, TRUTH // len(TASKS))
        for rule, decide in RULES.items():
            champion, attempt, any_promoted = 0, 1, False
            for challenger in range(1, ROUNDS + 1):
                if decide(scores[challenger], scores[champion], attempt, settings):
                    champion, attempt, any_promoted = challenger, 1, True
                else:
                    attempt += 1
            promoted[rule] += any_promoted
            values = scores[champion][primary]
            true = np.clip(fresh.ease[primary] + skills[champion][primary], 0, 1).mean()
            bias[rule].append((values.mean() - true) / (values.std(ddof=1) / np.sqrt(n)))
    return {rule: (promoted[rule] / given.trials, float(np.mean(bias[rule]))) for rule in RULES}


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[30, 176, 600], help="held-out images")
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seed-deviation", type=float, default=0.01, help="that scores are drawn with")
    parser.add_argument("--known", type=float, help="what the settings say it is (default: what it is)")
    parser.add_argument("--locked", type=float, default=0.0, help="promotion.locked_fraction (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    given = parse()
    known = given.seed_deviation if given.known is None else given.known
    settings = PromotionSettings(seed_deviation=known, locked_fraction=given.locked)
    found: dict[str, Any] = {}
    for name in SCENARIOS:
        for n in given.images:
            found.setdefault(name, {})[n] = measure_scenario(name, n, given, settings)
            print(f"{name}, {n} images", file=sys.stderr, flush=True)
    rows = [
        (name, rule, *(f"{100 * by_images[n][rule]:.1f}" for n in given.images))
        for name, by_images in found.items()
        for rule in RULES
    ]
    print_table(
        f"Models promoted, % of {given.trials} trials",
        [("the challenger is", "rule", *(f"{n} images" for n in given.images)), *rows],
    )
    rounds = {n: measure_rounds(n, given, settings) for n in given.images}
    print_table(
        f"{ROUNDS} equal models, one after the other: any promoted, % / champion's score too high, standard errors",
        [
            ("rule", *(f"{n} images" for n in given.images)),
            *(
                (rule, *(f"{100 * rounds[n][rule][0]:.1f} / {rounds[n][rule][1]:+.2f}" for n in given.images))
                for rule in RULES
            ),
        ],
    )
    if given.json:
        text = json.dumps({"scenarios": found, "rounds": rounds}, indent=2)
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
