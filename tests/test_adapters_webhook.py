"""The webhook against a receiver on loopback that checks signatures as the Standard Webhooks specification says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from flow_workspaces import write_params

from florence.errors import SettingsError
from flows.adapters import webhook
from flows.adapters.webhook import OUTBOX, SECRET, URL, deliver_events, find_webhook, store_event
from flows.events import resource_id
from flows.tracked import open_workspace

KEY = "correct horse"


@contextmanager
def receiver(*answers: int) -> Iterator[tuple[str, list[tuple[str, bool, dict]]]]:
    """Yield a URL, and what is received there: id, whether it is signed rightly, body. ``answers``: statuses."""
    received: list[tuple[str, bool, dict]] = []
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            id, stamp = self.headers["webhook-id"], self.headers["webhook-timestamp"]
            mac = hmac.new(KEY.encode(), f"{id}.{stamp}.{body.decode()}".encode(), hashlib.sha256).digest()
            is_right = self.headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"
            received.append((id, is_right, json.loads(body)))
            self.send_response(left.pop(0) if left else 204)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://user:pw@127.0.0.1:{server.server_port}/hidden?token=hidden", received
    finally:
        server.shutdown()
        server.server_close()


def test_an_event_is_signed_and_sent_again_until_it_is_taken(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(webhook, "PAUSES", (0.01, 0.01, 0.01))
    with receiver(500, 503, 200) as (url, received):
        found = find_webhook({URL: url, SECRET: KEY})
        assert found is not None
        store_event(tmp_path, "an-id", {"event": "florence.model.promoted", "reason": "größer"})
        store_event(tmp_path, "an-id", {"event": "twice"})
        assert deliver_events(tmp_path, found) == ""
        assert deliver_events(tmp_path, found) == ""
    assert received == [("an-id", True, {"event": "florence.model.promoted", "reason": "größer"})] * 3
    assert not list((tmp_path / OUTBOX).iterdir())


def test_what_a_dead_receiver_did_not_take_comes_first_next_time(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(webhook, "PAUSES", (0.01,))
    dead = find_webhook({URL: "http://user:pw@127.0.0.1:9/hidden?token=hidden", SECRET: KEY})
    assert dead is not None
    store_event(tmp_path, "first", {"n": 1})
    fault = deliver_events(tmp_path, dead)
    assert fault == "http://127.0.0.1:9: it cannot be reached (ConnectError)"
    with receiver(302) as (url, received):
        alive = find_webhook({URL: url, SECRET: KEY})
        assert alive is not None
        store_event(tmp_path, "second", {"n": 2})
        assert deliver_events(tmp_path, alive) == ""
    assert [id for id, _, _ in received] == ["first", "first", "second"]


@pytest.mark.parametrize(
    ("url", "secret"),
    [("ftp://host/hidden", KEY), ("http://", KEY), ("https://host:hidden/", KEY), ("https://host/hidden", "")],
)
def test_an_unusable_receiver_is_refused_without_its_url(url: str, secret: str):
    with pytest.raises(SettingsError) as caught:
        find_webhook({URL: url, SECRET: secret})
    assert "hidden" not in str(caught.value)
    assert find_webhook({SECRET: KEY}) is None


def test_a_workspace_is_one_resource_wherever_it_lies(tmp_path):
    ids = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_params(folder, workspace="photos-3f9a21")
        ids.append(resource_id(open_workspace(folder)))
    assert ids == ["florence.workspace.photos-3f9a21"] * 2
    write_params(folder)
    assert resource_id(open_workspace(folder)) not in ids
