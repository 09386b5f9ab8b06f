"""Chat endpoints that speak OpenAI's protocol (vLLM, Ollama, Azure OpenAI, OpenAI), by OpenAI's own client."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field

from florence.errors import SettingsError
from florence.images import shrink
from florence.records import Claim, ClaimsOrError
from florence.redact import redact
from florence.services.answers import UnusableAnswerError, parse_json, parse_texts
from florence.services.calls import RETRIED_STATUSES, Caller, CallFailedError, parse_retry_after
from florence.services.settings import Address, CallSettings
from florence.services.usage import MeteredAnnotator, Usage

INSTALL = "pip install 'florence[services]' -c constraints.txt"
KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "azure": "AZURE_OPENAI_API_KEY"}
"""The environment variable of the key, by protocol."""
MIN_SIDE = 32
"""Pixels; some models refuse pictures that are smaller than one of their patches."""
JPEG_QUALITY = 90


class ChatSettings(CallSettings):
    """A chat endpoint.

    Its answers follow from ``model``, ``revision``, ``side``, ``seed``, ``max_tokens`` and ``omit``, and are made again
    where one of these changes.
    """

    model: str = Field(min_length=1, description="name of the model, or of the deployment on Azure")
    url: Address | None = Field(
        None,
        exclude=True,
        description="the API's base, as http://localhost:8000/v1; "
        "none: OPENAI_BASE_URL (AZURE_OPENAI_ENDPOINT), or OpenAI itself",
    )
    api: Literal["openai", "azure"] = Field(
        "openai", exclude=True, description="azure: the paths, key and versions of an Azure OpenAI resource"
    )
    api_version: str | None = Field(None, exclude=True, description="for azure; none: OPENAI_API_VERSION")
    keyless: bool = Field(
        False, exclude=True, description="the server needs no key; a key in the environment is not sent to it"
    )
    revision: str = Field("", description="any word; change it when the service has changed the model behind its name")
    side: int = Field(1024, ge=32, description="pixels; a longer side is shrunk to it before an image is sent")
    seed: int = Field(0, ge=0, description="sent with each question; one more each time that it is asked again")
    max_tokens: int = Field(500, ge=1, description="tokens of an answer at most; a longer one is unusable")
    limit: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", exclude=True, description="the service's name for max_tokens"
    )
    omit: tuple[Literal["temperature", "seed", "response_format"], ...] = Field(
        (), description="parts of a request to leave out, for services that refuse them"
    )
    image_tokens: int = Field(
        1500,
        ge=0,
        exclude=True,
        description="tokens that the budget counts for an image until an answer of the service counts more",
    )
    budget_tokens: int | None = Field(
        None, ge=0, exclude=True, description="tokens in all, of questions and answers; none: no limit"
    )
    price_prompt: float = Field(0.0, ge=0, exclude=True, description="price of a million tokens of questions")
    price_completion: float = Field(0.0, ge=0, exclude=True, description="price of a million tokens of answers")


@dataclass(frozen=True)
class ChatQuestion:
    """A question to a chat model.

    ``keys``: names of the texts that are asked for together, as JSON; none: one text, under "". ``pixels``: (H, W, 3)
    uint8, the picture that the question is about.
    """

    prompt: str
    keys: tuple[str, ...] = ()
    pixels: np.ndarray | None = None


Texts = dict[str, str]
"""The texts in an answer, by the question's keys."""


class ChatClient:
    """The client of an annotator that asks a chat endpoint. ``section``: the section of its settings, for errors."""

    def __init__(self, owner: MeteredAnnotator, settings: ChatSettings, section: str) -> None:
        self._owner, self._settings, self._section = owner, settings, section
        self._caller = Caller(owner, settings, section, settings.budget_tokens)
        self._image_tokens = settings.image_tokens
        self._client: Any = None

    def load(self) -> None:
        """Make the client, which takes its key from the environment.

        Raises SettingsError where package, key or address is missing.
        """
        if self._client is not None:
            return
        try:
            import openai
        except ImportError:
            raise SettingsError(
                f"annotators.{self._owner.name}: the package openai is not installed: {INSTALL}"
            ) from None
        settings = self._settings
        # `Caller` makes calls again, and counts them. Redirects would be calls that nobody counts.
        options: dict[str, Any] = {
            "timeout": settings.timeout,
            "max_retries": 0,
            "http_client": openai.DefaultHttpxClient(follow_redirects=False),
        }
        if settings.keyless:
            options["api_key"] = "keyless"
        try:
            if settings.api == "openai":
                self._client = openai.OpenAI(base_url=settings.url, **options)
            else:
                options |= {"azure_endpoint": settings.url, "api_version": settings.api_version}
                self._client = openai.AzureOpenAI(**options)
        except (openai.OpenAIError, ValueError, TypeError) as error:
            remedy = (
                f"set {KEY_VARIABLES[settings.api]} in the environment, "
                f"or {self._section}.keyless: true for a server that needs none"
                if "redentials" in str(error)
                else f"see {self._section}"
            )
            raise SettingsError(
                f"annotators.{self._owner.name}: {str(error).splitlines()[0]} Remedy: {remedy}"
            ) from None

    def annotate(
        self,
        count: int,
        questions: Callable[[int], Sequence[ChatQuestion]],
        claims: Callable[[int, list[Texts]], list[Claim]],
    ) -> list[ClaimsOrError]:
        """Return the claims about each of ``count`` images, or its error.

        ``questions`` returns the questions about the image of an index, ``claims`` the claims that the answers make. An
        image gets claims only when all its questions are answered.
        """

        def annotate_image(index: int, stop: threading.Event) -> list[Claim]:
            requests = [(question, self._request(question)) for question in questions(index)]
            if not requests:
                return claims(index, [])
            limits = [self._most_usage(question, request) for question, request in requests]
            with self._caller.budget.reserve(sum(limits, Usage()), stop) as reservation:
                answers = [
                    self._caller.ask(
                        reservation,
                        most,
                        partial(self._call, request, question.pixels is not None),
                        partial(_read, question.keys),
                        stop,
                    )
                    for (question, request), most in zip(requests, limits, strict=True)
                ]
            return claims(index, answers)

        return self._caller.annotate_each(count, annotate_image)

    def _request(self, question: ChatQuestion) -> dict[str, Any]:
        content: str | list[dict[str, Any]] = question.prompt
        if question.pixels is not None:
            content = [
                {"type": "text", "text": question.prompt},
                {"type": "image_url", "image_url": {"url": data_url(question.pixels, self._settings.side)}},
            ]
        request: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "seed": self._settings.seed,
        }
        if question.keys:
            schema = {
                "type": "object",
                "properties": {key: {"type": "string"} for key in question.keys},
                "required": list(question.keys),
                "additionalProperties": False,
            }
            request["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "texts", "strict": True, "schema": schema},
            }
        return {
            **{key: value for key, value in request.items() if key not in self._settings.omit},
            self._settings.limit: self._settings.max_tokens,
        }

    def _most_usage(self, question: ChatQuestion, request: dict[str, Any]) -> Usage:
        """Return the most that one call may use: tokens are never more than bytes; a chat template adds a few."""
        prompt = (
            len(question.prompt.encode())
            + len(json.dumps(request.get("response_format", "")))
            + 50
            + (self._image_tokens if question.pixels is not None else 0)
        )
        return self._usage(prompt, self._settings.max_tokens, 1)

    def _usage(self, prompt: int, completion: int, calls: int = 0) -> Usage:
        return Usage(
            calls,
            prompt + completion,
            (prompt * self._settings.price_prompt + completion * self._settings.price_completion) / 1e6,
        )

    def _call(self, request: dict[str, Any], has_image: bool, attempt: int) -> tuple[Any, Usage | None]:
        """Return an answer's body, None if it is not JSON, and its usage, None if the service does not report usage."""
        import openai

        if "seed" in request:
            request = {**request, "seed": request["seed"] + attempt}
        try:
            body = parse_json(self._client.chat.completions.with_raw_response.create(**request).http_response.text)
        except openai.APIStatusError as error:
            raise self._status_error(
                error.status_code, error.code or "", error.param or "", _error_message(error), error.response.headers
            ) from None
        except openai.APIConnectionError as error:
            raise self._connection_error(error) from None
        used = _token_counts(body)
        if used is None:
            return body, None
        if has_image:
            self._image_tokens = max(self._image_tokens, used[0])
        return body, self._usage(*used)

    def _connection_error(self, error: Exception) -> CallFailedError:
        """Return what a connection that failed means."""
        cause = error.__cause__ or error
        if type(cause).__name__ in (
            "ConnectError",
            "ConnectTimeout",
            "PoolTimeout",
            "ProxyError",
            "UnsupportedProtocol",
        ):
            return CallFailedError(
                f"{self._address()} cannot be reached ({str(cause) or type(cause).__name__})", reached=False
            )
        slow = "Timeout" in type(cause).__name__
        return CallFailedError(
            f"{self._address()} did not answer within {self._settings.timeout:g} seconds"
            if slow
            else f"{self._address()} broke off ({cause})",
            is_free=False,
        )

    def _status_error(self, status: int, code: str, param: str, message: str, headers: Any) -> Exception:
        """Return what an answer of another status than 200 means."""
        reason = f"{self._address()} answers {status}{message}"
        reply = f"annotators.{self._owner.name}: {reason}"
        section, settings = self._section, self._settings
        if status in (401, 403):
            return SettingsError(
                f"{reply}: the key is not accepted; "
                f"set {KEY_VARIABLES[settings.api]} to one that may use model {settings.model}"
            )
        if status in (404, 405) or status < 400:
            return SettingsError(
                f"{reply}: check {section}.url (the API's base, mostly ending in /v1) "
                f"and {section}.model, {settings.model}"
            )
        if status in (400, 422) and param in ("temperature", "seed", "response_format"):
            return SettingsError(f"{reply}: name {param} in {section}.omit, and it is left out")
        if status in (400, 422) and param in ("max_tokens", "max_completion_tokens"):
            return SettingsError(
                f"{reply}: set {section}.limit to the service's name for it, "
                f"or {section}.max_tokens to what the service allows"
            )
        if status == 400 and "content_filter" in code:
            return UnusableAnswerError(f"refused by the service's filter{message}")
        if status in RETRIED_STATUSES and code != "insufficient_quota":
            milliseconds = parse_retry_after(headers.get("retry-after-ms"))
            return CallFailedError(
                reason,
                wait=parse_retry_after(headers.get("retry-after")) if milliseconds is None else milliseconds / 1000,
            )
        return CallFailedError(reason, retry="later" if status == 429 else "never")

    def _address(self) -> str:
        """Return the endpoint's address, without what may be secret in it."""
        url = self._client.base_url
        return f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}{url.path}"


def data_url(pixels: np.ndarray, side: int) -> str:
    """Return a picture (H, W, 3), uint8, as the data URL of a JPEG whose longer side is at most ``side``.

    Very small and thin pictures are enlarged, and their edges repeated.
    """
    import cv2

    sized = shrink(pixels, side)
    height, width = sized.shape[:2]
    scale = min(MIN_SIDE / min(height, width), side / max(height, width))
    if scale > 1:
        sized = cv2.resize(
            sized, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_LINEAR
        )
        height, width = sized.shape[:2]
    below, right = max(0, MIN_SIDE - height), max(0, MIN_SIDE - width)
    if below or right:
        sized = cv2.copyMakeBorder(
            sized, below // 2, below - below // 2, right // 2, right - right // 2, cv2.BORDER_REPLICATE
        )
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(sized[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _read(keys: Sequence[str], body: Any) -> Texts:
    """Return the texts in an answer. Raises UnusableAnswerError saying what is wrong with it."""
    try:
        choice = body["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content"), message.get("refusal")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise UnusableAnswerError(
            "not an answer of a chat endpoint (a web page, or cut off)", is_foreign=True
        ) from None
    if reason == "length":
        raise UnusableAnswerError("cut off: longer than max_tokens")
    if refusal or reason == "content_filter":
        raise UnusableAnswerError(f"the model refuses ({str(refusal or reason)[:100]})")
    if not isinstance(content, str):
        raise UnusableAnswerError("empty")
    return parse_texts(content, keys)


def _token_counts(body: Any) -> tuple[int, int] | None:
    """Return the tokens of question and answer; None if the service does not report usage."""
    usage = body.get("usage") if isinstance(body, dict) else None
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    prompt, completion = counts if len(counts) == 2 else (None, None)
    return (
        (prompt, completion)
        if isinstance(prompt, int) and isinstance(completion, int) and prompt >= 0 and completion >= 0
        else None
    )


def _error_message(error: Any) -> str:
    """Return the service's own message, short, in brackets, without the key, which some services repeat."""
    body = error.body if isinstance(error.body, dict) else {}
    headers = error.request.headers
    keys = [headers.get(name, "").removeprefix("Bearer ") for name in ("authorization", "api-key")]
    text = redact(" ".join(str(body.get("message") or "").split()), keys)
    return f" ({text[:200]})" if text else ""
