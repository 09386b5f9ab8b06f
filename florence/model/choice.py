"""Which token comes next, row by row: the likeliest within the task's grammar, or the likeliest of all as transformers chooses it.

Within the grammar the kinds that it allows are weighed first, each by the probability of all its tokens together, then a token of the
likeliest kind is chosen: a place spread over many bins does not lose against one certain token. Among locations the bin is chosen whose
neighbourhood is likeliest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from florence.codec import constrain
from florence.codec.constrain import CLASSES, Class
from florence.codec.locations import BINS
from florence.model.vocabulary import Lexicon

if TYPE_CHECKING:
    import torch

NEAR = 15
"""Bins to either side that count as the same place: 1.5% of the image's side."""

BARRED = -1e30
"""Added to the logit of a token that may not come."""


@dataclass(frozen=True, slots=True)
class Written:
    """The tokens (n,) of one answer, with its end where it has one; ``probability`` (n,) of each, of a location with its neighbourhood."""

    tokens: np.ndarray
    probability: np.ndarray


class Head:
    """Hidden states (n, width) → logits (n, vocabulary) float32; and those of the locations alone (n, 1000), by bin."""

    def __init__(self, model: Any, lexicon: Lexicon) -> None:
        import torch

        self.project = model.lm_head
        self.locations = torch.from_numpy(lexicon.locations).to(model.device)
        # an adapter on the head is more than its weight
        self.weight = model.lm_head.weight[self.locations] if type(model.lm_head) is torch.nn.Linear else None

    def all(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, vocabulary)."""
        return self.project(hidden).float()

    def places(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, 1000)."""
        return self.all(hidden)[:, self.locations] if self.weight is None else (hidden @ self.weight.T).float()


class Grammar:
    """Which tokens of a vocabulary are legal in a state, and what they weigh."""

    def __init__(self, lexicon: Lexicon, device: Any) -> None:
        import torch

        self.lexicon, self.device = lexicon, device
        kinds = np.where(lexicon.classes.any(axis=1), lexicon.classes.argmax(axis=1), CLASSES)
        self.kinds = torch.from_numpy(kinds).to(device)
        self.members = torch.nn.functional.one_hot(self.kinds, CLASSES + 1).float()
        self.locations = torch.from_numpy(lexicon.locations).to(device)
        self.bins = torch.zeros(len(kinds), dtype=torch.long, device=device)
        self.bins[self.locations] = torch.arange(BINS, device=device)
        # added to probabilities, so that only text can be the largest
        self.no_text = torch.where((self.kinds == Class.TEXT) | (self.kinds == Class.BLANK), 0.0, -2.0)
        self.only = torch.zeros(CLASSES + 1, dtype=torch.long, device=device)
        for kind in (Class.SEP, Class.POLY_OPEN, Class.POLY_CLOSE, Class.EOS):
            self.only[kind] = int(np.flatnonzero(lexicon.classes[:, kind])[0])

    def probability(self, logits: torch.Tensor, may: np.ndarray) -> torch.Tensor:
        """Probabilities (n, vocabulary) of logits (n, vocabulary) among the tokens of the classes ``may`` (n, classes)."""
        import torch

        barred = np.full((len(may), CLASSES + 1), BARRED, np.float32)
        barred[:, :CLASSES][may] = 0.0
        # a small matrix product is faster than looking up each token's class
        return torch.softmax(torch.addmm(logits, torch.from_numpy(barred).to(self.device), self.members.T), dim=1)


def near(probability: torch.Tensor) -> torch.Tensor:
    """The mass (n, 1000) of each bin with those near it, of probabilities (n, 1000)."""
    import torch

    sums = torch.nn.functional.pad(probability.cumsum(dim=1), (1, 0))
    bins = torch.arange(BINS, device=probability.device)
    return (sums[:, (bins + NEAR + 1).clamp(max=BINS)] - sums[:, (bins - NEAR).clamp(min=0)]).clamp(max=1.0)


def place(probability: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mass, bin) of the likeliest bin with those near it, of (n, 1000) probabilities; among bins of nearly the same mass the likeliest itself."""
    mass = near(probability)
    found = (mass + probability * 1e-3).argmax(dim=1)
    return mass.gather(1, found[:, None])[:, 0], found


class Greedy:
    """What all ways of writing one token a row share. ``open``: (k,) of the rows that are still decoded, whether each goes on.

    ``limits``: (n,) the most tokens of each answer, its end included; ``rows``: (k,) those that are decoded; ``next``: (k, 1) their tokens.
    """

    order: torch.Tensor | None = None

    def __init__(self, limits: np.ndarray, first: tuple[int, ...], eos: int) -> None:
        n, longest = len(limits), int(limits.max(initial=1))
        self.limits, self.first, self.eos, self.beams, self.step = limits, first, eos, 1, 0
        self.rows, self.open = np.arange(n), np.ones(n, bool)
        self.tokens, self.probability, self.lengths = (
            np.zeros((n, longest), np.int64),
            np.ones((n, longest)),
            np.zeros(n, np.int64),
        )
        self.next: torch.Tensor

    def take(self, hidden: torch.Tensor) -> None:
        """Choose from hidden states (k, 1, width)."""
        chosen, best = self.choose(hidden[:, 0])
        tokens, rows = chosen.cpu().numpy(), self.rows
        self.tokens[rows, self.step], self.probability[rows, self.step] = tokens, best.cpu().numpy()
        self.lengths[rows[self.open]] += 1
        self.step += 1
        self.open = self.open & (tokens != self.eos) & (self.step < self.limits[rows])
        self.next = chosen[:, None]

    def choose(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens, their probabilities) (k,) of hidden states (k, width)."""
        raise NotImplementedError

    def keep(self, kept: np.ndarray) -> None:
        """Go on with ``kept`` of the rows that are decoded."""
        import torch

        self.rows, self.open, self.next = (
            self.rows[kept],
            self.open[kept],
            self.next[torch.from_numpy(kept).to(self.next.device)],
        )

    def written(self) -> list[Written]:
        """The answers, by row."""
        return [Written(t[:n], p[:n]) for t, p, n in zip(self.tokens, self.probability, self.lengths, strict=True)]


class Held(Greedy):
    """Held to the grammar. ``states``: (n,) of `florence.codec.constrain` before the first token."""

    def __init__(
        self, head: Head, grammar: Grammar, states: np.ndarray, limits: np.ndarray, first: tuple[int, ...]
    ) -> None:
        super().__init__(limits, first, grammar.lexicon.eos)
        self.head, self.grammar, self.states = head, grammar, states.copy()

    def choose(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Greedy.choose`."""
        import torch

        states = np.where(self.open, self.states[self.rows], constrain.DONE)
        may = constrain.allowed(states, self.limits[self.rows] - self.step)
        chosen = torch.full((len(states),), self.eos, device=hidden.device)
        best = torch.ones(len(states), device=hidden.device)
        # half of all tokens are locations that nothing else may stand for: their logits are enough
        only_place = may[:, Class.LOC] & (may.sum(axis=1) == 1)
        for rows, choice in (
            (np.flatnonzero(only_place), self._place),
            (np.flatnonzero(~only_place & self.open), self._any),
        ):
            if len(rows):
                at = torch.from_numpy(rows).to(hidden.device)
                chosen[at], best[at] = choice(hidden[at], may[rows])
        self.states[self.rows] = constrain.step(states, self.grammar.lexicon.class_of(chosen.cpu().numpy()))
        return chosen, best

    def _place(self, hidden: torch.Tensor, may: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        mass, bins = place(torch.softmax(self.head.places(hidden), dim=1))
        return self.grammar.locations[bins], mass

    def _any(self, hidden: torch.Tensor, may: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        grammar = self.grammar
        probability = grammar.probability(self.head.all(hidden), may)
        mass = probability @ grammar.members
        # text that is white space goes on as text does: one kind to choose, two for the grammar
        mass[:, Class.TEXT] += mass[:, Class.BLANK]
        mass[:, Class.BLANK] = 0
        best, kind = mass.max(dim=1)
        chosen = grammar.only[kind]
        if len(text := (kind == Class.TEXT).nonzero()[:, 0]):
            best[text], chosen[text] = (probability[text] + grammar.no_text).max(dim=1)
        if len(places := (kind == Class.LOC).nonzero()[:, 0]):
            best[places], bins = place(probability[places][:, grammar.locations])
            chosen[places] = grammar.locations[bins]
        return chosen, best


@dataclass(frozen=True, slots=True)
class Forced:
    """What transformers' generation configuration demands whatever the model says: first and last token. ``fixed``: no end before the limit."""

    start: int
    eos: int
    bos: int | None
    end: int | None
    fixed: bool

    @classmethod
    def of(cls, model: Any, fixed: bool) -> Forced:
        """The demands of ``model``'s configuration."""
        found = model.generation_config
        ends = found.eos_token_id
        return cls(
            found.decoder_start_token_id,
            ends[0] if isinstance(ends, list) else ends,
            found.forced_bos_token_id,
            found.forced_eos_token_id,
            fixed,
        )

    def shape(self, scores: torch.Tensor, step: int, last: np.ndarray) -> torch.Tensor:
        """Scores (n, vocabulary) at ``step`` with what is demanded, in place; ``last``: (n,) whether a row has one token left."""
        import torch

        if self.fixed:
            scores[:, self.eos] = -torch.inf
        for token, rows in ((self.bos, np.arange(len(last)) if step == 0 else ()), (self.end, np.flatnonzero(last))):
            if token is not None and len(rows):
                at = torch.as_tensor(rows, device=scores.device)
                scores[at] = -torch.inf
                scores[at, token] = 0.0
        return scores


class Free(Greedy):
    """Without a grammar, the same tokens as transformers' ``generate`` with one beam and no blocking of n-grams."""

    def __init__(self, head: Head, forced: Forced, limits: np.ndarray) -> None:
        super().__init__(limits, (forced.start,), forced.eos)
        self.head, self.forced = head, forced

    def choose(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Greedy.choose`."""
        import torch

        scores = self.forced.shape(self.head.all(hidden), self.step, np.equal(self.limits[self.rows], self.step + 1))
        best, chosen = scores.max(dim=1)
        return chosen, (best - torch.logsumexp(scores, dim=1)).exp()
