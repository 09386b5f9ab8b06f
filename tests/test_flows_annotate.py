"""The annotate flow on real stores: who does what, what is skipped, tried again, gone on without."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from flow_workspaces import params, write_params

from florence import stages
from florence.config import settings_from
from florence.errors import FlorenceError, SettingsError
from florence.records import Claim
from florence.specialists import SPECIALISTS, Specialist
from florence.store import Store

pytestmark = pytest.mark.usefixtures("prefect")

BROKEN: set[str] = set()
"""Shards, by the first image's name, on which `Fragile` fails."""
CALLS: list[str] = []


class Fragile(Specialist):
    """Says one thing about every image; fails while its image is in `BROKEN`."""

    needs = frozenset()
    tasks = ("<CAPTION>",)

    def annotate(self, batch):
        CALLS.extend(record.name for record in batch.records)
        if BROKEN & {record.name for record in batch.records}:
            raise RuntimeError("out of order")
        return [[Claim("<CAPTION>", "something")] for _ in batch.records]


class Listener(Specialist):
    """Repeats what it was told by others."""

    needs = frozenset({"claims"})
    tasks = ("<CAPTION>",)

    def annotate(self, batch):
        return [[Claim("<CAPTION>", f"{len(claims)} claims")] for claims in batch.claims]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    SPECIALISTS.discover()
    monkeypatch.setitem(SPECIALISTS._entries, "fragile", Fragile)
    monkeypatch.setitem(SPECIALISTS._entries, "listener", Listener)
    stages._specialist.cache_clear()
    BROKEN.clear()
    CALLS.clear()
    yield
    stages._specialist.cache_clear()


def workspace(folder: Path, **overlay):
    """A workspace with 12 scenes collected in shards of 4."""
    overlay = {"sources": {"scenes": {"count": 12}}, "collect": {"shard": 4}, **overlay}
    write_params(folder, **overlay)
    settings = settings_from(params(**overlay))
    store = Store(str(folder / ".florence/store"))
    stages.collect(settings, store)
    return settings, store


def run(folder: Path, settings):
    from flows.annotate import annotate, runner

    return annotate.with_options(task_runner=runner(settings))(str(folder))


def test_every_author_annotates_every_shard_once(tmp_path: Path):
    settings, store = workspace(tmp_path)
    first = run(tmp_path, settings)
    assert (first.shards, first.skipped, first.failures) == (9, 0, ())
    written = {name: store.read_bytes(name) for folder in ("claims", "coverage") for name in store.names(folder)}
    assert len(written) == 18 and first.claims == sum(len(store.read_table(n)) for n in written if n.startswith("claims"))
    store.delete("coverage/" + stages.authors(settings)[0].key)
    again = run(tmp_path, settings)
    assert (again.shards, again.skipped) == (3, 6)
    assert written == {name: store.read_bytes(name) for folder in ("claims", "coverage") for name in store.names(folder)}


def test_threads_and_one_process_say_the_same(tmp_path: Path):
    settings, store = workspace(tmp_path / "flow")
    run(tmp_path / "flow", settings)
    plain, other = workspace(tmp_path / "plain")
    for author in stages.authors(plain):
        for shard in stages.shards(other):
            stages.annotate_shard(plain, other, author, shard)
    names = other.names("claims")
    assert names and names == store.names("claims")
    assert all(store.read_bytes(name) == other.read_bytes(name) for name in names)


def test_those_who_read_claims_come_after_those_they_read(tmp_path: Path):
    settings, store = workspace(tmp_path, specialists={"listener": {"use": "listener", "sources": ["*"]}})
    run(tmp_path, settings)
    others = sum(len(store.read_table(n)) for n in store.names("claims") if "listener" not in n)
    heard = [int(text.split()[0]) for n in store.names("claims") if "listener" in n for text in store.read_table(n)["text"].to_pylist()]
    assert len(heard) == 12 and sum(heard) == others > 0


def test_a_shard_is_tried_again(tmp_path: Path, monkeypatch):
    import flows.annotate

    monkeypatch.setattr(flows.annotate, "RETRY_DELAY", 0)
    settings, _ = workspace(tmp_path, specialists={"fragile": {"use": "fragile", "sources": ["*"]}}, flow={"retries": 1, "workers": 1})
    mended = []

    def annotate(self, batch):
        names = {record.name for record in batch.records}
        if not mended:
            # both the batch and every image alone have to fail for the shard to fail
            if len(batch.records) == 1 and len(CALLS) >= 4:
                mended.append(True)
            CALLS.extend(names)
            raise RuntimeError("not yet")
        return [[Claim("<CAPTION>", "something")] for _ in batch.records]

    monkeypatch.setattr(Fragile, "annotate", annotate)
    assert run(tmp_path, settings).failures == () and mended


def test_an_annotator_that_is_not_required_costs_its_claims_alone(tmp_path: Path, capsys):
    settings, store = workspace(tmp_path, specialists={"fragile": {"use": "fragile", "sources": ["*"], "required": False}})
    first = {name for name in store.read_table(store.names("images")[0])["name"].to_pylist()}
    BROKEN.update(first)
    done = run(tmp_path, settings)
    assert [(f.author, f.shard) for f in done.failures] == [("fragile", "scenes-00000")]
    assert "out of order" in done.failures[0].error and "fragile failed on shard scenes-00000" in capsys.readouterr().out
    assert done.shards == 11
    BROKEN.clear()
    later = run(tmp_path, settings)
    assert (later.shards, later.skipped, later.failures) == (1, 11, ())


def test_a_required_one_fails_the_flow_when_the_others_have_finished(tmp_path: Path):
    settings, store = workspace(tmp_path, specialists={"fragile": {"use": "fragile", "sources": ["*"]}, "listener": {"use": "listener", "sources": ["*"]}})
    BROKEN.update(store.read_table(store.names("images")[0])["name"].to_pylist())
    with pytest.raises(FlorenceError, match=r"fragile, shard scenes-00000: .*out of order"):
        run(tmp_path, settings)
    done = [name.split("/")[1].split("@")[0] for name in store.names("coverage")]
    # who would have read the missing claims has not begun
    assert {name: done.count(name) for name in set(done)} == {"careful": 3, "hasty": 3, "crude": 3, "fragile": 2}


def test_a_runner_whose_package_is_missing_is_refused(monkeypatch):
    from flows.annotate import runner

    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    with pytest.raises(SettingsError, match="florence\\[dask\\]"):
        runner(settings_from(params(flow={"runner": "dask"})))


@pytest.mark.accept
def test_dask_annotates_the_same(tmp_path: Path):
    settings, store = workspace(tmp_path / "threads")
    run(tmp_path / "threads", settings)
    dask, other = workspace(tmp_path / "dask", flow={"runner": "dask", "workers": 2})
    assert run(tmp_path / "dask", dask).shards == 9
    assert all(store.read_bytes(name) == other.read_bytes(name) for name in store.names("claims"))
