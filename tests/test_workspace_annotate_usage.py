"""Usage and profiles of annotators, the student, and annotators that are asked about a sample of the images."""

from __future__ import annotations

from pathlib import Path

import fake_annotators
import pytest
from annotation_runs import (
    annotate_all,
    fail_images,
    list_names,
    make_settings,
    raise_at,
    read_coverage,
    read_written,
)
from fake_annotators import BEFORE, CALLS, annotator_section
from workspaces import workspace_of

from florence.errors import ModelError, UnavailableError
from florence.records import IMAGES, AnnotatorProfile, table_annotations
from florence.services.usage import Usage
from florence.store import Store
from florence.workspace.annotate import annotate_shard, count_missing, list_annotators, read_profiles, read_usage

NANO = str(Path(__file__).parents[1] / "florence/model/nano")


pytestmark = pytest.mark.usefixtures("fake_annotator")


# ---------------------------------------------------------------- what it costs, what it declares


def test_usage_is_kept_and_known_to_the_next_run(store: Store):
    chosen = make_settings({"a": annotator_section(batch_size=4, price=5)})
    BEFORE["a"] = fail_images(list_names(store)[8:], UnavailableError("the budget is spent"))
    annotate_all(chosen, store)
    annotator = list_annotators(chosen)[0]
    assert read_usage(store, annotator) == Usage(3, 50, 0.05)
    fake_annotators.forget_calls()
    known = []
    BEFORE["a"] = lambda self, batch: known.append(self.usage.tokens)
    annotate_all(chosen, store)
    assert known == [60] and read_usage(store, annotator) == Usage(4, 60, pytest.approx(0.06))


def test_what_a_failing_call_has_cost_is_counted(store: Store):
    BEFORE["a"] = raise_at(UnavailableError("down"))
    chosen = make_settings({"a": annotator_section(batch_size=4, price=5)})
    annotate_all(chosen, store)
    assert read_usage(store, list_annotators(chosen)[0]) == Usage(1, 20, 0.02)


def test_annotators_declare_themselves(store: Store):
    chosen = make_settings(
        {
            "a": annotator_section(words=["dog", "cat"], device="cpu", batch_size=3),
            "judge": annotator_section(role="ranker", needs=["claims"]),
        }
    )
    annotate_all(chosen, store)
    annotators = list_annotators(chosen)
    assert read_profiles(chosen, store, annotators) == (
        AnnotatorProfile("a", "annotator", ("cat", "dog")),
        AnnotatorProfile("judge", "ranker"),
    )
    assert store.read_json(f"annotators/{annotators[0].key}.json") == {
        "name": "a",
        "use": "fake",
        "role": "annotator",
        "tasks": ["<OD>", "<CAPTION>"],
        "vocabulary": ["cat", "dog"],
        "ingredients": {"annotator": "a"},
        "options": {"needs": ["pixels"], "price": 0, "words": ["dog", "cat"], "note": "", "role": "annotator"},
    }
    other = make_settings({"b": annotator_section(words=["x"])})
    assert read_profiles(other, store, list_annotators(other)) == (AnnotatorProfile("b"),)


def test_an_annotator_without_a_vocabulary_costs_its_own_claims(store: Store, monkeypatch):
    def vocabulary(self):
        if self.name == "a":
            raise ModelError("the hub is not reached")

    monkeypatch.setattr(fake_annotators.FakeAnnotator, "vocabulary", vocabulary)
    found = annotate_all(make_settings({"a": annotator_section(required=False), "b": annotator_section()}), store)
    assert (found["a"].left, found["a"].error) == (10, "the hub is not reached") and found["b"].left == 0


def test_the_student_is_asked_last_and_declares_itself(store: Store):
    chosen = make_settings(
        {"a": annotator_section(batch_size=2), "reader": annotator_section(needs=["claims"])},
        model={"image_size": 64},
        engine={"student": {"tasks": ["<OD>"], "batch_size": 8}},
        train={"threads": 1, "max_target": 8},
    )
    annotators = list_annotators(chosen, NANO)
    assert [annotator.name for annotator in annotators] == ["a", "reader", "student"]
    assert {
        o.annotator: (o.images, o.left) for o in annotate_shard(workspace_of(chosen, store), annotators, "scenes-00000")
    } == {
        "a": (10, 0),
        "reader": (10, 0),
        "student": (10, 0),
    }
    assert "student:" not in table_annotations(store.read_table(store.names("claims/" + annotators[1].key)[0]))[0].text
    assert len(read_coverage(store, "student")) == 10
    assert read_profiles(chosen, store, annotators)[2] == AnnotatorProfile("student")
    profile = store.read_json(f"annotators/{annotators[2].key}.json")
    assert (profile["use"], profile["tasks"]) == ("student", ["<OD>"]) and "batch_size" not in profile["options"]
    off = make_settings({"a": annotator_section()}, engine={"student": {"cap": 0}})
    assert [annotator.name for annotator in list_annotators(off, NANO)] == ["a"]


def test_an_expensive_annotator_is_asked_about_a_diverse_sample_and_covers_the_rest_with_an_error(
    store: Store,
):
    annotators = {"expensive": {**annotator_section(), "sample_fraction": 0.3}, "cheap": annotator_section()}
    chosen = make_settings(annotators)
    annotate_all(chosen, store)
    rows = read_coverage(store, "expensive")
    asked_about = {name for name, row in rows.items() if not row["error"]}
    assert (
        len(rows) == 10
        and len(asked_about) == 3
        and all(row["error"].startswith("NotListedError") for name, row in rows.items() if name not in asked_about)
    )
    assert (
        not any(count_missing(workspace_of(chosen, store), list_annotators(chosen))["expensive"].values())
        and len(read_coverage(store, "cheap")) == 10
    )
    before = read_written(store)
    calls = len(CALLS)
    annotate_all(chosen, store)
    assert read_written(store) == before and len(CALLS) == calls, "nobody is asked again"
    key = next(annotator.version for annotator in list_annotators(chosen) if annotator.name == "expensive")
    assert key != next(
        annotator.version
        for annotator in list_annotators(
            make_settings({**annotators, "expensive": {**annotators["expensive"], "sample_fraction": 0.4}})
        )
        if annotator.name == "expensive"
    )


def test_sampled_images_differ_more_than_any_others(store: Store):
    from itertools import combinations

    from florence.records import table_images
    from florence.workspace.annotate.sampling import sample_diverse

    records = [record for record, _ in table_images(store.read_tables("images", IMAGES, older=True))]
    bits = {record.image_id: int(record.phash, 16) for record in records}

    def spread(ids) -> int:
        return min((bits[a] ^ bits[b]).bit_count() for a, b in combinations(sorted(ids), 2))

    best = max(spread(ids) for ids in combinations(sorted(bits), 4))
    assert 2 * spread(sample_diverse(records, 0.4)) >= best, (
        "farthest-first is at least half as good as the best choice"
    )
    assert sample_diverse(records, 1.0) == set(bits) and sample_diverse(records[::-1], 0.4) == sample_diverse(
        records, 0.4
    )
    assert len(sample_diverse(records, 0.01)) == 1 and sample_diverse([], 0.5) == frozenset()
