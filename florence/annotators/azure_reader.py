"""OCR lines by Azure AI Vision (Image Analysis 4.0, feature Read), through Azure's own client."""

from __future__ import annotations

import os
import threading
from functools import partial
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.errors import SettingsError
from florence.geometry import polygon_area
from florence.images import shrink
from florence.imaging.quads import order_corners, reading_order
from florence.records import Claim, ClaimsOrError, Region
from florence.redact import redact
from florence.services.answers import UnusableAnswerError
from florence.services.calls import RETRIED_STATUSES, Caller, CallFailedError, parse_retry_after
from florence.services.settings import Address, CallSettings, check_address, refuse_secrets
from florence.services.usage import Usage

INSTALL = "pip install 'florence[services]' -c constraints.txt"
MIN_SIDE, MAX_SIDE = 64, 16000
"""Pixels; the service takes pictures with sides of 50 to 16,000."""
JPEG_QUALITY = 95
"""A JPEG is sent where a PNG is too large."""


@ANNOTATORS.register("azure_reader")
class AzureReader(Annotator):
    """Claim OCR lines, or words, with their quads.

    The score of a word is the service's confidence, that of a line the mean of its words' scores. The key is taken from
    VISION_KEY in the environment.
    """

    tasks = ("<OCR_WITH_REGION>",)

    class Options(CallSettings):
        """Settings."""

        endpoint: Address | None = Field(
            None,
            exclude=True,
            description="address of the Azure resource, as https://NAME.cognitiveservices.azure.com; "
            "none: VISION_ENDPOINT",
        )
        model_version: str | None = Field(
            None, description="of the service's model, as its documents list them; none: its latest, which may change"
        )
        words: bool = Field(False, description="claim words instead of lines")
        min_score: float = Field(0.5, ge=0, le=1, description="least score of a line or word")
        side: int = Field(
            4096,
            ge=MIN_SIDE,
            le=MAX_SIDE,
            description="pixels; a longer side is shrunk to it before an image is sent",
        )
        megabytes: float = Field(
            20.0,
            gt=0,
            le=20,
            description="size of the file that is sent at most; a larger one is sent as JPEG, or smaller",
        )
        price: float = Field(0.0, ge=0, exclude=True, description="price of a call that is answered")

    def __init__(self, *, name: str, **options: Any) -> None:
        refuse_secrets(options, f"annotators.{name}", "VISION_KEY")
        super().__init__(name=name, **options)
        self._caller = Caller(self, self.options, f"annotators.{name}")
        self._clients: SimpleQueue[Any] = SimpleQueue()
        self._key, self._address = "", ""

    def load(self) -> None:
        """Make the clients. Raises SettingsError where package, key or address is missing."""
        if self._key:
            return
        try:
            from azure.ai.vision.imageanalysis import ImageAnalysisClient
            from azure.core.credentials import AzureKeyCredential
        except ImportError:
            raise SettingsError(
                f"annotators.{self.name}: the package azure-ai-vision-imageanalysis is not installed: {INSTALL}"
            ) from None
        given = {
            "VISION_KEY": os.environ.get("VISION_KEY"),
            "VISION_ENDPOINT": self.options.endpoint or os.environ.get("VISION_ENDPOINT"),
        }
        for variable, value in given.items():
            if not value:
                also = f", or annotators.{self.name}.endpoint" if variable == "VISION_ENDPOINT" else ""
                raise SettingsError(
                    f"annotators.{self.name}: {variable} is not set in the environment: set it{also}; "
                    "Azure's portal shows it under Keys and Endpoint"
                )
        try:
            parts = urlsplit(check_address(str(given["VISION_ENDPOINT"])))
        except ValueError as error:
            raise SettingsError(f"annotators.{self.name}: VISION_ENDPOINT: {error}") from None
        self._key, self._address = str(given["VISION_KEY"]), f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        # `Caller` makes calls again, and counts them. A client's connections are made for one thread at a time.
        options: dict[str, Any] = {
            "retry_total": 0,
            "permit_redirects": False,
            "connection_timeout": self.options.timeout,
            "read_timeout": self.options.timeout,
        }
        for _ in range(self.options.concurrency):
            self._clients.put(ImageAnalysisClient(parts.geturl(), AzureKeyCredential(self._key), **options))

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """Return the lines of each picture, in reading order.

        Raises SettingsError where the service refuses key or address.
        """

        def annotate_image(index: int, stop: threading.Event) -> list[Claim]:
            pixels, most = batch.pixels[index], Usage(1, 0, self.options.price)
            payload, factors = encode(pixels, self.options.side, int(self.options.megabytes * 1e6))
            with self._caller.budget.reserve(most, stop) as reservation:
                return self._caller.ask(
                    reservation,
                    most,
                    partial(self._call, payload),
                    partial(self._read, pixels.shape[:2], factors),
                    stop,
                )

        return self._caller.annotate_each(len(batch.records), annotate_image)

    def _call(self, payload: bytes, _attempt: int) -> tuple[Any, Usage | None]:
        """Return an answer's body, None where it is not the service's JSON, and what the call used."""
        from azure.ai.vision.imageanalysis.models import VisualFeatures
        from azure.core import exceptions

        client = self._clients.get()
        try:
            body = client.analyze(payload, [VisualFeatures.READ], model_version=self.options.model_version).as_dict()
        except exceptions.ServiceRequestError:
            raise CallFailedError(f"{self._address} cannot be reached", reached=False) from None
        except exceptions.ServiceResponseTimeoutError:
            raise CallFailedError(
                f"{self._address} did not answer within {self.options.timeout:g} seconds", is_free=False
            ) from None
        except (exceptions.DecodeError, ValueError, TypeError, AttributeError, KeyError):
            body = None
        except exceptions.HttpResponseError as error:
            raise self._status_error(error) from None
        except exceptions.AzureError as error:
            raise CallFailedError(f"{self._address} broke off ({type(error).__name__})", is_free=False) from None
        finally:
            self._clients.put(client)
        return body, Usage(0, 0, self.options.price)

    def _status_error(self, error: Any) -> Exception:
        """Return what an answer of another status than 200 means."""
        status, headers = error.status_code, error.response.headers if error.response is not None else {}
        message = redact(str(error.error.message if error.error else error.reason or ""), [self._key])
        message = " ".join(message.split())[:200]
        reason, section = f"{self._address} answers {status} ({message})", f"annotators.{self.name}"
        if status is None:
            return CallFailedError(f"{self._address} broke off", is_free=False)
        if status == 403 and "quota" in message.lower():
            return CallFailedError(reason, retry="later")
        if status in (401, 403):
            return SettingsError(
                f"{section}: {reason}: the key is not accepted; set VISION_KEY to one of this resource"
            )
        if status in (404, 405) or status < 400:
            return SettingsError(
                f"{section}: {reason}: check {section}.endpoint; it is the resource's address without a path"
            )
        return CallFailedError(
            reason,
            retry="now" if status in RETRIED_STATUSES else "never",
            wait=parse_retry_after(headers.get("Retry-After")),
        )

    def _read(self, shape: tuple[int, int], factors: np.ndarray, body: Any) -> list[Claim]:
        """Return the claims in an answer, in pixels of the picture of ``shape`` (height, width).

        Raises UnusableAnswerError saying what is wrong with it.
        """
        if not isinstance(body, dict):
            raise UnusableAnswerError("not an answer of the service (a web page, or cut off)", is_foreign=True)
        try:
            lines = [line for block in body["readResult"]["blocks"] for line in block["lines"]]
            found = [
                (" ".join(part["text"].split()), _corners(part), _confidence(part))
                for line in lines
                for part in (line["words"] if self.options.words else [line])
            ]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UnusableAnswerError(
                f"not what the feature Read answers; found {', '.join(sorted(map(str, body)))[:100] or 'nothing'}"
            ) from None
        claims = []
        for text, corners, score in found:
            quad = order_corners(corners * factors, shape[1], shape[0])
            if text and score >= self.options.min_score and polygon_area(quad) > 0:
                claims.append(Claim("<OCR_WITH_REGION>", text, (Region(text, quad=quad, score=score),), score))
        return sorted(claims, key=reading_order)


def encode(pixels: np.ndarray, side: int, size: int) -> tuple[bytes, np.ndarray]:
    """Return a picture (H, W, 3), uint8, as a file of at most ``size`` bytes whose sides are at most ``side``.

    Also returns the factors (x, y) from the file's pixels to the picture's. The file is a PNG, or a JPEG where that is
    too large, or a smaller picture where both are. Small pictures get a margin below and to the right.
    """
    import cv2

    height, width = pixels.shape[:2]
    while True:
        sized = shrink(pixels, side)
        factors = np.asarray([width / sized.shape[1], height / sized.shape[0]])
        below, right = max(0, MIN_SIDE - sized.shape[0]), max(0, MIN_SIDE - sized.shape[1])
        image = np.ascontiguousarray(cv2.copyMakeBorder(sized, 0, below, 0, right, cv2.BORDER_REPLICATE)[..., ::-1])
        for name, options in ((".png", []), (".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])):
            payload = cv2.imencode(name, image, options)[1].tobytes()
            if len(payload) <= size:
                return payload, factors
        if max(sized.shape[:2]) <= MIN_SIDE:
            return payload, factors
        side = max(MIN_SIDE, int(max(sized.shape[:2]) * 0.8))


def _corners(part: dict[str, Any]) -> np.ndarray:
    """Return the corners (4, 2) of a line or word. Raises KeyError, TypeError or ValueError without four points."""
    corners = np.asarray([(point["x"], point["y"]) for point in part["boundingPolygon"]], float).reshape(4, 2)
    if not np.isfinite(corners).all():
        raise ValueError("a corner that is no number")
    return corners


def _confidence(part: dict[str, Any]) -> float:
    """Return the confidence of a word, 0…1; for a line the mean of its words' confidences."""
    values = [float(word["confidence"]) for word in part["words"]] if "words" in part else [float(part["confidence"])]
    score = sum(values) / len(values) if values else 0.0
    if not 0 <= score <= 1:
        raise ValueError(f"confidence {score}")
    return score
