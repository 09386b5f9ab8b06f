"""Annotators behind HTTP: the lines that programs read and write (docs/annotators.md), as the body of a POST and of its answer."""

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

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, among
from florence.config import Section
from florence.errors import SettingsError
from florence.processes.isolation import AskFailure, FaultIsolator
from florence.processes.protocol import LINES, LineReader, ProtocolError, answer, encode_png, format_request
from florence.records import ANNOTATION_TYPES, ClaimsOrError, ImageRecord

BODY = 16 * 2**20
"""Bytes of a POST from which on the images left go into another one."""
PATIENCE = 3
"""Answers of no use in a row after which the rest of a batch is left for a later run."""
OVERLOADED = (408, 425, 429, 502, 503, 504)
"""Status codes of what may go well in a moment."""
LONGEST = 60.0
"""Seconds that are waited at most where the service asks to be left alone."""
REMEDIES = {
    401: "are its credentials in ~/.netrc or token_file, and valid?",
    403: "have its credentials the right to this?",
    404: "is the path of the url right?",
    405: "is the path of the url right?",
}


class _ServiceDownError(Exception):
    """A service that gives no answers now. ``again``: whether to try in a moment, after ``wait`` seconds where it says so."""

    def __init__(self, reason: str, again: bool = True, wait: float | None = None) -> None:
        super().__init__(reason)
        self.again, self.wait = again, wait


class _UnusableResponseError(Exception):
    """A call without an answer, or whose answer is of no use; an image may be at fault."""


class _ResponseTimeoutError(_UnusableResponseError):
    """A call that took too long."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is redirected would arrive as a GET, and credentials elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


@ANNOTATORS.register("endpoint")
class Endpoint(Annotator):
    """Whatever a service of the user's claims. Pictures are sent as PNG, upright and without loss."""

    class Options(Section):
        """Settings. Those that say where the service is and how patient to be are no part of the annotator's version: `version` alone says that it answers as before."""

        url: str = Field(
            exclude=True, description="where lines are posted to, http:// or https://, without credentials"
        )
        tasks: Annotated[tuple[str, ...], among(ANNOTATION_TYPES)] = Field(min_length=1, description="kinds it claims")
        version: str = Field(min_length=1, description="raised by you when the service comes to answer otherwise")
        vocabulary: tuple[str, ...] | None = Field(
            None, min_length=1, description="the names it can give to objects; none: any"
        )
        role: Literal["annotator", "ranker"] = Field(
            "annotator", description="a ranker tells how well texts that others claimed fit"
        )
        reads_claims: bool = Field(False, description="whether it is given what annotators before it claimed")
        timeout: float = Field(
            120.0, gt=0, exclude=True, description="seconds without an answer after which a call has failed"
        )
        retries: int = Field(
            4, ge=0, exclude=True, description="times that a failed call is made again, for the images that it left"
        )
        token_file: str | None = Field(
            None,
            exclude=True,
            description="a file with a token, sent as `Authorization: Bearer`; none: name and password of ~/.netrc, where it has the host",
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
                f"annotators.{name}.url: a name, password or query in an address may be secret, and settings are published: use ~/.netrc or token_file"
            )
        super().__init__(name=name, **options)
        self.role = self.options.role
        self.needs = frozenset({"pixels", "claims"} if self.options.reads_claims else {"pixels"})
        self._asking = FaultIsolator(PATIENCE)
        self._secrets: tuple[str, ...] = ()

    def vocabulary(self) -> tuple[str, ...] | None:
        """As the settings say."""
        return self.options.vocabulary

    def load(self) -> None:
        """See to the credentials: it is no good to find out in the middle."""
        self._credentials()

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """What the service says of each image. An image that it cannot get through is found, by asking about each alone.

        Raises UnavailableError where it answers about none.
        """
        if not batch.records:
            return []
        if self._asking.given_up:
            self._asking = FaultIsolator(PATIENCE)
        places = {record.image_id: index for index, record in enumerate(batch.records)}

        def ask(images: Sequence[str], said: dict[str, ClaimsOrError]) -> AskFailure | None:
            for body, asked in self._bodies(batch, [places[image] for image in images]):
                failure = self._persist(body, asked, said)
                if failure is not None:
                    return failure
            return None

        found = self._asking.about(list(places), ask)
        return [found[record.image_id] for record in batch.records]

    def _bodies(self, batch: ImageBatch, chosen: Sequence[int]) -> Iterator[tuple[bytes, dict[str, ImageRecord]]]:
        """What to post, and the images it asks about."""
        lines: list[bytes] = []
        asked: dict[str, ImageRecord] = {}
        for index in chosen:
            record = batch.records[index]
            lines.append(
                format_request(
                    record,
                    batch.claims[index] if self.options.reads_claims else None,
                    image=encode_png(batch.pixels[index], 1),
                )
            )
            asked[record.image_id] = record
            if sum(map(len, lines)) >= BODY:
                yield b"".join(lines), asked
                lines, asked = [], {}
        if lines:
            yield b"".join(lines), asked

    def _persist(self, body: bytes, asked: dict[str, ImageRecord], said: dict[str, ClaimsOrError]) -> AskFailure | None:
        """Post a body, and again where that may help: of several images, answers of no use are not asked for again, as that is done one by one."""
        for tried in range(self.options.retries + 1):
            last, wait = tried == self.options.retries, 0.5 * 2**tried
            try:
                self._post(body, asked, said)
            except _ServiceDownError as error:
                if not error.again or last:
                    return AskFailure(
                        self._blotted(f"{self.options.url} {error}") + (f" ({tried + 1} times)" if tried else ""),
                        lasting=True,
                    )
                wait = wait if error.wait is None else error.wait
            except (_UnusableResponseError, ProtocolError) as error:
                if not asked.keys() <= said.keys() and (
                    len(asked) > 1 or last or isinstance(error, _ResponseTimeoutError)
                ):
                    return AskFailure(self._blotted(f"{self.options.url} {error}"))
            if asked.keys() <= said.keys():
                return None
            time.sleep(min(wait, LONGEST))
        raise AssertionError("the last try returns")

    def _post(self, body: bytes, asked: dict[str, ImageRecord], said: dict[str, ClaimsOrError]) -> None:
        """One call. What was answered before it failed is kept. Raises _Down, or _Useless or ProtocolError where images are left unanswered."""
        request = urllib.request.Request(
            self.options.url, body, {"Content-Type": LINES, "Accept": LINES, **self._credentials()}, method="POST"
        )
        opener = urllib.request.build_opener(_NoRedirect())
        try:
            with opener.open(request, timeout=self.options.timeout) as response:
                for number, line, whole in self._lines(response):
                    try:
                        image, claims = answer(line, number, asked, self.tasks)
                    except ProtocolError as error:
                        raise (
                            error if whole else _UnusableResponseError(f"broke off in the middle of a line ({error})")
                        ) from None
                    said.setdefault(
                        image, claims if isinstance(claims, list) else type(claims)(self._blotted(str(claims)))
                    )
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from None
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
        if left := asked.keys() - said.keys():
            raise _UnusableResponseError(f"left {len(left)} of {len(asked)} images unanswered")

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[tuple[int, bytes, bool]]:
        """The lines of an answer as they come, numbered, and whether each has its end. A service that drips bytes without ever ending a line runs out of time too."""
        lines, since = LineReader(), time.monotonic()
        while data := response.read1(1 << 16):
            for line in lines.of(data):
                yield lines.number, line, True
                since = time.monotonic()
            if time.monotonic() - since > self.options.timeout:
                raise TimeoutError
        yield from ((lines.number, line, False) for line in lines.of(b"\n"))

    def _credentials(self) -> dict[str, str]:
        """The header that the settings or ~/.netrc have for the host. Raises SettingsError where they cannot be read."""
        if self.options.token_file is not None:
            try:
                token = Path(self.options.token_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(
                    f"annotators.{self.name}.token_file: {self.options.token_file} cannot be read: {type(error).__name__}"
                ) from None
            if not re.fullmatch(r"[!-~]+", token):
                raise SettingsError(
                    f"annotators.{self.name}.token_file: {self.options.token_file} has to hold a token, in ASCII and on one line"
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
                f"annotators.{self.name}: ~/.netrc cannot be read, at line {getattr(error, 'lineno', None) or '?'}: correct it, or its owner and mode"
            ) from None
        if not found or not found[2]:
            return {}
        pair = base64.b64encode(f"{found[0]}:{found[2]}".encode()).decode()
        self._secrets = (pair, found[2])
        return {"Authorization": f"Basic {pair}"}

    def _blotted(self, text: str) -> str:
        """What a service says, without what it was told in confidence: some repeat it."""
        for secret in self._secrets:
            text = text.replace(secret, "***") if secret else text
        return text


def _refusal(error: urllib.error.HTTPError) -> Exception:
    """What an answer of another status than 2xx means."""
    try:
        told = " ".join(error.read(2000).decode(errors="replace").split())
    except (OSError, http.client.HTTPException):
        told = ""
    reason = f"answers {error.code} {error.reason}" + (f": {told[:300]}" if told else "")
    if error.code in OVERLOADED:
        wait = error.headers.get("Retry-After", "")
        return _ServiceDownError(reason, wait=float(wait) if wait.isdigit() else None)
    if error.code == 500 or error.code in (400, 411, 413, 415, 422):
        return _UnusableResponseError(reason)
    return _ServiceDownError(f"{reason} ({REMEDIES.get(error.code, 'is the url right?')})", again=False)
