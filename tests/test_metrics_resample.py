"""What a metric says of a resample equals what it says of the examples written out as often as they are in it."""

from __future__ import annotations

import numpy as np
import pytest

from florence.metrics import METRICS, Prediction, Reference
from florence.records import Region

LABELS = ("cat", "dog", "cup")


def _regions(
    rng: np.random.Generator, number: int, noise: float = 0.0, like: tuple[Region, ...] = ()
) -> tuple[Region, ...]:
    found = []
    for index in range(number):
        box = like[index].box if index < len(like) else None
        x, y = rng.uniform(0, 60, 2)
        box = tuple(v + float(rng.normal(0, noise)) for v in box) if box else (x, y, x + 30.0, y + 30.0)
        box = (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))
        found.append(
            Region(str(rng.choice(LABELS)), box=box, score=round(float(rng.random()), 3), span=(index, index + 1))
        )
    return tuple(found)


def _pairs(seed: int) -> tuple[list[Prediction], list[Reference]]:
    rng = np.random.default_rng(seed)
    predictions, references = [], []
    for index in range(12):
        right = _regions(rng, int(rng.integers(0, 4)))
        predicted = tuple(
            Region(r.label, p.box, score=p.score, span=r.span) if rng.random() < 0.6 else p
            for p, r in zip(_regions(rng, len(right), 5.0, right), right, strict=True)
        ) + _regions(rng, int(rng.integers(0, 2)))
        words = [" ".join(rng.choice(LABELS, int(rng.integers(1, 4)))) for _ in range(2)]
        name = str(rng.choice(LABELS))
        references.append(Reference(f"i{index // 2}", name if seed % 2 else words[0], right))
        predictions.append(
            Prediction(
                f"i{index // 2}",
                (name if rng.random() < 0.5 else "cup") if seed % 2 else words[int(rng.integers(2))],
                predicted,
            )
        )
    return predictions, references


@pytest.mark.parametrize("name", METRICS.names())
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_resample_is_worth_what_its_examples_written_out_are_worth(name: str, seed: int):
    metric = METRICS.get(name)()
    predictions, references = _pairs(seed)
    rng = np.random.default_rng([seed, 5])
    weights = np.vstack([np.ones(len(references)), rng.integers(0, 4, (6, len(references)))])
    found = metric.resample(predictions, references, weights)
    assert found[0] == pytest.approx(metric.measure(predictions, references).value, abs=1e-12)
    if name == "caption":  # its document frequencies are those of the sample itself, not of each resample
        per_example = metric.measure(predictions, references).per_example
        assert found.tolist() == pytest.approx([np.repeat(per_example, row.astype(int)).mean() for row in weights])
        return
    for row, value in zip(weights.astype(int), found, strict=True):
        order = [index for index, times in enumerate(row) for _ in range(times)]
        again = metric.measure([predictions[i] for i in order], [references[i] for i in order]).value
        assert value == pytest.approx(again, abs=1e-12)


def test_nothing_to_score_has_no_value():
    pair = [Prediction("a", regions=_regions(np.random.default_rng(0), 2))], [Reference("a")]
    for name in ("detection", "proposal", "grounding", "segmentation"):
        assert np.isnan(METRICS.get(name)().resample(*pair, np.ones((3, 1)))).all()
