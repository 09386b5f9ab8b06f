"""This process's environment: its secrets, kept out of what is shown and kept, and what MLflow reads of it."""

from __future__ import annotations

import os
from typing import Any

from florence.redact import redact, redact_settings, secret_values

MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Errors too: they are raised, and explained in our own words.
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_PRINT_MODEL_URLS_ON_CREATION": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    # Otherwise a uv.lock in the current folder, whoever's it is, decides what a model's requirements are.
    "MLFLOW_UV_AUTO_DETECT": "false",
}


def redact_text(text: str) -> str:
    """Return ``text`` without the environment's secrets and the credentials of URLs; not for output that is parsed."""
    return redact(text, secret_values(os.environ))


def redact_values(values: Any) -> Any:
    """Return settings, tags or whatever is nested in them, redacted as `florence.redact.redact_settings` does."""
    return redact_settings(values, secret_values(os.environ))


def prepare_mlflow() -> None:
    """Set what MLflow reads when it is imported: no telemetry, bars or notices; S3's endpoint as boto3 reads it."""
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        os.environ.setdefault("MLFLOW_S3_ENDPOINT_URL", endpoint)
