"""What tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def small_snapshot(tmp_path_factory):
    """A small snapshot in the layout of data/ (see snapshots.py); read only."""
    from snapshots import make_snapshot

    return make_snapshot(tmp_path_factory.mktemp("snapshot"))
