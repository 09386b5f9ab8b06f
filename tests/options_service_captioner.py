"""An endpoint of its own, for as long as the tests run."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from typing import Any

from chat_server import MODEL, serve_chat

_RUNNING = ExitStack()
atexit.register(_RUNNING.close)


def options() -> dict[str, Any]:
    return {"service": {"url": _RUNNING.enter_context(serve_chat(key=None)).url, "model": MODEL, "keyless": True}}
