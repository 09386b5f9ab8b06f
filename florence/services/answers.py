"""The texts in a chat model's answer: one plain text, or several as a JSON object."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

THOUGHT = re.compile(r"<think>.*?</think>", re.S)
FENCE = re.compile(r"^```\w*\s*(.*?)\s*```$", re.S)
REFUSAL = re.compile(
    r"(i['’]?m|i am|we['’]re) (very |so )?(sorry|unable|not able)\b|sorry,"
    r"|(unfortunately, )?i (can['’]?t|can ?not|won['’]?t) |as an? (ai|language model)\b",
    re.I,
)


class UnusableAnswerError(Exception):
    """An answer that cannot be parsed into claims; its text says why.

    ``is_foreign``: it is no answer of the service at all (a web page, half a message), so a later run may get one.
    """

    def __init__(self, reason: str, is_foreign: bool = False) -> None:
        super().__init__(reason)
        self.is_foreign = is_foreign


def parse_texts(content: str, keys: Sequence[str]) -> dict[str, str]:
    """Return the texts in a model's answer: one for each of ``keys``, from JSON; without keys one, under "".

    Raises UnusableAnswerError saying what is wrong.
    """
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
    if missing := [key for key in keys if not isinstance(values.get(key), str)]:
        raise UnusableAnswerError(
            f"JSON without the text {missing[0]!r}; found {', '.join(sorted(map(str, values)))[:100] or 'nothing'}"
        )
    return {key: clean_text(values[key]) for key in keys}


def clean_text(text: str) -> str:
    """Return a text on one line, without quotes around it.

    Raises UnusableAnswerError where no letter is left, or where it is an apology.
    """
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
    """Return whether a text is an apology in place of an answer."""
    return bool(REFUSAL.match(text.lstrip("\"'“ ")))


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; None where it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None
