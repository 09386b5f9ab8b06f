"""Annotation on real stores: what the failure of an annotator or of an image costs."""

from __future__ import annotations

from pathlib import Path

import fake_annotators
import pyarrow as pa
import pytest
from annotation_runs import (
    annotate_all,
    copy_store,
    count_left,
    fail_images,
    list_names,
    make_settings,
    raise_at,
    raise_on_load,
    read_coverage,
    read_written,
)
from fake_annotators import BEFORE, CALLS, ON_LOAD, annotator_section, list_asked_images
from workspaces import workspace_of

from florence.errors import FlorenceError, ModelError, StoreError, UnavailableError
from florence.records import IMAGES, table_annotations
from florence.store import Store
from florence.workspace.annotate import annotate_shard, list_annotators

pytestmark = pytest.mark.usefixtures("fake_annotator")


# ---------------------------------------------------------------- what a failure costs


def test_a_bad_image_costs_itself_alone(store: Store):
    bad = list_names(store)[2]
    BEFORE["a"] = raise_at(RuntimeError("out of order"), [bad])
    found = annotate_all(make_settings({"a": annotator_section(batch_size=4), "b": annotator_section()}), store)
    rows = read_coverage(store, "a")
    assert {name: row["error"] for name, row in rows.items() if row["error"]} == {
        bad: "RuntimeError: out of order"
    } and len(rows) == 10
    assert [len(images) for annotator, images in CALLS if annotator == "a"] == [4, 1, 1, 1, 1, 4, 2]
    assert (found["a"].left, found["a"].error, found["b"].left) == (0, "", 0)


def test_a_bad_image_at_the_start_is_settled_once_others_are_answered(store: Store):
    bad = list_names(store)[:4]
    BEFORE["a"] = raise_at(RuntimeError("out of order"), bad)
    chosen = make_settings(
        {"a": annotator_section(batch_size=2), "reader": annotator_section(needs=["claims", "pixels"], batch_size=2)}
    )
    annotate_all(chosen, store)
    assert {name for name, row in read_coverage(store, "a").items() if row["error"]} == set(bad)
    assert sorted(list_asked_images("reader")) == sorted(list_names(store)), (
        "once each, and with what came of those before it"
    )
    assert count_left(chosen, store) == {} and not any(row["unread"] for row in read_coverage(store, "reader").values())


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (UnavailableError(), False),
        (ModelError("no weights"), False),
        (OSError("no route"), True),
        (StoreError("full"), True),
        (ValueError(), True),
    ],
)
def test_errors_of_our_own_are_not_tried_again_at_once(store: Store, error: Exception, again: bool):
    ON_LOAD["a"] = raise_on_load(error)
    found = annotate_all(make_settings({"a": annotator_section(), "b": annotator_section()}), store)
    assert (found["a"].left, found["a"].retryable, found["b"].left) == (10, again, 0) and (
        str(error) or type(error).__name__
    ) in found["a"].error


def test_claims_that_cannot_be_read_are_no_annotators_failure(store: Store):
    annotate_all(make_settings({"a": annotator_section(needs=[])}), store)
    (file,) = store.names("claims")
    store.write_bytes(file, b"not a table")
    with pytest.raises(StoreError, match=f"{file}.*not a Parquet file"):
        annotate_all(
            make_settings({"a": annotator_section(needs=[]), "reader": annotator_section(needs=["claims"])}), store
        )
    assert CALLS[1:] == []


@pytest.mark.parametrize("how", ["raised", "load", "crash", "answered"])
def test_an_annotator_that_fails_costs_its_own_claims(store: Store, how: str):
    if how == "raised":
        BEFORE["a"] = raise_at(UnavailableError("the service is down"))
    elif how == "crash":
        BEFORE["a"] = raise_at(RuntimeError("the service is down"))
    elif how == "answered":
        BEFORE["a"] = fail_images(list_names(store), UnavailableError("the service is down"))
    else:
        ON_LOAD["a"] = raise_on_load(RuntimeError("the service is down"))
    chosen = make_settings(
        {
            "a": annotator_section(required=False),
            "b": annotator_section(),
            "reader": annotator_section(needs=["claims"], depends_on=["a", "b"]),
        }
    )
    found = annotate_all(chosen, store)
    assert found["a"].left == 10 and found["a"].images == 0 and "the service is down" in found["a"].error
    assert found["a"].retryable == (how in ("load", "crash"))
    assert not store.names("coverage/" + list_annotators(chosen)[0].key)
    assert len(read_coverage(store, "b")) == len(read_coverage(store, "reader")) == 10
    assert count_left(chosen, store) == {"a": 10}
    fake_annotators.forget_calls()
    annotate_all(chosen, store)
    assert (len(list_asked_images("a")), len(list_asked_images("b")), len(list_asked_images("reader"))) == (
        10,
        0,
        10,
    ), "who read without it is asked again"
    assert count_left(chosen, store) == {} and not any(row["unread"] for row in read_coverage(store, "reader").values())
    other = copy_store(Path(store.root), Path(store.root).parent / "other")
    for folder in ("claims", "coverage", "annotators"):
        other.delete(folder)
    annotate_all(chosen, other)
    assert read_written(other) == read_written(store)


def test_dependents_wait_for_an_annotator_that_is_required(store: Store):
    chosen = make_settings({"a": annotator_section(), "reader": annotator_section(needs=["claims"])})
    BEFORE["a"] = raise_at(UnavailableError("down"))
    found = annotate_all(chosen, store)
    assert list_asked_images("reader") == [] and found["reader"].error == "waits for a" and found["reader"].left == 10


def test_dependents_wait_for_an_annotator_that_is_tried_again(store: Store):
    chosen = make_settings({"a": annotator_section(required=False), "reader": annotator_section(needs=["claims"])})
    BEFORE["a"] = raise_at(RuntimeError("not yet"))
    assert annotate_all(chosen, store, will_retry=True)["a"].retryable and list_asked_images("reader") == []
    annotate_all(chosen, store)
    assert len(list_asked_images("reader")) == 10


def test_dependents_of_dependents_are_asked_again_too(store: Store):
    chosen = make_settings(
        {
            "a": annotator_section(required=False),
            "second": annotator_section(needs=["claims"], depends_on=["a"]),
            "third": annotator_section(needs=["claims"], depends_on=["second"]),
        }
    )
    BEFORE["a"] = raise_at(UnavailableError("down"))
    annotate_all(chosen, store)
    assert (
        count_left(chosen, store) == {"a": 10} and read_coverage(store, "third")[list_names(store)[0]]["unread"] == "a"
    )
    fake_annotators.forget_calls()
    annotate_all(chosen, store)
    name = list_names(store)[0]
    assert (
        f"third of {name} after (second: second of {name} after (a: a of {name}"
        in table_annotations(store.read_table(store.names("claims/" + list_annotators(chosen)[2].key)[0]))[0].text
    )
    assert count_left(chosen, store) == {}
    fake_annotators.forget_calls()
    assert annotate_all(chosen, store) == {} and CALLS == []


def test_a_dependent_is_missing_images_when_its_dependency_has_caught_up(store: Store):
    chosen = make_settings(
        {
            "a": annotator_section(required=False),
            "reader": annotator_section(needs=["claims"]),
            "b": annotator_section(),
        }
    )
    BEFORE["a"] = fail_images(list_names(store)[:3], UnavailableError("later"))
    annotate_all(chosen, store)
    assert count_left(chosen, store) == {"a": 3}
    fake_annotators.forget_calls()
    annotate_shard(
        workspace_of(chosen, store), list_annotators(chosen)[:1], "scenes-00000"
    )  # as if a kill had come after it
    assert count_left(chosen, store) == {"reader": 3}
    annotate_all(chosen, store)
    assert list_asked_images("reader") == list_names(store)[:3] and count_left(chosen, store) == {}


def test_an_answer_that_is_an_error_is_an_answer(store: Store):
    class NotListedError(FlorenceError):
        pass

    BEFORE["a"] = fail_images(list_names(store), NotListedError("this data set does not know the image"))
    chosen = make_settings({"a": annotator_section()})
    assert annotate_all(chosen, store)["a"].left == 0 and count_left(chosen, store) == {}
    assert {row["error"] for row in read_coverage(store, "a").values()} == {
        "NotListedError: this data set does not know the image"
    }


def test_answers_that_are_too_few_are_an_error(store: Store):
    BEFORE["a"] = lambda self, batch: (
        self.claims_of(batch)[:-1] if list_names(store)[0] in [r.name for r in batch.records] else None
    )
    annotate_all(make_settings({"a": annotator_section(batch_size=4)}), store)
    assert {name: row["error"] for name, row in read_coverage(store, "a").items() if row["error"]} == {
        list_names(store)[0]: "ValueError: 0 answers about 1 images"
    }


def test_claims_that_cannot_be_stored_cost_their_image(store: Store):
    from florence.records import Claim

    BEFORE["a"] = lambda self, batch: [
        [Claim("<CAPTION>", object())] if r.name == list_names(store)[1] else claims
        for r, claims in zip(batch.records, self.claims_of(batch), strict=True)
    ]  # type: ignore[arg-type]
    annotate_all(make_settings({"a": annotator_section()}), store)
    assert [name for name, row in read_coverage(store, "a").items() if row["error"]] == [list_names(store)[1]]


@pytest.mark.parametrize("error", [MemoryError(), type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")])
def test_too_little_memory_makes_batches_smaller(store: Store, error: Exception):
    def before(self, batch):
        if len(batch.records) > 2:
            raise error

    BEFORE["a"] = before
    assert annotate_all(make_settings({"a": annotator_section(batch_size=8)}), store)["a"].left == 0
    assert [len(images) for _, images in CALLS] == [8, 4, 2, 2, 2, 2, 2] and list_asked_images("a")[-10:] == list_names(
        store
    )
    assert not any(row["error"] for row in read_coverage(store, "a").values())


def test_too_little_memory_for_one_image_ends_the_annotators_work(store: Store):
    BEFORE["a"] = raise_at(MemoryError("full"), list_names(store)[3:4])
    found = annotate_all(make_settings({"a": annotator_section(batch_size=2), "b": annotator_section()}), store)
    assert found["a"].left == 7 and found["a"].retryable and "full" in found["a"].error and found["b"].left == 0


def test_an_image_that_cannot_be_decoded_costs_itself_alone(store: Store):
    (file,) = store.names("images")
    table = store.read_table(file)
    data = table["bytes"].to_pylist()
    data[3] = data[3][: len(data[3]) // 2]
    store.write_table(
        file, table.set_column(table.column_names.index("bytes"), IMAGES.field("bytes"), pa.array(data, pa.binary()))
    )
    annotate_all(make_settings({"a": annotator_section(batch_size=4), "blind": annotator_section(needs=[])}), store)
    rows = read_coverage(store, "a")
    assert (
        len(rows) == 10
        and "truncated" in rows[list_names(store)[3]]["error"]
        and list_names(store)[3] not in list_asked_images("a")
    )
    assert not any(row["error"] for row in read_coverage(store, "blind").values())
