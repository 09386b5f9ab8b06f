"""Filters of captions: boilerplate, noise, language, length, repetition, complexity."""

from __future__ import annotations

import pytest
from alt_texts import BAD, GOOD
from engine_claims import Scenes, fuse_claims, one_image
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from florence.config import EngineSettings
from florence.engine.filters import alt_text, language
from florence.engine.filters.alt_text import find_description
from florence.engine.filters.texts import apply_caption_filters, apply_parse_filters, flag_language, flag_repetition
from florence.engine.wording.tokens import tokenize_texts
from florence.errors import SettingsError
from florence.records import CAPTIONS, Claim


def reasons(settings: EngineSettings | None = None, **claims) -> list[tuple[str, str]]:
    return [(row.text, row.reason) for row in fuse_claims(one_image(**claims), settings=settings)]


@pytest.mark.parametrize(
    "text, left",
    [
        ("photo of a red car", "a red car"),
        ("Image: a red car", "a red car"),
        ("IMG_1234.jpg a red car", "a red car"),
        ("DSC04567.JPG - a red car", "a red car"),
        ("a red car | stock photo", "a red car"),
        ("a red car #4711", "a red car"),
        ("a red car - buy online", "a red car"),
        ("picture of a red car (640x480)", "a red car"),
        ("A photo of a red car | cars.example", "a red car"),
        ("IMG_1.jpg photo of a red car #12", "a red car"),
        ("IMG_1234.jpg", ""),
        ("https://example.org/x.png", ""),
        ("a photo album on a table", "a photo album on a table"),
        ("a black and white photo of a cat", "a black and white photo of a cat"),
        ("A well-known half-empty glass.", "A well-known half-empty glass."),
        ("2 dogs", "2 dogs"),
        ("", ""),
        ("a sugar-free drink in a duty-free shop", "a sugar-free drink in a duty-free shop"),
    ],
)
def test_boilerplate_goes_and_descriptions_stay(text: str, left: str):
    start, end = find_description(text)
    assert text[start:end] == left


def found(text: str, settings: EngineSettings | None = None) -> list[str]:
    """Return the reasons against a caption of the web."""
    return [
        name
        for name, applies in apply_caption_filters(
            tokenize_texts([text[slice(*find_description(text))]]), "<CAPTION>", settings or EngineSettings()
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


def test_precision_and_recall_of_noise_on_alt_texts_held_back():
    # the rules were made before the first half; the second was held back, and this is what they are worth there
    good, bad = GOOD[1::2], BAD[1::2]
    right, wrong = sum(map(is_noise, bad)), sum(map(is_noise, good))
    assert right / (right + wrong) > 0.95 and right / len(bad) > 0.9, (right, wrong, len(bad))
    right, wrong = sum(map(is_noise, BAD[::2])), sum(map(is_noise, GOOD[::2]))
    assert wrong == 0 and right / len(BAD[::2]) > 0.95


@settings_of(deadline=None, max_examples=300)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), max_size=6))
def test_the_fast_search_finds_what_single_texts_give(texts):
    assert alt_text.flag_noise(texts).tolist() == [alt_text.is_noise(text) for text in texts]


@pytest.mark.parametrize(
    "text",
    ["", " ", "\x00", "\ud800", "a" * 5000, "#" * 3000, "<" * 3000, "a, " * 3000, "–" * 999, "١٢٣ ٤٥٦", "e\u0301" * 9],
)
def test_no_text_is_too_odd_to_filter(text: str):
    assert isinstance(is_noise(text), bool)


def test_noise_has_no_vote_and_the_filter_can_be_off():
    claims = one_image(a=[Claim("<CAPTION>", "Add to cart")], b=[Claim("<CAPTION>", "a red car")])
    (row,) = fuse_claims(claims)
    assert (row.text, row.reason) == ("a red car", "")
    (row,) = fuse_claims(one_image(a=[Claim("<CAPTION>", "Add to cart")]))
    assert (row.text, row.kept, row.reason) == ("Add to cart", False, "alt_noise")
    (row,) = fuse_claims(one_image(a=[Claim("<CAPTION>", "Add to cart")]), settings=EngineSettings(alt_noise=False))
    assert row.kept
    (row,) = fuse_claims(one_image(human=[Claim("<CAPTION>", "Add to cart")]))
    assert row.kept, "the captions of a person are not filtered"


def test_captions_of_scenes_are_good_texts():
    scenes = Scenes(40, seed=3)
    claims = [row for rows in scenes.truth.values() for row in rows if row.task in CAPTIONS]
    for annotation_type in CAPTIONS:
        texts = [row.text for row in claims if row.task == annotation_type]
        assert texts and not any(
            applies.any()
            for _, applies in apply_caption_filters(tokenize_texts(texts), annotation_type, EngineSettings())
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
    (row,) = fuse_claims(one_image(a=[Claim("<CAPTION>", FOREIGN[0])]))
    assert row.reason == "language"


def test_probabilities_of_languages_equal_those_of_the_library():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    library = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    texts = [
        text for text in (*GOOD[:20], *FOREIGN, "Ü", "", "STOP THE CAR") if len(text.encode()) <= language.MAX_BYTES
    ]
    for text, ours in zip(texts, language.estimate_languages(texts), strict=True):
        theirs = dict(library.rank(text))
        assert ours == pytest.approx([theirs[name] for name in language.list_languages()], abs=2e-3)


def test_an_unknown_language_is_refused():
    with pytest.raises(SettingsError, match="'qqq' is not a known language; known: .*\\ben\\b"):
        flag_language([GOOD[0]], EngineSettings(language="qqq"))
    with pytest.raises(ValueError, match="language"):
        EngineSettings(language="English")


def test_captions_have_a_length():
    settings = EngineSettings(min_words={"*": 2, "<DETAILED_CAPTION>": 4}, max_words={"<CAPTION>": 5, "*": 50})
    long = "a red car next to a dog"
    claims = [
        Claim("<CAPTION>", "car"),
        Claim("<DETAILED_CAPTION>", "a red car"),
        Claim("<MORE_DETAILED_CAPTION>", long),
    ]
    assert [reason for _, reason in reasons(settings, a=claims)] == ["too_short", "too_short", ""]
    assert reasons(settings, a=[Claim("<CAPTION>", long)]) == [(long, "too_long")]
    for bound in ("a car next to dogs", "red car"):
        assert reasons(settings, a=[Claim("<CAPTION>", bound)]) == [(bound, "")]


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
    assert flag_repetition(tokenize_texts([text]), EngineSettings(max_repeats=most)).tolist() == [stuck]


def test_texts_are_parsed_only_where_it_is_asked(monkeypatch):
    def never(texts):
        raise AssertionError("parsed")

    monkeypatch.setattr("florence.engine.filters.texts.parse_texts", never)
    assert apply_parse_filters(tokenize_texts(["a cat on a mat. " * 5]), EngineSettings()) == []
    with pytest.raises(AssertionError, match="parsed"):
        apply_parse_filters(tokenize_texts(["a cat"]), EngineSettings(min_object_complexity=1))
    with pytest.raises(AssertionError, match="parsed"):
        apply_parse_filters(tokenize_texts(["cats dogs cows hens mice"]), EngineSettings(max_objects=4))


def test_texts_with_too_many_objects_or_too_little_in_them_are_dropped():
    many, simple, rich = "a cat, a dog, a cow, a hen and a mouse", "it moves", "a big brown dog chases a small cat"
    found = dict(
        apply_parse_filters(
            tokenize_texts([many, simple, rich]),
            EngineSettings(max_objects=4, min_object_complexity=2, min_action_complexity=2),
        )
    )
    assert found["too_many_objects"].tolist() == [True, False, False]
    assert found["simple_objects"].tolist() == [False, True, False] and found["simple_actions"].tolist() == [
        True,
        True,
        False,
    ]
    assert reasons(EngineSettings(max_objects=4), a=[Claim("<CAPTION>", many)]) == [(many, "too_many_objects")]
