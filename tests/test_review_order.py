"""Which images people see first: the expected number of wrong labels, and images unlike those before."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from florence.records import ANNOTATIONS
from florence.review import ranking
from florence.review.ranking import rank_images

LOOKS = {"plain": "00" * 32, "near": "00" * 28 + "ff" * 4, "other": "ff" * 32}
"""Perceptual hashes: 32 bits and 256 bits from the first one."""


def labels_of(images: dict[str, list[tuple[str, float, bool]]], task: str = "<OD>") -> pa.Table:
    """Return labels given as image → (text, confidence, kept)."""
    rows = [
        {
            "annotation_id": f"{image}{k}",
            "image_id": image,
            "task": task,
            "text": text,
            "regions": [],
            "confidence": confidence,
            "kept": kept,
            "reason": "" if kept else "low_confidence",
        }
        for image, found in images.items()
        for k, (text, confidence, kept) in enumerate(found)
    ]
    return pa.Table.from_pylist(rows, schema=ANNOTATIONS)


def records_of(looks: dict[str, str | None]) -> pa.Table:
    return pa.table(
        {"image_id": pa.array(list(looks), pa.string()), "phash": pa.array(list(looks.values()), pa.string())}
    )


def test_one_doubtful_label_among_many_sure_ones_counts_as_much_as_one_alone():
    labels = labels_of(
        {
            "crowd": [("cat", 0.5, True), *[(f"thing {k}", 0.99, True) for k in range(20)]],
            "single": [("dog", 0.6, True)],
            "sure": [("cow", 1.0, True)],
        }
    )
    found = rank_images(labels, records_of({}), 3)
    assert found.image_ids == ("crowd", "single", "sure")
    # 1 − 0.5 + 20 · 0.01, and 1 − 0.6
    assert found.expected_wrong.tolist() == pytest.approx([0.7, 0.4, 0.0])
    assert found.all_wrong == pytest.approx(1.1)


def test_what_was_dropped_counts_as_far_as_it_may_be_right():
    labels = labels_of(
        {"a": [("cat", 0.29, False)], "b": [("cat", 0.8, True)], "c": [("cat", 0.01, False), ("dog", 0.95, True)]}
    )
    found = rank_images(labels, records_of({}), 9)
    assert dict(zip(found.image_ids, found.expected_wrong.tolist(), strict=True)) == pytest.approx(
        {"a": 0.29, "b": 0.2, "c": 0.06}
    )


def test_labels_that_people_do_not_see_do_not_count():
    shown = labels_of({"a": [("cat", 0.5, True)]})
    duplicate = labels_of({"b": [("cat", 0.4, False)]}).to_pylist()
    other = pa.Table.from_pylist([{**row, "reason": "duplicate"} for row in duplicate], schema=ANNOTATIONS)
    lines = labels_of({"c": [("exit", 0.4, True)]}, "<OCR_WITH_REGION>")
    captions = labels_of({"d": [("a cat", 0.4, True)]}, "<CAPTION>")
    found = rank_images(pa.concat_tables([shown, other, lines, captions]), records_of({}), 9)
    assert found.image_ids == ("d", "a")


def test_an_image_that_looks_like_one_before_it_comes_later():
    labels = labels_of({"a": [("cat", 0.0, True)], "b": [("dog", 0.1, True)], "c": [("cow", 0.4, True)]})
    alike = {"a": LOOKS["plain"], "b": LOOKS["plain"], "c": LOOKS["other"]}
    assert rank_images(labels, records_of({}), 3).image_ids == ("a", "b", "c")
    found = rank_images(labels, records_of(alike), 3)
    assert found.image_ids == ("a", "c", "b")
    # the same picture counts half; 32 of 64 bits away it counts three quarters
    assert found.gain.tolist() == pytest.approx([1.0, 0.6, 0.45])
    assert rank_images(labels, records_of({**alike, "b": LOOKS["near"]}), 3).gain.tolist() == pytest.approx(
        [1.0, 0.675, 0.6]
    )


def test_a_name_counts_less_the_more_of_it_is_shown(monkeypatch):
    monkeypatch.setattr(ranking, "NAME_COUNT", 1.0)
    labels = labels_of({"a": [("cat", 0.0, True)], "b": [("cat", 0.1, True)], "c": [("cow", 0.5, True)]})
    found = rank_images(labels, records_of({}), 3)
    assert found.image_ids == ("a", "c", "b")
    # 0.9 / (1 + 1 / 1)
    assert found.gain.tolist() == pytest.approx([1.0, 0.5, 0.45])


def test_of_equals_the_lower_id_comes_first_and_rows_may_come_in_any_order():
    labels = labels_of({image: [("cat", 0.5, True)] for image in "dbca"})
    assert rank_images(labels, records_of({}), 4).image_ids == ("a", "b", "c", "d")
    assert rank_images(labels.take([3, 1, 0, 2]), records_of({}), 4).image_ids == ("a", "b", "c", "d")


def test_images_can_be_left_out_and_fewer_may_be_there_than_wanted():
    labels = labels_of({image: [("cat", 0.5, True)] for image in "abc"})
    assert rank_images(labels, records_of({}), 9, leave_out=["b"]).image_ids == ("a", "c")
    assert rank_images(labels, records_of({}), 9, leave_out=["a", "b", "c"]).image_ids == ()
    assert rank_images(labels.slice(0, 0), records_of({}), 9).image_ids == ()


def choose_slowly(images: dict[str, dict[str, float]], looks: dict[str, int], count: int) -> list[str]:
    """The same choice, image by image and name by name, over all images."""
    chosen: list[str] = []
    shown: dict[str, float] = {}
    while len(chosen) < count:

        def gain(image: str) -> float:
            nearest = max((1 - (looks[image] ^ looks[j]).bit_count() / 64 for j in chosen), default=0.0)
            names = sum(w / (1 + shown.get(name, 0.0) / 10) for name, w in images[image].items())
            return round((1 - 0.5 * max(nearest, 0.0)) * names, 9)

        best = min((image for image in images if image not in chosen), key=lambda image: (-gain(image), image))
        chosen.append(best)
        for name, wrong in images[best].items():
            shown[name] = shown.get(name, 0.0) + wrong
    return chosen


@pytest.mark.parametrize("pool", [7, 100, 1000])
def test_the_choice_is_that_of_looking_at_all_images_each_time(pool: int, monkeypatch):
    monkeypatch.setattr(ranking, "POOL", pool)
    rng = np.random.default_rng(0)
    groups = [int.from_bytes(rng.bytes(32), "big") for _ in range(40)]
    images, looks, table = {}, {}, {}
    for k in range(600):
        image = f"{k:03d}"
        names = [f"name {n}" for n in rng.choice(12, 3, replace=False)]
        confidences = [round(float(c), 3) for c in rng.uniform(0.2, 1, 3)]
        looks[image] = groups[int(rng.integers(40))] ^ int(rng.integers(1 << 20))
        images[image] = {name: 1 - c for name, c in zip(names, confidences, strict=True)}
        table[image] = [(name, c, True) for name, c in zip(names, confidences, strict=True)]
    hashes = {image: f"{bits:064x}" for image, bits in looks.items()}
    found = rank_images(labels_of(table), records_of(hashes), 30)
    assert list(found.image_ids) == choose_slowly(images, looks, 30)


def test_beyond_the_diverse_ones_images_follow_by_their_wrong_labels(monkeypatch):
    monkeypatch.setattr(ranking, "MAX_DIVERSE", 1)
    labels = labels_of({"a": [("cat", 0.0, True)], "b": [("dog", 0.1, True)], "c": [("cow", 0.4, True)]})
    found = rank_images(labels, records_of(dict.fromkeys("abc", LOOKS["plain"])), 3)
    assert found.image_ids == ("a", "b", "c")
    assert found.gain.tolist() == pytest.approx([1.0, 0.9, 0.6])
