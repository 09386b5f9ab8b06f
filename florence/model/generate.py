"""Answers of a model: one encoding of an image serves all that is asked about it, prompts of many images are written together.

`predict` answers tasks and cannot leave their grammar; `generate` continues any prompt with the tokens that transformers' ``generate`` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from florence.codec.constrain import Class
from florence.model.checkpoint import Checkpoint, squares
from florence.model.choice import Forced, Free, Grammar, Head, Held, Written
from florence.model.decoder import Decoder
from florence.model.encoding import encode, image_features
from florence.model.search import Beams, FreeScorer, HeldScorer
from florence.model.vocabulary import Lexicon
from florence.tasks import Answer, task

if TYPE_CHECKING:
    import torch

LEAVE = 0.75
"""Rows that have ended leave the batch when no more than this share is still being written."""
PIXELS = 2**20
"""Pixels that the vision tower is given at once: 256 images of 64 × 64, 7 of 384 × 384, 1 of 768 × 768."""
PENALTY = 1.0
"""The power of an answer's length that a beam search divides its log-probability by."""

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Ask:
    """One question. ``image``: index of the image it is about; ``input``: what the task's prompt takes, if it takes one."""

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
    asks: Sequence[Ask],
    *,
    max_tokens: int | Sequence[int] = 160,
    batch: int = 128,
    beams: int = 1,
    progress: Progress | None = None,
) -> list[Answer]:
    """The answer to each question, in order. ``images``: (H, W, 3) uint8 each; places are in pixels of them.

    ``max_tokens``: of an answer without its end, of all or of each; ``batch``: rows that are written together, and images whose
    features are held at once; ``beams``: more than one searches for the likeliest whole answer. A region's score is the probability
    of its label times the mean (geometric) probability of its places, each with its neighbourhood; the answer's score is the same over
    all its tokens. A caption's, which may as well be told in other words, is the mean (geometric) probability of its tokens, whatever its length.
    Raises UnknownNameError for a task, EncodeError for an input that it does not take.
    """
    prompts = [Prompt(ask.image, task(ask.task).prompt(ask.input)) for ask in asks]
    starts = np.asarray([task(ask.task).start for ask in asks], np.int64)
    lexicon = checkpoint.lexicon
    first = (checkpoint.model.config.text_config.decoder_start_token_id, lexicon.bos)
    grammar = Grammar(lexicon, checkpoint.model.device)

    def writer(head: Head, rows: np.ndarray, limits: np.ndarray) -> Writer:
        if beams == 1:
            return Held(head, grammar, starts[rows], limits, first)
        return Beams(head, HeldScorer(grammar, np.repeat(starts[rows], beams)), limits, first, beams, PENALTY)

    written = _write(
        checkpoint, images, prompts, np.broadcast_to(max_tokens, len(asks)) + 1, batch, beams, writer, progress
    )
    return [_answer(lexicon, ask, images[ask.image].shape, one) for ask, one in zip(asks, written, strict=True)]


def generate(
    checkpoint: Checkpoint,
    images: Sequence[np.ndarray],
    prompts: Sequence[Prompt],
    *,
    max_tokens: int | Sequence[int] = 160,
    batch: int = 128,
    beams: int = 1,
    penalty: float = PENALTY,
    fixed: bool = False,
) -> list[np.ndarray]:
    """The tokens (n,) that follow each prompt, with the end where there is one, without the decoder's start: those that transformers' ``generate`` gives
    each prompt by itself with ``num_beams=beams``, ``length_penalty=penalty``, ``max_new_tokens=max_tokens`` and no blocking of n-grams.

    ``max_tokens``: of all or of each; ``fixed``: exactly so many, as with ``min_new_tokens``. First and last tokens are those that the
    model's generation configuration forces. Where two tokens are equally likely to within rounding, either may be chosen.
    """
    forced = Forced.of(checkpoint.model, fixed)

    def writer(head: Head, rows: np.ndarray, limits: np.ndarray) -> Writer:
        if beams == 1:
            return Free(head, forced, limits)
        return Beams(head, FreeScorer(forced), limits, (forced.start,), beams, penalty)

    written = _write(checkpoint, images, prompts, np.broadcast_to(max_tokens, len(prompts)), batch, beams, writer, None)
    return [one.tokens for one in written]


# ---------------------------------------------------------------- batches


class Writer(Protocol):
    """What chooses tokens for the rows of a batch: `Held`, `Free`, `Beams`. ``first``: what every answer begins with; ``next``: (k, beams) tokens to
    go on with; ``order``: (k, beams) the beams that they follow, None where each follows its own; ``open``: (k,) whether each row goes on.
    """

    first: tuple[int, ...]
    limits: np.ndarray
    open: np.ndarray
    next: torch.Tensor
    order: torch.Tensor | None

    def take(self, hidden: torch.Tensor) -> None:
        """Choose from hidden states (k, beams, width)."""

    def keep(self, kept: np.ndarray) -> None:
        """Go on with ``kept`` of the k rows."""

    def written(self) -> list[Written]:
        """The answers, by row."""


def windows(images: Sequence[int], lengths: Sequence[int], batch: int, rows: int) -> Iterator[list[list[int]]]:
    """Prompts as batches of at most ``rows``, window by window of at most ``batch`` images: the features of no more are held at once.

    ``images``: the image of each prompt; ``lengths``: its tokens. In a window prompts stand sorted by length, so that little is filled up.
    """
    about: dict[int, list[int]] = {}
    for index, image in enumerate(images):
        about.setdefault(image, []).append(index)
    order = sorted(about)
    for first in range(0, len(order), batch):
        found = sorted(
            (index for image in order[first : first + batch] for index in about[image]),
            key=lambda index: lengths[index],
        )
        yield [found[start : start + rows] for start in range(0, len(found), rows)]


def _write(
    checkpoint: Checkpoint,
    images: Sequence[np.ndarray],
    prompts: Sequence[Prompt],
    limits: np.ndarray,
    batch: int,
    beams: int,
    writer: Callable[[Head, np.ndarray, np.ndarray], Writer],
    progress: Progress | None,
) -> list[Written]:
    """What is written after each prompt, in order. ``limits``: (n,) tokens of each at most, the end included."""
    import torch

    model = checkpoint.model.eval()
    text = model.config.text_config
    ids = (
        checkpoint.tokenizer([prompt.text for prompt in prompts], add_special_tokens=True).input_ids if prompts else []
    )
    result: dict[int, Written] = {}
    with torch.inference_mode():
        head = Head(model, checkpoint.lexicon)
        for window in windows(
            [prompt.image for prompt in prompts], [len(one) for one in ids], batch, max(1, batch // beams)
        ):
            seen = sorted({prompts[index].image for rows in window for index in rows})
            features = _features(checkpoint, [images[image] for image in seen])
            place = {image: at for at, image in enumerate(seen)}
            for rows in window:
                padded = torch.nn.utils.rnn.pad_sequence(
                    [torch.tensor(ids[index]) for index in rows], batch_first=True, padding_value=text.pad_token_id
                )
                about = torch.tensor([place[prompts[index].image] for index in rows])
                states, mask = encode(model, features, about.to(model.device), padded.to(model.device))
                one = writer(head, np.asarray(rows), limits[rows])
                # the positions that the model knows hold the tokens and what they begin with
                one.limits = np.minimum(one.limits, text.max_position_embeddings - len(one.first))
                _decode(Decoder(model, states, mask, beams=beams), one)
                result.update(zip(rows, one.written(), strict=True))
                if progress:
                    progress("predict", len(result), len(prompts))
    return [result[index] for index in range(len(prompts))]


def _features(checkpoint: Checkpoint, images: Sequence[np.ndarray]) -> torch.Tensor:
    """(n, tokens, width) of n images."""
    import torch

    step = max(1, PIXELS // checkpoint.image_size**2)
    parts = [
        checkpoint.tensor(squares(checkpoint, images[first : first + step])) for first in range(0, len(images), step)
    ]
    return torch.cat([image_features(checkpoint.model, part.to(checkpoint.model.device)) for part in parts])


def _decode(decoder: Decoder, writer: Writer) -> None:
    """Write until every row has ended."""
    import torch

    rows = len(writer.open)
    for token in writer.first:
        hidden = decoder(torch.full((rows, decoder.beams), token, device=decoder.device))
    while True:
        writer.take(hidden)
        going = np.flatnonzero(writer.open)
        if not len(going):
            return
        if writer.order is not None:
            decoder.follow(writer.order)
        if len(going) <= LEAVE * len(writer.open):
            decoder.keep(torch.from_numpy(going).to(decoder.device))
            writer.keep(going)
        hidden = decoder(writer.next)


# ---------------------------------------------------------------- answers


def _spell(lexicon: Lexicon, tokens: np.ndarray) -> tuple[str, np.ndarray]:
    """The text of tokens, and where in it each ends. Bytes that are no UTF-8 become U+FFFD."""
    pieces = [lexicon.pieces[token] for token in tokens]
    joined = b"".join(pieces)
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    if joined.isascii():
        return joined.decode(), ends
    text = joined.decode("utf-8", "replace")
    return text, np.asarray([len(joined[:end].decode("utf-8", "replace")) for end in ends], np.int64)


def _answer(lexicon: Lexicon, ask: Ask, shape: tuple[int, ...], written: Written) -> Answer:
    length = len(written.tokens) - int(written.tokens[-1] == lexicon.eos)
    tokens, probability, end = (
        written.tokens[:length],
        written.probability[:length],
        float(np.prod(written.probability[length:])),
    )
    text, ends = _spell(lexicon, tokens)
    places = lexicon.class_of(tokens) == Class.LOC
    starts = np.concatenate([[0], ends[:-1]]) if length else ends
    asked = task(ask.task)
    answer = asked.decode(text, (shape[1], shape[0]), ask.input)
    scores = [
        _score(probability, places, starts, stretch) for stretch in zip(answer.spans, answer.label_spans, strict=True)
    ]
    regions = tuple(replace(region, score=score) for region, score in zip(answer.regions, scores, strict=True))
    if asked.metric == "caption":
        return replace(answer, score=_mean(written.probability))
    whole = _score(probability, places, starts, ((0, len(text)),)) if length else 1.0
    return replace(answer, regions=regions, score=whole if regions else whole * end)


def _score(
    probability: np.ndarray, places: np.ndarray, starts: np.ndarray, spans: tuple[tuple[int, int], ...]
) -> float:
    """Product of the probabilities of a stretch's words times the geometric mean of those of its places."""
    inside = np.zeros(len(starts), bool)
    for first, last in spans:
        inside |= (starts >= first) & (starts < last)
    words, places = probability[inside & ~places], probability[inside & places]
    score = float(np.prod(words)) if len(words) else 1.0
    return score * _mean(places) if len(places) else score


def _mean(probability: np.ndarray) -> float:
    """The geometric mean."""
    return float(np.exp(np.log(np.maximum(probability, 1e-12)).mean()))
