"""Annotators behind HTTP: the lines of docs/annotators.md as the body of a POST and of its answer."""

from __future__ import annotations

import base64
import http.client
import netrc
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, subset_of
from florence.config import Section
from florence.errors import SettingsError
from florence.processes.isolation import AskFailure, FaultIsolator
from florence.processes.png import encode_png
from florence.processes.protocol import CONTENT_TYPE, LineReader, ProtocolError, format_request, parse_answer
from florence.records import ANNOTATION_TYPES, ClaimsOrError, ImageRecord
from florence.redact import redact

BODY_SIZE = 16 * 2**20
"""Bytes of a POST after which the next images go into another one."""
MAX_FAILURES = 3
"""Failures in a row, with no answer in between, after which the rest of a batch is left for a later run."""
OVERLOADED = (408, 425, 429, 502, 503, 504)
"""Status codes of calls that may succeed in a moment."""
MAX_WAIT = 60.0
"""Seconds to wait at most, where the service asks to wait."""
REMEDIES = {
    401: "are its credentials in ~/.netrc or token_file, and valid?",
    403: "have its credentials the right to this?",
    404: "is the path of the url right?",
    405: "is the path of the url right?",
}


class _ServiceDownError(Exception):
    """A service that gives no answers now.

    ``can_retry``: whether to try again in a moment, after ``wait`` seconds where the service says so.
    """

    def __init__(self, reason: str, can_retry: bool = True, wait: float | None = None) -> None:
        super().__init__(reason)
        self.can_retry, self.wait = can_retry, wait


class _UnusableResponseError(Exception):
    """A call that left images without an answer; an image may be the cause."""


class _ResponseTimeoutError(_UnusableResponseError):
    """A call that took too long."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: a POST would arrive as a GET, and credentials elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


@ANNOTATORS.register("endpoint")
class Endpoint(Annotator):
    """Post images to the user's HTTP service and return its claims.

    Pictures are sent as PNG, upright and without loss. The lines are those of `florence.processes.protocol`;
    docs/annotators.md describes them and the other settings. In params.yaml:

        annotators:
          theirs:
            {use: endpoint, url: "http://gpu-box:8000/annotate", version: "2024-05 yolo-x",
             tasks: ["<OD>"], sources: ["*"], required: false}
    """

    class Options(Section):
        """Settings. The address and how long to wait are no part of the annotator's version.

        Raise `version` when its answers change.
        """

        url: str = Field(exclude=True, description="address to post lines to, http:// or https://, without credentials")
        tasks: Annotated[tuple[str, ...], subset_of(ANNOTATION_TYPES)] = Field(
            min_length=1, description="annotation types it claims"
        )
        version: str = Field(min_length=1, description="raise it when the service answers differently")
        vocabulary: tuple[str, ...] | None = Field(
            None, min_length=1, description="the names it can give to objects; none: any"
        )
        role: Literal["annotator", "ranker"] = Field(
            "annotator", description="a ranker scores how well texts of other annotators fit"
        )
        reads_claims: bool = Field(False, description="whether it gets the claims of earlier annotators")
        timeout: float = Field(
            120.0, gt=0, exclude=True, description="seconds without an answer after which a call fails"
        )
        retries: int = Field(
            4,
            ge=0,
            exclude=True,
            description="times that a failed call is made again, for the images that have no answer",
        )
        token_file: str | None = Field(
            None,
            exclude=True,
            description="a file with a token, sent as `Authorization: Bearer`; "
            "none: name and password from ~/.netrc, where it has the host",
        )

        @field_validator("url")
        @classmethod
        def _url(cls, value: str) -> str:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("an address as http://host:port/path is expected")
            return value

    def __init__(self, *, name: str, **options: Any) -> None:
        url = options.get("url")
        if isinstance(url, str) and ("@" in urlsplit(url).netloc or urlsplit(url).query):
            # Here and not in a validator, whose error would show it.
            raise SettingsError(
                f"annotators.{name}.url: a name, password or query in an address may be secret, "
                "and settings are published: use ~/.netrc or token_file"
            )
        super().__init__(name=name, **options)
        self.role = self.options.role
        self.needs = frozenset({"pixels", "claims"} if self.options.reads_claims else {"pixels"})
        self._isolator = FaultIsolator(MAX_FAILURES)
        self._secrets: tuple[str, ...] = ()

    def vocabulary(self) -> tuple[str, ...] | None:
        """Return the names in the settings."""
        return self.options.vocabulary

    def load(self) -> None:
        """Read the credentials. Raises SettingsError where they cannot be read."""
        self._credentials()

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """Return the service's claims about each image, or the image's error.

        See `florence.processes.isolation` for what happens when a call fails. Raises UnavailableError where the service
        answers about none of the images.
        """
        if not batch.records:
            return []
        if self._isolator.is_given_up:
            self._isolator = FaultIsolator(MAX_FAILURES)
        indices = {record.image_id: index for index, record in enumerate(batch.records)}

        def ask(images: Sequence[str], results: dict[str, ClaimsOrError]) -> AskFailure | None:
            for body, requested in self._bodies(batch, [indices[image] for image in images]):
                failure = self._post_until_answered(body, requested, results)
                if failure is not None:
                    return failure
            return None

        results = self._isolator.ask(list(indices), ask)
        return [results[record.image_id] for record in batch.records]

    def _bodies(self, batch: ImageBatch, indices: Sequence[int]) -> Iterator[tuple[bytes, dict[str, ImageRecord]]]:
        """Yield the bodies to post, each with the images that it asks about."""
        lines: list[bytes] = []
        requested: dict[str, ImageRecord] = {}
        for index in indices:
            record = batch.records[index]
            claims = batch.claims[index] if self.options.reads_claims else None
            lines.append(format_request(record, claims, image=encode_png(batch.pixels[index], 1)))
            requested[record.image_id] = record
            if sum(map(len, lines)) >= BODY_SIZE:
                yield b"".join(lines), requested
                lines, requested = [], {}
        if lines:
            yield b"".join(lines), requested

    def _post_until_answered(
        self, body: bytes, requested: dict[str, ImageRecord], results: dict[str, ClaimsOrError]
    ) -> AskFailure | None:
        """Post a body, and again where that may help; return what failed.

        A body about several images is not posted again for an unusable answer: its images are asked about one by one.
        """
        for tried in range(self.options.retries + 1):
            is_last, wait = tried == self.options.retries, 0.5 * 2**tried
            try:
                self._post(body, requested, results)
            except _ServiceDownError as error:
                if not error.can_retry or is_last:
                    times = f" ({tried + 1} times)" if tried else ""
                    return AskFailure(redact(f"{self.options.url} {error}", self._secrets) + times, is_lasting=True)
                wait = wait if error.wait is None else error.wait
            except (_UnusableResponseError, ProtocolError) as error:
                is_final = len(requested) > 1 or is_last or isinstance(error, _ResponseTimeoutError)
                if not requested.keys() <= results.keys() and is_final:
                    return AskFailure(redact(f"{self.options.url} {error}", self._secrets))
            if requested.keys() <= results.keys():
                return None
            time.sleep(min(wait, MAX_WAIT))
        raise AssertionError("the last try returns")

    def _post(self, body: bytes, requested: dict[str, ImageRecord], results: dict[str, ClaimsOrError]) -> None:
        """Make one call, and keep each answer in ``results``, also those before a failure.

        Raises _ServiceDownError, or _UnusableResponseError or ProtocolError where images are left without an answer.
        """
        headers = {"Content-Type": CONTENT_TYPE, "Accept": CONTENT_TYPE, **self._credentials()}
        request = urllib.request.Request(self.options.url, body, headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirect())
        try:
            with opener.open(request, timeout=self.options.timeout) as response:
                for number, line, is_complete in self._lines(response):
                    try:
                        image, answer = parse_answer(line, number, requested, self.tasks)
                    except ProtocolError as error:
                        cut_off = _UnusableResponseError(f"broke off in the middle of a line ({error})")
                        raise (error if is_complete else cut_off) from None
                    results.setdefault(
                        image, answer if isinstance(answer, list) else type(answer)(redact(str(answer), self._secrets))
                    )
        except urllib.error.HTTPError as error:
            with error:
                raise _status_error(error) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, (BrokenPipeError, ConnectionResetError)):
                raise _UnusableResponseError(
                    f"hung up while it was sent {len(body):,} bytes (has it, or a proxy before it, a limit?)"
                ) from None
            raise _ServiceDownError(f"cannot be reached ({error.reason})") from None
        except TimeoutError:
            raise _ResponseTimeoutError(f"has answered nothing for {self.options.timeout:g} seconds") from None
        except (OSError, http.client.HTTPException) as error:
            raise _UnusableResponseError(f"broke off ({str(error) or type(error).__name__})") from None
        if left := requested.keys() - results.keys():
            raise _UnusableResponseError(f"left {len(left)} of {len(requested)} images unanswered")

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[tuple[int, bytes, bool]]:
        """Yield (number, line, whether it has its end) for each line of an answer, as they come.

        Raises TimeoutError also for a service that sends bytes without ever ending a line.
        """
        reader, last_line = LineReader(), time.monotonic()
        while data := response.read1(1 << 16):
            for line in reader.feed(data):
                yield reader.number, line, True
                last_line = time.monotonic()
            if time.monotonic() - last_line > self.options.timeout:
                raise TimeoutError
        yield from ((reader.number, line, False) for line in reader.feed(b"\n"))

    def _credentials(self) -> dict[str, str]:
        """Return the header with the token, or with what ~/.netrc has for the host.

        Raises SettingsError where they cannot be read.
        """
        if self.options.token_file is not None:
            try:
                token = Path(self.options.token_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(
                    f"annotators.{self.name}.token_file: {self.options.token_file} cannot be read: "
                    f"{type(error).__name__}"
                ) from None
            if not re.fullmatch(r"[!-~]+", token):
                raise SettingsError(
                    f"annotators.{self.name}.token_file: {self.options.token_file} has to hold a token, "
                    "in ASCII and on one line"
                )
            self._secrets = (token,)
            return {"Authorization": f"Bearer {token}"}
        try:
            found = netrc.netrc().authenticators(urlsplit(self.options.url).hostname or "")
        except FileNotFoundError:
            return {}
        except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
            # The error's own text would show what it stumbled over.
            raise SettingsError(
                f"annotators.{self.name}: ~/.netrc cannot be read, at line {getattr(error, 'lineno', None) or '?'}: "
                "correct it, or its owner and mode"
            ) from None
        if not found or not found[2]:
            return {}
        pair = base64.b64encode(f"{found[0]}:{found[2]}".encode()).decode()
        self._secrets = (pair, found[2])
        return {"Authorization": f"Basic {pair}"}


def _status_error(error: urllib.error.HTTPError) -> Exception:
    """Return what an answer of another status than 2xx means."""
    try:
        message = " ".join(error.read(2000).decode(errors="replace").split())
    except (OSError, http.client.HTTPException):
        message = ""
    reason = f"answers {error.code} {error.reason}" + (f": {message[:300]}" if message else "")
    if error.code in OVERLOADED:
        wait = error.headers.get("Retry-After", "")
        return _ServiceDownError(reason, wait=float(wait) if wait.isdigit() else None)
    if error.code == 500 or error.code in (400, 411, 413, 415, 422):
        return _UnusableResponseError(reason)
    return _ServiceDownError(f"{reason} ({REMEDIES.get(error.code, 'is the url right?')})", can_retry=False)
