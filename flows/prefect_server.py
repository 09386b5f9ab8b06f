"""A Prefect server of this workspace's own, on loopback. It lives no longer than the process that started it.

Prefect would start one by itself, but would leave it behind when it is killed; and one that `florence schedule` has started is
used by everything else that runs in the same workspace.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from florence.errors import FlorenceError
from flows.adapters.environment import redact_text

START = 300.0
"""Seconds that a server may take to start; its first start makes a database."""


def prefect_environment(root: Path, verbose: bool = False) -> None:
    """Set what Prefect reads when it is imported, where the user has not: its home in the workspace, no telemetry, a quiet console."""
    default = os.environ.setdefault
    if "PREFECT_API_URL" not in os.environ:
        default("PREFECT_HOME", str(root / ".florence" / "prefect"))
    default("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", str(int(START)))
    default("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    default("DO_NOT_TRACK", "1")
    # A flow's failure is told by the command line, in one sentence; the run's log keeps the traceback.
    default("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if verbose else "CRITICAL")


@contextmanager
def prefect_api(root: Path, *, verbose: bool = False, lasting: bool = False) -> Iterator[str]:
    """The URL of a Prefect API while the block runs: PREFECT_API_URL, a server that runs in this workspace, or one started for the block.

    ``lasting``: with schedules and pages, for `florence schedule`; others in the workspace find it. Raises FlorenceError where it does not start.
    """
    prefect_environment(root, verbose)
    if (url := os.environ.get("PREFECT_API_URL")) and not answers(url):
        raise FlorenceError(
            f"PREFECT_API_URL: nothing answers at {redact_text(url)}; start that server, or unset it to have one started here"
        )
    if url := url or running(root):
        os.environ["PREFECT_API_URL"] = url
        yield url
        return
    process, url = _start(root, lasting)
    note = root / ".florence" / "prefect" / "server.json"
    try:
        os.environ["PREFECT_API_URL"] = url
        _await(root, process, url)
        if lasting:
            note.write_text(json.dumps({"url": url, "pid": process.pid}), encoding="utf-8")
        yield url
    finally:
        _deliver()
        del os.environ["PREFECT_API_URL"]
        if lasting:
            note.unlink(missing_ok=True)
        _stop(process)


def running(root: Path) -> str | None:
    """The URL of the server that `florence schedule` keeps in this workspace, if it answers."""
    try:
        url = json.loads((root / ".florence" / "prefect" / "server.json").read_text(encoding="utf-8"))["url"]
    except (OSError, ValueError, KeyError):
        return None
    return url if healthy(url) else None


def healthy(url: str, timeout: float = 2.0) -> bool:
    """Whether a Prefect API answers at ``url``."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=timeout) as answer:
            return answer.status == 200
    except (OSError, ValueError, http.client.HTTPException):
        return False


def answers(url: str, timeout: float = 10.0) -> bool:
    """Whether anything answers at ``url``, be it that we are not let in: Prefect's client has the key, this has not."""
    try:
        urllib.request.urlopen(f"{url}/health", timeout=timeout).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def _start(root: Path, lasting: bool) -> tuple[subprocess.Popen[bytes], str]:
    home = root / ".florence" / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **({} if lasting else {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_UI_ENABLED": "0"})}
    with (home / "server.log").open("ab") as log:
        # Its own session: a Ctrl-C is for the flow, which still has to tell the server that it was stopped.
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_server"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdout is not None
    port = process.stdout.readline().decode().strip()
    if not port:
        raise FlorenceError(f"the Prefect server did not start; {home / 'server.log'} says why")
    return process, f"http://127.0.0.1:{port}/api"


def _await(root: Path, process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + START
    told = time.monotonic() + 3
    while not healthy(url):
        if time.monotonic() > told:
            print("Prefect's server is starting", file=sys.stderr, flush=True)
            told = end
        if process.poll() is not None or time.monotonic() > end:
            raise FlorenceError(f"the Prefect server did not start; {root / '.florence/prefect/server.log'} says why")
        time.sleep(0.1)


def _deliver() -> None:
    """Send what the run still has to tell the server before that is stopped."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=5)
    EventsWorker.drain_all(timeout=5)


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serve() -> None:
    """The server process: says its port, serves, and ends when its stdin does, which is when its parent ends, however that comes about."""
    import socket

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    os.environ.update(PREFECT_SERVER_API_HOST="127.0.0.1", PREFECT_SERVER_API_PORT=str(port), PREFECT__SERVER_FINAL="1")
    print(port, flush=True)

    import uvicorn
    from prefect.server.api.server import create_app

    server = uvicorn.Server(
        uvicorn.Config(create_app, factory=True, log_level="error", lifespan="on", timeout_graceful_shutdown=3)
    )

    def watch() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True
        time.sleep(8)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    server.run(sockets=[listener])
    os._exit(0)


if __name__ == "__main__":
    _serve()
