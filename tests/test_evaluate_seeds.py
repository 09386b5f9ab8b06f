"""How much training with another seed moves scores, against NumPy and values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from florence.ablation import Variant, describe_seed_groups
from florence.config import PromotionSettings, Settings
from florence.evaluate import SCORES, describe_seeds, measure_seeds
from florence.store import Store

RULE = PromotionSettings(locked_fraction=0)


def table(values: dict[str, list[float]], reference: str = "truth") -> pa.Table:
    """Task → one value an image; images are numbered."""
    rows = [
        {"image_id": f"{index:04d}", "task": task, "reference": reference, "value": float(value)}
        for task, found in values.items()
        for index, value in enumerate(found)
    ]
    return pa.Table.from_pylist(rows, schema=SCORES)


def test_deviation_is_that_of_the_models_means_drawn_to_the_settings_own():
    means = [0.70, 0.74, 0.71]
    noise = np.random.default_rng(0).normal(0, 0.2, 50)
    found = measure_seeds([table({"<OD>": list(m + noise), "<CAPTION>": [m * 4] * 50}) for m in means], RULE)
    expected = np.sqrt((2 * 0.01**2 + 2 * np.var(means, ddof=1)) / 2)
    assert found.models == 3 and found.deviations["<OD>"] == pytest.approx(expected)
    captions = np.sqrt((2 * 0.1**2 + 2 * np.var(np.asarray(means) * 4, ddof=1)) / 2)
    assert found.deviations["<CAPTION>"] == pytest.approx(captions)


def test_images_that_a_model_was_not_scored_on_do_not_count():
    tables = [table({"<OD>": [0.5] * 40}), table({"<OD>": [0.5] * 40 + [0.0] * 40})]
    assert measure_seeds(tables, RULE).deviations["<OD>"] == pytest.approx(0.01 * np.sqrt(2))


def test_the_most_trusted_reference_counts():
    tables = [pa.concat_tables([table({"<OD>": [0.5]}), table({"<OD>": [v]}, "consensus")]) for v in (0.1, 0.9)]
    assert measure_seeds(tables, RULE).deviations["<OD>"] < 0.1


def draw_models(rng: np.random.Generator, count: int = 5) -> list[pa.Table]:
    """Return the scores of models whose means differ by 0.03, on images that are hard or easy for all of them."""
    hard = rng.normal(0, 0.2, 300)
    return [table({"<OD>": list(0.6 + rng.normal(0, 0.03) + hard + rng.normal(0, 0.05, 300))}) for _ in range(count)]


def test_equal_models_are_seldom_promoted_over_each_other():
    rng = np.random.default_rng(1)
    spreads = [measure_seeds(draw_models(rng), RULE) for _ in range(12)]
    assert {spread.pairs for spread in spreads} == {20}
    assert sum(spread.promoted for spread in spreads) <= 0.08 * 240, "1.65 α of independent pairs"
    assert f"20 ordered pairs of these models {spreads[0].promoted} would" in describe_seeds(spreads[0], "own")


def test_one_model_tells_nothing():
    with pytest.raises(ValueError, match="1 models"):
        measure_seeds([table({"<OD>": [0.5]})], RULE)


def test_an_ablation_tells_of_variants_that_differ_by_their_seed_alone(tmp_path: Path):
    def variant(key: str, **chosen: str) -> Variant:
        Store(str(tmp_path / key)).write_table("scores/scores.parquet", table({"<OD>": [0.5] * 40}))
        return Variant(key, key, Settings(sources={}, annotators={}), {"steps": "3", "seed": "0", **chosen}, 3, 10)

    variants = [variant("a"), variant("b", seed="1"), variant("c", steps="4"), variant("d", seed="2")]
    (text,) = describe_seed_groups(variants, tmp_path)
    assert text.startswith("3 trainings of steps 3 that differ by their seed alone")
    assert "promotion:\n  seed_deviations:\n    <OD>: 0.01\n" in text
    assert describe_seed_groups(variants[:1], tmp_path) == []
