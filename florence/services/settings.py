"""The settings of calls to a service, which keep keys out of what is published."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from florence.config import Section
from florence.errors import SettingsError
from florence.redact import is_secret_name

OTHER_SECRET_OPTIONS = re.compile(r"(^|_)(credentials?|authorization)$", re.I)
URL_WITH_CREDENTIALS = re.compile(r"\w+://([^/\s]*@|\S*\?)")
"""A URL with a name, a password or a query."""


def check_address(value: str) -> str:
    """Return ``value``, if it is the address of a service. Raises ValueError saying what an address is."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[^\s/?#]+", parts.hostname or "") or parts.port == 0:
        raise ValueError("an address is http:// or https://, a host, a port where it needs one, and a path")
    return value


Address = Annotated[str, AfterValidator(check_address)]


class CallSettings(Section):
    """How a service is called. None of this changes its answers, so none of it is part of an annotator's version."""

    timeout: float = Field(60.0, gt=0, exclude=True, description="seconds without an answer after which a call fails")
    retries: int = Field(
        4,
        ge=0,
        exclude=True,
        description="times that a failed call (no connection, time-out, status 408, 409, 429, 5xx) is made again",
    )
    max_wait: float = Field(
        120.0,
        ge=0,
        exclude=True,
        description="seconds that a service may ask to wait (Retry-After); above, the image is left for a later run",
    )
    repeat: int = Field(
        4, ge=0, exclude=True, description="times that a question is asked again whose answer is unusable"
    )
    rate: float | None = Field(None, gt=0, exclude=True, description="calls a minute at most; none: no limit")
    concurrency: int = Field(4, ge=1, exclude=True, description="calls under way at once")
    budget_calls: int | None = Field(
        None, ge=0, exclude=True, description="calls in all, failed ones too; none: no limit"
    )
    budget_cost: float | None = Field(
        None, ge=0, exclude=True, description="cost in all, in the currency of the prices; none: no limit"
    )


def refuse_secrets(options: dict[str, Any], section: str, variable: str) -> None:
    """Raise SettingsError for a key, or a URL with credentials, among options, without repeating it.

    ``section``: path of the options, for the error. ``variable``: the environment variable that a key belongs in.
    """
    for name, value in options.items():
        key = f"{section}.{name}"
        if isinstance(value, dict):
            refuse_secrets(value, key, variable)
        elif is_secret_name(name) or OTHER_SECRET_OPTIONS.search(name):
            raise SettingsError(
                f"{key}: a key is no setting, and would be published with them; "
                f"set it in the environment, as {variable}"
            )
        elif isinstance(value, str) and URL_WITH_CREDENTIALS.match(value):
            raise SettingsError(
                f"{key}: a URL with a name, password or query is not allowed here; "
                f"give it without, and set the key in the environment, as {variable}"
            )
