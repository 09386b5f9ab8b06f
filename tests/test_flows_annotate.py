"""The annotate flow on real stores: what is skipped, tried again, left missing, and reported."""

from __future__ import annotations

import sys
from pathlib import Path

import fake_annotators
import pytest
from fake_annotators import BEFORE, CALLS, annotator_section, list_asked_images
from flow_workspaces import params, write_params
from workspaces import workspace_of

from florence.config import settings_from
from florence.errors import FlorenceError, SettingsError, StoreError, UnavailableError
from florence.store import Store
from florence.workspace import audit
from florence.workspace.annotate import MISSING, annotate_shard, list_annotators
from florence.workspace.collect import collect_images
from florence.workspace.layout import list_shards

pytestmark = pytest.mark.usefixtures("prefect")


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    import flows.annotate

    monkeypatch.setattr(flows.annotate, "RETRY_DELAY", 0)
    with fake_annotators.fake_annotator_registered():
        yield


def workspace(folder: Path, **overlay):
    """Return a workspace with 12 scenes collected in shards of 4."""
    overlay = {"sources": {"scenes": {"count": 12}}, "collect": {"shard": 4}, **overlay}
    write_params(folder, **overlay)
    settings = settings_from(params(**overlay))
    store = Store(str(folder / ".florence/store"))
    collect_images(workspace_of(settings, store))
    return settings, store


def run(folder: Path, settings):
    from flows.annotate import annotate, task_runner

    return annotate.with_options(task_runner=task_runner(settings))(str(folder))


def read_written(store: Store) -> dict[str, bytes]:
    return {
        name: store.read_bytes(name) for folder in ("claims", "coverage", "annotators") for name in store.names(folder)
    }


def names(store: Store, shard: int) -> list[str]:
    return store.read_table(store.names("images")[shard])["name"].to_pylist()


def failing(images, error: Exception):
    def before(self, batch):
        if set(images) & {record.name for record in batch.records}:
            raise error

    return before


def test_every_annotator_annotates_every_image_once(tmp_path: Path):
    settings, store = workspace(tmp_path)
    first = run(tmp_path, settings)
    assert (first.shards, first.skipped, first.images, first.missing) == (3, 0, 36, ())
    before = read_written(store)
    assert len(before) == 21
    store.delete("coverage/" + list_annotators(settings)[0].key)
    again = run(tmp_path, settings)
    assert (again.shards, again.skipped, again.images) == (3, 0, 12) and read_written(store) == before
    last = run(tmp_path, settings)
    assert (last.shards, last.skipped, last.images) == (0, 3, 0) and not store.exists(MISSING)


def test_the_flow_and_the_plain_verb_give_the_same_bytes(tmp_path: Path):
    settings, store = workspace(tmp_path / "flow")
    run(tmp_path / "flow", settings)
    plain, other = workspace(tmp_path / "plain")
    for shard in list_shards(other):
        annotate_shard(workspace_of(plain, other), list_annotators(plain), shard)
    assert read_written(store) == read_written(other)


def test_a_new_annotator_is_asked_alone(tmp_path: Path):
    sections = {
        "careful": None,
        "hasty": None,
        "crude": None,
        "a": annotator_section(batch_size=3),
        "reader": annotator_section(needs=["claims"], depends_on=["a"]),
    }
    settings, store = workspace(tmp_path, annotators=sections)
    run(tmp_path, settings)
    before = read_written(store)
    CALLS.clear()
    settings, _ = workspace(tmp_path, annotators={**sections, "new": annotator_section(needs=["truth"])})
    done = run(tmp_path, settings)
    assert (
        (done.shards, done.images) == (3, 12)
        and {annotator for annotator, _ in CALLS} == {"new"}
        and len(list_asked_images("new")) == 12
    )
    assert {name: data for name, data in read_written(store).items() if "/new@" not in name} == before


def test_what_failed_is_tried_again_and_that_alone(tmp_path: Path):
    settings, store = workspace(
        tmp_path,
        annotators={
            "fragile": annotator_section(required=False),
            "steady": annotator_section(),
            "reader": annotator_section(needs=["claims"], depends_on=["fragile"]),
        },
        flow={"retries": 2, "workers": 1},
    )
    tries = []

    def before(self, batch):
        tries.append(1)
        if len(tries) <= 10:  # twice: four images at once, then each of them alone
            raise RuntimeError("not yet")

    BEFORE["fragile"] = before
    done = run(tmp_path, settings)
    assert done.missing == () and done.images == 72
    assert len(list_asked_images("steady")) == len(list_asked_images("reader")) == 12 and len(tries) == 13


def test_an_annotator_that_is_not_required_costs_its_claims_alone_and_the_report_names_it(tmp_path: Path, capsys):
    settings, store = workspace(
        tmp_path,
        annotators={
            "fragile": annotator_section(required=False, price=3),
            "reader": annotator_section(needs=["claims"]),
        },
        flow={"retries": 1},
    )
    BEFORE["fragile"] = failing(names(store, 0), UnavailableError("the budget is spent"))
    done = run(tmp_path, settings)
    (missing,) = done.missing
    assert (missing.annotator, missing.images, missing.shards, missing.shard, missing.error) == (
        "fragile",
        4,
        1,
        "scenes-00000",
        "the budget is spent",
    )
    assert "fragile has 4 images left in 1 shards and is not required" in capsys.readouterr().out
    assert len([a for a, images in CALLS if a == "fragile" and set(images) & set(names(store, 0))]) == 1, (
        "what is not there is asked for once a run"
    )
    annotators = list_annotators(settings)
    facts = {a.name: a for a in audit._list_annotator_activity(workspace_of(settings, store), annotators)}
    assert (facts["fragile"].images, facts["fragile"].missing, facts["fragile"].missing_reason) == (
        8,
        4,
        "the budget is spent",
    )
    assert (facts["fragile"].calls, facts["fragile"].tokens, facts["fragile"].batch_size) == (3, 36, 16)
    assert (facts["reader"].images, facts["reader"].missing, facts["reader"].missing_reason, facts["reader"].calls) == (
        12,
        0,
        "",
        0,
    )
    assert facts["careful"].claims == sum(len(store.read_table(n)) for n in store.names("claims") if "/careful@" in n)
    assert run(tmp_path, settings).images == 0, "the same failure again is nothing new"
    BEFORE.clear()
    CALLS.clear()
    later = run(tmp_path, settings)
    assert (later.shards, later.images, later.missing) == (1, 4, ())
    assert (len(list_asked_images("fragile")), len(list_asked_images("reader"))) == (4, 4)
    facts = {a.name: a for a in audit._list_annotator_activity(workspace_of(settings, store), annotators)}
    assert (facts["fragile"].missing, facts["fragile"].missing_reason) == (0, "") and store.read_json(MISSING) == {}


def test_a_required_annotator_fails_the_flow_when_the_others_have_finished(tmp_path: Path):
    settings, store = workspace(
        tmp_path,
        annotators={
            "fragile": annotator_section(),
            "reader": annotator_section(needs=["claims"], required=False),
            "other": annotator_section(),
        },
    )
    BEFORE["fragile"] = failing(names(store, 0), RuntimeError("out of order"))
    with pytest.raises(
        FlorenceError, match=r"fragile, shard scenes-00000: .*out of order \(4 images in 1 shards\)\n.*required: false"
    ):
        run(tmp_path, settings)
    done = [name.split("/")[1].split("@")[0] for name in store.names("coverage")]
    assert {name: done.count(name) for name in set(done)} == {
        "careful": 3,
        "hasty": 3,
        "crude": 3,
        "other": 3,
        "fragile": 2,
        "reader": 2,
    }


def test_a_shard_that_cannot_be_read_costs_itself_alone(tmp_path: Path):
    settings, store = workspace(tmp_path, flow={"retries": 1})
    run(tmp_path, settings)
    for folder in ("claims", "coverage"):
        store.delete(folder)
    file = next(name for name in store.names("truth") if "00001" in name)
    store.write_bytes(file, b"not a table")
    with pytest.raises(
        FlorenceError, match=r"careful, shard scenes-00001: .*not a Parquet file.*\(4 images in 1 shards\)"
    ):
        run(tmp_path, settings)
    assert len(store.names("coverage")) == 6
    with pytest.raises(StoreError):
        annotate_shard(workspace_of(settings, store), list_annotators(settings), "scenes-00001")


def test_many_shards_are_given_to_prefect_a_few_at_a_time(tmp_path: Path, monkeypatch):
    import flows.annotate

    monkeypatch.setattr(flows.annotate, "SUBMITTED", 1)
    monkeypatch.setattr(flows.annotate, "LOOK", 0.01)
    settings, store = workspace(tmp_path, annotators={"a": annotator_section(batch_size=1)})
    counts = []
    BEFORE["a"] = lambda self, batch: counts.append(len(store.names("coverage/" + list_annotators(settings)[-1].key)))
    assert run(tmp_path, settings).images == 48
    assert counts == [0] * 4 + [1] * 4 + [2] * 4


def test_a_runner_whose_package_is_missing_is_refused(monkeypatch):
    from flows.annotate import task_runner

    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    with pytest.raises(SettingsError, match="florence\\[dask\\]"):
        task_runner(settings_from(params(flow={"runner": "dask"})))


@pytest.mark.accept
def test_dask_annotates_the_same(tmp_path: Path):
    settings, store = workspace(tmp_path / "threads")
    run(tmp_path / "threads", settings)
    dask, other = workspace(tmp_path / "dask", flow={"runner": "dask", "workers": 2})
    assert run(tmp_path / "dask", dask).images == 36
    assert read_written(store) == read_written(other)
