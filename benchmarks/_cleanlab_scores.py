"""Scores of cleanlab for object detection. It runs in an environment of its own: ``python _cleanlab_scores.py IN OUT``.

IN: JSON with ``names`` (how many), ``thresholds``, and ``pictures``, each with ``labels`` and ``predictions``: lists of
[number of the name, x0, y0, x1, y1, score]. OUT: JSON with ``overlooked``, ``badloc``, ``swap``, each a list with an
entry for each threshold (cleanlab's high probability, of ``badloc`` the low one): of each picture a score for each
prediction or label, 0…1, low where an error is likely, null where there is none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def _as_label(rows: list[list[float]]) -> dict[str, Any]:
    values = np.asarray(rows, float).reshape(-1, 6)
    return {"bboxes": values[:, 1:5].astype(np.float32), "labels": values[:, 0].astype(int)}


def _as_prediction(rows: list[list[float]], names: int) -> tuple[np.ndarray, list[int]]:
    """Return a picture's predictions as cleanlab takes them, by name, and where each of them comes from."""
    result, order = np.empty(names, object), []
    values = np.asarray(rows, float).reshape(-1, 6)
    for name in range(names):
        chosen = np.flatnonzero(values[:, 0] == name)
        result[name] = values[chosen][:, 1:6].astype(np.float32)
        order += chosen.tolist()
    return result, order


def _plain(values: Any) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in np.asarray(values, float).ravel()]


def main() -> None:
    """Read the pictures, and write the scores."""
    from cleanlab.object_detection import rank

    given = json.loads(Path(sys.argv[1]).read_text())
    labels = [_as_label(picture["labels"]) for picture in given["pictures"]]
    made = [_as_prediction(picture["predictions"], given["names"]) for picture in given["pictures"]]
    both = {"labels": labels, "predictions": [prediction for prediction, _ in made]}
    result: dict[str, list[Any]] = {"overlooked": [], "badloc": [], "swap": []}
    for least in given["thresholds"]:
        found = rank.compute_overlooked_box_scores(**both, high_probability_threshold=least)
        overlooked = []
        for scores, (_, order) in zip(found, made, strict=True):
            values: list[float | None] = [None] * len(order)
            for position, score in zip(order, _plain(scores), strict=True):
                values[position] = score
            overlooked.append(values)
        result["overlooked"].append(overlooked)
        found = rank.compute_badloc_box_scores(**both, low_probability_threshold=least)
        result["badloc"].append([_plain(scores) for scores in found])
        found = rank.compute_swap_box_scores(**both, high_probability_threshold=least)
        result["swap"].append([_plain(scores) for scores in found])
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
