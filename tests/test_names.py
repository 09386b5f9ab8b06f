"""Names of classes: what they are made of is kept, and what is one name is one name, from claims to answers."""

from __future__ import annotations

import unicodedata

import pytest
from engine_claims import box, fuse_claims, image, line, one_image
from hypothesis import given
from hypothesis import strategies as st

from florence.config import EngineSettings
from florence.errors import EncodeError
from florence.formats import UnusableLabelError
from florence.formats._names import check_name, explain_spellings
from florence.records import HUMAN, Claim, Region, annotate, fold_label, is_blank, normalize_label
from florence.tasks import task

SIGNS = [
    "🙂",
    "+",
    "-",
    "=",
    "?",
    "…",
    "...",
    "....",
    "#",
    "%",
    "(",
    ")",
    "_",
    "★",
    "→",
    "👩‍👩‍👧",
    "❤️",
    "ิ",
    "<",
    ">",
    "<3",
    "a<b",
]
WORDS = ["π", "N°", "猫", "é", "قطة", "חתול", "the", "a", "7", "007", "1.50", "person 2", "OD", "<OD>", "नमस्ते"]


@pytest.mark.parametrize("annotator", [HUMAN, "model"])
def test_signs_are_names_all_the_way_to_the_answer_of_the_model(annotator):
    names = SIGNS + WORDS
    assert len({fold_label(name) for name in names}) == len(names)
    wide = image(width=100 * len(names), height=200)
    claims = [box(name, 100 * k + 5, 50, 100 * k + 85, 150) for k, name in enumerate(names)]
    rows = fuse_claims({annotator: {wide.image_id: claims}}, [wide])
    assert [(row.text, row.kept, row.reason) for row in sorted(rows, key=lambda row: row.regions[0].bounds)] == [
        (name, True, "") for name in names
    ]
    detection = task("<OD>")
    (example,) = detection.examples(wide, rows)
    read = detection.decode(example.target, (wide.width, wide.height))
    assert sorted(region.label for region in read.regions) == sorted(names)


@pytest.mark.parametrize("name", ["", " ", "\u200b", "\u200d\ufeff", "\ufe0f", "\u3164", "\u2800"])
def test_a_name_that_shows_nothing_is_empty(name):
    assert is_blank(name)
    (row,) = fuse_claims(one_image(model=[box(name, 10, 10, 50, 50)]))
    assert row.reason == "empty_text"
    (row,) = fuse_claims(one_image(**{HUMAN: [box(name, 10, 10, 50, 50)]}))
    assert row.reason == "rejected"


def test_a_sign_by_a_person_never_rejects_what_others_claim():
    rows = fuse_claims(one_image(**{HUMAN: [box("+", 10, 10, 50, 50)], "model": [box("plus", 10, 10, 50, 50)]}))
    assert [(row.text, row.reason) for row in rows if row.kept] == [("+", "")]
    rows = fuse_claims(one_image(**{HUMAN: [box("", 10, 10, 50, 50)], "model": [box("plus", 10, 10, 50, 50)]}))
    assert not any(row.kept for row in rows)


@pytest.mark.parametrize("name", ["+", "★", "🙂"])
def test_a_category_may_be_a_sign(name):
    claim = Claim("<CLASSIFICATION>", name, (Region(name, box=(0, 0, 100, 80)),))
    (row,) = fuse_claims(one_image(model=[claim]))
    assert row.kept and [region.label for region in row.regions] == [name]


def test_what_people_write_is_kept_and_marks_of_models_are_not():
    assert [row.reason for row in fuse_claims(one_image(**{HUMAN: [line("#", 10, 10, 50, 30)]}))] == [""]
    assert [row.reason for row in fuse_claims(one_image(model=[line("#", 10, 10, 50, 30)]))] == ["empty_text"]
    assert [row.reason for row in fuse_claims(one_image(**{HUMAN: [Claim("<CAPTION>", "🙂")]}))] == [""]
    assert [row.reason for row in fuse_claims(one_image(model=[Claim("<CAPTION>", "🙂")]))] == ["empty_text"]


def test_spellings_of_white_space_and_unicode_are_one_name():
    spelled = ["person", "person ", " person", "person\n", "per\u00adson"]
    rows = annotate("i", [box(name, 10 * k, 10, 10 * k + 5, 50) for k, name in enumerate(spelled)], "a", "1")
    assert [row.text for row in rows] == [row.regions[0].label for row in rows]
    assert [row.text for row in rows] == ["person"] * 4 + ["per\u00adson"]
    rows = annotate(
        "i", [box(name, 10, 10, 50, 50) for name in ("cafe\u0301", "café", "hot \t dog", "hot\u00a0dog")], "a", "1"
    )
    assert [row.text for row in rows] == ["café", "café", "hot dog", "hot dog"]
    assert fold_label("CAFE\u0301") == fold_label("café")


def test_texts_that_are_no_names_stay_as_they_are():
    claims = [Claim("<CAPTION>", " two  spaces "), line("a  b ", 1, 1, 5, 5)]
    assert [row.text for row in annotate("i", claims, "a", "1")] == [" two  spaces ", "a  b "]


@given(st.text(max_size=12))
def test_the_form_of_names_is_final(text):
    name = normalize_label(text)
    assert normalize_label(name) == name == unicodedata.normalize("NFC", name)
    assert name == name.strip() and "\n" not in name and "  " not in name


@pytest.mark.parametrize(
    "value, reason",
    [
        ("<loc_5>", "a name with a token of the model"),
        ("a</s>", "a name with a token of the model"),
        ("<poly>", "a name with a token of the model"),
        ("x <sep> y", "a name with a token of the model"),
        ("\ud83d", "a name that shows nothing"),
        ("a\ud83d", "a name with a token of the model"),
        ("a\0", "a name with a control character"),
        (" \n", "a name that shows nothing"),
        (None, "a name that is no text"),
        (True, "a name that is no text"),
        (1.5, "a name that is no text"),
        (["cat"], "a name that is no text"),
    ],
)
def test_names_that_would_spoil_an_answer_are_refused(value, reason):
    with pytest.raises(UnusableLabelError, match="here: ") as error:
        check_name(value, "here")
    assert error.value.reason == reason


@given(st.text(st.characters(codec="utf-8"), max_size=10) | st.sampled_from(SIGNS + WORDS))
def test_what_is_not_refused_comes_back_from_an_answer(text):
    try:
        name = check_name(text, "x")
    except UnusableLabelError:
        return
    record = image()
    rows = annotate(record.image_id, [box(name, 10, 10, 50, 50)], "a", "1")
    try:
        (example,) = task("<OD>").examples(record, rows)
    except EncodeError as error:  # pragma: no cover - what the test would find
        raise AssertionError(name) from error
    (region,) = task("<OD>").decode(example.target, (record.width, record.height)).regions
    assert region.label == name


def test_merging_is_told_with_all_spellings():
    found = explain_spellings(["person ", "person", "cat", "dog", "dog", "cafe\u0301", "Cat", None, ""], "l.json")
    assert [(p.reason, p.unit, p.count) for p in found] == [
        ("classes of one name are one class", "part", 1),
        ("classes of one name are one class", "part", 1),
        ("white space or Unicode form of a name changed", "part", 1),
        ("names that differ in case alone", "part", 1),
    ]
    assert "'person '" in found[0].detail and "'person'" in found[0].detail
    assert explain_spellings(["cat", "dog", 7, "+"], "l.json") == []


def test_names_of_signs_are_told_apart_in_votes():
    claims = {name: [box(sign, 10, 10, 60, 60)] for name, sign in {"a": "+", "b": "+", "c": "-"}.items()}
    rows = fuse_claims(one_image(**claims), settings=EngineSettings(min_confidence=0.0))
    assert [row.text for row in rows if row.kept] == ["+"]
