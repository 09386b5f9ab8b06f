"""How good a model and its labels are, each figure with what it was measured against; and whether a model may replace the champion."""

from florence.evaluate.calibration import calibrate, calibrations_json
from florence.evaluate.decision import Change, Decision, baseline, is_better
from florence.evaluate.quality import Measured, by_name, changes, measure, quality_json
from florence.evaluate.references import STANDING, Known, by_draw, gold, held_out
from florence.evaluate.scores import SCORES, Result, evaluate, scores_json, scores_table

__all__ = [
    "SCORES",
    "STANDING",
    "Change",
    "Decision",
    "Known",
    "Measured",
    "Result",
    "baseline",
    "by_draw",
    "by_name",
    "calibrate",
    "calibrations_json",
    "changes",
    "evaluate",
    "gold",
    "held_out",
    "is_better",
    "measure",
    "quality_json",
    "scores_json",
    "scores_table",
]
