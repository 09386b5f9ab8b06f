"""A registered model as MLflow serves it: MLflow runs this file alone, with the florence package logged beside it.

Rows have the columns ``image`` (a path, a file's bytes, or those in base64), ``task`` ("<OD>" …) and, where the task
takes one, ``input``. Of each comes ``text``, ``regions`` (a list of {label, box, quad, polygons, score, confidence},
in pixels of the upright image), ``score``, ``confidence`` (how often an answer of that score was right on held-out
images; None where it is not known) and ``error`` ("" or why there is no answer, or no whole one).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from florence.errors import ImageError
from florence.images import decode_image
from florence.model import checkpoint
from florence.model.confidence import Calibration, read_calibrations
from florence.model.generate import Query, predict
from florence.tasks import Answer, task

MAX_TOKENS = 160


class Florence(PythonModel):
    """Answers tasks about images."""

    def load_context(self, context) -> None:
        """Load the model in the artifact ``model``."""
        self.checkpoint = checkpoint.load(context.artifacts["model"])
        self.calibrations = read_calibrations(Path(context.artifacts["model"]))

    def predict(self, context, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return an answer for each row (MLflow makes a table of a list of dicts).

        ``params``: max_tokens, the longest answer. Raises UnknownNameError for an unknown task, EncodeError for an
        input that the task does not take; an image that cannot be read has an error in its row.
        """
        answers: list[dict[str, Any]] = [{} for _ in range(len(model_input))]
        images: list[np.ndarray] = []
        index_of: dict[str, int] = {}
        asks: list[Query] = []
        rows: list[int] = []
        inputs = model_input["input"] if "input" in model_input.columns else [""] * len(model_input)
        for row, (image, name, value) in enumerate(zip(model_input["image"], model_input["task"], inputs, strict=True)):
            text = value if isinstance(value, str) else ""
            task(name).prompt(text)
            try:
                key, pixels = _read(image, index_of)
            except (ImageError, OSError) as error:
                answers[row] = {"text": "", "regions": [], "score": None, "confidence": None, "error": str(error)}
                continue
            if pixels is not None:
                index_of[key] = len(images)
                images.append(pixels)
            asks.append(Query(index_of[key], name, text))
            rows.append(row)
        longest = int((params or {}).get("max_tokens", MAX_TOKENS))
        for row, ask, answer in zip(
            rows, asks, predict(self.checkpoint, images, asks, max_tokens=longest) if asks else (), strict=True
        ):
            answers[row] = _answer_values(answer, self.calibrations.get(ask.task))
        # As objects: a missing score stays None, which JSON knows; otherwise it would become NaN, which JSON lacks.
        return pd.DataFrame(
            answers, columns=["text", "regions", "score", "confidence", "error"], index=model_input.index, dtype=object
        )


def _read(image: Any, known: Mapping[str, int]) -> tuple[str, np.ndarray | None]:
    """Return the hash of an image's bytes, and its pixels where the hash is not in ``known``."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        data, name = bytes(image), "image"
    elif isinstance(image, str):
        data, name = _bytes(image)
    else:
        raise ImageError("image", "unreadable", f"a path, bytes or base64 are expected; found {type(image).__name__}")
    key = hashlib.sha256(data).hexdigest()
    return key, None if key in known else decode_image(data, name)


def _bytes(text: str) -> tuple[bytes, str]:
    """Return the bytes that a string stands for (base64, a data: URL or the path of a file) and a name for messages."""
    head, comma, rest = text.partition(",")
    encoded = rest if comma and head.startswith("data:") and head.endswith(";base64") else text
    if encoded is text and os.path.isfile(text):  # False, too, for a text that is too long for a path
        return Path(text).read_bytes(), Path(text).name
    try:
        return base64.b64decode("".join(encoded.split()), validate=True), "image"
    except (binascii.Error, ValueError):
        raise ImageError(text[:80], "unreadable", "neither a file nor base64") from None


def _answer_values(answer: Answer, calibration: Calibration | None) -> dict[str, Any]:
    """Return an answer as JSON values."""

    def confidence_of(score: float | None) -> float | None:
        return None if score is None or calibration is None else calibration.confidence(score)

    regions = [
        {
            "label": region.label,
            "box": _list(region.box),
            "quad": _list(region.quad),
            "polygons": [_list(p) for p in region.polygons],
            "score": region.score,
            "confidence": confidence_of(region.score),
        }
        for region in answer.regions
    ]
    confidence = None if regions else confidence_of(answer.score)
    return {
        "text": answer.text,
        "regions": regions,
        "score": answer.score,
        "confidence": confidence,
        "error": str(answer.error) if answer.error else "",
    }


def _list(values: Any) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


set_model(Florence())
