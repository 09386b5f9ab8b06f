"""What is dropped, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from alt_texts import BAD, GOOD
from engine_claims import Scenes, box, fused, line, one_image, phrase
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from florence.config import BLACKLIST, EngineSettings, settings_from
from florence.engine.filters import alt_text, language
from florence.engine.filters.alt_text import find_description
from florence.engine.filters.phrases import flag_blacklisted_phrases
from florence.engine.filters.reasons import DROP_REASONS
from florence.engine.filters.regions import flag_duplicates
from florence.engine.filters.scores import flag_low_phrase_scores, flag_low_scores
from florence.engine.filters.texts import apply_caption_filters, apply_parse_filters, flag_language, flag_repetition
from florence.engine.wording.tokens import lines
from florence.errors import SettingsError
from florence.geometry import nms
from florence.records import CAPTIONS, Claim, Region


def reasons(settings: EngineSettings | None = None, **said) -> list[tuple[str, str]]:
    return [(row.text, row.reason) for row in fused(one_image(**said), settings=settings)]


@pytest.mark.parametrize(
    "claim, reason",
    [
        (box("cat", 10, 10, 11, 60), "degenerate"),
        (box("cat", 0, 0, 100, 80), "near_full"),
        (box("cat", 10, 10, 40, 40, 0.01), "low_score"),
        (box("  ", 10, 10, 40, 40), "empty_text"),
        (Claim("<OD>", "cat"), "no_place"),
        (box("a cat a cat a cat a cat a cat", 10, 10, 40, 40, task="<DENSE_REGION_CAPTION>"), "repetition"),
        (line("--", 10, 10, 40, 30), "empty_text"),
    ],
)
def test_each_filter_has_its_reason(claim: Claim, reason: str):
    rows = fused(one_image(a=[claim, box("dog", 50, 50, 90, 70)]))
    assert [(row.text, row.reason) for row in rows if not row.kept] == [(claim.text, reason)] and len(rows) == 2


def test_thresholds_are_by_kind():
    settings = EngineSettings(min_score={"*": 0.1, "<OD>": 0.5})
    said = [
        box("cat", 10, 10, 40, 40, 0.3),
        box("a cat", 10, 10, 40, 40, 0.3, task="<DENSE_REGION_CAPTION>"),
        box("dog", 50, 10, 90, 40, None),
    ]
    assert reasons(settings, a=said) == [("cat", "low_score"), ("dog", ""), ("a cat", "")]


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
    for (name, kind), bound in least.items():
        assert flag_low_scores(score, annotator, kind, [name], EngineSettings(min_score=bounds)).tolist() == [
            s < bound for s in score.tolist()
        ]
    said = [box("cat", 10, 10, 40, 40, 0.3), box("a cat", 10, 10, 40, 40, 0.3, task="<DENSE_REGION_CAPTION>")]
    assert reasons(EngineSettings(min_score=bounds), a=said) == [("cat", ""), ("a cat", "low_score")]
    assert reasons(EngineSettings(min_score=bounds), b=said) == [("cat", "low_score"), ("a cat", "")]


@pytest.mark.parametrize(
    "key, value, told",
    [
        ("min_score", {"detektor": 0.5}, "detektor"),
        ("min_score", {"<ODD>": 0.5}, "<ODD>"),
        ("min_score", {"eyes <ODD>": 0.5}, "eyes <ODD>"),
        ("min_phrase_score", {"<OD>": 0.5}, "<OD>"),
        ("min_words", {"<OD>": 3}, "<OD>"),
        ("min_score", {"eyes": 1.5}, "min_score.eyes"),
    ],
)
def test_a_threshold_for_nobody_is_refused(key: str, value: dict, told: str):
    base = {"sources": {}, "annotators": {"eyes": {"use": "x", "sources": ["*"]}}}
    with pytest.raises(SettingsError, match=told):
        settings_from({**base, "engine": {key: value}})
    good = {"*": 0.1, "eyes": 0.2, "<OD>": 0.3, "eyes <OD>": 0.4, "student": 0.1}
    assert settings_from({**base, "engine": {"min_score": good}}).engine.min_score == good


def test_phrases_and_their_places_have_thresholds_of_their_own():
    caption = "a red car near a dog"

    def claim(words: str, score: float, place: float) -> Claim:
        span = (caption.index(words), caption.index(words) + len(words))
        return Claim(
            "<CAPTION_TO_PHRASE_GROUNDING>",
            caption,
            (Region(words, box=(10, 10, 40, 40), score=place, span=span),),
            score,
        )

    said = [Claim("<CAPTION>", caption), claim("a red car", 0.3, 0.9), claim("a dog", 0.9, 0.3)]
    kept = {
        row.regions[0].label: row.reason
        for row in fused(one_image(a=said), settings=EngineSettings(min_phrase_score={"*": 0.5}, phrase_nms_iou=1))
        if row.regions
    }
    assert kept == {"a red car": "low_phrase_score", "a dog": ""}
    kept = {
        row.regions[0].label: row.reason
        for row in fused(one_image(a=said), settings=EngineSettings(min_score={"*": 0.5}, phrase_nms_iou=1))
        if row.regions
    }
    assert kept == {"a red car": "", "a dog": "low_score"}
    assert not flag_low_phrase_scores(
        np.asarray([0.3]), np.zeros(1, int), ["a"], EngineSettings(min_phrase_score={"*": 0.5, "a": 0.2})
    ).any()


def test_a_claim_without_a_vote_does_not_drop_what_others_say_there():
    assert reasons(a=[box("cat", 10, 10, 50, 50)], b=[box("cat", 10, 10, 50, 50, 0.01)]) == [("cat", "")]


def test_one_label_in_one_place_is_kept_once():
    said = [
        box("cat", 10, 10, 50, 50, 0.9),
        box("cat", 11, 10, 51, 50, 0.8),
        box("dog", 10, 10, 50, 50, 0.9),
        box("cat", 60, 10, 90, 50, 0.9),
    ]
    found = sorted(reasons(a=said))
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


def test_phrases_that_name_nothing_are_blacklisted():
    caption = "the scene has it and a cat"
    said = [
        Claim("<CAPTION>", caption),
        *(phrase(caption, words, (10, 10, 40, 40)) for words in ("the scene", "it", "a cat")),
    ]
    found = {row.regions[0].label: row.reason for row in fused(one_image(a=said)) if row.regions}
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
def test_pronouns_and_what_can_not_be_seen_are_no_place(phrase: str, named: bool):
    assert flag_blacklisted_phrases([phrase, "a red car"], EngineSettings()).tolist() == [named, False]
    assert not flag_blacklisted_phrases([phrase], EngineSettings(blacklist=())).any(), "an empty list drops nothing"


def test_the_list_has_its_words_once():
    assert len(set(BLACKLIST)) == len(BLACKLIST) and all(name == name.casefold() for name in BLACKLIST)


# ---------------------------------------------------------------- texts


def found(text: str, settings: EngineSettings | None = None) -> list[str]:
    """The reasons against a caption of the web."""
    return [
        name
        for name, applies in apply_caption_filters(
            lines([text[slice(*find_description(text))]]), "<CAPTION>", settings or EngineSettings()
        )
        if applies[0]
    ]


def is_noise(text: str) -> bool:
    return bool({"alt_noise", "empty_text"} & set(found(text)))


PIECES = [
    *" -,;.!'’/|#1\n",
    ". ",
    ", ",
    " - ",
    "a",
    "I",
    "dog",
    "Dog",
    "DOG",
    "image",
    "Logo",
    "buy now",
    "sign",
    "free download",
    "in stock",
    "well-known",
    "isn't",
    "x.y",
    "ñandú",
    "日",
    "\ud800",
    "©",
    "http://a.io",
]


def test_alt_texts_that_describe_nothing_are_told_from_those_that_do():
    # the rules were made before the first half; the second was held back, and this is what they are worth there
    good, bad = GOOD[1::2], BAD[1::2]
    right, wrong = sum(map(is_noise, bad)), sum(map(is_noise, good))
    assert right / (right + wrong) > 0.95 and right / len(bad) > 0.9, (right, wrong, len(bad))
    right, wrong = sum(map(is_noise, BAD[::2])), sum(map(is_noise, GOOD[::2]))
    assert wrong == 0 and right / len(BAD[::2]) > 0.95


@settings_of(deadline=None, max_examples=300)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), max_size=6))
def test_what_is_seen_at_a_glance_is_what_is_found_one_by_one(texts):
    assert alt_text.flag_noise(texts).tolist() == [alt_text.is_noise(text) for text in texts]


@pytest.mark.parametrize(
    "text",
    ["", " ", "\x00", "\ud800", "a" * 5000, "#" * 3000, "<" * 3000, "a, " * 3000, "–" * 999, "١٢٣ ٤٥٦", "e\u0301" * 9],
)
def test_no_text_is_too_odd_to_judge(text: str):
    assert isinstance(is_noise(text), bool)


def test_noise_has_no_vote_and_can_be_let_through():
    said = one_image(a=[Claim("<CAPTION>", "Add to cart")], b=[Claim("<CAPTION>", "a red car")])
    (row,) = fused(said)
    assert (row.text, row.reason) == ("a red car", "")
    (row,) = fused(one_image(a=[Claim("<CAPTION>", "Add to cart")]))
    assert (row.text, row.kept, row.reason) == ("Add to cart", False, "alt_noise")
    (row,) = fused(one_image(a=[Claim("<CAPTION>", "Add to cart")]), settings=EngineSettings(alt_noise=False))
    assert row.kept
    (row,) = fused(one_image(human=[Claim("<CAPTION>", "Add to cart")]))
    assert row.kept, "what a person says is not filtered"


def test_captions_of_scenes_are_good_texts():
    scenes = Scenes(40, seed=3)
    said = [row for rows in scenes.truth.values() for row in rows if row.task in CAPTIONS]
    for kind in CAPTIONS:
        texts = [row.text for row in said if row.task == kind]
        assert texts and not any(
            applies.any() for _, applies in apply_caption_filters(lines(texts), kind, EngineSettings())
        )


FOREIGN = (
    "ein rotes Auto steht vor einem Haus",
    "une femme en manteau jaune traverse la rue",
    "un coche rojo aparcado delante de una casa",
    "duas crianças brincando na areia",
    "due cani che giocano sulla spiaggia",
    "twee honden spelen op het strand",
    "en röd bil står framför ett hus",
    "czerwony samochód przed domem",
    "красная машина стоит перед домом",
    "赤い車が家の前に止まっている",
    "一只狗在草地上奔跑，旁边有一棵树",
    "빨간 자동차가 집 앞에 있다",
    "kırmızı bir araba evin önünde",
    "hai con chó chơi trên bãi biển",
    "δύο σκύλοι παίζουν στην παραλία",
)


def test_captions_in_other_languages_are_dropped_and_short_ones_pass():
    assert flag_language(FOREIGN, EngineSettings()).all()
    assert not flag_language([*GOOD, "Hund", "chat", "vélo rouge", ""], EngineSettings()).any()
    assert not flag_language(FOREIGN, EngineSettings(language=None)).any()
    assert flag_language([FOREIGN[0], GOOD[0]], EngineSettings(language="de")).tolist() == [False, True]
    (row,) = fused(one_image(a=[Claim("<CAPTION>", FOREIGN[0])]))
    assert row.reason == "language"


def test_languages_are_those_that_the_library_tells():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    library = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    texts = [
        text for text in (*GOOD[:20], *FOREIGN, "Ü", "", "STOP THE CAR") if len(text.encode()) <= language.MAX_BYTES
    ]
    for text, ours in zip(texts, language.estimate_languages(texts), strict=True):
        theirs = dict(library.rank(text))
        assert ours == pytest.approx([theirs[name] for name in language.list_languages()], abs=2e-3)


def test_a_language_that_is_not_told_is_refused():
    with pytest.raises(SettingsError, match="'qqq' is not told; known: .*\\ben\\b"):
        flag_language([GOOD[0]], EngineSettings(language="qqq"))
    with pytest.raises(ValueError, match="language"):
        EngineSettings(language="English")


def test_captions_have_a_length():
    settings = EngineSettings(min_words={"*": 2, "<DETAILED_CAPTION>": 4}, max_words={"<CAPTION>": 5, "*": 50})
    long = "a red car next to a dog"
    said = [Claim("<CAPTION>", "car"), Claim("<DETAILED_CAPTION>", "a red car"), Claim("<MORE_DETAILED_CAPTION>", long)]
    assert [reason for _, reason in reasons(settings, a=said)] == ["too_short", "too_short", ""]
    assert reasons(settings, a=[Claim("<CAPTION>", long)]) == [(long, "too_long")]
    for bound in ("a car next to dogs", "red car"):
        assert reasons(settings, a=[Claim("<CAPTION>", bound)]) == [(bound, "")]


# ---------------------------------------------------------------- phrases of one caption


def phrases(
    caption: str, settings: EngineSettings | None = None, **places: tuple[str, tuple[float, float, float, float], float]
) -> dict[str, str]:
    """Phrase → reason, of claims (words, place, score) about one caption by two annotators; the second knows the last phrase only."""
    said = {"a": [Claim("<CAPTION>", caption)], "b": [Claim("<CAPTION>", caption)]}
    for name, (words, place, score) in places.items():
        said["a"].append(phrase(caption, words, place, score))
        if name == list(places)[-1]:
            said["b"].append(phrase(caption, words, place, score))
    rows = fused(one_image(**said), settings=settings or EngineSettings(min_confidence=0.2))
    return {row.regions[0].label: row.reason for row in rows if row.regions}


HERE, NEARLY, HAT = (10, 10, 50, 50), (11, 10, 51, 50), (20, 10, 35, 18)


def test_different_phrases_do_not_share_a_place():
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


def test_what_is_mentioned_again_and_what_is_part_of_something_keep_their_places():
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


def test_a_phrase_keeps_its_other_places():
    caption = "two cats near a dog"
    both = Claim(
        "<CAPTION_TO_PHRASE_GROUNDING>",
        caption,
        tuple(Region("two cats", box=b, score=0.9, span=(0, 8)) for b in (HERE, (60, 10, 90, 40))),
    )
    said = one_image(
        a=[Claim("<CAPTION>", caption), both, phrase(caption, "a dog", NEARLY)],
        b=[Claim("<CAPTION>", caption), phrase(caption, "a dog", NEARLY)],
    )
    rows = {
        row.regions[0].label: row for row in fused(said, settings=EngineSettings(min_confidence=0.2)) if row.regions
    }
    assert (
        [region.box for region in rows["two cats"].regions] == [(60, 10, 90, 40)]
        and rows["two cats"].kept
        and rows["a dog"].kept
    )


@pytest.mark.parametrize(
    "text, most, stuck",
    [
        ("a cat a cat a cat a cat", 3, True),
        ("a cat a cat a cat", 3, False),
        ("no no no", 2, True),
        ("no, no, no, no, no", 2, True),
        ("a very very big cat", 2, False),
        ("There is a cat. There is a dog. There is a cow. There is a hen.", 3, False),
        ("", 3, False),
    ],
)
def test_repetition_is_of_the_same_words_in_a_row(text: str, most: int, stuck: bool):
    assert flag_repetition(lines([text]), EngineSettings(max_repeats=most)).tolist() == [stuck]


def test_texts_are_parsed_only_where_it_is_asked(monkeypatch):
    def never(texts):
        raise AssertionError("parsed")

    monkeypatch.setattr("florence.engine.filters.texts.parse", never)
    assert apply_parse_filters(lines(["a cat on a mat. " * 5]), EngineSettings()) == []
    with pytest.raises(AssertionError, match="parsed"):
        apply_parse_filters(lines(["a cat"]), EngineSettings(min_object_complexity=1))
    with pytest.raises(AssertionError, match="parsed"):
        apply_parse_filters(lines(["cats dogs cows hens mice"]), EngineSettings(max_objects=4))


def test_texts_with_too_many_objects_or_too_little_in_them_are_dropped():
    many, simple, rich = "a cat, a dog, a cow, a hen and a mouse", "it moves", "a big brown dog chases a small cat"
    found = dict(
        apply_parse_filters(
            lines([many, simple, rich]), EngineSettings(max_objects=4, min_object_complexity=2, min_action_complexity=2)
        )
    )
    assert found["too_many_objects"].tolist() == [True, False, False]
    assert found["simple_objects"].tolist() == [False, True, False] and found["simple_actions"].tolist() == [
        True,
        True,
        False,
    ]
    assert reasons(EngineSettings(max_objects=4), a=[Claim("<CAPTION>", many)]) == [(many, "too_many_objects")]


def test_every_reason_has_its_meaning_and_stands_in_the_document():
    document = (Path(__file__).parents[1] / "docs/snapshot.md").read_text(encoding="utf-8")
    for name, about in DROP_REASONS.items():
        assert name.islower() and " " not in name and about and f"`{name}`" in document
