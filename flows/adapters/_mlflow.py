"""What is particular about MLflow: kept quiet, its stores addressed, its errors told in plain words."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from florence.errors import FlorenceError, SettingsError

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Errors too: they are raised, and told in our own words.
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_PRINT_MODEL_URLS_ON_CREATION": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    # Otherwise a uv.lock in the current folder, whoever's it is, decides what a model's requirements are.
    "MLFLOW_UV_AUTO_DETECT": "false",
}
FOREIGN = ("mlflow", "sqlalchemy", "alembic", "sqlite3", "requests", "urllib3", "botocore", "boto3", "s3transfer")
"""Packages whose errors are about the store, not about us."""
REMEDIES = (
    (
        r"file:? ?store|filesystem tracking backend",
        "MLflow keeps no more runs in folders: set tracking.uri to sqlite:///build/mlflow.db",
    ),
    (
        r"No module named|Can't load plugin",
        "the database's driver is not installed (PostgreSQL: pip install psycopg2-binary)",
    ),
    (
        r"not a database|malformed",
        "the file is no MLflow store, or damaged: move it away, or name another tracking.uri",
    ),
    (r"database is locked", "another process holds the database; try again when it has finished"),
    (r"No space left|disk is full|disk I/O", "the disk is full: free some space and start again"),
    (
        r"unable to open database|readonly database|Permission ?denied|Read-only file",
        "check that the folder exists and may be written",
    ),
    (
        r"PERMISSION_DENIED|UNAUTHENTICATED|\b40[13]\b|authentication failed|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|credentials",
        "check the credentials in the environment: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN; for s3:// AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL",
    ),
    (r"NoSuchBucket", "make the bucket, or name another one in tracking.artifacts"),
    (
        r"Max retries|refused|timed? ?out|not resolve|Name or service|unreachable|could not connect|ConnectionError|connection to server",
        "is the server running, and tracking.uri right?",
    ),
)


def quiet() -> None:
    """Set what MLflow reads when it is first imported: no telemetry, no bars, no notices; S3's endpoint as boto3 reads it."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        os.environ.setdefault("MLFLOW_S3_ENDPOINT_URL", endpoint)


def bare(text: str) -> str:
    """``text`` without the credentials of any URI in it."""
    text = re.sub(r"(\w[\w+.-]*://)[^/\s]*@", r"\1", text)
    return re.sub(
        r"([?&][^=&\s]*(?:password|passwd|pwd|token|secret|key)[^=&\s]*=)[^&\s'\")]+", r"\1…", text, flags=re.IGNORECASE
    )


def store_uri(uri: str, root: Path) -> str:
    """``uri`` as MLflow takes it; a relative SQLite path counts from ``root``. Raises SettingsError for a folder, which MLflow refuses."""
    scheme, mark, rest = uri.partition("://")
    if scheme.startswith("sqlite"):
        path, query, options = rest.removeprefix("/").partition("?")
        if path in ("", ":memory:"):
            raise SettingsError("tracking.uri: a store in memory forgets everything; use sqlite:///build/mlflow.db")
        return f"{scheme}:///{root / path}{query}{options}"
    if (not mark and uri != "databricks") or scheme == "file":
        raise SettingsError(
            f"tracking.uri: {bare(uri)!r} is a folder, and MLflow keeps no more runs in folders; use sqlite:///build/mlflow.db"
        )
    return uri


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store, None for any other."""
    return Path(uri.partition(":///")[2].partition("?")[0]) if uri.startswith("sqlite") else None


def is_database(uri: str) -> bool:
    """Whether MLflow opens ``uri`` itself, rather than ask a server."""
    return not uri.startswith(("http://", "https://", "databricks"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``; waits for whoever holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def knock(uri: str) -> None:
    """Raise FlorenceError soon where an http(s) server does not answer; MLflow itself would go on trying for minutes."""
    import requests

    try:
        requests.get(uri.rstrip("/") + "/health", timeout=10, allow_redirects=False)
    except requests.exceptions.SSLError:
        return  # it answers; which certificates are trusted, MLflow has settings of its own for
    except requests.RequestException as error:
        raise FlorenceError(
            f"MLflow at {bare(uri)} does not answer: {bare(_first_line(error))}; is the server running, and tracking.uri right?"
        ) from None


@contextmanager
def addressed(uri: str) -> Iterator[None]:
    """Make ``uri`` the process's own tracking URI for a while: MLflow's registry looks a new version's model up there, whatever its client was told."""
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]


@contextmanager
def told(uri: str, doing: str) -> Iterator[None]:
    """Let no error about the store pass but as a FlorenceError that names the store and the remedy, and no credentials."""
    try:
        yield
    except FlorenceError:
        raise
    except Exception as error:
        ours = type(error).__module__.partition(".")[0] not in FOREIGN and not isinstance(error, (OSError, ImportError))
        if ours:
            raise
        text = bare(f"{_first_line(error)} {type(error).__name__}")
        remedy = _schema_remedy(str(error), uri) or next(
            (r for pattern, r in REMEDIES if re.search(pattern, text + str(error), re.IGNORECASE)), ""
        )
        raise FlorenceError(
            f"MLflow at {bare(uri)}: cannot {doing}: {bare(_first_line(error))}" + (f"; {remedy}" if remedy else "")
        ) from None


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__


def _schema_remedy(text: str, uri: str) -> str:
    """What to do about a database of another MLflow's schema; "" where that is not the trouble."""
    found = re.search(r"found version (\w+)|Can't locate revision identified by '(\w+)'", text)
    if found is None:
        return ""
    import mlflow

    revision = found[1] or found[2]
    migrations = Path(mlflow.__file__).parent / "store/db_migrations/versions"
    if any(migrations.glob(f"{revision}_*.py")):
        return f"an older MLflow made the store: back it up, then `mlflow db upgrade {bare(uri)}`"
    return f"a newer MLflow than {mlflow.__version__} made the store: install that one, or name another tracking.uri"
