"""Questions about images: a task and its input, which for a task about a region is a box in pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from florence.codec.grammar import box_tokens
from florence.errors import EncodeError
from florence.geometry import Box
from florence.tasks import RegionInput, Size
from florence.tasks import task as find_task

Asked = str | tuple[str, str | Sequence[float]]
"""A question as people write it: "<OD>", ("<CAPTION_TO_PHRASE_GROUNDING>", "a cat"), or a task with a box in pixels."""
NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
BOX = re.compile(",".join([NUMBER] * 4))


@dataclass(frozen=True, slots=True)
class TaskQuestion:
    """A task as "<OD>" and its input. ``box``: the input of a task about a region, in pixels; None for a text."""

    task: str
    input: str = ""
    box: Box | None = None

    def encode(self, size: Size) -> str:
        """Return the input as it stands in the prompt about an image of ``size``, its width and height in pixels.

        Raises EncodeError where the box lies outside of the image.
        """
        if self.box is None:
            return self.input
        x0, y0, x1, y1 = self.box
        if min(x0, x1) >= size[0] or min(y0, y1) >= size[1] or max(x0, x1) <= 0 or max(y0, y1) <= 0:
            found = ",".join(f"{value:g}" for value in self.box)
            raise EncodeError(f"the box {found} lies outside the image, which is {size[0]} × {size[1]} pixels")
        return box_tokens(self.box, size)


def read_questions(tasks: Asked | Sequence[Asked]) -> tuple[TaskQuestion, ...]:
    """Return the questions that ``tasks`` are: one, or a list of several; a tuple is a task with its input.

    Raises UnknownNameError for a task, EncodeError for an input that it does not take, or where there is none.
    """
    asked = [tasks] if isinstance(tasks, str | tuple) else list(tasks)
    if not asked:
        raise EncodeError("no task: name one, as '<OD>'")
    return tuple(_read_question(one) for one in asked)


def read_question(task: str, input: str | Sequence[float], give: str = "give") -> TaskQuestion:
    """Return a question. ``task``: as "<OD>" or od; ``give``: how errors say that an input is to be given.

    The box of a task about a region is four numbers, or a text x0,y0,x1,y1, in pixels; location tokens are taken as
    they are. Raises UnknownNameError for the task, EncodeError where the input is missing, not taken, or no box.
    """
    found = find_task(task if task.startswith("<") else f"<{task.upper()}>")
    text = input if isinstance(input, str) else ",".join(map(str, input))
    if not isinstance(found, RegionInput):
        if found.takes_input and not text.strip():
            raise EncodeError(f"{found.name} needs an input: {give} {found.input_description or 'a text'}")
        if text and not found.takes_input:
            raise EncodeError(f"{found.name} takes no input, found {text[:80]!r}: leave it out")
        found.prompt(text)
        return TaskQuestion(found.name, text)
    if text.lstrip().startswith("<loc_"):
        found.prompt(text)
        return TaskQuestion(found.name, text)
    if not isinstance(input, str):
        box = tuple(float(value) for value in input)
    elif (match := BOX.fullmatch(text)) is not None:
        box = tuple(float(value) for value in match.groups())
    else:
        box = ()
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise EncodeError(
            f"{found.name} is asked about a region: {give} its box in pixels, x0,y0,x1,y1 as 40,60,200,180"
            + (f"; found {text[:80]!r}" if text.strip() else "")
        )
    return TaskQuestion(found.name, text, box)


def _read_question(asked: Asked) -> TaskQuestion:
    if isinstance(asked, str):
        return read_question(asked, "")
    if len(asked) != 2 or not isinstance(asked[0], str):
        raise EncodeError(f"a task, or a task and its input, are expected; found {str(asked)[:80]}")
    return read_question(asked[0], asked[1])
