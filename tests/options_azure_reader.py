"""Azure's route on loopback, for as long as the tests run."""

from __future__ import annotations

import atexit
import os
from contextlib import ExitStack
from typing import Any

from chat_server import serve_reader

_RUNNING = ExitStack()
atexit.register(_RUNNING.close)


def options() -> dict[str, Any]:
    os.environ.setdefault("VISION_KEY", "any")
    return {"endpoint": _RUNNING.enter_context(serve_reader(key=None)).url}
