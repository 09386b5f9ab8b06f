"""Live curves: metrics go to MLflow in batches from a thread, so that a slow or failing server never stops training."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from flows.adapters.mlflow_errors import first_line
from flows.adapters.mlflow_values import legal_key

logger = logging.getLogger(__name__)

Point = tuple[str, float, int, int]
"""Key, value, Unix time in milliseconds, step."""


class Curves:
    """Log metrics when called as (step, metrics). MLflow's faults raise nothing; `close` returns what was not logged.

    ``client``: returns the MlflowClient; ``where``: the store, as messages name it; ``period``: seconds between
    batches. A point that the run has already (a resumed training repeats its last steps) is not logged again.
    """

    BATCH = 1000
    MAX_PENDING = 100_000

    def __init__(self, client: Callable[[], Any], run_id: str, where: str, period: float = 5.0) -> None:
        self.run_id, self.where, self.period = run_id, where, period
        self.failures, self.lost = 0, 0
        self._client = client
        self._pending: list[Point] = []
        self._sending = 0
        self._known: dict[str, dict[int, float]] = {}
        self._flushing = self._closing = self._warned = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="florence-curves", daemon=True)
        self._thread.start()

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Queue ``metrics`` of ``step`` to be logged; return at once."""
        now = int(time.time() * 1000)
        points = [(legal_key(key), float(value), now, int(step)) for key, value in metrics.items() if value is not None]
        with self._changed:
            self._pending += points
            if len(self._pending) > self.MAX_PENDING:
                self.lost += len(self._pending) - self.MAX_PENDING
                del self._pending[: -self.MAX_PENDING]
            self._changed.notify_all()

    def flush(self, timeout: float = 60.0) -> bool:
        """Send what is queued now; return whether all of it has arrived within ``timeout`` seconds."""
        with self._changed:
            failures, self._flushing = self.failures, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._left or self.failures > failures, timeout)
            return not self._left

    def close(self, timeout: float = 60.0) -> str | None:
        """Send the rest and stop. Return the warning about what could not be logged, None where nothing is missing."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        missing = self._left + self.lost
        if not missing:
            return None
        message = (
            f"{missing} measurements did not reach MLflow at {self.where} (run {self.run_id}); "
            "training itself was not touched"
        )
        logger.warning(message)
        return message

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _left(self) -> int:
        return len(self._pending) + self._sending

    def _work(self) -> None:
        while True:
            with self._changed:
                # After a failure the pauses grow: a server that is down is not asked at every step.
                pause = min(self.period * 2 ** min(self.failures, 6), max(self.period, 120.0))
                self._changed.wait_for(
                    lambda: self._closing or self._flushing or (not self.failures and len(self._pending) >= self.BATCH),
                    pause,
                )
                closing, self._flushing = self._closing, False
                batch, self._pending = self._pending[: self.BATCH], self._pending[self.BATCH :]
                self._sending = len(batch)
            arrived = self._send(batch)
            with self._changed:
                self._sending = 0
                self.failures = 0 if arrived else self.failures + 1
                if not arrived:
                    self._pending = batch + self._pending
                self._flushing = self._flushing or (arrived and len(self._pending) >= self.BATCH)
                self._changed.notify_all()
                if closing and (not arrived or not self._pending):
                    return

    def _send(self, batch: list[Point]) -> bool:
        if not batch:
            return True
        try:
            from mlflow.entities import Metric

            client = self._client()
            new = [point for point in batch if self._is_new(client, point)]
            if new:
                client.log_batch(self.run_id, metrics=[Metric(*point) for point in new])
            for key, value, _, step in new:
                self._known[key][step] = value
            return True
        except Exception as error:
            if not self._warned:
                self._warned = True
                logger.warning(
                    "curves are not reaching MLflow at %s, training goes on: %s", self.where, first_line(error)
                )
            return False

    def _is_new(self, client: Any, point: Point) -> bool:
        key, value, _, step = point
        if key not in self._known:
            self._known[key] = {m.step: m.value for m in client.get_metric_history(self.run_id, key)}
        return self._known[key].get(step) != value
