"""How much training with another seed moves a model's scores: what promotion must count beside the images.

With x̄_m the mean of a task's score of model m over the images that all M models were scored on, and τ₀ the deviation
that the settings have,

    τ² = (N τ₀² + Σ_m (x̄_m − x̄)²) / (N + M − 3),   N = 2,

the mean of a scaled inverse χ² posterior (Gelman et al., "Bayesian Data Analysis", 2013, section 2.6): few models do
not show that seeds make no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pyarrow as pa

from florence.config import PromotionSettings
from florence.evaluate.decision import Opponents, decide_promotion
from florence.evaluate.references import REFERENCE_ORDER
from florence.metrics import METRICS
from florence.tasks import task as find_task

PRIOR_MODELS = 2.0
"""N: models that the settings' deviation counts for."""


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """What trainings that differ by their seed alone tell.

    ``models``: how many; ``deviations``: task → τ, in units of its score. ``promoted``: of how many of all ordered
    ``pairs`` of these models the second would be promoted over the first, with these deviations.
    """

    models: int
    deviations: Mapping[str, float]
    promoted: int
    pairs: int


def measure_seeds(tables: Sequence[pa.Table], promotion: PromotionSettings) -> SeedSpread:
    """Measure two or more models. ``tables``: of schema SCORES, one of each; the most trusted reference counts."""
    if len(tables) < 2:
        raise ValueError(f"{len(tables)} models; two or more are needed to tell how they differ")
    deviations: dict[str, float] = {}
    for reference in reversed(REFERENCE_ORDER):  # a better one overwrites
        for name, means in _mean_scores(tables, reference).items():
            known = promotion.find_seed_deviation(name, METRICS.get(find_task(name).metric).highest)
            total = PRIOR_MODELS * known**2 + ((means - means.mean()) ** 2).sum()
            deviations[name] = float(np.sqrt(total / (PRIOR_MODELS + len(means) - 3)))
    settings = promotion.model_copy(update={"seed_deviations": {**promotion.seed_deviations, **deviations}})
    pairs = list(permutations(tables, 2))
    promoted = sum(decide_promotion(new, Opponents(old), settings).accepted for old, new in pairs)
    return SeedSpread(len(tables), dict(sorted(deviations.items())), promoted, len(pairs))


def _mean_scores(tables: Sequence[pa.Table], reference: str) -> dict[str, np.ndarray]:
    """Return task → (M,) means over the images that all models were scored on."""
    found: dict[str, list[dict[str, float]]] = {}
    for number, table in enumerate(tables):
        for row in table.to_pylist():
            if row["reference"] == reference and row["value"] is not None:
                models = found.setdefault(row["task"], [{} for _ in tables])
                models[number][row["image_id"]] = row["value"]
    result = {}
    for name, models in found.items():
        shared = sorted(set.intersection(*(set(values) for values in models)))
        if shared:
            result[name] = np.asarray([[values[image] for image in shared] for values in models]).mean(axis=1)
    return result


def describe_seeds(spread: SeedSpread, name: str) -> str:
    """Return what was measured in words, with the settings that it gives. ``name``: of the variants."""
    lines = [f"    {task}: {value:.3g}" for task, value in spread.deviations.items()]
    return "\n".join(
        [
            f"{spread.models} trainings of {name} that differ by their seed alone: how much their scores differ "
            "(standard deviation; the settings' own counts for two more). In params.yaml:",
            "promotion:",
            "  seed_deviations:",
            *lines,
            f"Of {spread.pairs} ordered pairs of these models {spread.promoted} would be promoted with it.",
        ]
    )
