"""The data engine: fuses the claims of all annotators into labels, kept or dropped with a reason.

Layers, low to high: pairs, polygon_lists, ranks | claims | labels | wording | filters | enhance | consensus |
reliability, evidence, churn. Beside them: parse, statistics, student.
"""

from florence.engine.consensus.blocks import fuse

__all__ = ["fuse"]
