"""Filters of scores, boxes and phrases, and the list of drop reasons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_claims import box, fuse_claims, line, one_image, phrase

from florence.config import BLACKLIST, EngineSettings, settings_from
from florence.engine.filters.phrases import flag_blacklisted_phrases
from florence.engine.filters.reasons import DROP_REASONS
from florence.engine.filters.regions import flag_duplicates
from florence.engine.filters.scores import flag_low_phrase_scores, flag_low_scores
from florence.errors import SettingsError
from florence.geometry import nms
from florence.records import Claim, Region


def reasons(settings: EngineSettings | None = None, **claims) -> list[tuple[str, str]]:
    return [(row.text, row.reason) for row in fuse_claims(one_image(**claims), settings=settings)]


@pytest.mark.parametrize(
    "claim, reason",
    [
        (box("cat", 10, 10, 11, 60), "degenerate"),
        (box("cat", 0, 0, 100, 80), "near_full"),
        (box("cat", 10, 10, 40, 40, 0.01), "low_score"),
        (box("", 10, 10, 40, 40), "empty_text"),
        (box("\u200b", 10, 10, 40, 40), "empty_text"),
        (Claim("<OD>", "cat"), "no_place"),
        (box("a cat a cat a cat a cat a cat", 10, 10, 40, 40, task="<DENSE_REGION_CAPTION>"), "repetition"),
        (line("--", 10, 10, 40, 30), "empty_text"),
    ],
)
def test_each_filter_has_its_reason(claim: Claim, reason: str):
    rows = fuse_claims(one_image(a=[claim, box("dog", 50, 50, 90, 70)]))
    assert [(row.text, row.reason) for row in rows if not row.kept] == [(claim.text, reason)] and len(rows) == 2


def test_thresholds_are_by_annotation_type():
    settings = EngineSettings(min_score={"*": 0.1, "<OD>": 0.5})
    claims = [
        box("cat", 10, 10, 40, 40, 0.3),
        box("a cat", 10, 10, 40, 40, 0.3, task="<DENSE_REGION_CAPTION>"),
        box("dog", 50, 10, 90, 40, None),
    ]
    assert reasons(settings, a=claims) == [("cat", "low_score"), ("dog", ""), ("a cat", "")]


def test_thresholds_are_by_annotator_too_and_the_most_specific_holds():
    bounds = {"*": 0.1, "<OD>": 0.4, "<OCR_WITH_REGION>": 0.9, "a": 0.6, "a <OD>": 0.2}
    score, annotator = np.asarray([0.05, 0.15, 0.3, 0.5, 0.7, np.nan]), np.zeros(6, int)
    least = {
        ("a", "<OD>"): 0.2,
        ("a", "<CAPTION>"): 0.6,
        ("a", "<OCR_WITH_REGION>"): 0.6,
        ("b", "<OD>"): 0.4,
        ("b", "<CAPTION>"): 0.1,
    }
    for (name, annotation_type), bound in least.items():
        assert flag_low_scores(
            score, annotator, annotation_type, [name], EngineSettings(min_score=bounds)
        ).tolist() == [s < bound for s in score.tolist()]
    claims = [box("cat", 10, 10, 40, 40, 0.3), box("a cat", 10, 10, 40, 40, 0.3, task="<DENSE_REGION_CAPTION>")]
    assert reasons(EngineSettings(min_score=bounds), a=claims) == [("cat", ""), ("a cat", "low_score")]
    assert reasons(EngineSettings(min_score=bounds), b=claims) == [("cat", "low_score"), ("a cat", "")]


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("min_score", {"detektor": 0.5}, "detektor"),
        ("min_score", {"<ODD>": 0.5}, "<ODD>"),
        ("min_score", {"eyes <ODD>": 0.5}, "eyes <ODD>"),
        ("min_phrase_score", {"<OD>": 0.5}, "<OD>"),
        ("min_words", {"<OD>": 3}, "<OD>"),
        ("min_score", {"eyes": 1.5}, "min_score.eyes"),
    ],
)
def test_a_threshold_for_nobody_is_refused(key: str, value: dict, message: str):
    base = {"sources": {}, "annotators": {"eyes": {"use": "x", "sources": ["*"]}}}
    with pytest.raises(SettingsError, match=message):
        settings_from({**base, "engine": {key: value}})
    good = {"*": 0.1, "eyes": 0.2, "<OD>": 0.3, "eyes <OD>": 0.4, "student": 0.1}
    assert settings_from({**base, "engine": {"min_score": good}}).engine.min_score == good


def test_phrases_and_their_boxes_have_thresholds_of_their_own():
    caption = "a red car near a dog"

    def claim(words: str, score: float, box_score: float) -> Claim:
        span = (caption.index(words), caption.index(words) + len(words))
        return Claim(
            "<CAPTION_TO_PHRASE_GROUNDING>",
            caption,
            (Region(words, box=(10, 10, 40, 40), score=box_score, span=span),),
            score,
        )

    claims = [Claim("<CAPTION>", caption), claim("a red car", 0.3, 0.9), claim("a dog", 0.9, 0.3)]
    kept = {
        row.regions[0].label: row.reason
        for row in fuse_claims(
            one_image(a=claims), settings=EngineSettings(min_phrase_score={"*": 0.5}, phrase_nms_iou=1)
        )
        if row.regions
    }
    assert kept == {"a red car": "low_phrase_score", "a dog": ""}
    kept = {
        row.regions[0].label: row.reason
        for row in fuse_claims(one_image(a=claims), settings=EngineSettings(min_score={"*": 0.5}, phrase_nms_iou=1))
        if row.regions
    }
    assert kept == {"a red car": "", "a dog": "low_score"}
    assert not flag_low_phrase_scores(
        np.asarray([0.3]), np.zeros(1, int), ["a"], EngineSettings(min_phrase_score={"*": 0.5, "a": 0.2})
    ).any()


def test_a_claim_without_a_vote_does_not_drop_the_claims_of_others():
    assert reasons(a=[box("cat", 10, 10, 50, 50)], b=[box("cat", 10, 10, 50, 50, 0.01)]) == [("cat", "")]


def test_overlapping_boxes_of_one_label_are_kept_once():
    claims = [
        box("cat", 10, 10, 50, 50, 0.9),
        box("cat", 11, 10, 51, 50, 0.8),
        box("dog", 10, 10, 50, 50, 0.9),
        box("cat", 60, 10, 90, 50, 0.9),
    ]
    found = sorted(reasons(a=claims))
    assert found == [("cat", ""), ("cat", ""), ("cat", "duplicate"), ("dog", "")]


def test_suppression_is_that_of_one_list_at_a_time():
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 60, (200, 2))
    boxes, rank = np.concatenate([low, low + rng.uniform(10, 40, (200, 2))], axis=1), rng.permutation(200) / 200
    group = rng.integers(0, 6, 200)
    found = flag_duplicates(group // 2, group % 2, boxes, rank, EngineSettings(nms_iou=0.4))
    for g in range(6):
        mine = np.flatnonzero(group == g)
        assert set(mine[~found[mine]].tolist()) == set(mine[nms(boxes[mine], rank[mine], 0.4)].tolist())


def test_phrases_that_name_no_object_are_blacklisted():
    caption = "the scene has it and a cat"
    claims = [
        Claim("<CAPTION>", caption),
        *(phrase(caption, words, (10, 10, 40, 40)) for words in ("the scene", "it", "a cat")),
    ]
    found = {row.regions[0].label: row.reason for row in fuse_claims(one_image(a=claims)) if row.regions}
    assert found == {"the scene": "blacklisted", "it": "blacklisted", "a cat": ""}


@pytest.mark.parametrize(
    "phrase, named",
    [
        ("one of them", True),
        ("each of the men", True),
        ("Someone in a hat", True),
        ("it all", True),
        ("these two", True),
        ("none of these", True),
        ("what he holds", True),
        ("the view", True),
        ("Love", True),
        ("a lot", True),
        ("her left hand", False),
        ("some people", False),
        ("both dogs", False),
        ("all three men", False),
        ("some very big dogs", False),
        ("this man", False),
        ("one dog", False),
        ("a view of the sea", False),
        ("the one on the left", False),
        ("a hat", False),
    ],
)
def test_pronouns_and_abstract_nouns_are_blacklisted(phrase: str, named: bool):
    assert flag_blacklisted_phrases([phrase, "a red car"], EngineSettings()).tolist() == [named, False]
    assert not flag_blacklisted_phrases([phrase], EngineSettings(blacklist=())).any(), "an empty list drops nothing"


def test_the_list_has_its_words_once():
    assert len(set(BLACKLIST)) == len(BLACKLIST) and all(name == name.casefold() for name in BLACKLIST)


# ---------------------------------------------------------------- phrases of one caption


def phrases(
    caption: str, settings: EngineSettings | None = None, **boxes: tuple[str, tuple[float, float, float, float], float]
) -> dict[str, str]:
    """Return phrase → reason, of claims (words, box, score) by two annotators; the second has the last phrase only."""
    claims = {"a": [Claim("<CAPTION>", caption)], "b": [Claim("<CAPTION>", caption)]}
    for name, (words, where, score) in boxes.items():
        claims["a"].append(phrase(caption, words, where, score))
        if name == list(boxes)[-1]:
            claims["b"].append(phrase(caption, words, where, score))
    rows = fuse_claims(one_image(**claims), settings=settings or EngineSettings(min_confidence=0.2))
    return {row.regions[0].label: row.reason for row in rows if row.regions}


HERE, NEARLY, HAT = (10, 10, 50, 50), (11, 10, 51, 50), (20, 10, 35, 18)


def test_different_phrases_do_not_share_a_box():
    caption = "a dog near a wolf"
    # both annotators see the wolf
    assert phrases(caption, dog=("a dog", HERE, 0.9), wolf=("a wolf", NEARLY, 0.5)) == {
        "a dog": "overlapping_phrase",
        "a wolf": "",
    }
    assert phrases(
        caption,
        EngineSettings(min_confidence=0.2, phrase_nms_iou=1),
        dog=("a dog", HERE, 0.9),
        wolf=("a wolf", NEARLY, 0.5),
    ) == {"a dog": "", "a wolf": ""}
    assert phrases(caption, dog=("a dog", HERE, 0.9), wolf=("a wolf", (40, 10, 80, 50), 0.5)) == {
        "a dog": "",
        "a wolf": "",
    }


def test_repeated_mentions_and_parts_keep_their_boxes():
    again = "a small blue boat, and on the boat a flag"
    assert phrases(again, one=("a small blue boat", HERE, 0.9), two=("the boat", NEARLY, 0.9)) == {
        "a small blue boat": "",
        "the boat": "",
    }
    part = "a man and the man's hat"
    assert phrases(part, man=("a man", HERE, 0.9), hat=("the man's hat", HAT, 0.9)) == {
        "a man": "",
        "the man's hat": "",
    }


def test_of_nested_phrases_the_longer_stays():
    caption = "a group of people on a hill"
    assert phrases(caption, long=("a group of people", HERE, 0.9), short=("people", NEARLY, 0.9)) == {
        "a group of people": "",
        "people": "overlapping_phrase",
    }


def test_a_phrase_keeps_its_other_boxes():
    caption = "two cats near a dog"
    both = Claim(
        "<CAPTION_TO_PHRASE_GROUNDING>",
        caption,
        tuple(Region("two cats", box=b, score=0.9, span=(0, 8)) for b in (HERE, (60, 10, 90, 40))),
    )
    claims = one_image(
        a=[Claim("<CAPTION>", caption), both, phrase(caption, "a dog", NEARLY)],
        b=[Claim("<CAPTION>", caption), phrase(caption, "a dog", NEARLY)],
    )
    rows = {
        row.regions[0].label: row
        for row in fuse_claims(claims, settings=EngineSettings(min_confidence=0.2))
        if row.regions
    }
    assert (
        [region.box for region in rows["two cats"].regions] == [(60, 10, 90, 40)]
        and rows["two cats"].kept
        and rows["a dog"].kept
    )


def test_every_drop_reason_has_a_sentence_and_is_in_the_document():
    document = (Path(__file__).parents[1] / "docs/snapshot.md").read_text(encoding="utf-8")
    for name, about in DROP_REASONS.items():
        assert name.islower() and " " not in name and about and f"`{name}`" in document
