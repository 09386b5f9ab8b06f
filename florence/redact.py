"""Secrets: found by the names of their variables, masked in texts, refused in commands.

A secret is the value of a variable or setting whose name ends in the word key, token, secret or password, and has at
least `MIN_LENGTH` characters. Credentials in URLs are masked as well. Mask what people read or what is kept; never
output that a program parses.

Nothing is read from the process's environment here: the caller passes it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from florence.errors import SettingsError

MASK = "•••"
MIN_LENGTH = 8
"""Characters; shorter values are words such as "true", which other texts contain too."""

_NAME = re.compile(r"(?:^|[^a-z0-9])(?:api)?(?:key|token|secret)$|password$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_USERINFO = re.compile(r"(://)[^/\s'\"]*@")
_QUERY = re.compile(r"([?&])([^=&?\s]+)=([^&\s'\")]+)")
_QUERY_NAME = re.compile(r"(?:^|[^a-z0-9])(?:passwd|pwd|sig|signature|credential)$", re.IGNORECASE)
_HEADER = re.compile(r"^\s*(?:proxy-)?authorization\s*:\s*\S", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Return whether a variable, setting or option of this name holds a secret.

    OPENAI_API_KEY does, MONKEY and TOKENIZERS_PARALLELISM do not.
    """
    return _NAME.search(_CAMEL.sub("_", name)) is not None


def secret_values(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the secrets among environment variables, the longest first."""
    values = {value for name, value in variables.items() if len(value) >= MIN_LENGTH and is_secret_name(name)}
    return tuple(sorted(values, key=lambda value: (-len(value), value)))


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` with ``secrets`` (of any length) and the credentials of URLs masked."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _QUERY.sub(_redact_parameter, _USERINFO.sub(rf"\1{MASK}@", text))


def _redact_parameter(match: re.Match[str]) -> str:
    mark, name, value = match.groups()
    is_secret = is_secret_name(name) or _QUERY_NAME.search(_CAMEL.sub("_", name))
    return f"{mark}{name}={MASK if is_secret else value}"


def redact_settings(value: Any, secrets: Sequence[str] = (), name: str = "") -> Any:
    """Return settings (nested mappings and lists) with texts under a secret's name, and what `redact` finds, masked."""
    if isinstance(value, Mapping):
        return {key: redact_settings(inner, secrets, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_settings(inner, secrets, name) for inner in value]
    if not isinstance(value, str):
        return value
    return MASK if len(value) >= MIN_LENGTH and is_secret_name(name) else redact(value, secrets)


# ---------------------------------------------------------------- commands


def secret_arguments(command: Sequence[str]) -> list[str]:
    """Return the names of a command's arguments that hold a secret: ``--api-key``, ``OPENAI_API_KEY=``.

    Values that only name a variable ($NAME) are no secrets. Arguments that are command lines themselves (``sh -c "…"``)
    are searched too.
    """
    return list(dict.fromkeys(_secret_arguments(command)))


def _secret_arguments(command: Sequence[str]) -> Iterator[str]:
    for word, after in zip_longest(command, command[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        is_option = name.startswith("-")
        if is_secret_name(name) and re.fullmatch(r"-*[\w.-]+", name):
            if equals and _is_secret(value):
                yield name if is_option else f"{name}="
            elif is_option and not equals and not after.startswith("-") and _is_secret(after):
                yield name
        elif _HEADER.match(word) and "$" not in word:
            yield "an Authorization header"
        elif redact(word) != word:
            yield "a URL with credentials"
        if re.search(r"\s", word):
            yield from _secret_arguments(_split(word))


def _is_secret(value: str) -> bool:
    return len(value) >= MIN_LENGTH and not value.startswith("$")


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def refuse_secret_arguments(command: Sequence[str], setting: str, remedy: str) -> None:
    """Raise SettingsError where a command has a secret among its arguments, without repeating it.

    ``setting``: path of the setting that holds the command; ``remedy``: where the secret belongs, as
    "name its variable in annotators.x.environment".
    """
    if found := secret_arguments(command):
        raise SettingsError(
            f"{setting}: {found[0]} gives the program a secret, and a command is published with the settings; "
            f"{remedy}, or let the program read the secret from a token file"
        )
