"""What is dropped, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_claims import box, fused, line, one_image, phrase

from florence.config import Engine
from florence.engine import filters
from florence.geometry import nms
from florence.records import Claim


def reasons(settings: Engine | None = None, **said) -> list[tuple[str, str]]:
    return [(row.text, row.reason) for row in fused(one_image(**said), settings=settings)]


@pytest.mark.parametrize("claim, reason", [
    (box("cat", 10, 10, 11, 60), "degenerate"), (box("cat", 0, 0, 100, 80), "near_full"), (box("cat", 10, 10, 40, 40, 0.01), "low_score"), (box("  ", 10, 10, 40, 40), "empty_text"),
    (Claim("<OD>", "cat"), "no_place"), (box("a cat a cat a cat a cat a cat", 10, 10, 40, 40, task="<DENSE_REGION_CAPTION>"), "repetition"), (line("--", 10, 10, 40, 30), "empty_text"),
])  # fmt: skip
def test_each_filter_has_its_reason(claim: Claim, reason: str):
    rows = fused(one_image(a=[claim, box("dog", 50, 50, 90, 70)]))
    assert [(row.text, row.reason) for row in rows if not row.kept] == [(claim.text, reason)] and len(rows) == 2


def test_thresholds_are_by_kind():
    settings = Engine(min_score={"*": 0.1, "<OD>": 0.5})
    said = [box("cat", 10, 10, 40, 40, 0.3), box("a cat", 10, 10, 40, 40, 0.3, task="<DENSE_REGION_CAPTION>"), box("dog", 50, 10, 90, 40, None)]
    assert reasons(settings, a=said) == [("cat", "low_score"), ("dog", ""), ("a cat", "")]


def test_a_claim_without_a_vote_does_not_drop_what_others_say_there():
    assert reasons(a=[box("cat", 10, 10, 50, 50)], b=[box("cat", 10, 10, 50, 50, 0.01)]) == [("cat", "")]


def test_one_label_in_one_place_is_kept_once():
    said = [box("cat", 10, 10, 50, 50, 0.9), box("cat", 11, 10, 51, 50, 0.8), box("dog", 10, 10, 50, 50, 0.9), box("cat", 60, 10, 90, 50, 0.9)]
    found = sorted(reasons(a=said))
    assert found == [("cat", ""), ("cat", ""), ("cat", "duplicate"), ("dog", "")]


def test_suppression_is_that_of_one_list_at_a_time():
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 60, (200, 2))
    boxes, rank = np.concatenate([low, low + rng.uniform(10, 40, (200, 2))], axis=1), rng.permutation(200) / 200
    group = rng.integers(0, 6, 200)
    found = filters.duplicate(group // 2, group % 2, boxes, rank, Engine(nms_iou=0.4))
    for g in range(6):
        mine = np.flatnonzero(group == g)
        assert set(mine[~found[mine]].tolist()) == set(mine[nms(boxes[mine], rank[mine], 0.4)].tolist())


def test_phrases_that_name_nothing_are_blacklisted():
    caption = "the scene has it and a cat"
    said = [Claim("<CAPTION>", caption), *(phrase(caption, words, (10, 10, 40, 40)) for words in ("the scene", "it", "a cat"))]
    found = {row.regions[0].label: row.reason for row in fused(one_image(a=said)) if row.regions}
    assert found == {"the scene": "blacklisted", "it": "blacklisted", "a cat": ""}


@pytest.mark.parametrize("text, most, stuck", [
    ("a cat a cat a cat a cat", 3, True), ("a cat a cat a cat", 3, False), ("no no no", 2, True), ("no, no, no, no, no", 2, True), ("a very very big cat", 2, False),
    ("There is a cat. There is a dog. There is a cow. There is a hen.", 3, False), ("", 3, False),
])  # fmt: skip
def test_repetition_is_of_the_same_words_in_a_row(text: str, most: int, stuck: bool):
    assert filters.repetition([text], Engine(max_repeats=most)).tolist() == [stuck]


def test_texts_are_parsed_only_where_it_is_asked(monkeypatch):
    import florence.engine.parse

    def never(texts):
        raise AssertionError("parsed")

    monkeypatch.setattr(florence.engine.parse, "parse", never)
    assert filters.texts(["a cat on a mat. " * 5], Engine()) == []
    with pytest.raises(AssertionError, match="parsed"):
        filters.texts(["a cat"], Engine(min_object_complexity=1))
    with pytest.raises(AssertionError, match="parsed"):
        filters.texts(["cats dogs cows hens mice"], Engine(max_objects=4))


def test_texts_with_too_many_objects_or_too_little_in_them_are_dropped():
    many, simple, rich = "a cat, a dog, a cow, a hen and a mouse", "it moves", "a big brown dog chases a small cat"
    found = dict(filters.texts([many, simple, rich], Engine(max_objects=4, min_object_complexity=2, min_action_complexity=2)))
    assert found["too_many_objects"].tolist() == [True, False, False]
    assert found["simple_objects"].tolist() == [False, True, False] and found["simple_actions"].tolist() == [True, True, False]
    assert reasons(Engine(max_objects=4), a=[Claim("<CAPTION>", many)]) == [(many, "too_many_objects")]


def test_every_reason_has_its_meaning_and_stands_in_the_document():
    document = (Path(__file__).parents[1] / "docs/snapshot.md").read_text(encoding="utf-8")
    for name, about in filters.REASONS.items():
        assert name.islower() and " " not in name and about and f"`{name}`" in document
