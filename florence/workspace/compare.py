"""Compare: decide whether the model that was scored may replace the champion, and whether new labels are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from florence.rounds import find_labels, list_rounds
from florence.store import Store
from florence.workspace.base import Workspace
from florence.workspace.layout import ANCHOR, read_images

if TYPE_CHECKING:
    from florence.evaluate import Decision, LabelDecision


MIN_RESAMPLES = 10_000
"""Least number of resamples of a decision: no p-value is below 1 / MIN_RESAMPLES, and Holm multiplies it."""


def compare_models(workspace: Workspace) -> Decision:
    """Decide whether the model scored in scores/ may replace the champion of data/baseline.

    Write metrics/decision.json.

    Raises StoreError where there are no scores: `florence evaluate` makes them.
    """
    from florence.evaluate import SCORES, Opponents, decide_promotion

    files, data = workspace.files, workspace.data
    snapshot = data.read_object("snapshot.json") if data.exists("snapshot.json") else {}
    opponents = Opponents(
        champion=data.read_table("baseline/scores.parquet"),
        shuffled=files.read_table("scores/shuffled.parquet"),
        initial=_read_scores(files, "scores/initial.parquet", SCORES),
        anchor=_read_scores(data, ANCHOR, SCORES),
        attempt=snapshot.get("attempt", 1),
    )
    decision = decide_promotion(files.read_table("scores/scores.parquet"), opponents, workspace.settings.promotion)
    files.write_json("metrics/decision.json", decision.to_json())
    return decision


def compare_labels(workspace: Workspace, round: int, since: int | None) -> LabelDecision:
    """Decide whether the labels of ``round`` are kept although its model was rejected.

    ``since``: the last round whose labels were kept; None: there is none.
    """
    from florence.evaluate import LabelDecision, decide_labels, find_gold_references, measure_gains

    data = workspace.data
    if since is None or since not in list_rounds(data):
        return LabelDecision(False, "there are no labels of an earlier round to compare its labels with")
    images = read_images(data)
    gold = images.filter(pc.equal(images["split"], "gold"))["image_id"].to_pylist()
    before, after = (data.read_table(find_labels(data, number)) for number in (since, round))
    evaluate = workspace.settings.evaluate
    evaluate = evaluate.model_copy(update={"bootstrap": max(evaluate.bootstrap, MIN_RESAMPLES)})
    gains = measure_gains(before, after, find_gold_references(data, gold), evaluate)
    return decide_labels(gains, since, workspace.settings.promotion.alpha)


def _read_scores(store: Store, name: str, schema: pa.Schema) -> pa.Table:
    """Return a table of scores; no rows where an older version has not written it."""
    return store.read_table(name) if store.exists(name) else schema.empty_table()
