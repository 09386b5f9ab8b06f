"""Read the text in a picture by RapidOCR, whose weights come in its package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch
from florence.config import Section
from florence.errors import ModelError
from florence.geometry import polygon_area
from florence.images import shrink
from florence.imaging.quads import order_corners, reading_order
from florence.records import Claim, Region
from florence.versions import package_versions

TRAINED_SIDE = 736
"""Pixels of the shorter side at which the text detector was trained."""


@ANNOTATORS.register("reader")
class Reader(Annotator):
    """Claims OCR lines with their quads."""

    tasks = ("<OCR_WITH_REGION>",)

    class Options(Section):
        """Settings."""

        side: int = Field(
            1600, ge=64, description="pixels; a longer side is shrunk to it, and no picture is enlarged beyond it"
        )
        min_score: float = Field(0.75, ge=0, le=1, description="least score of a line")
        min_characters: int = Field(
            2,
            ge=1,
            description="least number of different letters and digits in a line: with fewer it is mostly a pattern",
        )

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self._engine: Any = None

    def ingredients(self) -> dict[str, str]:
        """Return the version of the package, whose wheel holds the weights."""
        return package_versions("rapidocr")

    def load(self) -> None:
        """Open the models; they use one thread, so that answers do not depend on the machine's cores."""
        if self._engine is not None:
            return
        from rapidocr import RapidOCR

        paths = {f"{part}.model_path": _weights_path(part.lower()) for part in ("Det", "Cls", "Rec")}
        threads = {f"EngineConfig.onnxruntime.{scope}_op_num_threads": 1 for scope in ("intra", "inter")}
        limits = {
            "Global.text_score": self.options.min_score,
            "Global.max_side_len": 2 * self.options.side,
            "Det.limit_type": "max",
            "Det.limit_side_len": 2 * self.options.side,
        }
        self._engine = RapidOCR(params={**paths, **threads, **limits, "Global.log_level": "critical"})

    def annotate(self, batch: ImageBatch) -> list[list[Claim]]:
        """Return the OCR lines of each picture in reading order."""
        return [self._read(pixels) for pixels in batch.pixels]

    def _read(self, pixels: np.ndarray) -> list[Claim]:
        height, width = pixels.shape[:2]
        resized, scale = _resize(pixels, self.options.side)
        found = self._engine(np.ascontiguousarray(resized[..., ::-1]))
        if found.boxes is None or found.txts is None:
            return []
        claims = []
        for corners, text, score in zip(found.boxes, found.txts, found.scores, strict=True):
            text = " ".join(text.split())
            quad = order_corners(np.asarray(corners, float) * scale, width, height)
            if len(set(re.findall(r"[^\W_]", text))) >= self.options.min_characters and polygon_area(quad) > 0:
                region = Region(text, quad=quad, score=float(score))
                claims.append(Claim("<OCR_WITH_REGION>", text, (region,), float(score)))
        return sorted(claims, key=reading_order)


def _weights_path(part: str) -> str:
    """Return the path of one of the package's models: with a path given, RapidOCR downloads nothing."""
    import rapidocr

    folder = Path(rapidocr.__file__).parent / "models"
    found = sorted(folder.glob(f"*_{part}_*.onnx"))
    if len(found) != 1:
        raise ModelError(
            f"{folder}: one *_{part}_*.onnx is expected; found {[p.name for p in found] or 'none'}. "
            "Install rapidocr anew: pip install --force-reinstall rapidocr -c constraints.txt"
        )
    return str(found[0])


def _resize(pixels: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture at the size in which text is searched, and the factors (x, y) from its pixels to the original's.

    Small pictures are enlarged, because small letters are missed, but none beyond ``side``: RapidOCR itself would bring
    a thin picture's short side to 736 pixels, however long the other side becomes. Very thin ones get a margin below
    and on the right.
    """
    import cv2

    height, width = pixels.shape[:2]
    scale = min(side / max(height, width), max(1.0, TRAINED_SIDE / min(height, width)), 4.0)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = shrink(pixels, side) if scale < 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    factors = np.asarray([width / resized.shape[1], height / resized.shape[0]])
    below, right = max(0, 32 - resized.shape[0]), max(0, 32 - resized.shape[1])
    return cv2.copyMakeBorder(resized, 0, below, 0, right, cv2.BORDER_REPLICATE), factors
