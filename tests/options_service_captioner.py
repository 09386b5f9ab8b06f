"""An endpoint of its own, for as long as the tests run."""

from __future__ import annotations

from typing import Any

from chat_server import MODEL, chat

_SERVER = chat(key=None)


def options() -> dict[str, Any]:
    return {"service": {"url": _SERVER.__enter__().url, "model": MODEL, "keyless": True}}
