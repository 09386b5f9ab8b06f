"""Beam search, as transformers searches: the same candidates, scores and rule to stop, each row by itself.

A finished answer is worth the sum of its tokens' log-probabilities over its length, to the power of the length penalty. A row
stops where its best beam, ended now, would be worth less than the worst of its finished answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from florence.codec import constrain
from florence.codec.constrain import Class
from florence.model.choice import NEAR, Forced, Grammar, Head, Written, near

if TYPE_CHECKING:
    import torch

NEVER = -1e9
"""The worth of what must not win, as in transformers; below it only what cannot be written at all."""


class Scorer(Protocol):
    """What a beam search ranks by."""

    eos: int

    def scores(self, logits: torch.Tensor, step: int, left: np.ndarray) -> torch.Tensor:
        """Log-probabilities (n, vocabulary) of logits (n, vocabulary), at most ``left`` (n,) tokens from the end."""

    def probability(self, beams: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Probabilities (m,) of ``tokens`` (m,) after ``beams`` (m,), indices into what was scored last."""

    def move(self, beams: torch.Tensor, tokens: torch.Tensor, dead: torch.Tensor) -> None:
        """Go on with ``tokens`` (n,) after ``beams`` (n,); those that are ``dead`` (n,) cannot be written."""

    def keep(self, beams: torch.Tensor) -> None:
        """Go on with ``beams`` alone."""


class FreeScorer:
    """The model's own log-probabilities, with what transformers' configuration demands."""

    def __init__(self, forced: Forced) -> None:
        self.forced, self.eos = forced, forced.eos
        self.last: torch.Tensor

    def scores(self, logits: torch.Tensor, step: int, left: np.ndarray) -> torch.Tensor:
        """See `Scorer`."""
        import torch

        self.last = self.forced.shape(torch.log_softmax(logits, dim=1), step, left == 1)
        return self.last

    def probability(self, beams: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """See `Scorer`."""
        return self.last[beams, tokens].exp()

    def move(self, beams: torch.Tensor, tokens: torch.Tensor, dead: torch.Tensor) -> None:
        """See `Scorer`."""

    def keep(self, beams: torch.Tensor) -> None:
        """See `Scorer`."""


class HeldScorer:
    """Log-probabilities among the legal tokens. Locations are told apart by place: of a peak of the neighbourhood's mass only the bin on top is a
    candidate, and the peaks share the probability of all locations by their mass, so that a place spread over many bins is one candidate, not many poor ones.
    """

    def __init__(self, grammar: Grammar, states: np.ndarray) -> None:
        self.grammar, self.states, self.eos = grammar, states.copy(), grammar.lexicon.eos
        self.last: torch.Tensor
        self.mass: torch.Tensor

    def scores(self, logits: torch.Tensor, step: int, left: np.ndarray) -> torch.Tensor:
        """See `Scorer`."""
        import torch

        at = self.grammar.locations
        self.last = self.grammar.probability(logits, constrain.allowed(self.states, left))
        places = self.last[:, at]
        self.mass = near(places)
        ranked = self.mass + places * 1e-3
        peaks = torch.nn.functional.max_pool1d(ranked[:, None], 2 * NEAR + 1, stride=1, padding=NEAR)[:, 0] == ranked
        shares = torch.where(peaks, self.mass, 0.0)
        shares = shares * (places.sum(dim=1) / shares.sum(dim=1).clamp(min=1e-30))[:, None]
        result = self.last.clone()
        result[:, at] = shares
        return result.log()

    def probability(self, beams: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """See `Scorer`; of a location with its neighbourhood."""
        import torch

        return torch.where(
            self.grammar.kinds[tokens] == Class.LOC,
            self.mass[beams, self.grammar.bins[tokens]],
            self.last[beams, tokens],
        )

    def move(self, beams: torch.Tensor, tokens: torch.Tensor, dead: torch.Tensor) -> None:
        """See `Scorer`."""
        gone = dead.cpu().numpy()
        states = np.where(gone, constrain.DONE, self.states[beams.cpu().numpy()])
        self.states = constrain.step(states, np.where(gone, Class.EOS, self.grammar.kinds[tokens].cpu().numpy()))

    def keep(self, beams: torch.Tensor) -> None:
        """See `Scorer`."""
        self.states = self.states[beams.cpu().numpy()]


class Beams:
    """The state of a search over n rows; see `florence.model.choice.Greedy` for what the loop asks of it."""

    def __init__(
        self, head: Head, scorer: Scorer, limits: np.ndarray, first: tuple[int, ...], beams: int, penalty: float
    ) -> None:
        import torch

        device = head.locations.device
        n, longest = len(limits), int(limits.max(initial=1))
        self.head, self.scorer, self.first, self.beams, self.penalty, self.step = head, scorer, first, beams, penalty, 0
        self.rows, self.open, self.limits = np.arange(n), np.ones(n, bool), limits
        self.tokens = torch.zeros((n, beams, longest), dtype=torch.long, device=device)
        self.chances = torch.ones((n, beams, longest), device=device)
        # all beams begin alike: only the first may be gone on from
        self.worth = torch.full((n, beams), NEVER, device=device)
        self.worth[:, 0] = 0.0
        self.done_tokens, self.done_chances = self.tokens.clone(), self.chances.clone()
        self.done_worth = torch.full((n, beams), NEVER, device=device)
        self.done_length = torch.zeros((n, beams), dtype=torch.long, device=device)
        self.next: torch.Tensor
        self.order: torch.Tensor | None = None
        self.result: list[Written | None] = [None] * n

    def take(self, hidden: torch.Tensor) -> None:
        """Choose from hidden states (k, beams, width)."""
        import torch

        k, beams, _ = hidden.shape
        left = self.limits[self.rows] - self.step
        scores = self.scorer.scores(self.head.all(hidden.flatten(0, 1)), self.step, np.repeat(left, beams))
        size = scores.shape[1]
        worth, index = (scores.view(k, beams, size) + self.worth[..., None]).view(k, -1).topk(2 * beams)
        parent, token = index // size, index % size
        offset = torch.arange(k, device=index.device)[:, None] * beams
        chance = self.scorer.probability((parent + offset).flatten(), token.flatten()).view(k, -1)
        over = (token == self.scorer.eos) | torch.from_numpy(left <= 1).to(index.device)[:, None]
        self._finish(worth, parent, token, chance, over)
        self.worth, pick = (worth + over * NEVER).topk(beams)
        self.order, self.next = parent.gather(1, pick), token.gather(1, pick)
        self.tokens, self.chances = (
            _extended(a, self.order, new.gather(1, pick), self.step)
            for a, new in ((self.tokens, token), (self.chances, chance))
        )
        self.scorer.move((self.order + offset).flatten(), self.next.flatten(), (self.worth <= NEVER / 2).flatten())
        self.step += 1
        best = self.worth[:, :1] / self.step**self.penalty
        worst = torch.where(self.done_length > 0, self.done_worth.min(dim=1, keepdim=True)[0], NEVER)
        self.open = self.open & ((best > worst).any(dim=1) & ~over.all(dim=1)).cpu().numpy()

    def _finish(
        self, worth: torch.Tensor, parent: torch.Tensor, token: torch.Tensor, chance: torch.Tensor, over: torch.Tensor
    ) -> None:
        """Take the candidates that have ended among the finished answers. Only the first half may: the rest is there so that enough go on."""
        import torch

        ended = over & torch.from_numpy(self.open).to(worth.device)[:, None] & (worth > NEVER / 2)
        ended[:, self.beams :] = False
        if not bool(ended.any()):
            return
        merged = torch.cat([self.done_worth, worth / (self.step + 1) ** self.penalty + ~ended * NEVER], dim=1)
        self.done_worth, pick = merged.topk(self.beams)
        self.done_tokens = _chosen(
            torch.cat([self.done_tokens, _extended(self.tokens, parent, token, self.step)], dim=1), pick
        )
        self.done_chances = _chosen(
            torch.cat([self.done_chances, _extended(self.chances, parent, chance, self.step)], dim=1), pick
        )
        self.done_length = torch.cat([self.done_length, ended * (self.step + 1)], dim=1).gather(1, pick)

    def keep(self, kept: np.ndarray) -> None:
        """Go on with ``kept`` of the rows that are decoded."""
        import torch

        self._note()
        rows = torch.from_numpy(kept).to(self.worth.device)
        self.rows, self.open = self.rows[kept], self.open[kept]
        for name in ("tokens", "chances", "worth", "done_tokens", "done_chances", "done_worth", "done_length", "next"):
            setattr(self, name, getattr(self, name)[rows])
        self.scorer.keep((rows[:, None] * self.beams + torch.arange(self.beams, device=rows.device)).flatten())

    def _note(self) -> None:
        for at, row in enumerate(self.rows):
            length = int(self.done_length[at, 0])
            self.result[row] = Written(
                self.done_tokens[at, 0, :length].cpu().numpy(), self.done_chances[at, 0, :length].double().cpu().numpy()
            )

    def written(self) -> list[Written]:
        """The best finished answer of each row."""
        self._note()
        return [found for found in self.result if found is not None]


def _chosen(values: torch.Tensor, pick: torch.Tensor) -> torch.Tensor:
    """``values`` (k, m, length) at ``pick`` (k, j) along the second axis: (k, j, length)."""
    return values.gather(1, pick[..., None].expand(-1, -1, values.shape[-1]))


def _extended(values: torch.Tensor, parent: torch.Tensor, new: torch.Tensor, step: int) -> torch.Tensor:
    """What beams ``parent`` (k, j) hold of ``values`` (k, beams, length), with ``new`` (k, j) at ``step``."""
    result = _chosen(values, parent)
    result[:, :, step] = new
    return result
