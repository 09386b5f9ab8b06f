"""`florence doctor`: check a workspace, and say what to do about each fault. Secrets are redacted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from florence.config import Settings, SnapshotSettings, read_settings
from florence.errors import FlorenceError
from florence.model.presets import PRESETS
from florence.sources import SOURCES
from florence.store import Store
from florence.workspace import bind_workspace, working_store
from florence.workspace.annotate import find_unusable_annotators, list_annotators, make_annotator
from flows.adapters.environment import redact_text
from flows.adapters.mlflow_store import MlflowStore
from flows.adapters.model_registry import ModelRegistry
from flows.adapters.prefect_server import configured_url, find_server, is_reachable, refuses_nulls
from flows.adapters.snapshots import Snapshots
from flows.label_sets import rate_label_sets
from flows.params import missing_sections

Status = Literal["ok", "warn", "fail"]
NEEDED = ("torch", "transformers", "prefect", "dvc", "mlflow", "great_expectations", "pyarrow", "s3fs", "boto3")
TOO_NEW = (
    (
        "fastapi",
        (0, 151),
        "Prefect's server refuses its own commands with it, as `prefect deploy`",
    ),
    ("sqlalchemy", (2, 1), "Prefect's server schedules no runs with it"),
)
"""Package, the first version that does not work, and why."""
FILES = ("params.yaml", "dvc.yaml", "expectations", ".dvc", ".git", "code.json")
LEAST_DISK = 2.0
"""GB below which a loop is likely to stop half-way."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. ``found``: what was found; ``remedy``: what to do where the status is not ok."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def check_workspace(root: Path) -> list[Check]:
    """Return the results of all checks of the workspace in ``root``; each runs whatever the others found."""
    checks = [_python(), *_packages(), *_workspace(root)]
    try:
        settings = read_settings(root / "params.yaml")
    except FlorenceError as error:
        return [
            *checks,
            Check("settings", "fail", str(error), "correct params.yaml; docs/settings.md lists every setting"),
        ]
    checks_of_settings: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("dvc.yaml", lambda: _sections(root)),
        ("plug-ins", lambda: _plugins(settings)),
        ("store", lambda: _store(settings, root)),
        ("sources", lambda: _buckets(settings)),
        ("DVC remote", lambda: _remote(root)),
        ("MLflow", lambda: _mlflow(settings, root)),
        ("Prefect", lambda: _prefect(root)),
        ("disk", lambda: _disk(root)),
        ("model", lambda: _model(settings, root)),
        ("labels", lambda: _labels(settings, root)),
        ("data", lambda: _data(settings, root)),
    ]
    for name, run in checks_of_settings:
        try:
            checks += run()
        except Exception as error:  # a check that fails itself is a fault too, and the others still run
            checks.append(Check(name, "fail", f"{type(error).__name__}: {redact_text(str(error))}"))
    return checks


def format_checks(checks: list[Check]) -> str:
    """Return the checks as aligned lines, each remedy beneath its fault."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:<4}  {check.name:<{width}}  {check.found}")
        if check.remedy and check.status != "ok":
            lines.append(f"{'':<4}  {'':<{width}}  → {check.remedy}")
    count = {status: sum(check.status == status for check in checks) for status in ("ok", "warn", "fail")}
    warnings = f"{count['warn']} warning{'s' * (count['warn'] != 1)}"
    return "\n".join([*lines, f"{count['ok']} ok, {warnings}, {count['fail']} failed"])


# ---------------------------------------------------------------- the installation


def _python() -> Check:
    found = sys.version.split()[0]
    return Check("Python", "ok" if sys.version_info >= (3, 11) else "fail", found, "Python 3.11 or newer is needed")


def _packages() -> Iterator[Check]:
    missing = [name for name in NEEDED if _version(name) is None]
    found = ", ".join(f"{name} {_version(name)}" for name in NEEDED if name not in missing)
    yield Check(
        "packages",
        "fail" if missing else "ok",
        found + (f"; missing: {', '.join(missing)}" if missing else ""),
        "pip install -c constraints.txt -e .",
    )
    for name, limit, harm in TOO_NEW:
        found = _version(name) or "missing"
        good = tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < limit
        yield Check(name, "ok" if good else "fail", found, f"{harm}: pip install '{name}<{limit[0]}.{limit[1]}'")
    if _version("torchvision") is None:
        yield Check("torchvision", "ok", "not installed, and not needed")
    else:
        broken = _import_error("torchvision")
        yield Check(
            "torchvision",
            "fail" if broken else "ok",
            broken or f"{_version('torchvision')}, loads",
            "nothing here needs it: pip uninstall torchvision",
        )


def _version(name: str) -> str | None:
    """Return the installed version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _import_error(name: str) -> str:
    """Return why a package cannot be imported, "" where it can; tried in another process, which may crash."""
    done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, timeout=120)
    return (done.stderr.strip().splitlines() or ["it does not load"])[-1] if done.returncode else ""


# ---------------------------------------------------------------- the workspace


def _workspace(root: Path) -> Iterator[Check]:
    missing = [name for name in FILES if not (root / name).exists() and name not in (".git", "code.json")]
    if missing:
        yield Check(
            "workspace",
            "fail",
            f"{root}: {', '.join(missing)} missing",
            "`florence init DIR` makes a workspace; run commands inside it",
        )
    else:
        yield Check("workspace", "ok", str(root))
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        yield Check("git", "warn", "no repository", "`git init` lets settings and data.dvc be versioned")
    for program in ("git", "dvc"):
        if shutil.which(program) is None and not (Path(sys.executable).parent / program).exists():
            yield Check(program, "fail", "not found on PATH", f"install {program}")


def _sections(root: Path) -> Iterator[Check]:
    missing = missing_sections(root)
    found = f"params.yaml lacks {', '.join(missing)}" if missing else "params.yaml has what its stages depend on"
    yield Check(
        "dvc.yaml",
        "fail" if missing else "ok",
        found,
        "write these sections, with their defaults if nothing else: stages of dvc.yaml depend on them",
    )


def _plugins(settings: Settings) -> Iterator[Check]:
    faults = []
    for key, section in settings.sources.items():
        try:
            SOURCES.get(section.use)(**section.options)
        except FlorenceError as error:
            faults.append(f"sources.{key}: {error}")
    left_out: dict[str, str] = {}
    try:
        left_out = find_unusable_annotators(settings)
    except FlorenceError as error:
        faults.append(str(error))
    for key, reason in left_out.items():
        remedy = "runs go on without it, as it is not required; put its files in place, or remove it from params.yaml"
        yield Check(f"annotators.{key}", "warn", reason, remedy)
    for key in settings.annotators:
        try:
            _ = key in left_out or make_annotator(settings, key)[0].version  # raises where a package is missing
        except FlorenceError as error:
            faults.append(f"annotators.{key}: {error}")
    try:
        _ = list_annotators(settings) if not faults else None  # raises where dependencies are wrong
    except FlorenceError as error:
        faults.append(str(error))
    if not settings.sources:
        yield Check(
            "sources",
            "warn",
            "params.yaml names none",
            "`florence loop --images DIR` names one; docs/settings.md describes others",
        )
    for key, annotator in settings.annotators.items() if settings.sources else ():
        if not any(annotator.looks_at(source) for source in settings.sources):
            yield Check(
                "annotators", "warn", f"{key} annotates no source of params.yaml", f"correct annotators.{key}.sources"
            )
    found = f"{len(settings.sources)} sources, {len(settings.annotators)} annotators"
    yield Check("plug-ins", "fail" if faults else "ok", "; ".join(faults) or found, "correct params.yaml")


def _labels(settings: Settings, root: Path) -> Iterator[Check]:
    for name, status, found, remedy in rate_label_sets(bind_workspace(root, settings)):
        yield Check(name, status, found, remedy)


def _data(settings: Settings, root: Path) -> Iterator[Check]:
    data = Store(str(root / "data"))
    if data.exists("snapshot.json"):
        snapshot = data.read_json("snapshot.json")
        yield Check(
            "data",
            "ok",
            f"snapshot {snapshot['id']} of round {snapshot['round']}, {snapshot['counts']['images']} images",
        )
    elif (root / "data.dvc").exists():
        yield Check(
            "data",
            "warn",
            "data.dvc names a snapshot that is not here",
            "`dvc pull` fetches it; `florence loop` makes a fresh one (in the repository: `make demo`)",
        )
    else:
        yield Check("data", "warn", "no snapshot yet", "`florence loop` makes one (in the repository: `make demo`)")
    shards = len(working_store(settings, root).names("images", ".parquet"))
    yield Check(
        "images",
        "ok" if shards else "warn",
        f"{shards} shards in the working store",
        "`florence collect` takes images in",
    )


def _model(settings: Settings, root: Path) -> Iterator[Check]:
    from florence.model.checkpoint import SCRATCH

    name = settings.model.init
    names = [("model.init", name)] + [
        (f"annotators.{key}.{option}", value)
        for key, section in settings.annotators.items()
        for option, value in section.options.items()
        if option in ("model", "weights", "checkpoint") and isinstance(value, str)
    ]
    for where, value in names:
        if value.removesuffix(SCRATCH) in PRESETS:
            yield Check(where, "ok", f"{value}, a preset")
        elif (folder := root / value).is_dir():
            whole = (folder / "config.json").is_file()
            yield Check(
                where,
                "ok" if whole else "fail",
                f"{value}, a folder" + ("" if whole else " without config.json"),
                "name a folder in transformers' layout",
            )
        elif re.fullmatch(r"[\w.-]+/[\w.-]+", value):
            cached = _cached(value)
            yield Check(
                where,
                "ok" if cached else "warn",
                f"{value}, " + ("in the hub's cache" if cached else "not in the hub's cache"),
                "it will be downloaded at first use; offline, download it first",
            )
        elif where == "model.init":  # an annotator may have names of its own
            yield Check(
                where,
                "fail",
                f"{value}: neither a preset, a folder nor a name on the hub",
                f"presets: {', '.join(PRESETS)}",
            )


def _cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def _disk(root: Path) -> Iterator[Check]:
    free = shutil.disk_usage(root).free / 1e9
    data = sum(file.stat().st_size for file in (root / "data").rglob("*") if file.is_file()) / 1e9
    # The working store, data/ and DVC's cache each may hold what data/ does, and each snapshot adds its labels.
    need = max(LEAST_DISK, 3 * data)
    yield Check(
        "disk",
        "ok" if free > need else "warn" if free > need / 4 else "fail",
        f"{free:.1f} GB free, about {need:.1f} GB wanted",
        "free some space; `dvc gc -w` removes old snapshots from the cache",
    )


# ---------------------------------------------------------------- stores and services


def _store(settings: Settings, root: Path) -> Iterator[Check]:
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


def _buckets(settings: Settings) -> Iterator[Check]:
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


def _remote(root: Path) -> Iterator[Check]:
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


def _mlflow(settings: Settings, root: Path) -> Iterator[Check]:
    registry = ModelRegistry(MlflowStore(settings.tracking, root))
    try:
        leader = registry.champion()
    except FlorenceError as error:
        yield Check("MLflow", "fail", redact_text(str(error)), "correct tracking.uri, or start its server")
        return
    yield Check("MLflow", "ok", redact_text(settings.tracking.uri))
    yield Check(
        "champion",
        "ok" if leader else "warn",
        f"version {leader.version}" if leader else "none",
        "`florence loop` makes one; `florence promote VERSION` names one",
    )


def _prefect(root: Path) -> Iterator[Check]:
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
