"""What chat models answer, and what of it is of use: a text, or several as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

THOUGHT = re.compile(r"<think>.*?</think>", re.S)
FENCE = re.compile(r"^```\w*\s*(.*?)\s*```$", re.S)
REFUSAL = re.compile(
    r"(i['’]?m|i am|we['’]re) (very |so )?(sorry|unable|not able)\b|sorry,|(unfortunately, )?i (can['’]?t|cannot|cannot|won['’]?t) |as an? (ai|language model)\b",
    re.I,
)


class UnusableAnswerError(Exception):
    """An answer that is of no use. ``lost``: it is not even one of the service's own (a web page, half a message), and may come whole in a later run."""

    def __init__(self, reason: str, lost: bool = False) -> None:
        super().__init__(reason)
        self.lost = lost


def parse_texts(content: str, keys: Sequence[str]) -> dict[str, str]:
    """What a model wrote as plain texts: one for each of ``keys``, which it was asked for as JSON; without keys one, under "". Raises Useless saying what is wrong."""
    content = THOUGHT.sub("", content).strip()
    if not content:
        raise UnusableAnswerError("empty")
    if not keys:
        return {"": clean_text(content)}
    values = parse_json(fenced.group(1) if (fenced := FENCE.match(content)) else content)
    if not isinstance(values, dict):
        raise UnusableAnswerError(
            "not the JSON object that was asked for"
            if not is_refusal(content)
            else f"the model refuses ({content[:100]})"
        )
    if bad := [key for key in keys if not isinstance(values.get(key), str)]:
        raise UnusableAnswerError(
            f"JSON without the text {bad[0]!r}; found {', '.join(sorted(map(str, values)))[:100] or 'nothing'}"
        )
    return {key: clean_text(values[key]) for key in keys}


def clean_text(text: str) -> str:
    """A text on one line, without quotes around it. Raises Useless where no letter is left, or it is an apology."""
    text = " ".join(text.split())
    for before, after in ('""', "“”", "''"):
        if len(text) > 1 and text[0] == before and text[-1] == after and not {before, after} & set(text[1:-1]):
            text = text[1:-1].strip()
    if not any(letter.isalnum() for letter in text):
        raise UnusableAnswerError("empty")
    if is_refusal(text):
        raise UnusableAnswerError(f"the model refuses ({text[:100]})")
    return text


def is_refusal(text: str) -> bool:
    """Whether a text is an apology in place of an answer."""
    return bool(REFUSAL.match(text.lstrip("\"'“ ")))


def parse_json(text: str) -> Any:
    """The value that a text is in JSON; None where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None
