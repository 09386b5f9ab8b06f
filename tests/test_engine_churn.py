"""Changes of labels from one round to the next."""

from __future__ import annotations

import pyarrow as pa
import pytest
from engine_claims import image

from florence.engine.churn import LabelChanges, measure_churn
from florence.records import Annotation, Region, annotations_table


def test_churn_is_the_share_of_labels_that_changed():
    def row(k: int, text: str, x: float, task: str = "<OD>", kept: bool = True) -> Annotation:
        region = () if task == "<CAPTION>" else (Region(text, box=(x, 0, x + 20, 20)),)
        return Annotation(
            f"{k}{text}{x}",
            image(str(k)).image_id,
            task,
            "consensus",
            "v",
            0,
            text,
            region,
            None,
            1.0,
            None,
            kept,
            "" if kept else "low_confidence",
        )

    before = annotations_table(
        [
            row(1, "cat", 0),
            row(1, "dog", 40),
            row(2, "cow", 0),
            row(3, "hen", 0, kept=False),
            row(1, "a cat", 0, "<CAPTION>"),
        ]
    )
    after = annotations_table(
        [row(1, "cat", 2), row(1, "fox", 40), row(2, "cow", 30), row(3, "hen", 0), row(1, "a cat", 0, "<CAPTION>")]
    )
    assert measure_churn(before, before) == {
        "<OD>": LabelChanges(3, 0, 0, 0, 0),
        "<CAPTION>": LabelChanges(1, 0, 0, 0, 0),
    }
    found = measure_churn(before, after)
    # the cat has moved a little, the dog is a fox now, the cow is elsewhere, and the hen is new
    assert found == {
        "<OD>": LabelChanges(same=1, renamed=1, moved=1, added=1, removed=0),
        "<CAPTION>": LabelChanges(1, 0, 0, 0, 0),
    }
    assert found["<OD>"].share == pytest.approx(1 - 2 / 7, abs=1e-6) and found["<CAPTION>"].share == 0
    assert measure_churn(after, before)["<OD>"] == LabelChanges(same=1, renamed=1, moved=1, added=0, removed=1)
    reworded = annotations_table([row(1, "a black cat", 0, "<CAPTION>"), row(2, "a cow", 0, "<CAPTION>")])
    assert measure_churn(before, reworded) == {
        "<OD>": LabelChanges(0, 0, 0, 0, removed=3),
        "<CAPTION>": LabelChanges(same=0, renamed=1, moved=0, added=1, removed=0),
    }


def test_a_phrase_is_the_same_in_a_caption_of_other_words():
    def phrase(caption: str, label: str, x: float) -> Annotation:
        region = Region(label, box=(x, 0, x + 20, 20), span=(0, len(label)))
        return Annotation(
            f"{caption}{label}{x}",
            image("1").image_id,
            "<CAPTION_TO_PHRASE_GROUNDING>",
            "consensus",
            "v",
            0,
            caption,
            (region,),
            None,
            1.0,
            None,
            True,
            "",
        )

    before = annotations_table([phrase("a cat sits", "a cat", 0), phrase("a cat sits", "a hat", 40)])
    after = annotations_table([phrase("a cat lies", "a cat", 1), phrase("a cat lies", "a bow", 40)])
    assert measure_churn(before, after) == {
        "<CAPTION_TO_PHRASE_GROUNDING>": LabelChanges(same=1, renamed=1, moved=0, added=0, removed=0)
    }


def test_two_objects_of_one_name_are_paired_one_by_one():
    def cats(*at: float) -> pa.Table:
        return annotations_table(
            [
                Annotation(
                    f"{x}",
                    image("1").image_id,
                    "<OD>",
                    "consensus",
                    "v",
                    0,
                    "cat",
                    (Region("cat", box=(x, 0, x + 20, 20)),),
                    None,
                    1.0,
                    None,
                    True,
                    "",
                )
                for x in at
            ]
        )

    assert measure_churn(cats(0, 40, 80), cats(2, 82)) == {"<OD>": LabelChanges(2, 0, 0, 0, removed=1)}
    assert measure_churn(cats(0, 40), cats(100, 140, 180)) == {"<OD>": LabelChanges(0, 0, moved=2, added=1, removed=0)}
