"""Annotation on real stores, shard by shard: who is asked, what a failure costs, that a killed run ends the same."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import fake_annotators
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_annotators import BEFORE, CALLS, LOADS, ON_LOAD, annotator_section, asked_images
from workspaces import workspace_of

from florence.config import Settings, settings_from
from florence.errors import FlorenceError, ModelError, SettingsError, StoreError, UnavailableError
from florence.records import IMAGES, AnnotatorProfile, table_annotations
from florence.services.usage import Usage
from florence.store import GROUP, Store
from florence.workspace.annotate import annotate_shard, count_missing, list_annotators, read_profiles, read_usage, shard
from florence.workspace.collect import collect_images
from florence.workspace.fuse import fuse_round
from florence.workspace.layout import list_shards
from florence.workspace.publish import publish_snapshot, restore_store

SCENES = {"scenes": {"use": "scenes", "count": 10, "size": 64}}
ROOT = Path(__file__).parents[1]
NANO = str(ROOT / "florence/model/nano")


@pytest.fixture(autouse=True)
def _registered():
    with fake_annotators.fake_annotator_registered():
        yield


def settings(annotators: dict, size: int = 10, **more) -> Settings:
    return settings_from({"sources": SCENES, "annotators": annotators, "collect": {"shard": size}, **more})


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> Path:
    """A store of 10 scenes in one shard."""
    folder = tmp_path_factory.mktemp("collected")
    collect_images(workspace_of(settings({}), Store(str(folder))))
    return folder


@pytest.fixture
def store(collected: Path, tmp_path: Path) -> Store:
    return copied(collected, tmp_path / "store")


def copied(collected: Path, folder: Path) -> Store:
    import shutil

    shutil.copytree(collected, folder)
    return Store(str(folder))


def run(chosen: Settings, store: Store, **more) -> dict:
    """Every shard, as a flow would; annotator → its last outcome."""
    outcomes = {}
    for name in list_shards(store):
        outcomes |= {
            o.annotator: o for o in annotate_shard(workspace_of(chosen, store), list_annotators(chosen), name, **more)
        }
    return outcomes


def written(store: Store) -> dict[str, bytes]:
    return {
        name: store.read_bytes(name) for folder in ("claims", "coverage", "annotators") for name in store.names(folder)
    }


def names(store: Store) -> list[str]:
    return store.read_tables("images", IMAGES, ["name"])["name"].to_pylist()


def coverage(store: Store, name: str) -> dict[str, dict]:
    by_id = dict(
        zip(
            *(store.read_tables("images", IMAGES, ["image_id", "name"])[c].to_pylist() for c in ("image_id", "name")),
            strict=True,
        )
    )
    return {
        by_id[row["image_id"]]: row
        for file in store.names("coverage")
        if f"/{name}@" in file
        for row in store.read_table(file).to_pylist()
    }


def left(chosen: Settings, store: Store) -> dict[str, int]:
    return {
        name: sum(shards.values())
        for name, shards in count_missing(workspace_of(chosen, store), list_annotators(chosen)).items()
        if shards
    }


def unless(images, error: Exception):
    """Answers every image but ``images``, and those with ``error``."""
    return lambda self, batch: [
        error if r.name in images else said for r, said in zip(batch.records, self.claims_of(batch), strict=True)
    ]


def raising(error: BaseException, images=None):
    def before(self, batch):
        if images is None or set(images) & {r.name for r in batch.records}:
            raise error

    return before


# ---------------------------------------------------------------- who is asked


def test_no_annotator_is_asked_twice_and_a_new_one_is_asked_alone(store: Store):
    two = {
        "a": annotator_section(batch_size=4),
        "b": annotator_section(needs=[]),
        "reader": annotator_section(needs=["claims"], depends_on=["a", "b"]),
    }
    run(settings(two), store)
    assert {name: len(asked_images(name)) for name in two} == {"a": 10, "b": 10, "reader": 10} and left(
        settings(two), store
    ) == {}
    before = written(store)
    fake_annotators.forget_calls()
    assert run(settings(two), store) == {} and CALLS == LOADS == []
    three = settings({**two, "new": annotator_section()})
    assert left(three, store) == {"new": 10}
    assert run(three, store)["new"].images == 10
    assert {annotator for annotator, _ in CALLS} == {annotator for annotator, _ in LOADS} == {"new"}
    assert {name: data for name, data in written(store).items() if "/new@" not in name} == before


def test_an_annotator_that_depends_on_all_depends_on_a_new_one_too(store: Store):
    run(settings({"a": annotator_section(), "reader": annotator_section(needs=["claims"])}), store)
    fake_annotators.forget_calls()
    run(
        settings({"a": annotator_section(), "reader": annotator_section(needs=["claims"]), "b": annotator_section()}),
        store,
    )
    assert {annotator for annotator, _ in CALLS} == {"b", "reader"}


def test_an_annotator_is_given_the_claims_of_its_dependencies_in_order(store: Store):
    chosen = settings(
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
    run(chosen, store)
    rows = table_annotations(store.read_table(store.names("claims/" + list_annotators(chosen)[-1].key)[0]))
    name = names(store)[0]
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
            settings(
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
        list_annotators(settings({"a": annotator_section(), "b": annotator_section(depends_on=["a"])}))


def test_a_version_covers_exactly_its_dependencies():
    def version(**sections) -> str:
        return {a.name: a.version for a in list_annotators(settings(sections))}["reader"]

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
    chosen = [settings({"a": annotator_section(device=device)}) for device in ("cuda:1", "cpu")]
    run(chosen[0], store)
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
    run(
        settings(
            {
                "a": annotator_section(batch_size=3),
                "b": annotator_section(batch_size=4),
                "reader": annotator_section(needs=["claims", "pixels"], batch_size=1),
                "c": annotator_section(needs=["truth"]),
            }
        ),
        store,
    )
    assert decoded == names(store)


def test_nothing_is_decoded_for_an_annotator_that_needs_no_pixels(store: Store, decoded: list[str]):
    run(settings({"a": annotator_section(needs=["truth"]), "reader": annotator_section(needs=["claims"])}), store)
    assert decoded == [] and len(asked_images("reader")) == 10


def test_only_what_is_missing_is_decoded(store: Store, decoded: list[str]):
    chosen, missing = settings({"a": annotator_section(batch_size=3), "b": annotator_section()}), names(store)[4:6]
    BEFORE["a"] = unless(missing, UnavailableError("later"))
    run(chosen, store)
    fake_annotators.forget_calls()
    decoded.clear()
    run(chosen, store)
    assert decoded == asked_images("a") == missing and asked_images("b") == []


def test_batches_are_full_whatever_the_others_are_given_at_once(store: Store):
    run(settings({"small": annotator_section(batch_size=3), "large": annotator_section(batch_size=8)}), store)
    assert [len(images) for annotator, images in CALLS if annotator == "large"] == [8, 2]
    assert [len(images) for annotator, images in CALLS if annotator == "small"] == [3, 3, 3, 1]


def test_chunks_are_bounded_by_pixels(store: Store, monkeypatch):
    import florence.workspace.annotate.chunks

    monkeypatch.setattr(florence.workspace.annotate.chunks, "PIXELS", 4 * 64 * 64 + 1)
    run(settings({"a": annotator_section(batch_size=8), "blind": annotator_section(needs=[], batch_size=8)}), store)
    assert [len(images) for annotator, images in CALLS if annotator == "a"] == [4, 4, 2]
    monkeypatch.setattr(florence.workspace.annotate.chunks, "PIXELS", 1)
    run(
        settings(
            {
                "a": annotator_section(batch_size=8, note="again"),
                "blind": annotator_section(needs=[], batch_size=8, note="again"),
            }
        ),
        store,
    )
    assert [len(images) for annotator, images in CALLS if annotator == "a"][3:] == [1] * 10


def test_missing_images_are_counted_without_reading_tables(store: Store, monkeypatch):
    chosen = settings(
        {
            "a": annotator_section(),
            "b": annotator_section(),
            "reader": annotator_section(needs=["claims"], depends_on=["a"]),
            "elsewhere": annotator_section(sources=["other"]),
        }
    )
    BEFORE["a"] = unless(names(store)[:3], UnavailableError("later"))
    run(chosen, store)
    monkeypatch.setattr(Store, "read_table", None)
    assert left(chosen, store) == {"a": 3, "reader": 3}, "the reader waits for one that is required"


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


# ---------------------------------------------------------------- what a failure costs


def test_a_bad_image_costs_itself_alone(store: Store):
    bad = names(store)[2]
    BEFORE["a"] = raising(RuntimeError("out of order"), [bad])
    found = run(settings({"a": annotator_section(batch_size=4), "b": annotator_section()}), store)
    rows = coverage(store, "a")
    assert {name: row["error"] for name, row in rows.items() if row["error"]} == {
        bad: "RuntimeError: out of order"
    } and len(rows) == 10
    assert [len(images) for annotator, images in CALLS if annotator == "a"] == [4, 1, 1, 1, 1, 4, 2]
    assert (found["a"].left, found["a"].error, found["b"].left) == (0, "", 0)


def test_a_bad_image_at_the_start_is_settled_once_others_are_answered(store: Store):
    bad = names(store)[:4]
    BEFORE["a"] = raising(RuntimeError("out of order"), bad)
    chosen = settings(
        {"a": annotator_section(batch_size=2), "reader": annotator_section(needs=["claims", "pixels"], batch_size=2)}
    )
    run(chosen, store)
    assert {name for name, row in coverage(store, "a").items() if row["error"]} == set(bad)
    assert sorted(asked_images("reader")) == sorted(names(store)), "once each, and with what came of those before it"
    assert left(chosen, store) == {} and not any(row["unread"] for row in coverage(store, "reader").values())


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
def test_what_was_raised_on_purpose_is_not_tried_again_at_once(store: Store, error: Exception, again: bool):
    ON_LOAD["a"] = raising_on_load(error)
    found = run(settings({"a": annotator_section(), "b": annotator_section()}), store)
    assert (found["a"].left, found["a"].retryable, found["b"].left) == (10, again, 0) and (
        str(error) or type(error).__name__
    ) in found["a"].error


def test_claims_that_cannot_be_read_are_no_annotators_failure(store: Store):
    run(settings({"a": annotator_section(needs=[])}), store)
    (file,) = store.names("claims")
    store.write_bytes(file, b"not a table")
    with pytest.raises(StoreError, match=f"{file}.*not a Parquet file"):
        run(settings({"a": annotator_section(needs=[]), "reader": annotator_section(needs=["claims"])}), store)
    assert CALLS[1:] == []


@pytest.mark.parametrize("how", ["raised", "load", "crash", "answered"])
def test_an_annotator_that_fails_costs_its_own_claims(store: Store, how: str):
    if how == "raised":
        BEFORE["a"] = raising(UnavailableError("the service is down"))
    elif how == "crash":
        BEFORE["a"] = raising(RuntimeError("the service is down"))
    elif how == "answered":
        BEFORE["a"] = unless(names(store), UnavailableError("the service is down"))
    else:
        ON_LOAD["a"] = raising_on_load(RuntimeError("the service is down"))
    chosen = settings(
        {
            "a": annotator_section(required=False),
            "b": annotator_section(),
            "reader": annotator_section(needs=["claims"], depends_on=["a", "b"]),
        }
    )
    found = run(chosen, store)
    assert found["a"].left == 10 and found["a"].images == 0 and "the service is down" in found["a"].error
    assert found["a"].retryable == (how in ("load", "crash"))
    assert not store.names("coverage/" + list_annotators(chosen)[0].key)
    assert len(coverage(store, "b")) == len(coverage(store, "reader")) == 10
    assert left(chosen, store) == {"a": 10}
    fake_annotators.forget_calls()
    run(chosen, store)
    assert (len(asked_images("a")), len(asked_images("b")), len(asked_images("reader"))) == (10, 0, 10), (
        "who read without it is asked again"
    )
    assert left(chosen, store) == {} and not any(row["unread"] for row in coverage(store, "reader").values())
    other = copied(Path(store.root), Path(store.root).parent / "other")
    for folder in ("claims", "coverage", "annotators"):
        other.delete(folder)
    run(chosen, other)
    assert written(other) == written(store)


def raising_on_load(error: Exception):
    def load(self):
        raise error

    return load


def test_dependents_wait_for_an_annotator_that_is_required(store: Store):
    chosen = settings({"a": annotator_section(), "reader": annotator_section(needs=["claims"])})
    BEFORE["a"] = raising(UnavailableError("down"))
    found = run(chosen, store)
    assert asked_images("reader") == [] and found["reader"].error == "waits for a" and found["reader"].left == 10


def test_dependents_wait_for_an_annotator_that_is_tried_again(store: Store):
    chosen = settings({"a": annotator_section(required=False), "reader": annotator_section(needs=["claims"])})
    BEFORE["a"] = raising(RuntimeError("not yet"))
    assert run(chosen, store, will_retry=True)["a"].retryable and asked_images("reader") == []
    run(chosen, store)
    assert len(asked_images("reader")) == 10


def test_dependents_of_dependents_are_asked_again_too(store: Store):
    chosen = settings(
        {
            "a": annotator_section(required=False),
            "second": annotator_section(needs=["claims"], depends_on=["a"]),
            "third": annotator_section(needs=["claims"], depends_on=["second"]),
        }
    )
    BEFORE["a"] = raising(UnavailableError("down"))
    run(chosen, store)
    assert left(chosen, store) == {"a": 10} and coverage(store, "third")[names(store)[0]]["unread"] == "a"
    fake_annotators.forget_calls()
    run(chosen, store)
    name = names(store)[0]
    assert (
        f"third of {name} after (second: second of {name} after (a: a of {name}"
        in table_annotations(store.read_table(store.names("claims/" + list_annotators(chosen)[2].key)[0]))[0].text
    )
    assert left(chosen, store) == {}
    fake_annotators.forget_calls()
    assert run(chosen, store) == {} and CALLS == []


def test_a_dependent_whose_dependency_has_caught_up_is_missing_something(store: Store):
    chosen = settings(
        {
            "a": annotator_section(required=False),
            "reader": annotator_section(needs=["claims"]),
            "b": annotator_section(),
        }
    )
    BEFORE["a"] = unless(names(store)[:3], UnavailableError("later"))
    run(chosen, store)
    assert left(chosen, store) == {"a": 3}
    fake_annotators.forget_calls()
    annotate_shard(
        workspace_of(chosen, store), list_annotators(chosen)[:1], "scenes-00000"
    )  # as if a kill had come after it
    assert left(chosen, store) == {"reader": 3}
    run(chosen, store)
    assert asked_images("reader") == names(store)[:3] and left(chosen, store) == {}


def test_an_answer_that_is_an_error_is_an_answer(store: Store):
    class NotListedError(FlorenceError):
        pass

    BEFORE["a"] = unless(names(store), NotListedError("this data set does not know the image"))
    chosen = settings({"a": annotator_section()})
    assert run(chosen, store)["a"].left == 0 and left(chosen, store) == {}
    assert {row["error"] for row in coverage(store, "a").values()} == {
        "NotListedError: this data set does not know the image"
    }


def test_answers_that_are_too_few_are_an_error(store: Store):
    BEFORE["a"] = lambda self, batch: (
        self.claims_of(batch)[:-1] if names(store)[0] in [r.name for r in batch.records] else None
    )
    run(settings({"a": annotator_section(batch_size=4)}), store)
    assert {name: row["error"] for name, row in coverage(store, "a").items() if row["error"]} == {
        names(store)[0]: "ValueError: 0 answers about 1 images"
    }


def test_claims_that_cannot_be_stored_cost_their_image(store: Store):
    from florence.records import Claim

    BEFORE["a"] = lambda self, batch: [
        [Claim("<CAPTION>", object())] if r.name == names(store)[1] else said
        for r, said in zip(batch.records, self.claims_of(batch), strict=True)
    ]  # type: ignore[arg-type]
    run(settings({"a": annotator_section()}), store)
    assert [name for name, row in coverage(store, "a").items() if row["error"]] == [names(store)[1]]


@pytest.mark.parametrize("error", [MemoryError(), type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")])
def test_too_little_memory_makes_batches_smaller(store: Store, error: Exception):
    def before(self, batch):
        if len(batch.records) > 2:
            raise error

    BEFORE["a"] = before
    assert run(settings({"a": annotator_section(batch_size=8)}), store)["a"].left == 0
    assert [len(images) for _, images in CALLS] == [8, 4, 2, 2, 2, 2, 2] and asked_images("a")[-10:] == names(store)
    assert not any(row["error"] for row in coverage(store, "a").values())


def test_too_little_memory_for_one_image_ends_the_annotators_work(store: Store):
    BEFORE["a"] = raising(MemoryError("full"), names(store)[3:4])
    found = run(settings({"a": annotator_section(batch_size=2), "b": annotator_section()}), store)
    assert found["a"].left == 7 and found["a"].retryable and "full" in found["a"].error and found["b"].left == 0


def test_an_image_that_cannot_be_decoded_costs_itself_alone(store: Store):
    (file,) = store.names("images")
    table = store.read_table(file)
    data = table["bytes"].to_pylist()
    data[3] = data[3][: len(data[3]) // 2]
    store.write_table(
        file, table.set_column(table.column_names.index("bytes"), IMAGES.field("bytes"), pa.array(data, pa.binary()))
    )
    run(settings({"a": annotator_section(batch_size=4), "blind": annotator_section(needs=[])}), store)
    rows = coverage(store, "a")
    assert (
        len(rows) == 10 and "truncated" in rows[names(store)[3]]["error"] and names(store)[3] not in asked_images("a")
    )
    assert not any(row["error"] for row in coverage(store, "blind").values())


# ---------------------------------------------------------------- broken off, and gone on with


KILLED = """
import os, signal, sys
import fake_annotators
from florence.config import settings_from
from florence.store import Store
from florence.workspace.annotate import annotate_shard, list_annotators, shard
from workspaces import workspace_of

uri, values, name = eval(sys.argv[1])
shard.EVERY = 0
def before(self, batch):
    if name in [record.name for record in batch.records]:
        os.kill(os.getpid(), signal.SIGKILL)
with fake_annotators.fake_annotator_registered():
    fake_annotators.BEFORE["b"] = before
    chosen = settings_from(values)
    annotate_shard(workspace_of(chosen, Store(uri)), list_annotators(chosen), "scenes-00000")
"""


def test_killed_in_the_middle_it_ends_with_the_same_bytes(store: Store, collected: Path, tmp_path: Path):
    chosen = settings(
        {
            "a": annotator_section(batch_size=2, price=7),
            "b": annotator_section(batch_size=2, needs=["truth"]),
            "reader": annotator_section(needs=["claims", "pixels"], batch_size=1),
        }
    )
    values = chosen.model_dump(mode="json")
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, repr((store.uri, values, names(store)[7]))],
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == -9, done.stderr
    assert left(chosen, store) == {"a": 2, "b": 4, "reader": 4} and read_usage(
        store, list_annotators(chosen)[0]
    ) == Usage(4, 56, pytest.approx(0.056))
    run(chosen, store)
    assert (asked_images("a"), asked_images("b")) == (names(store)[8:], names(store)[6:])
    assert read_usage(store, list_annotators(chosen)[0]) == Usage(5, 70, pytest.approx(0.07))
    whole = copied(collected, tmp_path / "whole")
    run(chosen, whole)
    assert written(whole) == written(store)


def test_what_a_killed_write_left_behind_is_dropped(store: Store):
    chosen = settings({"a": annotator_section(), "b": annotator_section(needs=[])})
    run(chosen, store)
    before, annotator = written(store), list_annotators(chosen)[0]
    file = store.names("coverage/" + annotator.key)[0]
    store.write_table(file, store.read_table(file).slice(0, 4))
    BEFORE["a"] = raising(UnavailableError("down"))
    run(chosen, store)
    claims = store.read_table(file.replace("coverage/", "claims/"))
    assert (
        set(claims["image_id"].to_pylist()) == set(store.read_table(file)["image_id"].to_pylist()) and len(claims) == 8
    )
    store.delete(file)
    run(chosen, store)
    assert len(store.read_table(file.replace("coverage/", "claims/"))) == 0
    fake_annotators.forget_calls()
    run(chosen, store)
    assert written(store) == before


def test_claims_are_written_while_a_shard_is_annotated(store: Store, monkeypatch):
    chosen = settings({"a": annotator_section(batch_size=2)})
    monkeypatch.setattr(shard, "EVERY", 0.0)
    seen = []
    BEFORE["a"] = lambda self, batch: seen.append(left(chosen, store).get("a"))
    run(chosen, store)
    assert seen == [10, 8, 6, 4, 2]


def test_an_exception_from_outside_keeps_the_claims(store: Store):
    chosen = settings({"a": annotator_section(batch_size=2)})
    BEFORE["a"] = raising(KeyboardInterrupt(), names(store)[6:7])
    with pytest.raises(KeyboardInterrupt):
        run(chosen, store)
    assert left(chosen, store) == {"a": 4}


def test_a_store_that_is_no_folder_holds_the_same(store: Store, tmp_path: Path):
    chosen, remote = (
        settings({"a": annotator_section(batch_size=3), "reader": annotator_section(needs=["claims"])}),
        Store(f"memory://{tmp_path.name}"),
    )
    for name in store.names(""):
        remote.write_bytes(name, store.read_bytes(name))
    BEFORE["a"] = unless(names(store)[:3], UnavailableError("later"))
    run(chosen, remote)
    assert left(chosen, remote) == {"a": 3, "reader": 3}
    fake_annotators.forget_calls()
    run(chosen, remote)
    run(chosen, store)
    assert left(chosen, remote) == {} and written(remote) == written(store)


def test_coverage_that_has_grown_is_published_again(store: Store, tmp_path: Path):
    chosen, data = settings({"a": annotator_section(), "b": annotator_section()}), Store(str(tmp_path / "data"))
    BEFORE["a"] = unless(names(store)[5:], UnavailableError("later"))
    run(chosen, store)
    annotators = list_annotators(chosen)
    fuse_round(workspace_of(chosen, store), annotators, 0)
    publish_snapshot(workspace_of(chosen, store, data), annotators, 0)
    assert len(data.read_tables("coverage/" + annotators[0].key, pa.schema([]))) == 5
    fake_annotators.forget_calls()
    run(chosen, store)
    fuse_round(workspace_of(chosen, store), annotators, 1)
    publish_snapshot(workspace_of(chosen, store, data), annotators, 1)
    assert written(data) == written(store) and any(name.startswith("annotators/a@") for name in written(data))
    again = Store(str(tmp_path / "again"))
    restore_store(workspace_of(store=again, data=data))
    fake_annotators.forget_calls()
    assert run(chosen, again) == {} and CALLS == [] and written(again) == written(store)


def test_a_file_of_the_same_size_is_copied_where_it_can_have_changed(tmp_path: Path):
    ours, theirs = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    ours.write_bytes("x", b"old")
    theirs.write_bytes("x", b"new")
    ours.copy_in(theirs, "x")
    assert ours.read_bytes("x") == b"old"
    ours.copy_in(theirs, "x", grows=True)
    assert ours.read_bytes("x") == b"new"


def test_coverage_of_before_there_was_a_column_is_read(store: Store):
    chosen = settings({"a": annotator_section(), "b": annotator_section()})
    run(chosen, store)
    file = store.names("coverage/" + list_annotators(chosen)[0].key)[0]
    store.write_table(file, store.read_table(file).drop_columns(["unread"]))
    assert left(chosen, store) == {} and run(chosen, store) == {}
    assert len(fuse_round(workspace_of(chosen, store), list_annotators(chosen), 0))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_fails_for_a_while_the_end_is_the_same(
    collected: Path, store: Store, tmp_path: Path, monkeypatch, seed: int
):
    rng = random.Random(seed)
    sections = {
        "a": annotator_section(batch_size=rng.randint(1, 4), required=rng.random() < 0.5),
        "b": annotator_section(batch_size=3, needs=["truth"], required=False),
        "reader": annotator_section(
            needs=["claims", "pixels"], batch_size=2, required=False, depends_on=rng.choice([["*"], ["a"]])
        ),
        "second": annotator_section(needs=["claims"], depends_on=["*"] if rng.random() < 0.5 else ["reader"]),
    }
    chosen = settings(sections)
    monkeypatch.setattr(shard, "EVERY", rng.choice([0.0, 30.0]))
    for attempt in range(3):
        fake_annotators.forget_calls()
        for name in sections:
            some = rng.sample(names(store), rng.randint(1, 9))
            how = rng.choice(
                [
                    None,
                    unless(some, UnavailableError("later")),
                    raising(UnavailableError("down"), some),
                    raising(MemoryError(), some),
                    raising(KeyboardInterrupt(), some),
                ]
            )
            if how is not None:
                BEFORE[name] = how
        try:
            run(chosen, store, will_retry=attempt == 1)
        except KeyboardInterrupt:
            pass
    fake_annotators.forget_calls()
    run(chosen, store)
    assert left(chosen, store) == {}
    fake_annotators.forget_calls()
    assert run(chosen, store) == {} and CALLS == []
    whole = copied(collected, tmp_path / "whole")
    run(chosen, whole)
    assert written(whole) == written(store)


# ---------------------------------------------------------------- what it costs, what it declares


def test_usage_is_kept_and_known_to_the_next_run(store: Store):
    chosen = settings({"a": annotator_section(batch_size=4, price=5)})
    BEFORE["a"] = unless(names(store)[8:], UnavailableError("the budget is spent"))
    run(chosen, store)
    annotator = list_annotators(chosen)[0]
    assert read_usage(store, annotator) == Usage(3, 50, 0.05)
    fake_annotators.forget_calls()
    known = []
    BEFORE["a"] = lambda self, batch: known.append(self.usage.tokens)
    run(chosen, store)
    assert known == [60] and read_usage(store, annotator) == Usage(4, 60, pytest.approx(0.06))


def test_what_a_failing_call_has_cost_is_counted(store: Store):
    BEFORE["a"] = raising(UnavailableError("down"))
    chosen = settings({"a": annotator_section(batch_size=4, price=5)})
    run(chosen, store)
    assert read_usage(store, list_annotators(chosen)[0]) == Usage(1, 20, 0.02)


def test_annotators_declare_themselves(store: Store):
    chosen = settings(
        {
            "a": annotator_section(words=["dog", "cat"], device="cpu", batch_size=3),
            "judge": annotator_section(role="ranker", needs=["claims"]),
        }
    )
    run(chosen, store)
    annotators = list_annotators(chosen)
    assert read_profiles(store, annotators) == (
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
    assert read_profiles(store, list_annotators(settings({"b": annotator_section(words=["x"])}))) == (
        AnnotatorProfile("b"),
    )


def test_an_annotator_without_a_vocabulary_costs_its_own_claims(store: Store, monkeypatch):
    def vocabulary(self):
        if self.name == "a":
            raise ModelError("the hub is not reached")

    monkeypatch.setattr(fake_annotators.FakeAnnotator, "vocabulary", vocabulary)
    found = run(settings({"a": annotator_section(required=False), "b": annotator_section()}), store)
    assert (found["a"].left, found["a"].error) == (10, "the hub is not reached") and found["b"].left == 0


def test_the_student_is_asked_last_and_declares_itself(store: Store):
    chosen = settings(
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
    assert len(coverage(store, "student")) == 10 and read_profiles(store, annotators)[2] == AnnotatorProfile("student")
    said = store.read_json(f"annotators/{annotators[2].key}.json")
    assert (said["use"], said["tasks"]) == ("student", ["<OD>"]) and "batch_size" not in said["options"]
    off = settings({"a": annotator_section()}, engine={"student": {"cap": 0}})
    assert [annotator.name for annotator in list_annotators(off, NANO)] == ["a"]


def test_an_expensive_annotator_is_asked_about_a_diverse_sample_and_covers_the_rest_with_an_error(
    store: Store,
):
    annotators = {"expensive": {**annotator_section(), "sample_fraction": 0.3}, "cheap": annotator_section()}
    chosen = settings(annotators)
    run(chosen, store)
    rows = coverage(store, "expensive")
    asked_about = {name for name, row in rows.items() if not row["error"]}
    assert (
        len(rows) == 10
        and len(asked_about) == 3
        and all(row["error"].startswith("NotListedError") for name, row in rows.items() if name not in asked_about)
    )
    assert (
        not any(count_missing(workspace_of(chosen, store), list_annotators(chosen))["expensive"].values())
        and len(coverage(store, "cheap")) == 10
    )
    before = written(store)
    calls = len(CALLS)
    run(chosen, store)
    assert written(store) == before and len(CALLS) == calls, "nobody is asked again"
    key = next(annotator.version for annotator in list_annotators(chosen) if annotator.name == "expensive")
    assert key != next(
        annotator.version
        for annotator in list_annotators(
            settings({**annotators, "expensive": {**annotators["expensive"], "sample_fraction": 0.4}})
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
