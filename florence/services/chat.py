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
from florence.pixels import shrink
from florence.records import Claim, ClaimsOrError
from florence.services.answers import UnusableAnswerError, parse_json, parse_texts
from florence.services.calls import RETRIED_STATUSES, Address, Caller, CallFailedError, CallSettings, parse_retry_after
from florence.services.usage import MeteredAnnotator, Usage

INSTALL = "pip install 'florence[services]' -c constraints.txt"
KEYS = {"openai": "OPENAI_API_KEY", "azure": "AZURE_OPENAI_API_KEY"}
LEAST_SIDE = 32
"""Pixels; some models refuse pictures that are smaller than one of their patches."""
QUALITY = 90
"""Of the JPEG that is sent."""


class ChatSettings(CallSettings):
    """A chat endpoint. Its answers follow from ``model``, ``revision``, ``side``, ``seed``, ``max_tokens`` and ``omit``, and are made again where one of these changes."""

    model: str = Field(min_length=1, description="name of the model, or of the deployment on Azure")
    url: Address | None = Field(
        None,
        exclude=True,
        description="the API's base, as http://localhost:8000/v1; none: OPENAI_BASE_URL (AZURE_OPENAI_ENDPOINT), or OpenAI itself",
    )
    api: Literal["openai", "azure"] = Field(
        "openai", exclude=True, description="azure: the paths, key and versions of an Azure OpenAI resource"
    )
    api_version: str | None = Field(None, exclude=True, description="for azure; none: OPENAI_API_VERSION")
    keyless: bool = Field(
        False, exclude=True, description="the server wants no key, and is sent none that the environment has"
    )
    revision: str = Field("", description="any word; change it when the service has changed the model behind its name")
    side: int = Field(1024, ge=32, description="pixels; a longer side is shrunk to it before an image is sent")
    seed: int = Field(0, ge=0, description="given with each question; one more each time that it is asked again")
    max_tokens: int = Field(500, ge=1, description="tokens of an answer at most; a longer one is of no use")
    limit: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", exclude=True, description="what the service calls that"
    )
    omit: tuple[Literal["temperature", "seed", "response_format"], ...] = Field(
        (), description="parts of a request to leave out, for services that refuse them"
    )
    image_tokens: int = Field(
        1500,
        ge=0,
        exclude=True,
        description="tokens that an image is taken for in the budget until the service has told of more",
    )
    budget_tokens: int | None = Field(
        None, ge=0, exclude=True, description="tokens in all, of questions and answers; none: no limit"
    )
    price_prompt: float = Field(0.0, ge=0, exclude=True, description="price of a million tokens of questions")
    price_completion: float = Field(0.0, ge=0, exclude=True, description="price of a million tokens of answers")


@dataclass(frozen=True)
class ChatQuestion:
    """``keys``: names of the texts that are asked for together, as JSON; none: one text, under "". ``pixels``: (H, W, 3) uint8, a picture to look at."""

    prompt: str
    keys: tuple[str, ...] = ()
    pixels: np.ndarray | None = None


Texts = dict[str, str]


class ChatClient:
    """A chat endpoint as an annotator asks it. ``where``: the section of its settings."""

    def __init__(self, owner: MeteredAnnotator, endpoint: ChatSettings, where: str) -> None:
        self._owner, self._endpoint, self._where = owner, endpoint, where
        self._caller = Caller(owner, endpoint, where, endpoint.budget_tokens)
        self._image_tokens = endpoint.image_tokens
        self._client: Any = None

    def load(self) -> None:
        """Make the client, which takes the key from the environment. Raises SettingsError where package, key or address is missing."""
        if self._client is not None:
            return
        try:
            import openai
        except ImportError:
            raise SettingsError(
                f"annotators.{self._owner.name}: the package openai is not installed: {INSTALL}"
            ) from None
        ask = self._endpoint
        # Calls are made again by `Caller`, which counts them, and redirects would be calls that nobody counts.
        options: dict[str, Any] = {
            "timeout": ask.timeout,
            "max_retries": 0,
            "http_client": openai.DefaultHttpxClient(follow_redirects=False),
        }
        if ask.keyless:
            options["api_key"] = "keyless"
        try:
            if ask.api == "openai":
                self._client = openai.OpenAI(base_url=ask.url, **options)
            else:
                options |= {"azure_endpoint": ask.url, "api_version": ask.api_version}
                self._client = openai.AzureOpenAI(**options)
        except (openai.OpenAIError, ValueError, TypeError) as error:
            remedy = (
                f"set {KEYS[ask.api]} in the environment, or {self._where}.keyless: true for a server that wants none"
                if "redentials" in str(error)
                else f"see {self._where}"
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
        """``claims`` of the answers to an image's ``questions``, for each of ``count`` images. An image is answered whole or not at all."""

        def ask(index: int, stop: threading.Event) -> list[Claim]:
            asked = [(one, self._request(one)) for one in questions(index)]
            if not asked:
                return claims(index, [])
            most = [self._most(one, request) for one, request in asked]
            with self._caller.budget.hold(sum(most, Usage()), stop) as hold:
                told = [
                    self._caller.ask(
                        hold,
                        at_most,
                        partial(self._call, request, one.pixels is not None),
                        partial(_read, one.keys),
                        stop,
                    )
                    for (one, request), at_most in zip(asked, most, strict=True)
                ]
            return claims(index, told)

        return self._caller.each(count, ask)

    def _request(self, question: ChatQuestion) -> dict[str, Any]:
        content: str | list[dict[str, Any]] = question.prompt
        if question.pixels is not None:
            content = [
                {"type": "text", "text": question.prompt},
                {"type": "image_url", "image_url": {"url": data_url(question.pixels, self._endpoint.side)}},
            ]
        request: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "seed": self._endpoint.seed,
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
            **{key: value for key, value in request.items() if key not in self._endpoint.omit},
            self._endpoint.limit: self._endpoint.max_tokens,
        }

    def _most(self, question: ChatQuestion, request: dict[str, Any]) -> Usage:
        """What one call can use at most: no tokenizer makes more tokens than there are bytes, and a chat template adds a few."""
        prompt = (
            len(question.prompt.encode())
            + len(json.dumps(request.get("response_format", "")))
            + 50
            + (self._image_tokens if question.pixels is not None else 0)
        )
        return self._usage(prompt, self._endpoint.max_tokens, 1)

    def _usage(self, prompt: int, completion: int, calls: int = 0) -> Usage:
        return Usage(
            calls,
            prompt + completion,
            (prompt * self._endpoint.price_prompt + completion * self._endpoint.price_completion) / 1e6,
        )

    def _call(self, request: dict[str, Any], image: bool, turn: int) -> tuple[Any, Usage | None]:
        """The body of an answer, as JSON or None, and what it used."""
        import openai

        if "seed" in request:
            request = {**request, "seed": request["seed"] + turn}
        try:
            body = parse_json(self._client.chat.completions.with_raw_response.create(**request).http_response.text)
        except openai.APIStatusError as error:
            raise self._refusal(
                error.status_code, error.code or "", error.param or "", _said(error), error.response.headers
            ) from None
        except openai.APIConnectionError as error:
            raise self._silence(error) from None
        used = _counts(body)
        if used is None:
            return body, None
        if image:
            self._image_tokens = max(self._image_tokens, used[0])
        return body, self._usage(*used)

    def _silence(self, error: Exception) -> CallFailedError:
        """What a connection that failed means."""
        cause = error.__cause__ or error
        if type(cause).__name__ in (
            "ConnectError",
            "ConnectTimeout",
            "PoolTimeout",
            "ProxyError",
            "UnsupportedProtocol",
        ):
            return CallFailedError(
                f"{self._place()} cannot be reached ({str(cause) or type(cause).__name__})", sent=False
            )
        slow = "Timeout" in type(cause).__name__
        return CallFailedError(
            f"{self._place()} did not answer within {self._endpoint.timeout:g} seconds"
            if slow
            else f"{self._place()} broke off ({cause})",
            free=False,
        )

    def _refusal(self, status: int, code: str, param: str, said: str, headers: Any) -> Exception:
        """What an answer of another status than 200 means."""
        place, section = f"{self._place()} answers {status}{said}", f"annotators.{self._owner.name}"
        if status in (401, 403):
            return SettingsError(
                f"{section}: {place}: the key is not accepted; set {KEYS[self._endpoint.api]} to one that may use model {self._endpoint.model}"
            )
        if status in (404, 405) or status < 400:
            return SettingsError(
                f"{section}: {place}: check {self._where}.url (the API's base, mostly ending in /v1) and {self._where}.model, {self._endpoint.model}"
            )
        if status in (400, 422) and param in ("temperature", "seed", "response_format"):
            return SettingsError(f"{section}: {place}: name {param} in {self._where}.omit, and it is left out")
        if status in (400, 422) and param in ("max_tokens", "max_completion_tokens"):
            return SettingsError(
                f"{section}: {place}: set {self._where}.limit to what the service calls it, or {self._where}.max_tokens to what it allows"
            )
        if status == 400 and "content_filter" in code:
            return UnusableAnswerError(f"refused by the service's filter{said}")
        if status in RETRIED_STATUSES and code != "insufficient_quota":
            milliseconds = parse_retry_after(headers.get("retry-after-ms"))
            return CallFailedError(
                place,
                wait=parse_retry_after(headers.get("retry-after")) if milliseconds is None else milliseconds / 1000,
            )
        return CallFailedError(place, again="later" if status == 429 else "never")

    def _place(self) -> str:
        """The endpoint without what might be secret in its address."""
        url = self._client.base_url
        return f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}{url.path}"


def data_url(pixels: np.ndarray, side: int) -> str:
    """A picture (H, W, 3), uint8, as the data URL of a JPEG whose longer side is at most ``side``. Very small and thin ones are enlarged, and their edges repeated."""
    import cv2

    sized = shrink(pixels, side)
    height, width = sized.shape[:2]
    scale = min(LEAST_SIDE / min(height, width), side / max(height, width))
    if scale > 1:
        sized = cv2.resize(
            sized, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_LINEAR
        )
        height, width = sized.shape[:2]
    below, right = max(0, LEAST_SIDE - height), max(0, LEAST_SIDE - width)
    if below or right:
        sized = cv2.copyMakeBorder(
            sized, below // 2, below - below // 2, right // 2, right - right // 2, cv2.BORDER_REPLICATE
        )
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(sized[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _read(keys: Sequence[str], body: Any) -> Texts:
    """The texts of an answer. Raises Useless saying what is wrong with it."""
    try:
        choice = body["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content"), message.get("refusal")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise UnusableAnswerError("not an answer of a chat endpoint (a web page, or cut off)", lost=True) from None
    if reason == "length":
        raise UnusableAnswerError("cut off: longer than max_tokens")
    if refusal or reason == "content_filter":
        raise UnusableAnswerError(f"the model refuses ({str(refusal or reason)[:100]})")
    if not isinstance(content, str):
        raise UnusableAnswerError("empty")
    return parse_texts(content, keys)


def _counts(body: Any) -> tuple[int, int] | None:
    """Tokens of question and answer, where the service tells."""
    usage = body.get("usage") if isinstance(body, dict) else None
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    prompt, completion = counts if len(counts) == 2 else (None, None)
    return (
        (prompt, completion)
        if isinstance(prompt, int) and isinstance(completion, int) and prompt >= 0 and completion >= 0
        else None
    )


def _said(error: Any) -> str:
    """What the service says of its refusal, short, and without the key, which some repeat."""
    body = error.body if isinstance(error.body, dict) else {}
    text = " ".join(str(body.get("message") or "").split())
    for name in ("authorization", "api-key"):
        secret = error.request.headers.get(name, "").removeprefix("Bearer ")
        text = text.replace(secret, "…") if secret else text
    return f" ({text[:200]})" if text else ""
