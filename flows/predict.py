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
from PIL import Image

from florence.codec.grammar import Form, box_tokens
from florence.draw import draw_regions
from florence.errors import EncodeError, FlorenceError, ImageError
from florence.images import decode_image
from florence.model.confidence import Calibration, read_calibrations
from florence.records import Region
from florence.tasks import Answer, RegionInput, Task
from florence.tasks import task as find_task
from flows.models import resolve_model_folder
from flows.tracked import open_workspace

NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
BOX = re.compile(",".join([NUMBER] * 4))
FORMATS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """A question about an image and the model's answer.

    ``pixels``: (H, W, 3) uint8; ``input``: as it stands in the prompt; ``calibration``: of the answer's scores, where
    known.
    """

    image: Path
    pixels: np.ndarray
    task: Task
    input: str
    answer: Answer
    calibration: Calibration | None = None

    def confidence_of(self, score: float | None) -> float | None:
        """Return how often an answer of this score is right; None where that is not known."""
        return None if score is None or self.calibration is None else self.calibration.confidence(score)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The answer's regions, with confidences in place of scores where they are known."""
        if self.calibration is None:
            return self.answer.regions
        return tuple(replace(region, score=self.confidence_of(region.score)) for region in self.answer.regions)


def ask_model(root: Path, image: Path, task: str, input: str, model: str, beams: int = 1) -> ImageAnswer:
    """Return the answer of ``model``: a folder, or an alias or version of the workspace's registry.

    Everything is checked before the model is loaded. Raises ImageError for the image, UnknownNameError for the task,
    EncodeError for an input that the task does not take, FlorenceError for a model that does not exist.
    """
    chosen = find_task(task if task.startswith("<") else f"<{task.upper()}>")
    try:
        pixels = decode_image(image.read_bytes(), str(image))
    except OSError as error:
        raise ImageError(str(image), "unreadable", error.strerror or str(error)) from None
    prompt_input = encode_input(chosen, input, (pixels.shape[1], pixels.shape[0]))
    chosen.prompt(prompt_input)
    folder = _find_model(root, model)

    from florence.model import checkpoint
    from florence.model.generate import Query, predict

    calibration = read_calibrations(folder).get(chosen.name)
    (answer,) = predict(checkpoint.load(str(folder)), [pixels], [Query(0, chosen.name, prompt_input)], beams=beams)
    return ImageAnswer(image, pixels, chosen, prompt_input, answer, calibration)


def encode_input(task: Task, input: str, size: tuple[int, int]) -> str:
    """Return ``input`` as it stands in the prompt: for a task about a region, a box in pixels becomes location tokens.

    The box is x0,y0,x1,y1; ``size``: width and height of the image, in pixels. Raises EncodeError, in the words of the
    command line, where the input is missing, not taken, no box, or outside of the image.
    """
    if not isinstance(task, RegionInput):
        if task.takes_input and not input.strip():
            what = task.input_description or "a text"
            raise EncodeError(f"{task.name} needs an input: --input with {what}")
        if input and not task.takes_input:
            raise EncodeError(f"{task.name} takes no input, found {input[:80]!r}: leave --input out")
        return input
    if input.lstrip().startswith("<loc_"):
        return input
    if (found := BOX.fullmatch(input)) is None:
        raise EncodeError(
            f"{task.name} is asked about a region: --input with its box in pixels, x0,y0,x1,y1 as 40,60,200,180"
            + (f"; found {input[:80]!r}" if input.strip() else "")
        )
    x0, y0, x1, y1 = (float(value) for value in found.groups())
    if min(x0, x1) >= size[0] or min(y0, y1) >= size[1] or max(x0, x1) <= 0 or max(y0, y1) <= 0:
        raise EncodeError(f"the box {input} lies outside the image, which is {size[0]} × {size[1]} pixels")
    return box_tokens((x0, y0, x1, y1), size)


def _find_model(root: Path, ref: str) -> Path:
    """Return the folder of a model; a folder needs no workspace around it."""
    return resolve_model_folder(ref) or open_workspace(root).registry.fetch(ref)


def check_drawing_path(out: Path) -> None:
    """Raise FlorenceError where a picture cannot be written to ``out``."""
    if out.suffix.lower() not in FORMATS:
        raise FlorenceError(f"--draw {out}: a file that ends in {', '.join(FORMATS)} is expected")
    if not out.absolute().parent.is_dir():
        raise FlorenceError(f"--draw {out}: the folder {out.parent} does not exist")


def draw_answer(result: ImageAnswer, out: Path) -> None:
    """Write the image with the answer drawn on it, whole or not at all. Raises FlorenceError where that fails."""
    caption = result.answer.text if not result.answer.regions else ""
    sink = io.BytesIO()
    Image.fromarray(draw_regions(result.pixels, result.regions, caption=caption)).save(
        sink, Image.registered_extensions()[out.suffix.lower()]
    )
    part = out.with_name(f".{out.name}.part")
    try:
        part.write_bytes(sink.getvalue())
        os.replace(part, out)
    except OSError as error:
        raise FlorenceError(f"--draw {out} cannot be written: {error.strerror}") from None


def format_answer(result: ImageAnswer, as_json: bool) -> str:
    """Return the answer as lines for a person or as JSON for a program."""
    return json.dumps(answer_values(result), ensure_ascii=False, indent=2) if as_json else _format_lines(result)


def answer_values(result: ImageAnswer) -> dict[str, Any]:
    """Return the answer as JSON values; boxes, quads and polygons in pixels of the upright image."""
    answer = result.answer
    return {
        "image": str(result.image),
        "width": result.pixels.shape[1],
        "height": result.pixels.shape[0],
        "task": result.task.name,
        "input": result.input,
        "text": answer.text,
        "score": answer.score,
        "confidence": result.confidence_of(answer.score) if not answer.regions else None,
        "regions": [_region_values(result, r) for r in answer.regions],
        "truncated": answer.truncated,
        "error": str(answer.error) if answer.error else None,
    }


def _region_values(result: ImageAnswer, region: Region) -> dict[str, Any]:
    polygons = [[round(v, 2) for v in polygon] for polygon in region.polygons]
    coordinates = {"box": region.box, "quad": region.quad}
    return {
        "label": region.label,
        "score": region.score,
        "confidence": result.confidence_of(region.score),
        **{k: [round(v, 2) for v in p] for k, p in coordinates.items() if p},
        **({"polygons": polygons} if polygons else {}),
    }


def _format_lines(result: ImageAnswer) -> str:
    answer = result.answer
    if not answer.regions:
        if result.task.form in (Form.TEXT, Form.TEXT_OR_NOTHING) and answer.text:
            lines = [answer.text + _format_certainty(result)]
        else:
            lines = ["nothing found"]
    else:
        width = max(len(region.label) for region in answer.regions)
        lines = [f"{r.label:<{width}}  {r.score or 0:.2f}  {_format_location(r)}" for r in result.regions]
    if answer.error is not None:
        lines.append(f"the answer is not whole: {answer.error}")
    if answer.truncated:
        lines.append("the answer was cut at its greatest length: there may be more")
    return "\n".join(lines)


def _format_certainty(result: ImageAnswer) -> str:
    """Return the confidence of a text or else its score, in brackets; "" where the text has neither."""
    score = result.answer.score
    confidence = result.confidence_of(score)
    if confidence is not None:
        return f"   (confidence {confidence:.2f})"
    return f"   (score {score:.2g})" if score is not None else ""


def _format_location(region: Region) -> str:
    box = "box " + ",".join(f"{v:.0f}" for v in region.bounds)
    corners = sum(len(polygon) // 2 for polygon in region.polygons)
    return (
        box
        + (f", polygon of {corners} corners" if corners else "")
        + (", quad " + ",".join(f"{v:.0f}" for v in region.quad) if region.quad else "")
    )
