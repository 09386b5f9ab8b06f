"""One question to a model about one image, from the command line."""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from florence.codec.grammar import Form
from florence.errors import EncodeError, FlorenceError, ImageError
from florence.model.confidence import Calibration
from florence.records import Region
from florence.tasks import Answer, RegionInput, Task
from florence.tasks import task as find_task

NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
BOX = re.compile(",".join([NUMBER] * 4))
FORMATS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and its answer. ``pixels``: (H, W, 3) uint8; ``input``: as it stood in the prompt; ``calibration``: of the answer's scores, where it is known."""

    image: Path
    pixels: np.ndarray
    task: Task
    input: str
    answer: Answer
    calibration: Calibration | None = None

    def sure(self, score: float | None) -> float | None:
        """How often an answer of this score is right, where that is known."""
        return None if score is None or self.calibration is None else self.calibration.confidence(score)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The answer's regions as people are told of them: with confidences for scores, where they are known."""
        if self.calibration is None:
            return self.answer.regions
        return tuple(replace(region, score=self.sure(region.score)) for region in self.answer.regions)


def ask(root: Path, image: Path, task: str, input: str, model: str, beams: int = 1) -> Asked:
    """The answer of ``model`` (a folder, or an alias or version of the workspace's registry). All that can be wrong is checked before it is loaded.

    Raises ImageError, UnknownNameError for a task, EncodeError for an input that it does not take, FlorenceError for a model that is not there.
    """
    from florence.images import decode_image

    chosen = find_task(task if task.startswith("<") else f"<{task.upper()}>")
    try:
        pixels = decode_image(image.read_bytes(), str(image))
    except OSError as error:
        raise ImageError(str(image), "unreadable", error.strerror or str(error)) from None
    given = region_input(chosen, input, (pixels.shape[1], pixels.shape[0]))
    chosen.prompt(given)
    folder = _model(root, model)

    from florence.model import checkpoint
    from florence.model.confidence import beside
    from florence.model.generate import Query, predict

    calibration = beside(folder).get(chosen.name)
    (answer,) = predict(checkpoint.load(str(folder)), [pixels], [Query(0, chosen.name, given)], beams=beams)
    return Asked(image, pixels, chosen, given, answer, calibration)


def region_input(task: Task, input: str, size: tuple[int, int]) -> str:
    """``input``, a box in pixels as x0,y0,x1,y1 turned into location tokens for a task that is asked about a region."""
    from florence.codec.grammar import box_tokens

    found = BOX.fullmatch(input) if isinstance(task, RegionInput) else None
    if found is None:
        return input
    x0, y0, x1, y1 = (float(value) for value in found.groups())
    if min(x0, x1) >= size[0] or min(y0, y1) >= size[1] or max(x0, x1) <= 0 or max(y0, y1) <= 0:
        raise EncodeError(f"the box {input} lies outside the image, which is {size[0]} × {size[1]} pixels")
    return box_tokens((x0, y0, x1, y1), size)


def _model(root: Path, ref: str) -> Path:
    from flows.promote import resolve_model_folder
    from flows.tracked import open_workspace

    # A folder needs no workspace around it.
    return resolve_model_folder(ref) or open_workspace(root).registry.fetch(ref)


def check_out(out: Path) -> None:
    """Raise FlorenceError where a picture cannot be written to ``out``."""
    if out.suffix.lower() not in FORMATS:
        raise FlorenceError(f"--draw {out}: a file that ends in {', '.join(FORMATS)} is expected")
    if not out.absolute().parent.is_dir():
        raise FlorenceError(f"--draw {out}: the folder {out.parent} does not exist")


def drawn(asked: Asked, out: Path) -> None:
    """Write the image with the answer drawn on it, whole or not at all. Raises FlorenceError where that cannot be."""
    from PIL import Image

    from florence.draw import draw

    caption = asked.answer.text if not asked.answer.regions else ""
    sink = io.BytesIO()
    Image.fromarray(draw(asked.pixels, asked.regions, caption=caption)).save(
        sink, Image.registered_extensions()[out.suffix.lower()]
    )
    part = out.with_name(f".{out.name}.part")
    try:
        part.write_bytes(sink.getvalue())
        os.replace(part, out)
    except OSError as error:
        raise FlorenceError(f"--draw {out} cannot be written: {error.strerror}") from None


def printed(asked: Asked, as_json: bool) -> str:
    """The answer, for a person or for a program."""
    return json.dumps(as_values(asked), ensure_ascii=False, indent=2) if as_json else _lines(asked)


def as_values(asked: Asked) -> dict[str, Any]:
    """The answer as JSON takes it; places in pixels of the upright image."""
    answer = asked.answer
    return {
        "image": str(asked.image),
        "width": asked.pixels.shape[1],
        "height": asked.pixels.shape[0],
        "task": asked.task.name,
        "input": asked.input,
        "text": answer.text,
        "score": answer.score,
        "confidence": asked.sure(answer.score) if not answer.regions else None,
        "regions": [_region(asked, r) for r in answer.regions],
        "error": str(answer.error) if answer.error else None,
    }


def _region(asked: Asked, region: Region) -> dict[str, Any]:
    polygons = [[round(v, 2) for v in polygon] for polygon in region.polygons]
    places = {"box": region.box, "quad": region.quad}
    return {
        "label": region.label,
        "score": region.score,
        "confidence": asked.sure(region.score),
        **{k: [round(v, 2) for v in p] for k, p in places.items() if p},
        **({"polygons": polygons} if polygons else {}),
    }


def _lines(asked: Asked) -> str:
    answer = asked.answer
    if not answer.regions:
        if asked.task.form in (Form.TEXT, Form.TEXT_OR_NOTHING) and answer.text:
            sure = asked.sure(answer.score)
            how = (
                f"   (confidence {sure:.2f})"
                if sure is not None
                else f"   (score {answer.score:.2g})"
                if answer.score is not None
                else ""
            )
            lines = [answer.text + how]
        else:
            lines = ["nothing found"]
    else:
        width = max(len(region.label) for region in answer.regions)
        lines = [f"{r.label:<{width}}  {r.score or 0:.2f}  {_place(r)}" for r in asked.regions]
    if answer.error is not None:
        lines.append(f"the answer is not whole: {answer.error}")
    return "\n".join(lines)


def _place(region: Region) -> str:
    box = "box " + ",".join(f"{v:.0f}" for v in region.bounds)
    corners = sum(len(polygon) // 2 for polygon in region.polygons)
    return (
        box
        + (f", outline of {corners} corners" if corners else "")
        + (", quad " + ",".join(f"{v:.0f}" for v in region.quad) if region.quad else "")
    )
