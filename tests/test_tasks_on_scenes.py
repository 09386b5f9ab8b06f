"""Every task's examples of real scenes' truth decode to the regions they were made of."""

from __future__ import annotations

import numpy as np
import pytest

from florence.geometry import mask_iou, rasterise
from florence.records import ImageRecord, annotate
from florence.sources import SOURCES
from florence.tasks import TASK

SIZE = 128


@pytest.fixture(scope="module")
def scenes():
    source = SOURCES.get("scenes")(count=60, size=SIZE, questions=True)
    found = []
    for index, image in enumerate(source.images(frozenset())):
        image_id = f"{index:064x}"
        record = ImageRecord(image_id, SIZE, SIZE, "scenes", image.name, image.licence, None, "train")
        found.append((record, annotate(image_id, image.truth, "truth", "1")))
    return found


@pytest.mark.parametrize("name", TASK.names())
def test_truth_round_trips(scenes, name: str):
    entry = TASK.get(name)
    task = entry() if isinstance(entry, type) else entry
    count = 0
    overlaps: list[float] = []
    for record, truth in scenes:
        for example in task.examples(record, [t for t in truth if t.task == task.annotation_type]):
            answer = task.decode(example.target, (record.width, record.height), example.input)
            assert answer.error is None, f"{example.target!r}: {answer.error}"
            count += 1
            wanted = [r.bounds for r in example.regions]
            got = [r.bounds for r in answer.regions]
            assert task.encode(answer, (record.width, record.height)) == example.target
            if not got:
                assert answer.text == example.target
                continue
            assert len(got) == len(wanted)
            distance = np.abs(np.asarray(got)[:, None] - np.asarray(wanted)[None]).max(-1)
            if answer.regions[0].polygons:  # simplified, and the smallest pieces left out: the area counts
                masks = [
                    rasterise([p for r in side for p in r.polygons], SIZE, SIZE)
                    for side in (example.regions, answer.regions)
                ]
                overlaps.append(mask_iou(*masks))
            else:
                assert distance.min(1).max() <= 0.5 * SIZE / 1000 + 1e-6, f"{name}: {distance.min(1).max()}"
    assert not overlaps or (np.mean(overlaps) > 0.9 and min(overlaps) > 0.6), (
        f"{name}: {np.mean(overlaps):.2f}, {min(overlaps):.2f}"
    )
    assert count > 10, f"{name}: the scenes gave {count} examples"
