"""The vocabulary that comes with the package, and what each token of any Florence-2 vocabulary is.

The shipped file is a byte-level BPE of 3,566 pieces with the special and location tokens of the published model: 4,000
pieces made by ``python -m florence.model.vocabulary TEXTS.txt tokenizer.json`` (one text a line) without those of
several capitals or digits. Never made again by a run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from florence.codec.constrain import CLASSES, TokenClass
from florence.codec.grammar import AND, MARKS, POLY_CLOSE, POLY_OPEN, SEP, WHITE
from florence.codec.locations import TOKENS
from florence.errors import ModelError

PIECES = 4000
SINGLE_CHARACTERS = r"[A-Z](?=[A-Z0-9])|(?<=[A-Z0-9])[A-Z]|[0-9]"
"""Digits, and capitals beside each other, are tokens of their own: a sign is read letter by letter, so that an unknown
word can be read."""
HEAD = ("<s>", "<pad>", "</s>", "<unk>")
"""The first four tokens, in the order that BART's configuration counts on."""
_GRAMMAR = {
    SEP: TokenClass.SEP,
    POLY_OPEN: TokenClass.POLY_OPEN,
    POLY_CLOSE: TokenClass.POLY_CLOSE,
    AND: TokenClass.AND,
}


def train_tokenizer(texts: Iterable[str], pieces: int = PIECES) -> Any:
    """Train a byte-level BPE on ``texts``, with every token of the grammar, as a `tokenizers.Tokenizer`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    spelt = pre_tokenizers.Split(Regex(SINGLE_CHARACTERS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([spelt, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=list(HEAD),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    others = [mark for mark in MARKS if mark not in HEAD]
    marks = [*others, SEP, POLY_OPEN, POLY_CLOSE, AND, *TOKENS]
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    ends = [(mark, tokenizer.token_to_id(mark)) for mark in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer


@lru_cache(maxsize=1)
def load_tokenizer() -> Any:
    """Load the vocabulary that comes with the package, as transformers' tokenizer."""
    from transformers import PreTrainedTokenizerFast

    with resources.as_file(resources.files("florence.model").joinpath("vocabulary.json")) as path:
        return PreTrainedTokenizerFast(
            tokenizer_file=str(path),
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="<pad>",
            mask_token="<mask>",
            extra_special_tokens={"image_token": "<image>"},
            clean_up_tokenization_spaces=False,
            model_max_length=1024,
        )


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The classes and bytes of a vocabulary's tokens.

    ``locations``: (1000,) ids by bin; ``classes``: (vocabulary, classes) bool, the class of each token, none for tokens
    that are in no answer; ``pieces``: the bytes of each token, by id (of a special token: its name's).
    """

    locations: np.ndarray
    classes: np.ndarray
    pieces: tuple[bytes, ...]
    bos: int
    eos: int
    pad: int

    def class_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the classes (n,) of ids (n,) that are in answers."""
        return self.classes[ids].argmax(axis=1)


def make_lexicon(tokenizer: Any, size: int) -> Lexicon:
    """Return the classes and bytes of the ``size`` tokens of a Florence-2 vocabulary.

    Pieces with "<" are in no class: spelt out of pieces, a text could not be told from a location. Raises ModelError
    where location or grammar tokens are missing.
    """
    known = tokenizer.get_vocab()
    if missing := [token for token in (*TOKENS, *_GRAMMAR) if token not in known]:
        raise ModelError(
            f"the vocabulary lacks {len(missing)} tokens of Florence-2's grammar, {missing[0]} first; a checkpoint of "
            "Florence-2's own layout is expected (location tokens have to be added to any other before)"
        )
    if (last := max(known[token] for token in (*TOKENS, *_GRAMMAR))) >= size:
        raise ModelError(
            f"the vocabulary has a token {last} of Florence-2's grammar, the embeddings have {size} rows: copy the "
            "tokenizer that was saved with the weights"
        )
    backward = {letter: byte for byte, letter in _byte_letters().items()}
    special = set(tokenizer.all_special_tokens) | set(TOKENS) | set(_GRAMMAR) | set(MARKS)
    pieces: list[bytes] = [b""] * size
    classes = np.zeros((size, CLASSES), bool)
    for token, index in known.items():
        if index >= size:
            continue
        if token in special or any(letter not in backward for letter in token):
            pieces[index] = token.encode()
            if token in _GRAMMAR:
                classes[index, _GRAMMAR[token]] = True
            continue
        pieces[index] = bytes(backward[letter] for letter in token)
        if b"<" not in pieces[index]:
            blank = not pieces[index].strip(WHITE.encode())
            classes[index, TokenClass.BLANK if blank else TokenClass.TEXT] = True
    locations = np.asarray([known[token] for token in TOKENS])
    classes[locations] = False
    classes[locations, TokenClass.LOC] = True
    classes[tokenizer.eos_token_id] = False
    classes[tokenizer.eos_token_id, TokenClass.EOS] = True
    return Lexicon(
        locations, classes, tuple(pieces), tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    )


def _byte_letters() -> dict[int, str]:
    """Return the letter of each byte in a byte-level BPE (GPT-2).

    Printable Latin-1 for itself, the rest from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printable}
    for number, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(0x100 + number)
    return letters


if __name__ == "__main__":
    train_tokenizer(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()).save(sys.argv[2])
