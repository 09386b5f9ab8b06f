"""Annotation on real stores, shard by shard: who is asked, in which order, and about how many images at once."""

from __future__ import annotations

from pathlib import Path

import fake_annotators
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotation_runs import (
    SCENES,
    annotate_all,
    count_left,
    fail_images,
    list_names,
    make_settings,
    read_written,
)
from fake_annotators import BEFORE, CALLS, LOADS, annotator_section, list_asked_images
from workspaces import workspace_of

from florence.config import settings_from
from florence.errors import SettingsError, UnavailableError
from florence.records import table_annotations
from florence.store import GROUP, Store
from florence.workspace.annotate import list_annotators
from florence.workspace.collect import collect_images

pytestmark = pytest.mark.usefixtures("fake_annotator")


# ---------------------------------------------------------------- who is asked


def test_no_annotator_is_asked_twice_and_a_new_one_is_asked_alone(store: Store):
    two = {
        "a": annotator_section(batch_size=4),
        "b": annotator_section(needs=[]),
        "reader": annotator_section(needs=["claims"], depends_on=["a", "b"]),
    }
    annotate_all(make_settings(two), store)
    assert {name: len(list_asked_images(name)) for name in two} == {"a": 10, "b": 10, "reader": 10} and count_left(
        make_settings(two), store
    ) == {}
    before = read_written(store)
    fake_annotators.forget_calls()
    assert annotate_all(make_settings(two), store) == {} and CALLS == LOADS == []
    three = make_settings({**two, "new": annotator_section()})
    assert count_left(three, store) == {"new": 10}
    assert annotate_all(three, store)["new"].images == 10
    assert {annotator for annotator, _ in CALLS} == {annotator for annotator, _ in LOADS} == {"new"}
    assert {name: data for name, data in read_written(store).items() if "/new@" not in name} == before


def test_an_annotator_that_depends_on_all_depends_on_a_new_one_too(store: Store):
    annotate_all(make_settings({"a": annotator_section(), "reader": annotator_section(needs=["claims"])}), store)
    fake_annotators.forget_calls()
    annotate_all(
        make_settings(
            {"a": annotator_section(), "reader": annotator_section(needs=["claims"]), "b": annotator_section()}
        ),
        store,
    )
    assert {annotator for annotator, _ in CALLS} == {"b", "reader"}


def test_an_annotator_is_given_the_claims_of_its_dependencies_in_order(store: Store):
    chosen = make_settings(
        {
            "late": annotator_section(needs=["claims", "pixels"], depends_on=["*", "!b"]),
            "last": annotator_section(needs=["claims"], depends_on=["late", "c"]),
            "c": annotator_section(needs=["truth"]),
            "b": annotator_section(needs=[]),
            "a": annotator_section(needs=[]),
        }
    )
    assert [(a.name, a.depends_on) for a in list_annotators(chosen)] == [
        ("c", ()),
        ("b", ()),
        ("a", ()),
        ("late", ("c", "a")),
        ("last", ("c", "late")),
    ]
    annotate_all(chosen, store)
    rows = table_annotations(store.read_table(store.names("claims/" + list_annotators(chosen)[-1].key)[0]))
    name = list_names(store)[0]
    late = f"late of {name} after (c: c of {name}; a: a of {name})"
    assert rows[0].text == f"last of {name} after (c: c of {name}; late: {late}; late: thing)"


@pytest.mark.parametrize(
    ("reads", "fault"),
    [
        (["nobody"], "there is no annotator 'nobody'; those before it: a, early"),
        (["!nobody"], "no annotator 'nobody'"),
        (["me"], "cannot read its own"),
        (["later"], "later comes after it"),
        (["*", "!later"], "later comes after it"),
        (["a", "!*"], "no annotator '\\*'"),
    ],
)
def test_a_dependency_that_is_impossible_is_refused_by_name(reads: list[str], fault: str):
    with pytest.raises(SettingsError, match=rf"annotators\.me\.depends_on: .*{fault}"):
        list_annotators(
            make_settings(
                {
                    "early": annotator_section(needs=["claims"], depends_on=[]),
                    "me": annotator_section(needs=["claims"], depends_on=reads),
                    "later": annotator_section(needs=["claims"]),
                    "a": annotator_section(),
                }
            )
        )


def test_an_annotator_that_needs_no_claims_has_no_dependencies():
    with pytest.raises(SettingsError, match="annotators.b.depends_on: b reads no claims"):
        list_annotators(make_settings({"a": annotator_section(), "b": annotator_section(depends_on=["a"])}))


def test_a_version_covers_exactly_its_dependencies():
    def version(**sections) -> str:
        return {a.name: a.version for a in list_annotators(make_settings(sections))}["reader"]

    reader = annotator_section(needs=["claims"], depends_on=["a"])
    first = version(a=annotator_section(), b=annotator_section(), reader=reader)
    assert (
        version(a=annotator_section(), b=annotator_section(note="other"), reader=reader)
        == first
        == version(a=annotator_section(), reader=reader)
    )
    assert version(a=annotator_section(note="other"), b=annotator_section(), reader=reader) != first
    assert version(a=annotator_section(), b=annotator_section(), reader={**reader, "depends_on": ["*"]}) != first


def test_the_device_is_set_before_loading_and_is_no_part_of_the_version(store: Store):
    chosen = [make_settings({"a": annotator_section(device=device)}) for device in ("cuda:1", "cpu")]
    annotate_all(chosen[0], store)
    assert LOADS == [("a", "cuda:1")]
    assert list_annotators(chosen[0]) == list_annotators(chosen[1])


# ---------------------------------------------------------------- speed and memory


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    from florence.workspace.annotate import chunks

    found: list[str] = []
    decode = chunks.decode_image

    def counted(data, name, **more):
        found.append(name)
        return decode(data, name, **more)

    monkeypatch.setattr(chunks, "decode_image", counted)
    return found


def test_an_image_is_decoded_once_for_all(store: Store, decoded: list[str]):
    annotate_all(
        make_settings(
            {
                "a": annotator_section(batch_size=3),
                "b": annotator_section(batch_size=4),
                "reader": annotator_section(needs=["claims", "pixels"], batch_size=1),
                "c": annotator_section(needs=["truth"]),
            }
        ),
        store,
    )
    assert decoded == list_names(store)


def test_nothing_is_decoded_for_an_annotator_that_needs_no_pixels(store: Store, decoded: list[str]):
    annotate_all(
        make_settings({"a": annotator_section(needs=["truth"]), "reader": annotator_section(needs=["claims"])}), store
    )
    assert decoded == [] and len(list_asked_images("reader")) == 10


def test_only_what_is_missing_is_decoded(store: Store, decoded: list[str]):
    chosen, missing = (
        make_settings({"a": annotator_section(batch_size=3), "b": annotator_section()}),
        list_names(store)[4:6],
    )
    BEFORE["a"] = fail_images(missing, UnavailableError("later"))
    annotate_all(chosen, store)
    fake_annotators.forget_calls()
    decoded.clear()
    annotate_all(chosen, store)
    assert decoded == list_asked_images("a") == missing and list_asked_images("b") == []


def test_batches_are_full_whatever_the_others_are_given_at_once(store: Store):
    annotate_all(
        make_settings({"small": annotator_section(batch_size=3), "large": annotator_section(batch_size=8)}), store
    )
    assert [len(images) for annotator, images in CALLS if annotator == "large"] == [8, 2]
    assert [len(images) for annotator, images in CALLS if annotator == "small"] == [3, 3, 3, 1]


def test_chunks_are_bounded_by_pixels(store: Store, monkeypatch):
    import florence.workspace.annotate.chunks

    monkeypatch.setattr(florence.workspace.annotate.chunks, "PIXELS", 4 * 64 * 64 + 1)
    annotate_all(
        make_settings({"a": annotator_section(batch_size=8), "blind": annotator_section(needs=[], batch_size=8)}), store
    )
    assert [len(images) for annotator, images in CALLS if annotator == "a"] == [4, 4, 2]
    monkeypatch.setattr(florence.workspace.annotate.chunks, "PIXELS", 1)
    annotate_all(
        make_settings(
            {
                "a": annotator_section(batch_size=8, note="again"),
                "blind": annotator_section(needs=[], batch_size=8, note="again"),
            }
        ),
        store,
    )
    assert [len(images) for annotator, images in CALLS if annotator == "a"][3:] == [1] * 10


def test_missing_images_are_counted_without_reading_tables(store: Store, monkeypatch):
    chosen = make_settings(
        {
            "a": annotator_section(),
            "b": annotator_section(),
            "reader": annotator_section(needs=["claims"], depends_on=["a"]),
            "elsewhere": annotator_section(sources=["other"]),
        }
    )
    BEFORE["a"] = fail_images(list_names(store)[:3], UnavailableError("later"))
    annotate_all(chosen, store)
    monkeypatch.setattr(Store, "read_table", None)
    assert count_left(chosen, store) == {"a": 3, "reader": 3}, "the reader waits for one that is required"


def test_images_are_read_a_few_at_a_time(tmp_path: Path):
    collect_images(
        workspace_of(
            settings_from({"sources": {"scenes": {**SCENES["scenes"], "count": 40}}, "annotators": {}}),
            store := Store(str(tmp_path)),
        )
    )
    (name,) = store.names("images")
    batches = list(store.read_batches(name, ["name", "bytes"]))
    assert [len(batch) for batch in batches] == [GROUP, GROUP, 40 - 2 * GROUP] and pq.read_metadata(
        tmp_path / name
    ).num_row_groups == 3
    assert pa.Table.from_batches(batches).equals(store.read_table(name, ["name", "bytes"]))
