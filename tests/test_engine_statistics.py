"""Parses of texts, and the statistics of a snapshot."""

from __future__ import annotations

import json

import pytest
from engine_claims import box, fuse_claims, image, line, one_image, phrase, shuffle_rows, tables

from florence.engine import statistics as module
from florence.engine.parse import parse_texts
from florence.engine.statistics import compute_statistics
from florence.records import Claim, annotations_table


def test_a_sentence_is_parsed_as_one_would():
    (found,) = parse_texts(["A young woman in London quickly throws a small red ball to her big dog."])
    assert [node.text for node in found.objects] == ["woman", "London", "ball", "dog"]
    assert set(found.attributes) >= {"young", "small", "red", "big"} and found.proper_nouns == ("London",)
    # throws: woman, quickly, ball and to hang on it; it hangs on nothing
    assert [(node.text, node.degree) for node in found.actions] == [("throws", 4)] and found.action_complexity == 4
    # ball: a, small and red hang on it, and it on throws
    assert {node.text: node.degree for node in found.objects}["ball"] == 4
    text = "A young woman in London quickly throws a small red ball to her big dog."
    assert all(text[p.start : p.end] == p.text for p in found.phrases) and "a small red ball" in [
        p.text for p in found.phrases
    ]
    assert found.tokens == 15


def test_to_be_is_no_action_and_nothing_is_nothing():
    there, nothing = parse_texts(["There is a cat.", ""])
    assert there.actions == () and [node.text for node in there.objects] == ["cat"]
    assert (nothing.tokens, nothing.object_complexity, nothing.action_complexity) == (0, 0, 0)
    assert parse_texts(["There is a cat."])[0] is there, "parsed once"


def labels():
    caption = "a red car near a dog"
    by_annotator = one_image(
        a=[
            Claim("<CAPTION>", caption),
            phrase(caption, "a red car", (10, 10, 40, 40)),
            phrase(caption, "a dog", (60, 10, 80, 40)),
            box("car", 10, 10, 40, 40),
            box("traffic light", 60, 10, 80, 40),
            box("thin", 10, 10, 11, 40),
            line("NO EXIT", 10, 50, 40, 60),
        ]
    )
    other = image("b")
    by_annotator["a"][other.image_id] = [box("car", 10, 10, 40, 40)]
    return annotations_table(fuse_claims(by_annotator, [image(), other])), tables(by_annotator, [image(), other])[1]


COUNTED = {
    "<OD>": {
        "images": 2,
        "texts": 3,
        "tokens_per_text": None,
        "regions": 3,
        "regions_per_image": 1.5,
        "tokens_per_region": pytest.approx(4 / 3, abs=1e-4),
    },
    "<CAPTION>": {
        "images": 1,
        "texts": 1,
        "tokens_per_text": 6,
        "regions": None,
        "regions_per_image": None,
        "tokens_per_region": None,
    },
    "<CAPTION_TO_PHRASE_GROUNDING>": {
        "images": 1,
        "texts": 1,
        "tokens_per_text": 6,
        "regions": 2,
        "regions_per_image": 2,
        "tokens_per_region": 2.5,
    },
}
"""Figures of the annotation types of `labels`, counted by hand."""


def test_figures_equal_those_counted_by_hand():
    rows, images = labels()
    found = compute_statistics(rows, images)
    assert {name: found["annotation_types"][name] for name in COUNTED} == COUNTED
    assert found["annotation_types"]["<OCR_WITH_REGION>"]["tokens_per_region"] == 2
    assert found["texts"] == {
        "<CAPTION>": {
            "objects": 2,
            "attributes": 1,
            "actions": 0,
            "proper_nouns": 0,
            "object_complexity": 3,
            "action_complexity": 0,
            "parsed": 1,
            "ungrounded": 0,
        }
    }
    assert (
        compute_statistics(shuffle_rows(rows, 1), shuffle_rows(images, 2)) == found
        and json.loads(json.dumps(found)) == found
    )
    assert compute_statistics(rows, images.slice(1))["annotation_types"] == {
        "<OD>": {
            **found["annotation_types"]["<OD>"],
            "images": 1,
            "texts": 1,
            "regions": 1,
            "regions_per_image": 1.0,
            "tokens_per_region": 1.0,
        }
    }
    assert compute_statistics(rows.slice(0, 0), images) == {
        "annotation_types": {},
        "triplets": {},
        "texts": {},
        "boxes": {},
    }


def test_captions_without_a_located_phrase_stay_and_are_counted():
    by_annotator = one_image(
        a=[
            Claim("<CAPTION>", "a red car"),
            Claim("<DETAILED_CAPTION>", "a red car in front of a house"),
            phrase("a red car", "a red car", (10, 10, 40, 40)),
        ]
    )
    rows = fuse_claims(by_annotator)
    assert [row.task for row in rows if row.kept] == [
        "<CAPTION>",
        "<DETAILED_CAPTION>",
        "<CAPTION_TO_PHRASE_GROUNDING>",
    ]
    found = compute_statistics(annotations_table(rows), tables(by_annotator, [image()])[1])["texts"]
    assert found["<CAPTION>"]["ungrounded"] == 0 and found["<DETAILED_CAPTION>"]["ungrounded"] == 1


def test_phrases_are_counted_by_the_text_they_are_in():
    brief, detailed = "a red car near a dog", "a red car in front of a white house with a dog"
    first, other = image(), image("b")
    by_annotator = {
        "a": {
            first.image_id: [
                Claim("<CAPTION>", brief),
                Claim("<DETAILED_CAPTION>", detailed),
                phrase(brief, "a dog", (60, 10, 80, 40)),
                phrase(detailed, "a red car", (10, 10, 40, 40)),
                phrase(detailed, "a white house", (5, 5, 90, 60)),
                phrase(detailed, "a dog", (60, 10, 80, 40)),
            ],
            # the brief text of one image is the detailed one of another
            other.image_id: [Claim("<DETAILED_CAPTION>", brief), phrase(brief, "a red car", (10, 10, 40, 40))],
        }
    }
    found = compute_statistics(
        annotations_table(fuse_claims(by_annotator, [first, other])), tables(by_annotator, [first, other])[1]
    )
    counts = {
        task: (figures["images"], figures["texts"], figures["regions"], figures["regions_per_image"])
        for task, figures in found["triplets"].items()
    }
    assert counts == {"<CAPTION>": (1, 1, 1, 1.0), "<DETAILED_CAPTION>": (2, 2, 4, 2.0)}
    assert (
        found["triplets"]["<CAPTION>"]["tokens_per_text"] == 6
        and found["triplets"]["<DETAILED_CAPTION>"]["tokens_per_text"] == (12 + 6) / 2
    )
    assert (
        sum(figures["regions"] for figures in found["triplets"].values())
        == found["annotation_types"]["<CAPTION_TO_PHRASE_GROUNDING>"]["regions"]
    )


def test_boxes_are_described_by_area_ratio_and_centre():
    # of an image of 100 × 80: a quarter of it and square in its shares, a thin upright one, a wide one
    by_annotator = one_image(a=[box("car", 0, 0, 50, 40), box("pole", 90, 0, 98, 78), box("wall", 0, 60, 100, 70)])
    found = compute_statistics(annotations_table(fuse_claims(by_annotator)), tables(by_annotator, [image()])[1])[
        "boxes"
    ]
    assert set(found) == {"area", "aspect_ratio", "centre_x", "centre_y"} and all(
        len(h["edges"]) == 11 and len(h["shares"]) == 10 for h in found.values()
    )
    where = {name: [k for k, share in enumerate(h["shares"]) if share] for name, h in found.items()}
    # √(1/4) = .5, √(8·78/8000) = .28, √(10·100/8000) = .35; 1.25, 0.10, 10; x .25, .94, .5; y .25, .49, .81
    assert where == {"area": [2, 3, 5], "aspect_ratio": [0, 5, 9], "centre_x": [2, 5, 9], "centre_y": [2, 4, 8]}
    assert (
        found["area"]["edges"][5] == 0.25
        and found["aspect_ratio"]["edges"][0] == 0.25
        and found["aspect_ratio"]["edges"][-1] == 4.0
    )
    assert all(abs(sum(h["shares"]) - 1) < 1e-3 for h in found.values())


def test_no_more_texts_are_parsed_than_stated(monkeypatch):
    images = [image(f"{k:03d}") for k in range(12)]
    by_annotator = {"a": {i.image_id: [Claim("<CAPTION>", f"a cat and {k} dogs")] for k, i in enumerate(images)}}
    rows, records = annotations_table(fuse_claims(by_annotator, images)), tables(by_annotator, images)[1]
    monkeypatch.setattr(module, "SAMPLE", 5)
    found = compute_statistics(rows, records)
    assert found["texts"]["<CAPTION>"]["parsed"] == 5 and found["annotation_types"]["<CAPTION>"]["texts"] == 12
    assert compute_statistics(shuffle_rows(rows, 3), records) == found


def test_the_report_reads_these_figures():
    from florence.report.tables import COLUMNS_2, PAPER_3, tabulate_table2, tabulate_table3

    rows, images = labels()
    found = compute_statistics(rows, images)
    assert all(set(COLUMNS_2) == set(figures) for figures in found["annotation_types"].values())
    assert all(set(PAPER_3) <= set(text) for text in found["texts"].values())
    assert all(set(COLUMNS_2) == set(figures) for figures in found["triplets"].values())
    rows = {row[0].text: [(cell.text, cell.small) for cell in row[1:]] for row in tabulate_table2(found).rows}
    assert rows["Text–phrase–region, brief"] == [
        ("1", "235M"),
        ("1", "235M"),
        ("6.00", "7.95"),
        ("2", "1007M"),
        ("2.00", "4.27"),
        ("2.50", "1.93"),
    ]
    assert "Text–phrase–region, detailed" not in rows
    assert tabulate_table3(found).rows[-1][1].text == "0"
