"""Generation: an image is encoded once for all queries about it, and prompts of many images are decoded together.

`predict` answers tasks, constrained to their grammar; `generate` continues any prompt with the tokens of transformers'
``generate``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from florence.codec.constrain import TokenClass
from florence.errors import EncodeError, ModelError
from florence.model.beam_search import BeamSearch, ConstrainedScorer, UnconstrainedScorer
from florence.model.checkpoint import Checkpoint, image_tokens, resize_images
from florence.model.decoder import Decoder
from florence.model.decoding import (
    ConstrainedDecoding,
    ForcedTokens,
    Generation,
    LanguageModelHead,
    TokenGrammar,
    UnconstrainedDecoding,
    is_limited,
)
from florence.model.encoding import encode_images, encode_prompts
from florence.model.vocabulary import Lexicon
from florence.progress import Progress, show_nothing
from florence.tasks import Answer, task

if TYPE_CHECKING:
    import torch

COMPACT_SHARE = 0.75
"""Rows that have ended leave the batch when no more than this share of it is still open."""
MAX_PIXELS = 2**20
"""Pixels that the vision tower gets at once: 256 images of 64 × 64, 7 of 384 × 384, 1 of 768 × 768."""
LENGTH_PENALTY = 1.0
"""The power of an answer's length that a beam search divides its log-probability by."""


@dataclass(frozen=True, slots=True)
class Query:
    """A task about an image. ``image``: index of the image; ``input``: of the task's prompt, if it takes one."""

    image: int
    task: str
    input: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to continue. ``image``: index of the image it is about."""

    image: int
    text: str


def predict(
    checkpoint: Checkpoint,
    images: Sequence[np.ndarray],
    queries: Sequence[Query],
    *,
    max_tokens: int | Sequence[int] | None = None,
    batch_size: int = 128,
    beams: int = 1,
    progress: Progress = show_nothing,
) -> list[Answer]:
    """Return the answer to each query, in order, with coordinates in pixels of its image.

    ``images``: (height, width, 3) uint8 each; ``max_tokens``: of an answer without its end, for all or for each;
    None: the model's own, `Checkpoint.max_tokens`;
    ``batch_size``: rows that are decoded together, and images whose features are held at once; ``beams``: more than one
    searches for the likeliest whole answer.

    A region's score is the probability of its label times the geometric mean probability of its locations, each with
    its neighbourhood; the answer's score is the same over all its tokens. The score of a caption, which could be worded
    in other ways, is the geometric mean probability of its tokens, whatever its length. An answer is ``truncated``
    where it would have gone on but for ``max_tokens``; with several beams, where that limit left it a choice less.

    Raises UnknownNameError for a task, EncodeError for an input that it does not take, ModelError for a ``max_tokens``
    below 1.
    """
    prompts = [Prompt(query.image, task(query.task).prompt(query.input)) for query in queries]
    starts = np.asarray([task(query.task).start for query in queries], np.int64)
    lexicon = checkpoint.lexicon
    prefix = (checkpoint.model.config.text_config.decoder_start_token_id, lexicon.bos)
    grammar = TokenGrammar(lexicon, checkpoint.model.device)

    def make_strategy(head: LanguageModelHead, rows: np.ndarray, max_lengths: np.ndarray) -> DecodingStrategy:
        if beams == 1:
            return ConstrainedDecoding(head, grammar, starts[rows], max_lengths, prefix)
        scorer = ConstrainedScorer(grammar, np.repeat(starts[rows], beams))
        return BeamSearch(head, scorer, max_lengths, prefix, beams, LENGTH_PENALTY)

    run = _Run(checkpoint, batch_size, beams, make_strategy, progress)
    asked = checkpoint.max_tokens if max_tokens is None else max_tokens
    max_lengths = limit_lengths(checkpoint.model, asked, len(queries), len(prefix), ends=1)
    found = _generate(run, images, prompts, max_lengths)
    if beams > 1:
        found = [
            replace(generation, truncated=is_limited(lexicon, generation.tokens, start, length))
            for generation, start, length in zip(found, starts, max_lengths, strict=True)
        ]
    return [
        _make_answer(lexicon, query, images[query.image].shape, generation)
        for query, generation in zip(queries, found, strict=True)
    ]


def generate(
    checkpoint: Checkpoint,
    images: Sequence[np.ndarray],
    prompts: Sequence[Prompt],
    *,
    max_tokens: int | Sequence[int] | None = None,
    batch_size: int = 128,
    beams: int = 1,
    length_penalty: float = LENGTH_PENALTY,
    has_fixed_length: bool = False,
) -> list[np.ndarray]:
    """Return the tokens (n,) that follow each prompt, with the end where there is one, without the decoder's start.

    These are the tokens that transformers' ``generate`` gives each prompt by itself with ``num_beams=beams``,
    ``length_penalty=length_penalty``, ``max_new_tokens=max_tokens`` and no blocking of n-grams. ``max_tokens``: for all
    or for each; ``has_fixed_length``: exactly so many, as with ``min_new_tokens``. First and last tokens are those that
    the model's generation configuration forces. Where two tokens are equally likely to within rounding, either may be
    chosen.
    """
    forced = ForcedTokens.of_model(checkpoint.model, has_fixed_length)

    def make_strategy(head: LanguageModelHead, rows: np.ndarray, max_lengths: np.ndarray) -> DecodingStrategy:
        if beams == 1:
            return UnconstrainedDecoding(head, forced, max_lengths)
        return BeamSearch(head, UnconstrainedScorer(forced), max_lengths, (forced.start,), beams, length_penalty)

    run = _Run(checkpoint, batch_size, beams, make_strategy, show_nothing)
    asked = checkpoint.max_tokens if max_tokens is None else max_tokens
    max_lengths = limit_lengths(checkpoint.model, asked, len(prompts), 1)
    return [generation.tokens for generation in _generate(run, images, prompts, max_lengths)]


def limit_lengths(model: Any, max_tokens: int | Sequence[int], count: int, prefix: int, *, ends: int = 0) -> np.ndarray:
    """Return the most tokens (count,) of each answer, ``ends`` more than asked for, within the decoder's positions.

    ``prefix``: tokens before an answer. Raises ModelError for a ``max_tokens`` that is no whole number of at least 1.
    """
    asked = np.broadcast_to(check_max_tokens(max_tokens), count)
    most = model.config.text_config.max_position_embeddings - prefix
    return np.minimum(asked, most - ends) + ends


def check_max_tokens(max_tokens: Any) -> np.ndarray:
    """Return ``max_tokens``, one or several, as whole numbers. Raises ModelError where one is none, or below 1."""
    asked = np.asarray(max_tokens)
    if asked.dtype.kind not in "iu" or (asked < 1).any():
        raise ModelError(f"max_tokens: whole numbers of at least 1 are expected; found {str(max_tokens)[:40]!r}")
    return asked


def check_prompts(checkpoint: Checkpoint, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of prompts. Raises EncodeError where one is longer than the model can read beside an image."""
    if not texts:
        return []
    found: list[list[int]] = checkpoint.tokenizer(list(texts), add_special_tokens=True).input_ids
    room = checkpoint.model.config.text_config.max_position_embeddings - image_tokens(checkpoint)
    for text, ids in zip(texts, found, strict=True):
        if len(ids) > room:
            raise EncodeError(
                f"the prompt {text[:40]!r} … has {len(ids):,} tokens; at most {room:,} fit beside an image"
            )
    return found


# ---------------------------------------------------------------- batches


class DecodingStrategy(Protocol):
    """Chooses the tokens of a batch's rows: `ConstrainedDecoding`, `UnconstrainedDecoding`, `BeamSearch`.

    ``prefix``: tokens that every answer begins with; ``max_lengths``: (n,) most tokens of each answer; ``is_open``:
    (k,) whether each row continues; ``next_tokens``: (k, beams); ``beam_order``: (k, beams) the beams that these tokens
    follow, None where each follows its own.
    """

    prefix: tuple[int, ...]
    max_lengths: np.ndarray
    is_open: np.ndarray
    next_tokens: torch.Tensor
    beam_order: torch.Tensor | None

    def advance(self, hidden: torch.Tensor) -> None:
        """Choose the next tokens from hidden states (k, beams, width)."""

    def keep_rows(self, kept: np.ndarray) -> None:
        """Continue with the rows ``kept`` of the k rows."""

    def generations(self) -> list[Generation]:
        """Return the answers, by row."""


@dataclass(frozen=True, slots=True)
class _Run:
    """How prompts are continued. ``make_strategy``: (head, rows, their max_lengths) → the strategy of a batch."""

    checkpoint: Checkpoint
    batch_size: int
    beams: int
    make_strategy: Callable[[LanguageModelHead, np.ndarray, np.ndarray], DecodingStrategy]
    progress: Progress


def batch_prompts(images: Sequence[int], lengths: Sequence[int], most: int, rows: int) -> Iterator[list[list[int]]]:
    """Yield prompts as lists of batches of at most ``rows``, each list about at most ``most`` images.

    So the features of no more images are held at once. ``images``: the image of each prompt; ``lengths``: its tokens.
    In a list the prompts are sorted by length, so that there is little padding.
    """
    by_image: dict[int, list[int]] = {}
    for index, image in enumerate(images):
        by_image.setdefault(image, []).append(index)
    order = sorted(by_image)
    for first in range(0, len(order), most):
        found = sorted(
            (index for image in order[first : first + most] for index in by_image[image]),
            key=lambda index: lengths[index],
        )
        yield [found[start : start + rows] for start in range(0, len(found), rows)]


def _generate(
    run: _Run, images: Sequence[np.ndarray], prompts: Sequence[Prompt], max_lengths: np.ndarray
) -> list[Generation]:
    """Continue each prompt, in order. ``max_lengths``: (n,) most tokens of each answer, the end included."""
    import torch

    checkpoint = run.checkpoint
    model = checkpoint.model.eval()
    ids = check_prompts(checkpoint, [prompt.text for prompt in prompts])
    result: dict[int, Generation] = {}
    with torch.inference_mode():
        head = LanguageModelHead(model, checkpoint.lexicon)
        for batches in batch_prompts(
            [prompt.image for prompt in prompts],
            [len(prompt_ids) for prompt_ids in ids],
            run.batch_size,
            max(1, run.batch_size // run.beams),
        ):
            needed = sorted({prompts[index].image for rows in batches for index in rows})
            features = _encode_in_parts(checkpoint, [images[image] for image in needed])
            index_of = {image: index for index, image in enumerate(needed)}
            for rows in batches:
                about = torch.tensor([index_of[prompts[index].image] for index in rows])
                strategy = run.make_strategy(head, np.asarray(rows), max_lengths[rows])
                _continue(run, features, about, [ids[index] for index in rows], strategy)
                result.update(zip(rows, strategy.generations(), strict=True))
                run.progress("predict", len(result), len(prompts))
    return [result[index] for index in range(len(prompts))]


def _continue(
    run: _Run, features: torch.Tensor, about: torch.Tensor, ids: list[list[int]], strategy: DecodingStrategy
) -> None:
    """Continue one batch of prompts. ``about``: (rows,) index of the features of each prompt's image."""
    import torch

    model = run.checkpoint.model
    text = model.config.text_config
    padded = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in ids], batch_first=True, padding_value=text.pad_token_id
    )
    states, mask = encode_prompts(model, features, about.to(model.device), padded.to(model.device))
    _decode(Decoder(model, states, mask, beams=run.beams), strategy)


def _encode_in_parts(checkpoint: Checkpoint, images: Sequence[np.ndarray]) -> torch.Tensor:
    """Return the features (n, tokens, width) of n images, encoded at most `MAX_PIXELS` at once."""
    import torch

    step = max(1, MAX_PIXELS // checkpoint.image_size**2)
    parts = [
        checkpoint.normalise(resize_images(checkpoint, images[first : first + step]))
        for first in range(0, len(images), step)
    ]
    return torch.cat([encode_images(checkpoint.model, part.to(checkpoint.model.device)) for part in parts])


def _decode(decoder: Decoder, strategy: DecodingStrategy) -> None:
    """Decode until every row has ended."""
    import torch

    rows = len(strategy.is_open)
    for token in strategy.prefix:
        hidden = decoder(torch.full((rows, decoder.beams), token, device=decoder.device))
    while True:
        strategy.advance(hidden)
        still_open = np.flatnonzero(strategy.is_open)
        if not len(still_open):
            return
        if strategy.beam_order is not None:
            decoder.reorder_beams(strategy.beam_order)
        if len(still_open) <= COMPACT_SHARE * len(strategy.is_open):
            decoder.keep_rows(torch.from_numpy(still_open).to(decoder.device))
            strategy.keep_rows(still_open)
        hidden = decoder(strategy.next_tokens)


# ---------------------------------------------------------------- answers


def spell_tokens(lexicon: Lexicon, tokens: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the text of tokens (n,), and where in it each ends (n,). Bytes that are not UTF-8 become U+FFFD."""
    pieces = [lexicon.pieces[token] for token in tokens]
    joined = b"".join(pieces)
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    if joined.isascii():
        return joined.decode(), ends
    text = joined.decode("utf-8", "replace")
    return text, np.asarray([len(joined[:end].decode("utf-8", "replace")) for end in ends], np.int64)


def _make_answer(lexicon: Lexicon, query: Query, shape: tuple[int, ...], generation: Generation) -> Answer:
    """Return the decoded and scored answer. ``shape``: (height, width, …) of the image."""
    length = len(generation.tokens) - int(generation.tokens[-1] == lexicon.eos)
    tokens, probability = generation.tokens[:length], generation.probability[:length]
    end_probability = float(np.prod(generation.probability[length:]))
    text, ends = spell_tokens(lexicon, tokens)
    is_location = lexicon.class_of(tokens) == TokenClass.LOC
    starts = np.concatenate([[0], ends[:-1]]) if length else ends
    asked = task(query.task)
    answer = replace(asked.decode(text, (shape[1], shape[0]), query.input), truncated=generation.truncated)
    scores = [
        _score(probability, is_location, starts, spans) for spans in zip(answer.spans, answer.label_spans, strict=True)
    ]
    regions = tuple(replace(region, score=score) for region, score in zip(answer.regions, scores, strict=True))
    if asked.metric == "caption":
        return replace(answer, score=_geometric_mean(generation.probability))
    whole = _score(probability, is_location, starts, ((0, len(text)),)) if length else 1.0
    return replace(answer, regions=regions, score=whole if regions else whole * end_probability)


def _score(
    probability: np.ndarray, is_location: np.ndarray, starts: np.ndarray, spans: tuple[tuple[int, int], ...]
) -> float:
    """Return the product of the text tokens' probabilities in ``spans`` times the geometric mean of the locations'."""
    is_inside = np.zeros(len(starts), bool)
    for first, last in spans:
        is_inside |= (starts >= first) & (starts < last)
    text, locations = probability[is_inside & ~is_location], probability[is_inside & is_location]
    score = float(np.prod(text)) if len(text) else 1.0
    return score * _geometric_mean(locations) if len(locations) else score


def _geometric_mean(probability: np.ndarray) -> float:
    return float(np.exp(np.log(np.maximum(probability, 1e-12)).mean()))
