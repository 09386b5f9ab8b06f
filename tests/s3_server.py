"""A real S3 server (SeaweedFS) on loopback, with a bucket and random credentials."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

BUCKET = "florence-test"
REGION = "us-east-1"
PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


@dataclass(frozen=True)
class S3:
    """``env``: what a process needs to reach the server, as boto3 reads it; ``pid``: of the server."""

    endpoint: str
    bucket: str
    env: dict[str, str] = field(repr=False)
    folder: Path
    pid: int

    def client(self):
        """Return a boto3 client with the server's credentials."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region_name=REGION,
        )


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[S3]:
    """Return the server, for all tests of a process."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@contextmanager
def s3_server(folder: Path, wait: float = 120.0) -> Iterator[S3]:
    """Run the server with its data in ``folder``; it is ready, and its bucket made, when this yields."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    user, secret = "k" + secrets.token_hex(8), secrets.token_urlsafe(30)
    identity = {
        "name": "test",
        "credentials": [{"accessKey": user, "secretKey": secret}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    settings = folder / "s3.json"
    settings.touch(mode=0o600)
    settings.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    command = [
        str(Path(sys.executable).with_name("weed")),
        "-logtostderr=true",
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={folder / 'data'}",
        "-s3",
        f"-s3.config={settings}",
        "-s3.iam=false",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=20",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    env = {
        "AWS_ACCESS_KEY_ID": user,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with ExitStack() as stack:
        log = stack.enter_context(open(folder / "weed.log", "wb"))
        server = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        stack.callback(_end, server, ports.values())
        found = S3(endpoint, BUCKET, env, folder, server.pid)
        _wait_for_bucket(found, server, wait)
        yield found


def _free_ports(number: int) -> list[int]:
    """Return free ports of loopback."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_for_bucket(s3: S3, server: subprocess.Popen, wait: float) -> None:
    """Make the bucket and write to it, as soon as the server lets us."""
    from botocore.exceptions import BotoCoreError, ClientError

    client, end, last = s3.client(), time.monotonic() + wait, None
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            if s3.bucket not in [b["Name"] for b in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=s3.bucket)
            # The gateway answers before the volumes do.
            client.put_object(Bucket=s3.bucket, Key="ready", Body=b"1")
            client.delete_object(Bucket=s3.bucket, Key="ready")
            return
        except (BotoCoreError, ClientError) as error:
            last = error
            time.sleep(0.3)
    tail = (s3.folder / "weed.log").read_bytes()[-2000:].decode(errors="replace")
    raise RuntimeError(f"the S3 server is not ready after {wait} s (exit {server.poll()}, {last}):\n{tail}")


def _end(server: subprocess.Popen, ports: Iterable[int]) -> None:
    """Kill the server, as it takes 20 s to stop by itself, and remove its sockets in /tmp."""
    if server.poll() is None:
        os.kill(server.pid, signal.SIGKILL)
    server.wait()
    for port in ports:
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)
