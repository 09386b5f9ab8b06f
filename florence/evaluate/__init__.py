"""Scores of a model, quality of labels, each with the reference it was measured against, and the promotion rule."""

from florence.evaluate.calibration import fit_calibration
from florence.evaluate.decision import (
    Decision,
    Opponents,
    ScoreChange,
    decide_promotion,
    is_locked,
    make_baseline,
)
from florence.evaluate.label_decision import LabelDecision, decide_labels
from florence.evaluate.quality import (
    LabelQuality,
    build_quality_json,
    count_found_objects,
    measure_gains,
    measure_quality,
)
from florence.evaluate.references import (
    REFERENCE_ORDER,
    References,
    find_gold_references,
    find_held_out_references,
    order_by_hash,
)
from florence.evaluate.scores import (
    SCORES,
    TaskResult,
    build_scores_json,
    build_scores_table,
    calibrate_tasks,
    score_tasks,
)
from florence.evaluate.seeds import SeedSpread, describe_seeds, measure_seeds
from florence.evaluate.single_annotators import SingleAnnotator, find_better_annotators

__all__ = [
    "REFERENCE_ORDER",
    "SCORES",
    "Decision",
    "LabelDecision",
    "LabelQuality",
    "Opponents",
    "References",
    "ScoreChange",
    "SeedSpread",
    "SingleAnnotator",
    "TaskResult",
    "build_quality_json",
    "build_scores_json",
    "build_scores_table",
    "calibrate_tasks",
    "count_found_objects",
    "decide_labels",
    "decide_promotion",
    "describe_seeds",
    "find_better_annotators",
    "find_gold_references",
    "find_held_out_references",
    "fit_calibration",
    "is_locked",
    "make_baseline",
    "measure_gains",
    "measure_quality",
    "measure_seeds",
    "order_by_hash",
    "score_tasks",
]
