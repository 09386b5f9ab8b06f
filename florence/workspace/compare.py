"""Compare: decide whether the model that was scored may replace the champion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from florence.workspace.base import Workspace

if TYPE_CHECKING:
    from florence.evaluate import Decision


def compare_models(workspace: Workspace) -> Decision:
    """Decide whether the model scored in scores/ may replace the champion of data/baseline.

    Write metrics/decision.json.

    Raises StoreError where there are no scores: `florence evaluate` makes them.
    """
    from florence.evaluate import decide_promotion

    candidate, shuffled = (workspace.files.read_table(f"scores/{name}.parquet") for name in ("scores", "shuffled"))
    champion = workspace.data.read_table("baseline/scores.parquet")
    decision = decide_promotion(
        candidate, champion, shuffled, workspace.settings.promotion, workspace.settings.evaluate
    )
    workspace.files.write_json("metrics/decision.json", decision.to_json())
    return decision
