"""A registered model as MLflow serves it: MLflow runs this file alone, with the florence package logged beside it.

Rows have the columns ``image`` (a file's bytes, those in base64, or a data URL), ``task`` ("<OD>" …) and, where the
task takes one, ``input``. Of each comes ``text``, ``regions`` (a list of {label, box, quad, polygons, score,
confidence}, in pixels of the upright image), ``score``, ``confidence`` (how often an answer of that score was right on
held-out images; None where it is not known, and for an answer that was cut), ``truncated`` (whether the answer would
have gone on but for max_tokens) and ``error`` ("" or why there is no answer, or no whole one).

A row that cannot be answered has an error, and costs no other row its answer. A request that cannot be answered at all
is an MlflowException: of any other exception MLflow sends the traceback, with the server's paths. Where MLflow's
scoring server loads the model, its requests have a greatest length, and its errors lose their tracebacks.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

from florence.errors import EncodeError, FlorenceError
from florence.model import checkpoint
from florence.model.confidence import Calibration, read_calibrations
from florence.model.generate import Query, check_max_tokens, check_prompts, predict
from florence.model.requests import LIMITS, ModelRequest, RequestError, decode_request_image, read_request
from florence.tasks import Answer

logger = logging.getLogger(__name__)

BATCH_ROWS, BATCH_PIXELS = 256, 64_000_000
"""Rows that are answered at once, and pixels of their images."""
COLUMNS = ["text", "regions", "score", "confidence", "truncated", "error"]


@dataclass
class _Batch:
    """Rows that are answered together. ``images``: each once; ``index_of``: an image's hash → its index."""

    rows: list[int] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    index_of: dict[str, int] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether no further row may be added."""
        return len(self.rows) >= BATCH_ROWS or sum(image[..., 0].size for image in self.images) >= BATCH_PIXELS

    def add(self, row: int, request: ModelRequest) -> None:
        """Add a row. Raises RequestError where its image cannot be decoded."""
        key = hashlib.sha256(request.image).hexdigest()
        if key not in self.index_of:
            self.images.append(decode_request_image(request.image))
            self.index_of[key] = len(self.images) - 1
        self.rows.append(row)
        self.queries.append(Query(self.index_of[key], request.task, request.input))


class Florence(PythonModel):
    """Answers tasks about images."""

    def load_context(self, context) -> None:
        """Load the model in the artifact ``model``."""
        self.checkpoint = checkpoint.load(context.artifacts["model"])
        self.calibrations = read_calibrations(Path(context.artifacts["model"]))
        if (server := sys.modules.get("mlflow.pyfunc.scoring_server")) is not None:
            guard_scoring_server(server)

    def predict(self, context, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return an answer for each row (MLflow makes a table of a list of dicts).

        ``params``: max_tokens, the longest answer. A row that cannot be answered has an error. Raises MlflowException
        for a request of too many rows or without a column, and for a max_tokens that is no length.
        """
        longest = _check_request(model_input, params or {}, self.checkpoint.max_tokens)
        answers = [_error_values("")] * len(model_input)
        try:
            for batch in self._make_batches(model_input, answers):
                found = predict(self.checkpoint, batch.images, batch.queries, max_tokens=longest)
                for row, query, answer in zip(batch.rows, batch.queries, found, strict=True):
                    answers[row] = _answer_values(answer, self.calibrations.get(query.task))
        except Exception:
            logger.exception("a request failed")
            raise MlflowException("the model failed on this request; its log says why", INTERNAL_ERROR) from None
        # As objects: a missing score stays None, which JSON knows; otherwise it would become NaN, which JSON lacks.
        return pd.DataFrame(answers, columns=COLUMNS, index=model_input.index, dtype=object)

    def _make_batches(self, table: pd.DataFrame, answers: list[dict[str, Any]]) -> Iterator[_Batch]:
        """Yield the rows that can be answered, in batches; the others get an error in ``answers``."""
        batch, seen, total = _Batch(), set[bytes](), 0
        inputs = [None] * len(table)
        if "input" in table.columns:  # of any type: what pandas takes for missing is none
            inputs = table["input"].astype(object).where(table["input"].notna(), None).tolist()
        for row, values in enumerate(zip(table["image"], table["task"], inputs, strict=True)):
            try:
                request = read_request(*values)
                check_prompts(self.checkpoint, [request.prompt])
                key = hashlib.sha256(request.image).digest()
                total += 0 if key in seen else len(request.image)
                seen.add(key)
                if total > LIMITS.request_bytes:
                    raise RequestError(f"the request has more than {LIMITS.request_bytes:,} bytes of images: send less")
                batch.add(row, request)
            except (RequestError, EncodeError) as error:
                answers[row] = _error_values(str(error))
            if batch.is_full:
                yield batch
                batch = _Batch()
        if batch.rows:
            yield batch


def guard_scoring_server(server: Any) -> None:
    """Let MLflow's scoring server refuse a body that is too long before it is parsed, and send no traceback.

    ``server``: the module mlflow.pyfunc.scoring_server, which has no settings for either; the packaged model pins its
    version. Nothing is changed the second time.
    """
    answer = server.invocations
    if hasattr(answer, "__wrapped__"):
        return

    @functools.wraps(answer)
    def invocations(data: bytes, *arguments: Any) -> Any:
        try:
            if len(data) > LIMITS.body_bytes:
                raise MlflowException(
                    f"a request of {len(data):,} bytes; at most {LIMITS.body_bytes:,} are allowed", BAD_REQUEST
                )
            return answer(data, *arguments)
        except MlflowException as error:
            if error.json_kwargs.pop("stack_trace", None):
                logger.warning("a request was refused", exc_info=True)
            raise

    server.invocations = invocations


def _check_request(table: Any, params: Mapping[str, Any], default: int) -> int:
    """Return max_tokens, ``default`` where it is not given.

    Raises MlflowException for what no row of a request can be answered with.
    """
    if not isinstance(table, pd.DataFrame):
        problem = f"a table with the columns image and task is expected; found {type(table).__name__}"
    elif missing := [name for name in ("image", "task") if name not in table.columns]:
        problem = f"the column {missing[0]} is missing; image and task are needed"
    elif isinstance(table.columns, pd.MultiIndex) or not table.columns.is_unique:
        problem = "each column is expected once, under one name"
    elif len(table) > LIMITS.rows:
        problem = f"{len(table):,} rows; a request may have {LIMITS.rows:,} at most"
    else:
        try:
            longest = check_max_tokens(params.get("max_tokens", default))
            if not longest.ndim:
                return int(longest)
            problem = "max_tokens: one number is expected, for all rows"
        except FlorenceError as error:
            problem = str(error)
    raise MlflowException(problem, INVALID_PARAMETER_VALUE)


def _error_values(error: str) -> dict[str, Any]:
    return {"text": "", "regions": [], "score": None, "confidence": None, "truncated": False, "error": error}


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
    # An answer that was cut is not one of those that were found right or wrong; without a token nothing is known.
    confidence = None if regions or answer.truncated else confidence_of(answer.score)
    is_nothing = answer.truncated and not answer.text
    return {
        "text": answer.text,
        "regions": regions,
        "score": None if is_nothing else answer.score,
        "confidence": confidence,
        "truncated": answer.truncated,
        "error": str(answer.error) if answer.error else "",
    }


def _list(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


set_model(Florence())
