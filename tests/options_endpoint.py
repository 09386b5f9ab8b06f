"""A service that claims each picture as an object, for the tests of all annotators."""

from __future__ import annotations

import atexit
from contextlib import ExitStack

from annotator_programs import format_lines, reply, serve_lines, whole_picture


def options() -> dict:
    """Start the service; it answers until the tests end."""
    stack = ExitStack()
    atexit.register(stack.close)
    url = stack.enter_context(
        serve_lines(lambda handler, requests: reply(handler, format_lines(*map(whole_picture, requests))))
    )
    return {"url": url, "version": "1", "tasks": ["<OD>"]}
