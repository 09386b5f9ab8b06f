"""Answers that can not leave their task's grammar: one encoding of an image serves all that is asked about it.

At each token the kinds that the grammar allows are weighed first, each by the probability of all its tokens together, then a token
of the likeliest kind is chosen: a place spread over many bins does not lose against one certain token. Among locations the bin is chosen
whose neighbourhood is likeliest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from florence.codec import constrain
from florence.codec.constrain import Class
from florence.codec.locations import BINS
from florence.model.checkpoint import Checkpoint, squares
from florence.model.encoding import encode, image_features
from florence.model.vocabulary import Lexicon
from florence.tasks import Answer, task

if TYPE_CHECKING:
    import torch

NEAR = 15
"""Bins to either side that count as the same place: 1.5% of the image's side."""
LEAVE = 0.75
"""Rows that have ended leave the batch when no more than this share is still being written."""

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Ask:
    """One question. ``image``: index of the image it is about; ``input``: what the task's prompt takes, if it takes one."""

    image: int
    task: str
    input: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """The tokens of one answer without its end: ``text``; ``ends``: (n,) where each ends in the text; ``probability``: (n,) of each, of a
    location with its neighbourhood; ``places``: (n,) whether it is a location; ``end``: probability of ending there."""

    text: str
    ends: np.ndarray
    probability: np.ndarray
    places: np.ndarray
    end: float


def predict(
    checkpoint: Checkpoint,
    images: Sequence[np.ndarray],
    asks: Sequence[Ask],
    *,
    max_tokens: int = 160,
    batch: int = 128,
    progress: Progress | None = None,
) -> list[Answer]:
    """The answer to each question, in order. ``images``: (H, W, 3) uint8 each; places are in pixels of them.

    A region's score is the probability of its label times the mean (geometric) probability of its places, each with its neighbourhood; the
    answer's score is the same over all its tokens. Raises UnknownName for a task, EncodeError for an input that it does not take.
    """
    import torch

    prompts = checkpoint.tokenizer([task(ask.task).prompt(ask.input) for ask in asks], add_special_tokens=True).input_ids if asks else []
    # answers of one task are about as long as each other, prompts too
    order = sorted(range(len(asks)), key=lambda i: (asks[i].task, len(prompts[i])))
    written: list[Written | None] = [None] * len(asks)
    with torch.inference_mode():
        features = _features(checkpoint, images, batch)
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            found = _write(checkpoint, features, [asks[i] for i in rows], [prompts[i] for i in rows], max_tokens)
            for row, one in zip(rows, found, strict=True):
                written[row] = one
            if progress:
                progress("predict", min(first + batch, len(order)), len(order))
    return [_answer(ask, images[ask.image].shape, one) for ask, one in zip(asks, written, strict=True) if one is not None]


def _features(checkpoint: Checkpoint, images: Sequence[np.ndarray], batch: int) -> torch.Tensor:
    """(n, tokens, width) of n images; none gives an empty tensor."""
    import torch

    model = checkpoint.model.eval()
    parts = [
        image_features(model, checkpoint.tensor(squares(checkpoint, images[first : first + batch])).to(model.device))
        for first in range(0, len(images), batch)
    ]
    return torch.cat(parts) if parts else torch.zeros((0, 1, model.config.text_config.d_model))


def _write(checkpoint: Checkpoint, features: torch.Tensor, asks: list[Ask], prompts: list[list[int]], limit: int) -> list[Written]:
    """Decode a batch of rows together."""
    import torch
    from transformers import EncoderDecoderCache
    from transformers.cache_utils import DynamicCache

    model, lexicon = checkpoint.model, checkpoint.lexicon
    text = model.config.text_config
    device = model.device
    longest = max(len(p) for p in prompts)
    padded = torch.full((len(prompts), longest), text.pad_token_id)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = torch.tensor(prompt)
    states, mask = encode(model, features, torch.tensor([ask.image for ask in asks]).to(device), padded.to(device))
    limit = min(limit, text.max_position_embeddings - 2)
    sheet = _Sheet.blank(lexicon, [task(ask.task).start for ask in asks], limit, device)
    cache = EncoderDecoderCache(DynamicCache(config=text), DynamicCache(config=text))
    inputs = torch.tensor([[text.decoder_start_token_id, lexicon.bos]] * len(asks), device=device)
    while True:
        hidden = model.model.language_model.decoder(
            input_ids=inputs, encoder_hidden_states=states, encoder_attention_mask=mask, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        chosen = sheet.take(model.lm_head(hidden).float())
        active = np.flatnonzero(sheet.states[sheet.rows] != constrain.DONE)
        if not len(active):
            return sheet.written()
        if len(active) <= LEAVE * len(chosen):
            kept = torch.from_numpy(active).to(device)
            cache.batch_select_indices(kept)
            states, mask, chosen = states[kept], mask[kept], chosen[kept]
            sheet.rows = sheet.rows[active]
        inputs = chosen[:, None]


@dataclass(slots=True)
class _Sheet:
    """What has been written so far. ``rows``: (k,) the rows that are still decoded; the others have ended. ``kinds``: (vocabulary,) class of each token,
    the last class for those that stand in no answer."""

    lexicon: Lexicon
    states: np.ndarray
    tokens: np.ndarray
    probability: np.ndarray
    lengths: np.ndarray
    ends: np.ndarray
    rows: np.ndarray
    kinds: torch.Tensor
    locations: torch.Tensor
    limit: int
    step: int = 0

    @classmethod
    def blank(cls, lexicon: Lexicon, starts: list[int], limit: int, device: Any) -> _Sheet:
        import torch

        n = len(starts)
        kinds = np.where(lexicon.classes.any(axis=1), lexicon.classes.argmax(axis=1), constrain.CLASSES)
        return cls(
            lexicon, np.asarray(starts), np.zeros((n, limit + 1), np.int64), np.ones((n, limit + 1)), np.zeros(n, np.int64), np.ones(n), np.arange(n),
            torch.from_numpy(kinds).to(device), torch.from_numpy(lexicon.locations).to(device), limit,
        )  # fmt: skip

    def take(self, logits: torch.Tensor) -> torch.Tensor:
        """Choose the next token of each row in ``rows`` from logits (k, vocabulary); returns (k,) ids."""
        import torch

        states = self.states[self.rows]
        may = np.concatenate([constrain.allowed(states, self.limit + 1 - self.step), np.zeros((len(states), 1), bool)], axis=1)
        legal = torch.from_numpy(may).to(logits.device)[:, self.kinds]
        probability = torch.softmax(logits.masked_fill(~legal, -torch.inf), dim=1)
        mass = torch.zeros((len(states), constrain.CLASSES + 1), device=logits.device).index_add_(1, self.kinds, probability)
        # text that is white space goes on as text does: one kind to choose, two for the grammar
        wanted = mass.clone()
        wanted[:, Class.TEXT] += wanted[:, Class.BLANK]
        wanted[:, Class.BLANK] = 0
        kind = wanted.argmax(dim=1)
        same = (self.kinds[None, :] == kind[:, None]) | ((kind[:, None] == Class.TEXT) & (self.kinds[None, :] == Class.BLANK))
        best, chosen = torch.where(same, probability, -1.0).max(dim=1)
        place = kind == Class.LOC
        if bool(place.any()):
            near, bins = _neighbourhood(probability[place][:, self.locations])
            chosen[place], best[place] = self.locations[bins], near
        self._note(states, chosen.cpu().numpy(), best.cpu().numpy())
        return chosen

    def _note(self, states: np.ndarray, chosen: np.ndarray, best: np.ndarray) -> None:
        """Move the rows on by their tokens."""
        open_, rows = states != constrain.DONE, self.rows
        self.states[rows] = constrain.step(states, self.lexicon.class_of(chosen))
        ended = open_ & (self.states[rows] == constrain.DONE)
        goes_on = open_ & ~ended
        self.tokens[rows, self.step], self.probability[rows, self.step] = chosen, best
        self.lengths[rows[goes_on]] += 1
        self.ends[rows[ended]] = best[ended]
        self.step += 1

    def written(self) -> list[Written]:
        """The answers, by row."""
        inside = np.zeros(len(self.lexicon.pieces), bool)
        inside[self.lexicon.locations] = True
        result = []
        for tokens, probability, length, end in zip(self.tokens, self.probability, self.lengths, self.ends, strict=True):
            text, ends = _spell(self.lexicon, tokens[:length])
            result.append(Written(text, ends, probability[:length], inside[tokens[:length]], float(end)))
        return result


def _neighbourhood(probability: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mass, bin) of the likeliest bin with those near it, of (k, 1000) probabilities; among bins of nearly the same mass the likeliest itself."""
    import torch

    sums = torch.nn.functional.pad(probability.cumsum(dim=1), (1, 0))
    bins = torch.arange(BINS, device=probability.device)
    mass = sums[:, (bins + NEAR + 1).clamp(max=BINS)] - sums[:, (bins - NEAR).clamp(min=0)]
    found = (mass + probability * 1e-3).argmax(dim=1)
    return mass.gather(1, found[:, None])[:, 0].clamp(max=1.0), found


def _spell(lexicon: Lexicon, tokens: np.ndarray) -> tuple[str, np.ndarray]:
    """The text of tokens, and where in it each ends. Bytes that are no UTF-8 become U+FFFD."""
    pieces = [lexicon.pieces[token] for token in tokens]
    joined = b"".join(pieces)
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    if joined.isascii():
        return joined.decode(), ends
    text = joined.decode("utf-8", "replace")
    return text, np.asarray([len(joined[:end].decode("utf-8", "replace")) for end in ends], np.int64)


def _answer(ask: Ask, shape: tuple[int, ...], written: Written) -> Answer:
    one = task(ask.task)
    answer = one.decode(written.text, (shape[1], shape[0]), ask.input)
    starts = np.concatenate([[0], written.ends[:-1]]) if len(written.ends) else written.ends
    regions = tuple(
        replace(region, score=_score(written, starts, (span, label)))
        for region, span, label in zip(answer.regions, answer.spans, answer.label_spans, strict=True)
    )
    whole = _score(written, starts, ((0, len(written.text)),)) if len(starts) else 1.0
    return replace(answer, regions=regions, score=float(whole * written.end) if not answer.regions else whole)


def _score(written: Written, starts: np.ndarray, spans: tuple[tuple[int, int], ...]) -> float:
    """Product of the probabilities of a stretch's words times the geometric mean of those of its places."""
    inside = np.zeros(len(starts), bool)
    for first, last in spans:
        inside |= (starts >= first) & (starts < last)
    words, places = written.probability[inside & ~written.places], written.probability[inside & written.places]
    score = float(np.prod(words)) if len(words) else 1.0
    return score * float(np.exp(np.log(np.maximum(places, 1e-12)).mean())) if len(places) else score
