"""MLflow's errors, explained: which store, what could not be done, and the remedy, without credentials."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from florence.errors import FlorenceError
from flows.adapters.environment import prepare_mlflow, redact_text
from flows.adapters.system_errors import FULL

Method = TypeVar("Method", bound=Callable[..., Any])
FOREIGN = ("mlflow", "sqlalchemy", "alembic", "sqlite3", "requests", "urllib3", "botocore", "boto3", "s3transfer")
"""Packages whose errors are about the store, and no mistakes of this program."""
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
    (f"{FULL.pattern}|disk I/O", f"{FULL.words}: {FULL.remedy}"),
    (
        r"unable to open database|readonly database|Permission ?denied|Read-only file",
        "check that the folder exists and may be written",
    ),
    (
        r"PERMISSION_DENIED|UNAUTHENTICATED|\b40[13]\b|authentication failed|AccessDenied|InvalidAccessKeyId"
        r"|SignatureDoesNotMatch|credentials",
        "check the credentials in the environment: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
        "MLFLOW_TRACKING_TOKEN; for s3:// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL",
    ),
    (r"NoSuchBucket", "make the bucket, or name another one in tracking.artifacts"),
    (
        r"Max retries|refused|timed? ?out|not resolve|Name or service|unreachable|could not connect|ConnectionError"
        r"|connection to server",
        "is the server running, and tracking.uri right?",
    ),
)

AUTOFLUSH = re.compile(r"\(raised as a result of Query-invoked autoflush;[^)]*\)\s*")


class HasUri(Protocol):
    """Whatever works on the MLflow store at ``uri``."""

    @property
    def uri(self) -> str:
        """The store's URI."""


def translate_errors(action: str) -> Callable[[Method], Method]:
    """Decorate methods of objects with a ``uri``: errors of that store are raised as `explain_error` makes them."""

    def wrap(method: Method) -> Method:
        @functools.wraps(method)
        def inner(self: HasUri, *args: Any, **kwargs: Any) -> Any:
            prepare_mlflow()  # before the method imports anything of MLflow
            try:
                return method(self, *args, **kwargs)
            except FlorenceError:
                raise
            except Exception as error:
                if not _is_foreign(error):
                    raise
                raise explain_error(self.uri, action, error) from None

        return cast(Method, inner)

    return wrap


def _is_foreign(error: Exception) -> bool:
    """Return whether an error is about the store rather than a mistake of this program."""
    return type(error).__module__.partition(".")[0] in FOREIGN or isinstance(error, OSError | ImportError)


def explain_error(uri: str, action: str, error: Exception) -> FlorenceError:
    """Return the error that names the store at ``uri``, the ``action`` that failed, why, and what to do."""
    text = f"{first_line(error)} {type(error).__name__} {error}"
    remedy = _schema_remedy(str(error), uri) or next(
        (remedy for pattern, remedy in REMEDIES if re.search(pattern, text, re.IGNORECASE)), ""
    )
    return FlorenceError(
        f"MLflow at {redact_text(uri)}: cannot {action}: {first_line(error)}" + (f"; {remedy}" if remedy else "")
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, redacted and at most 300 characters; its type where it has none.

    What SQLAlchemy says of its own doings before the message is left out; of many files that could not be copied, the
    first is named.
    """
    text = str(error)
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        text = str(error.args[0][0][-1])
    lines = redact_text(AUTOFLUSH.sub("", text)).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _schema_remedy(text: str, uri: str) -> str:
    """Return what to do about a database with the schema of another MLflow; "" where that is not the fault."""
    found = re.search(r"found version (\w+)|Can't locate revision identified by '(\w+)'", text)
    if found is None:
        return ""
    import mlflow

    revision = found[1] or found[2]
    migrations = Path(mlflow.__file__).parent / "store/db_migrations/versions"
    if any(migrations.glob(f"{revision}_*.py")):
        return f"an older MLflow made the store: back it up, then `mlflow db upgrade {redact_text(uri)}`"
    return f"a newer MLflow than {mlflow.__version__} made the store: install that one, or name another tracking.uri"
