"""What tests share."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from s3_server import s3  # noqa: F401 - a fixture for all

from florence.garbage import relax_garbage_collection

# Before torch is imported: the test processes share the cores, and threads that wait for each other burn them. The
# limit holds where settings ask for more threads, too, and in processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_THREAD_LIMIT", "1")
relax_garbage_collection()


@pytest.fixture(scope="module", autouse=True)
def frozen_heap():
    """Keep what modules before this one have loaded out of garbage collections, which look at every object."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def small_snapshot(tmp_path_factory):
    """A small snapshot in the layout of data/ (see snapshots.py); read only."""
    from snapshots import make_snapshot

    return make_snapshot(tmp_path_factory.mktemp("snapshot"))


@pytest.fixture(scope="session")
def prefect(tmp_path_factory):
    """A Prefect server for all tests that run flows: it takes long to start."""
    os.environ.setdefault("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.fixture
def fake_annotator():
    """Register the annotator ``fake`` (see fake_annotators.py) for one test."""
    from fake_annotators import fake_annotator_registered

    with fake_annotator_registered():
        yield


@pytest.fixture(scope="session")
def collected(tmp_path_factory):
    """Ten scenes in one shard of a store; read only."""
    from annotation_runs import collect_scenes

    return collect_scenes(tmp_path_factory.mktemp("collected"))


@pytest.fixture
def store(collected, tmp_path):
    """A copy of the store with ten scenes."""
    from annotation_runs import copy_store

    return copy_store(collected, tmp_path / "store")


LONGEST_FIRST = (
    "test_flows_loop",
    "test_flows_refine",
    "test_ablate",
    "test_flows_annotate",
    "test_adapters_ignored",
    "test_adapters_snapshots",
    "test_training_launch",
    "test_engine_student",
    "test_interop",
    "test_model_generate",
    "test_annotators_main",
    "test_adapters_prefect_server",
    "test_adapters_mlflow_locations",
    "test_adapters_model_registry",
    "test_training_loop",
    "test_engine_blocks",
    "test_training_trainable",
    "test_benchmarks",
    "test_annotators_program_failures",
    "test_services_chat_failures",
    "test_annotators_program",
    "test_services_chat",
    "test_adapters_quality",
)
"""Modules whose tests take long: workers that begin with them end at about the same time."""
PREFECT = {"test_flows_loop", "test_flows_refine", "test_ablate", "test_flows_annotate", "test_adapters_ignored"}
"""Modules that use the fixture `prefect`: one worker runs them all, so that one server is started."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take longest."""
    names = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: names.get(item.path.stem, len(names)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Give workers whole modules (`--dist loadfile`), and those of `PREFECT` to one worker."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = super()._split_scope(nodeid)
            return "prefect" if Path(module).stem in PREFECT else module

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None
