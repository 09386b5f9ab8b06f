"""A Prefect server of the workspace's own, on loopback, which ends with the process that started it.

Prefect would start one by itself, but would leave it behind when it is killed. A server that `florence schedule` has
started is used by everything else that runs in the same workspace.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
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
from florence.garbage import relax_garbage_collection
from flows.adapters.environment import redact_text
from flows.adapters.sqlite_urls import build_sqlite_uri
from flows.adapters.system_errors import explain_log

START = 300.0
"""Seconds that a server may take to start; its first start makes a database."""

DATABASES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
"""Variables that name the server's database, the one that we set first."""

DATABASE_SIZE = 4_000_000
"""Bytes that the server's first start takes."""
LAST_LINES = 200
"""Lines of the server's log that are read for why it did not start."""


def set_prefect_environment(root: Path, verbose: bool = False) -> None:
    """Set what Prefect reads when it is first imported, unless it is set.

    Its home in the workspace, no telemetry, few logs. Nothing may import Prefect before: it would keep its home, and
    the server that it is told of later, to itself.
    """
    default = os.environ.setdefault
    if "PREFECT_API_URL" not in os.environ:
        home = Path(os.environ.setdefault("PREFECT_HOME", str(root / ".florence" / "prefect")))
        # Prefect would put the path into a URL as it is, and lose what follows a question mark.
        if "?" in str(home) and not any(name in os.environ for name in DATABASES):
            os.environ[DATABASES[0]] = build_sqlite_uri(home.absolute() / "prefect.db", "sqlite+aiosqlite")
    default("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", str(int(START)))
    default("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    default("DO_NOT_TRACK", "1")
    # The command line prints a flow's failure, in one sentence; the run's log keeps the traceback.
    default("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if verbose else "CRITICAL")


def configured_url() -> str | None:
    """Return the URL of the API that the environment names, None where it names none."""
    return os.environ.get("PREFECT_API_URL")


@contextmanager
def prefect_api(root: Path, *, verbose: bool = False, lasting: bool = False) -> Iterator[str]:
    """Yield the URL of a Prefect API: PREFECT_API_URL, a server that runs in this workspace, or one of the block's own.

    ``lasting``: with schedules and pages, for `florence schedule`; other commands in the workspace find it. Raises
    FlorenceError where it does not start.
    """
    set_prefect_environment(root, verbose)
    if (url := configured_url()) and not is_reachable(url):
        raise FlorenceError(
            f"PREFECT_API_URL: nothing answers at {redact_text(url)}; "
            "start that server, or unset it to have one started here"
        )
    if url := url or find_server(root):
        os.environ["PREFECT_API_URL"] = url
        yield url
        return
    process, url = _start_server(root, lasting)
    note = root / ".florence" / "prefect" / "server.json"
    try:
        os.environ["PREFECT_API_URL"] = url
        _wait_for_server(root, process, url)
        if lasting:
            note.write_text(json.dumps({"url": url, "pid": process.pid, "root": str(root.resolve())}), encoding="utf-8")
        yield url
    finally:
        flush_events()
        del os.environ["PREFECT_API_URL"]
        if lasting:
            note.unlink(missing_ok=True)
        _stop_server(process)


def find_server(root: Path) -> str | None:
    """Return the URL of the server that `florence schedule` keeps in this workspace; None where none answers."""
    try:
        note = json.loads((root / ".florence" / "prefect" / "server.json").read_text(encoding="utf-8"))
        # The note in a copy of a workspace is about the server of the original.
        url = note["url"] if note["root"] == str(root.resolve()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url if url is not None and is_healthy(url) else None


def is_healthy(url: str, timeout: float = 2.0) -> bool:
    """Return whether a Prefect API answers at ``url``."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=timeout) as answer:
            return answer.status == 200
    except (OSError, ValueError, http.client.HTTPException):
        return False


def is_reachable(url: str, timeout: float = 10.0) -> bool:
    """Return whether anything answers at ``url``, even with a refusal: only Prefect's client has the key."""
    try:
        urllib.request.urlopen(f"{url}/health", timeout=timeout).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def refuses_nulls(url: str, timeout: float = 10.0) -> bool:
    """Return whether the API at ``url`` refuses the nulls that Prefect's commands send, as one with a new fastapi does.

    False also where it cannot be asked, for instance without its key.
    """
    body = json.dumps({"work_pools": None, "limit": None, "offset": 0}).encode()
    request = urllib.request.Request(f"{url}/work_pools/filter", body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=timeout).close()
    except urllib.error.HTTPError as error:
        return error.code == 422
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return False


def _start_server(root: Path, lasting: bool) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server process; return it and the URL of its API."""
    home = root / ".florence" / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **({} if lasting else {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_UI_ENABLED": "0"})}
    with (home / "server.log").open("ab") as log:
        # Its own session: a Ctrl-C is for the flow, which still has to tell the server that it was stopped.
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.adapters.prefect_server"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdout is not None
    port = process.stdout.readline().decode().strip()
    if not port:
        raise FlorenceError(_explain_start(root))
    return process, f"http://127.0.0.1:{port}/api"


def _wait_for_server(root: Path, process: subprocess.Popen[bytes], url: str) -> None:
    """Return when the server is healthy. Raises FlorenceError where it ends, or takes longer than `START`."""
    end = time.monotonic() + START
    notice = time.monotonic() + 3
    while not is_healthy(url):
        if time.monotonic() > notice:
            print("Prefect's server is starting", file=sys.stderr, flush=True)
            notice = end
        if _has_ended(process, 0.1) or time.monotonic() > end:
            raise FlorenceError(_explain_start(root))


def _explain_start(root: Path) -> str:
    """Return why the server did not start: what the machine refused, else the last line of its log."""
    log = root / ".florence/prefect/server.log"
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST_LINES:]
    except OSError:
        lines = []
    text = "the Prefect server did not start"
    if reason := explain_log("\n".join(lines), DATABASE_SIZE):
        return f"{text}: {reason}"
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)] or lines
    if not errors:
        return f"{text}, and wrote nothing to {log}"
    return f"{text}: {redact_text(errors[-1][:300])}; {log} says more"


def _has_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Return whether a process ends within ``seconds``."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def flush_events() -> None:
    """Send the run's last logs and events to the server before it is stopped."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=5)
    EventsWorker.drain_all(timeout=5)


def _stop_server(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    if not _has_ended(process, 10):
        process.kill()
        process.wait()


def _run_server() -> None:
    """Be the server process: print the port, serve, and end when stdin does, which is when the parent process ends."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    os.environ.update(PREFECT_SERVER_API_HOST="127.0.0.1", PREFECT_SERVER_API_PORT=str(port), PREFECT__SERVER_FINAL="1")
    print(port, flush=True)
    relax_garbage_collection()

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
    _run_server()
