"""What tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def small_snapshot(tmp_path_factory):
    """A small snapshot in the layout of data/ (see snapshots.py); read only."""
    from snapshots import make_snapshot

    return make_snapshot(tmp_path_factory.mktemp("snapshot"))


@pytest.fixture(scope="session")
def prefect(tmp_path_factory):
    """A Prefect server for all tests that run flows: it takes long to start."""
    import os

    os.environ.setdefault("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300):
        yield
