"""Decoding strategies, one token a row at a time: constrained to a task's grammar, or greedy as transformers decodes.

Constrained decoding first compares the classes of tokens that the grammar allows, each by the probability of all its
tokens together, and then chooses a token of the likeliest class: so a location spread over many bins does not lose
against one certain token. Among locations it chooses the bin whose neighbourhood is likeliest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from florence.codec import constrain
from florence.codec.constrain import CLASSES, TokenClass
from florence.codec.locations import BINS
from florence.model.vocabulary import Lexicon

if TYPE_CHECKING:
    import torch

NEIGHBOURS = 15
"""Bins to either side that count as the same location: 1.5% of the image's side."""

FORBIDDEN = -1e30
"""Added to the logit of a token that is not allowed."""


@dataclass(frozen=True, slots=True)
class Generation:
    """The tokens (n,) of one answer, with its end token where it has one, and the ``probability`` (n,) of each.

    The probability of a location is that of its neighbourhood. ``truncated``: whether the answer would have gone on if
    it had been allowed to be longer.
    """

    tokens: np.ndarray
    probability: np.ndarray
    truncated: bool = False


class LanguageModelHead:
    """The layer from hidden states to logits, of all tokens or of the locations alone."""

    def __init__(self, model: Any, lexicon: Lexicon) -> None:
        import torch

        self.projection = model.lm_head
        self.locations = torch.from_numpy(lexicon.locations).to(model.device)
        # a head with an adapter is more than its weight
        self.weight = model.lm_head.weight[self.locations] if type(model.lm_head) is torch.nn.Linear else None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, vocabulary) float32 of hidden states (n, width)."""
        return self.projection(hidden).float()

    def location_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, 1000) float32 of the locations, by bin."""
        return self.logits(hidden)[:, self.locations] if self.weight is None else (hidden @ self.weight.T).float()


class TokenGrammar:
    """The classes of a vocabulary's tokens, and probabilities among the tokens that the grammar allows.

    ``classes``: (vocabulary,) class of each token, `CLASSES` for tokens in none; ``members``: (vocabulary, CLASSES + 1)
    the same one-hot; ``single_tokens``: (CLASSES + 1,) the token of each class that has only one.
    """

    def __init__(self, lexicon: Lexicon, device: Any) -> None:
        import torch

        self.lexicon, self.device = lexicon, device
        classes = np.where(lexicon.classes.any(axis=1), lexicon.classes.argmax(axis=1), CLASSES)
        self.classes = torch.from_numpy(classes).to(device)
        self.members = torch.nn.functional.one_hot(self.classes, CLASSES + 1).float()
        self.locations = torch.from_numpy(lexicon.locations).to(device)
        self.bins = torch.zeros(len(classes), dtype=torch.long, device=device)
        self.bins[self.locations] = torch.arange(BINS, device=device)
        is_text = (self.classes == TokenClass.TEXT) | (self.classes == TokenClass.BLANK)
        # added to probabilities, so that only text can be the largest
        self.text_only = torch.where(is_text, 0.0, -2.0)
        self.single_tokens = torch.zeros(CLASSES + 1, dtype=torch.long, device=device)
        for single in (TokenClass.SEP, TokenClass.POLY_OPEN, TokenClass.POLY_CLOSE, TokenClass.EOS):
            self.single_tokens[single] = int(np.flatnonzero(lexicon.classes[:, single])[0])

    def probability(self, logits: torch.Tensor, allowed: np.ndarray) -> torch.Tensor:
        """Return the probabilities (n, vocabulary) of logits among the tokens of ``allowed`` (n, classes) classes."""
        import torch

        mask = np.full((len(allowed), CLASSES + 1), FORBIDDEN, np.float32)
        mask[:, :CLASSES][allowed] = 0.0
        # a small matrix product is faster than looking up each token's class
        return torch.softmax(torch.addmm(logits, torch.from_numpy(mask).to(self.device), self.members.T), dim=1)

    def choose(self, logits: torch.Tensor, allowed: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens (n,) of the likeliest of the ``allowed`` (n, classes) classes, and their probabilities (n,)."""
        probability = self.probability(logits, allowed)
        mass = probability @ self.members
        # white space continues a text as other text does: one class to choose, two for the grammar
        mass[:, TokenClass.TEXT] += mass[:, TokenClass.BLANK]
        mass[:, TokenClass.BLANK] = 0
        best, classes = mass.max(dim=1)
        chosen = self.single_tokens[classes]
        if len(text := (classes == TokenClass.TEXT).nonzero()[:, 0]):
            best[text], chosen[text] = (probability[text] + self.text_only).max(dim=1)
        if len(locations := (classes == TokenClass.LOC).nonzero()[:, 0]):
            best[locations], bins = likeliest_location(probability[locations][:, self.locations])
            chosen[locations] = self.locations[bins]
        return chosen, best


def neighbourhood_mass(probability: torch.Tensor) -> torch.Tensor:
    """Return the probability (n, 1000) of each bin with its neighbours, given those of the bins (n, 1000)."""
    import torch

    sums = torch.nn.functional.pad(probability.cumsum(dim=1), (1, 0))
    bins = torch.arange(BINS, device=probability.device)
    above = sums[:, (bins + NEIGHBOURS + 1).clamp(max=BINS)]
    return (above - sums[:, (bins - NEIGHBOURS).clamp(min=0)]).clamp(max=1.0)


def likeliest_location(probability: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mass (n,) and index (n,) of the bin with the likeliest neighbourhood, of probabilities (n, 1000).

    Among bins of nearly the same mass the likeliest itself.
    """
    mass = neighbourhood_mass(probability)
    best = (mass + probability * 1e-3).argmax(dim=1)
    return mass.gather(1, best[:, None])[:, 0], best


def is_limited(lexicon: Lexicon, tokens: np.ndarray, start: int, max_length: int) -> bool:
    """Return whether an answer came so near ``max_length`` tokens, its end included, that it had a choice less.

    ``tokens``: (n,) of the answer; ``start``: the state of `florence.codec.constrain` before the first.
    """
    states = np.asarray([start])
    for at, kind in enumerate(lexicon.class_of(tokens)):
        if (constrain.allowed_classes(states, max_length - at) != constrain.allowed_classes(states)).any():
            return True
        states = constrain.next_states(states, np.asarray([kind]))
    return False


class GreedyDecoding:
    """What all strategies share that choose one token a row at a time; see `florence.model.generate.DecodingStrategy`.

    ``max_lengths``: (n,) most tokens of each answer, its end included; ``rows``: (k,) the rows that are decoded;
    ``is_open``: (k,) whether each continues; ``next_tokens``: (k, 1).
    """

    beam_order: torch.Tensor | None = None

    def __init__(self, max_lengths: np.ndarray, prefix: tuple[int, ...], eos: int) -> None:
        n, longest = len(max_lengths), int(max_lengths.max(initial=1))
        self.max_lengths, self.prefix, self.eos, self.beams, self.step = max_lengths, prefix, eos, 1, 0
        self.rows, self.is_open = np.arange(n), np.ones(n, bool)
        self.tokens, self.probability = np.zeros((n, longest), np.int64), np.ones((n, longest))
        self.lengths, self.truncated = np.zeros(n, np.int64), np.zeros(n, bool)
        self.next_tokens: torch.Tensor

    def advance(self, hidden: torch.Tensor) -> None:
        """Choose the next tokens from hidden states (k, 1, width)."""
        chosen, probability = self.choose(hidden[:, 0])
        tokens, rows = chosen.cpu().numpy(), self.rows
        self.tokens[rows, self.step], self.probability[rows, self.step] = tokens, probability.cpu().numpy()
        self.lengths[rows[self.is_open]] += 1
        self.step += 1
        self.is_open = self.is_open & (tokens != self.eos) & (self.step < self.max_lengths[rows])
        self.next_tokens = chosen[:, None]

    def choose(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens (k,) and their probabilities (k,), given hidden states (k, width)."""
        raise NotImplementedError

    def keep_rows(self, kept: np.ndarray) -> None:
        """Continue with the rows ``kept`` of the k rows."""
        import torch

        self.rows, self.is_open = self.rows[kept], self.is_open[kept]
        self.next_tokens = self.next_tokens[torch.from_numpy(kept).to(self.next_tokens.device)]

    def generations(self) -> list[Generation]:
        """Return the answers, by row."""
        found = zip(self.tokens, self.probability, self.lengths, self.truncated, strict=True)
        return [Generation(tokens[:n], probability[:n], bool(cut)) for tokens, probability, n, cut in found]


class ConstrainedDecoding(GreedyDecoding):
    """Greedy decoding within the grammar. ``states``: (n,) of `florence.codec.constrain` before the first token."""

    def __init__(
        self,
        head: LanguageModelHead,
        grammar: TokenGrammar,
        states: np.ndarray,
        max_lengths: np.ndarray,
        prefix: tuple[int, ...],
    ) -> None:
        super().__init__(max_lengths, prefix, grammar.lexicon.eos)
        self.head, self.grammar, self.states = head, grammar, states.copy()

    def choose(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `GreedyDecoding.choose`."""

        states = np.where(self.is_open, self.states[self.rows], constrain.DONE)
        allowed = constrain.allowed_classes(states, self.max_lengths[self.rows] - self.step)
        chosen, probability = self._choose_allowed(hidden, allowed)
        classes = self.grammar.lexicon.class_of(chosen.cpu().numpy())
        self._mark_truncated(hidden, states, allowed)
        self.states[self.rows] = constrain.next_states(states, classes)
        return chosen, probability

    def _mark_truncated(self, hidden: torch.Tensor, states: np.ndarray, allowed: np.ndarray) -> None:
        """Note the rows that would have gone on otherwise if they were not near their greatest length."""
        import torch

        free = constrain.allowed_classes(states)
        bound = np.flatnonzero((free != allowed).any(axis=1) & self.is_open)
        if len(bound):
            wanted, _ = self._choose_allowed(hidden[torch.from_numpy(bound).to(hidden.device)], free[bound])
            classes = self.grammar.lexicon.class_of(wanted.cpu().numpy())
            self.truncated[self.rows[bound]] |= ~allowed[bound, classes]

    def _choose_allowed(self, hidden: torch.Tensor, allowed: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens (k,) of ``allowed`` (k, classes) classes and their probabilities (k,)."""
        import torch

        chosen = torch.full((len(allowed),), self.eos, device=hidden.device)
        probability = torch.ones(len(allowed), device=hidden.device)
        # half of all tokens are locations where nothing else is allowed: their logits are enough
        is_single = allowed.sum(axis=1) == 1
        is_location, is_end = (is_single & allowed[:, only] for only in (TokenClass.LOC, TokenClass.EOS))
        for rows, choose in (
            (np.flatnonzero(is_location), self._choose_location),
            (np.flatnonzero(~is_location & ~is_end), self._choose_token),
        ):
            if len(rows):
                at = torch.from_numpy(rows).to(hidden.device)
                chosen[at], probability[at] = choose(hidden[at], allowed[rows])
        return chosen, probability

    def _choose_location(self, hidden: torch.Tensor, allowed: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        mass, bins = likeliest_location(torch.softmax(self.head.location_logits(hidden), dim=1))
        return self.grammar.locations[bins], mass

    def _choose_token(self, hidden: torch.Tensor, allowed: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return self.grammar.choose(self.head.logits(hidden), allowed)


@dataclass(frozen=True, slots=True)
class ForcedTokens:
    """The tokens that transformers' generation configuration forces, whatever the model says.

    ``bos``, ``end``: forced first and last token; ``has_fixed_length``: whether no answer ends before its limit.
    """

    start: int
    eos: int
    bos: int | None
    end: int | None
    has_fixed_length: bool

    @classmethod
    def of_model(cls, model: Any, has_fixed_length: bool) -> ForcedTokens:
        """Return the forced tokens of ``model``'s configuration."""
        config = model.generation_config
        ends = config.eos_token_id
        return cls(
            config.decoder_start_token_id,
            ends[0] if isinstance(ends, list) else ends,
            config.forced_bos_token_id,
            config.forced_eos_token_id,
            has_fixed_length,
        )

    def apply(self, scores: torch.Tensor, step: int, is_last: np.ndarray) -> torch.Tensor:
        """Set the scores (n, vocabulary) at ``step`` to the forced tokens, in place.

        ``is_last``: (n,) whether a row has one token left.
        """
        import torch

        if self.has_fixed_length:
            scores[:, self.eos] = -torch.inf
        first = np.arange(len(is_last)) if step == 0 else ()
        for token, rows in ((self.bos, first), (self.end, np.flatnonzero(is_last))):
            if token is not None and len(rows):
                at = torch.as_tensor(rows, device=scores.device)
                scores[at] = -torch.inf
                scores[at, token] = 0.0
        return scores


class UnconstrainedDecoding(GreedyDecoding):
    """Greedy decoding without a grammar: the tokens of transformers' ``generate``, one beam, n-grams not blocked."""

    def __init__(self, head: LanguageModelHead, forced: ForcedTokens, max_lengths: np.ndarray) -> None:
        super().__init__(max_lengths, (forced.start,), forced.eos)
        self.head, self.forced = head, forced

    def choose(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `GreedyDecoding.choose`."""
        import torch

        is_last = np.equal(self.max_lengths[self.rows], self.step + 1)
        scores = self.forced.apply(self.head.logits(hidden), self.step, is_last)
        best, chosen = scores.max(dim=1)
        return chosen, (best - torch.logsumexp(scores, dim=1)).exp()
