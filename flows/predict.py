"""A model asked from the command line: which model, what is printed, what is drawn."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from florence.codec.grammar import Form
from florence.draw import draw_regions
from florence.errors import FlorenceError
from florence.images import decode_image
from florence.predict.answers import TaskAnswer
from florence.predict.model import find_model_folder, load, read_file
from florence.predict.questions import TaskQuestion
from florence.predict.reading import ReadImage
from florence.records import Region
from florence.tasks import task as find_task
from flows.tracked import open_workspace

FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def ask_model(
    root: Path, image: Path, questions: Sequence[TaskQuestion], model: str, beams: int = 1
) -> tuple[np.ndarray, tuple[TaskAnswer, ...]]:
    """Return the pixels (H, W, 3) uint8 of an image's file, and the answers of ``model`` (`find_model`) about it.

    Everything is checked before the model is loaded. Raises ImageError for the image, EncodeError for a box outside of
    it, FlorenceError for a model that does not exist.
    """
    pixels = decode_image(read_file(str(image)), str(image))
    for question in questions:
        question.encode((pixels.shape[1], pixels.shape[0]))
    loaded = load(find_model(root, model))
    loaded.check_questions(questions)
    (found,) = loaded.answer_images([ReadImage(str(image), pixels)], questions, beams=beams)
    return pixels, found.answers


def find_model(root: Path, ref: str) -> str:
    """Return what `florence.load` takes for ``ref``, which may be an alias or version of the workspace in ``root`` too.

    A folder and an address need no workspace around it.
    """
    if find_model_folder(ref) is not None:
        return ref
    return str(open_workspace(root).registry.fetch(ref))


def check_drawing_path(out: Path) -> None:
    """Raise FlorenceError where a picture cannot be written to ``out``."""
    if out.suffix.lower() not in FORMATS:
        raise FlorenceError(f"--draw {out}: a file that ends in {', '.join(FORMATS)} is expected")
    if not out.absolute().parent.is_dir():
        raise FlorenceError(f"--draw {out}: the folder {out.parent} does not exist")


def draw_answers(pixels: np.ndarray, answers: Sequence[TaskAnswer], out: Path) -> None:
    """Write the image with answers drawn on it, whole or not at all. Raises FlorenceError where that fails.

    ``pixels``: (H, W, 3) uint8.
    """
    regions = [region for answer in answers for region in answer.likely_regions]
    caption = "; ".join(answer.text for answer in answers if not answer.regions and answer.text)
    sink = io.BytesIO()
    Image.fromarray(draw_regions(pixels, regions, caption=caption)).save(
        sink, Image.registered_extensions()[out.suffix.lower()]
    )
    part = out.with_name(f".{out.name}.part")
    try:
        part.write_bytes(sink.getvalue())
        os.replace(part, out)
    except OSError as error:
        raise FlorenceError(f"--draw {out} cannot be written: {error.strerror}") from None


def format_answers(answers: Sequence[TaskAnswer], as_json: bool) -> str:
    """Return answers about an image as lines for a person or as JSON for a program: an object, of several a list."""
    if as_json:
        values = [answer.to_dict() for answer in answers]
        return json.dumps(values[0] if len(values) == 1 else values, ensure_ascii=False, indent=2)
    if len(answers) == 1:
        return _format_lines(answers[0])
    return "\n\n".join(
        f"{answer.task}{f' {answer.input}' if answer.input else ''}\n{_format_lines(answer)}" for answer in answers
    )


def _format_lines(result: TaskAnswer) -> str:
    answer = result.answer
    if not answer.regions:
        if find_task(result.task).form in (Form.TEXT, Form.TEXT_OR_NOTHING) and answer.text:
            lines = [answer.text + _format_certainty(result)]
        else:
            lines = ["nothing found"]
    else:
        width = max(len(region.label) for region in answer.regions)
        lines = [f"{r.label:<{width}}  {r.score or 0:.2f}  {_format_location(r)}" for r in result.likely_regions]
    if result.error:
        lines.append(f"the answer is not whole: {result.error}")
    if answer.truncated:
        lines.append("the answer was cut at its greatest length: there may be more")
    return "\n".join(lines)


def _format_certainty(result: TaskAnswer) -> str:
    """Return the confidence of a text or else its score, in brackets; "" where the text has neither."""
    if result.confidence is not None:
        return f"   (confidence {result.confidence:.2f})"
    return f"   (score {result.score:.2g})" if result.score is not None else ""


def _format_location(region: Region) -> str:
    box = "box " + ",".join(f"{v:.0f}" for v in region.bounds)
    corners = sum(len(polygon) // 2 for polygon in region.polygons)
    return (
        box
        + (f", polygon of {corners} corners" if corners else "")
        + (", quad " + ",".join(f"{v:.0f}" for v in region.quad) if region.quad else "")
    )
