"""Events sent to a webhook: signed, kept in a folder until the receiver has taken them, never in the way of the work.

The form is that of the Standard Webhooks specification (standardwebhooks.com): the header ``webhook-signature`` is
``v1,`` and the base64 of the HMAC-SHA256 of ``id.timestamp.body``, where id and timestamp (seconds since 1970) are the
headers ``webhook-id`` and ``webhook-timestamp``. An event is delivered at least once, always with the same id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from florence.errors import DataError, SettingsError
from florence.store import Store

URL, SECRET = "FLORENCE_WEBHOOK_URL", "FLORENCE_WEBHOOK_SECRET"
OUTBOX = ".florence/outbox"
"""Folder of the events that the receiver has not taken yet, one file each; names sort by time."""
KEPT = 1000
"""Most events that are kept for a receiver that is down; the oldest ones go first."""
PAUSES = (1.0, 2.0, 4.0)
"""Seconds before each further attempt at one event."""
TIMEOUT = 5.0
"""Seconds for connecting, and for each wait for the answer."""
LIMIT = 30.0
"""Seconds that all deliveries at one time may take."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver of events. ``url`` may hold a secret: only `address` is ever shown."""

    url: str
    secret: bytes

    @property
    def address(self) -> str:
        """Scheme, host and port: without user, path and query."""
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}"


def find_webhook(environment: Mapping[str, str]) -> Webhook | None:
    """Return the receiver that the environment names, None where it names none.

    Raises SettingsError, without the URL, where the URL or its secret is not usable.
    """
    if not (url := environment.get(URL, "").strip()):
        return None
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise SettingsError(f"{URL} is not an http or https URL of a receiver")
    if not (secret := environment.get(SECRET, "").strip()):
        raise SettingsError(f"{URL} is set and {SECRET} is not: events are signed with it; set both")
    try:
        key = base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else secret.encode()
    except binascii.Error:
        raise SettingsError(f"{SECRET} begins with whsec_, and what follows is not base64") from None
    return Webhook(url, key)


def sign(secret: bytes, id: str, timestamp: int, body: bytes) -> str:
    """Return the header ``webhook-signature`` of a body."""
    mac = hmac.new(secret, f"{id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(mac.digest()).decode()


def store_event(root: Path, id: str, body: Mapping[str, Any]) -> None:
    """Keep an event until it is delivered; one that is kept already is not kept twice."""
    store = Store(str(root / OUTBOX))
    names = store.names("")
    if any(name.endswith(f"-{id}.json") for name in names):
        return
    for name in names[: max(0, len(names) - KEPT + 1)]:
        store.delete(name)
    store.write_json(f"{time.time_ns():020d}-{id}.json", dict(body))


def deliver_events(root: Path, webhook: Webhook) -> str:
    """Send all kept events, the oldest first; return why not all were taken, "" where they were.

    What was not taken is kept for the next time. Takes at most `LIMIT` seconds.
    """
    faults = ["it has taken too long to answer"]
    thread = threading.Thread(target=lambda: faults.__setitem__(0, _deliver(root, webhook)), daemon=True)
    thread.start()
    thread.join(LIMIT)
    return f"{webhook.address}: {faults[0]}" if faults[0] else ""


def _deliver(root: Path, webhook: Webhook) -> str:
    store = Store(str(root / OUTBOX))
    for name in store.names(""):
        try:
            body = store.read_bytes(name)
        except (OSError, DataError):
            continue  # another process has delivered it
        if fault := _send(webhook, name.removesuffix(".json").split("-", 1)[1], body):
            return fault
        store.delete(name)
    return ""


def _send(webhook: Webhook, id: str, body: bytes) -> str:
    """Send one event, several times if need be; return why it was not taken, "" where it was."""
    for name in ("httpx", "httpcore"):  # they log URLs
        logging.getLogger(name).setLevel(logging.WARNING)
    fault = ""
    for pause in (0.0, *PAUSES):
        time.sleep(pause)
        timestamp = int(time.time())
        headers = {
            "content-type": "application/json",
            "webhook-id": id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(webhook.secret, id, timestamp, body),
        }
        try:
            with httpx.stream("POST", webhook.url, content=body, headers=headers, timeout=TIMEOUT) as answer:
                if answer.is_success:
                    return ""
                fault = f"it answered with {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            fault = f"it cannot be reached ({type(error).__name__})"
    return fault
