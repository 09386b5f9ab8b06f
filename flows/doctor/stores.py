"""Checks of stores and services: the working store, buckets, DVC's remotes, Prefect."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from florence.config import Settings, SnapshotSettings
from florence.workspace import working_store
from flows.adapters.environment import redact_text
from flows.adapters.prefect_server import configured_url, find_server, is_reachable, refuses_nulls
from flows.adapters.snapshots import Snapshots
from flows.doctor.check import Check


def check_store(settings: Settings, root: Path) -> Iterator[Check]:
    """Check that the working store can be read and written."""
    if settings.store.startswith("s3://"):
        yield from _bucket("store", settings.store)
        return
    store = working_store(settings, root)
    store.write_bytes(".probe/doctor", b"florence")
    good = store.read_bytes(".probe/doctor") == b"florence"
    store.delete(".probe")
    yield Check(
        "store", "ok" if good else "fail", f"{settings.store}: readable and writable", "check the folder's rights"
    )


def check_buckets(settings: Settings) -> Iterator[Check]:
    """Check the buckets of sources and artifacts."""
    for key, section in settings.sources.items():
        uri = section.options.get("uri")
        if isinstance(uri, str) and uri.startswith("s3://"):
            yield from _bucket(f"sources.{key}", uri, write=False)
    if (settings.tracking.artifacts or "").startswith("s3://"):
        yield from _bucket("tracking.artifacts", settings.tracking.artifacts or "")


def _bucket(name: str, uri: str, write: bool = True) -> Iterator[Check]:
    """Check whether head, list, put, get and delete are permitted below ``uri``, with a key of our own."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    place = urlsplit(uri)
    bucket, prefix = place.netloc, place.path.strip("/")
    key = "/".join(part for part in (prefix, f".florence-doctor-{os.getpid()}") if part)
    client = boto3.client("s3")
    tries: list[tuple[str, Callable[[], object]]] = [
        ("head", lambda: client.head_bucket(Bucket=bucket)),
        ("list", lambda: client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)),
    ]
    if write:
        tries += [
            ("put", lambda: client.put_object(Bucket=bucket, Key=key, Body=b"florence")),
            ("get", lambda: client.get_object(Bucket=bucket, Key=key)["Body"].read()),
            ("delete", lambda: client.delete_object(Bucket=bucket, Key=key)),
        ]
    refused = []
    for verb, attempt in tries:
        try:
            attempt()
        except ClientError as error:
            refused.append(f"{verb} ({error.response['Error'].get('Code', 'refused')})")
        except BotoCoreError as error:
            yield Check(
                name,
                "fail",
                f"{redact_text(uri)}: {redact_text(str(error))}",
                "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where it is not Amazon's, AWS_ENDPOINT_URL",
            )
            return
    verbs = ", ".join(verb for verb, _ in tries)
    found = f"{redact_text(uri)}: " + (f"refused: {', '.join(refused)}" if refused else f"{verbs} permitted")
    yield Check(
        name, "fail" if refused else "ok", found, f"the credentials in the environment need the rights to {verbs} there"
    )


def check_remote(root: Path) -> Iterator[Check]:
    """Check the remotes of DVC."""
    found = Snapshots(root, SnapshotSettings()).remotes()
    if not found:
        yield Check(
            "DVC remote",
            "warn",
            "none set",
            "`dvc remote add -d storage s3://bucket/prefix` lets others `dvc pull` the snapshots",
        )
    for name, uri in found.items():
        if uri.startswith("s3://"):
            yield from _bucket(f"DVC remote {name}", uri)
        else:
            local = Path(uri)
            good = local.is_dir() or local.parent.is_dir() or "://" in uri
            yield Check(
                f"DVC remote {name}",
                "ok" if good else "fail",
                redact_text(uri),
                "the folder does not exist: make it, or correct the remote (`dvc remote modify`)",
            )


def check_prefect(root: Path) -> Iterator[Check]:
    """Check the Prefect server, where one runs."""
    if url := configured_url():
        good = is_reachable(url)
        yield Check(
            "Prefect",
            "ok" if good else "fail",
            f"{redact_text(url)} " + ("answers" if good else "does not answer"),
            "start that server, or unset PREFECT_API_URL to have one started here",
        )
        if good and refuses_nulls(url):
            yield Check(
                "Prefect's commands",
                "fail",
                f"{redact_text(url)} refuses `prefect deploy` and others: its fastapi is 0.151 or newer",
                "where that server runs: pip install 'fastapi<0.151', and start it again",
            )
    elif url := find_server(root):
        yield Check("Prefect", "ok", f"`florence schedule` is running: {url}")
    else:
        yield Check("Prefect", "ok", "PREFECT_API_URL is not set: a server is started for each run")
