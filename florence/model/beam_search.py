"""Beam search with transformers' candidates, scores and stopping rule, each row by itself.

The score of a finished answer is the sum of its tokens' log-probabilities divided by its length to the power of the
length penalty. A row stops where its best beam, ended now, would score less than the worst of its finished answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from florence.codec import constrain
from florence.codec.constrain import TokenClass
from florence.model.decoding import (
    NEIGHBOURS,
    ForcedTokens,
    Generation,
    LanguageModelHead,
    TokenGrammar,
    neighbourhood_mass,
)

if TYPE_CHECKING:
    import torch

NEVER = -1e9
"""The score of what must not be chosen, as in transformers; below it is only what is not allowed at all."""


class BeamScorer(Protocol):
    """Log-probabilities that a beam search ranks by."""

    eos: int

    def scores(self, logits: torch.Tensor, step: int, tokens_left: np.ndarray) -> torch.Tensor:
        """Return the log-probabilities (n, vocabulary) of logits, at most ``tokens_left`` (n,) tokens from the end."""

    def probability(self, beams: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the probabilities (m,) of ``tokens`` (m,) after ``beams`` (m,), indices into what was scored last."""

    def extend(self, beams: torch.Tensor, tokens: torch.Tensor, is_dead: torch.Tensor) -> None:
        """Continue with ``tokens`` (n,) after ``beams`` (n,); where ``is_dead`` (n,), the token is not allowed."""

    def keep(self, beams: torch.Tensor) -> None:
        """Continue with ``beams`` alone."""


class UnconstrainedScorer:
    """The model's own log-probabilities, with the tokens that transformers' configuration forces."""

    def __init__(self, forced: ForcedTokens) -> None:
        self.forced, self.eos = forced, forced.eos
        self.last: torch.Tensor

    def scores(self, logits: torch.Tensor, step: int, tokens_left: np.ndarray) -> torch.Tensor:
        """See `BeamScorer`."""
        import torch

        self.last = self.forced.apply(torch.log_softmax(logits, dim=1), step, tokens_left == 1)
        return self.last

    def probability(self, beams: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """See `BeamScorer`."""
        return self.last[beams, tokens].exp()

    def extend(self, beams: torch.Tensor, tokens: torch.Tensor, is_dead: torch.Tensor) -> None:
        """See `BeamScorer`."""

    def keep(self, beams: torch.Tensor) -> None:
        """See `BeamScorer`."""


class ConstrainedScorer:
    """Log-probabilities among the allowed tokens.

    Of each peak of the locations' neighbourhood mass only the top bin is a candidate, and the peaks share the
    probability of all locations by their mass: a location spread over many bins is one candidate, not many unlikely
    ones.
    """

    def __init__(self, grammar: TokenGrammar, states: np.ndarray) -> None:
        self.grammar, self.states, self.eos = grammar, states.copy(), grammar.lexicon.eos
        self.last: torch.Tensor
        self.mass: torch.Tensor

    def scores(self, logits: torch.Tensor, step: int, tokens_left: np.ndarray) -> torch.Tensor:
        """See `BeamScorer`."""
        import torch

        locations = self.grammar.locations
        self.last = self.grammar.probability(logits, constrain.allowed_classes(self.states, tokens_left))
        bins = self.last[:, locations]
        self.mass = neighbourhood_mass(bins)
        ranked = self.mass + bins * 1e-3
        highest = torch.nn.functional.max_pool1d(ranked[:, None], 2 * NEIGHBOURS + 1, stride=1, padding=NEIGHBOURS)
        shares = torch.where(highest[:, 0] == ranked, self.mass, 0.0)
        shares = shares * (bins.sum(dim=1) / shares.sum(dim=1).clamp(min=1e-30))[:, None]
        result = self.last.clone()
        result[:, locations] = shares
        return result.log()

    def probability(self, beams: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """See `BeamScorer`; the probability of a location is that of its neighbourhood."""
        import torch

        return torch.where(
            self.grammar.classes[tokens] == TokenClass.LOC,
            self.mass[beams, self.grammar.bins[tokens]],
            self.last[beams, tokens],
        )

    def extend(self, beams: torch.Tensor, tokens: torch.Tensor, is_dead: torch.Tensor) -> None:
        """See `BeamScorer`."""
        dead = is_dead.cpu().numpy()
        states = np.where(dead, constrain.DONE, self.states[beams.cpu().numpy()])
        classes = np.where(dead, TokenClass.EOS, self.grammar.classes[tokens].cpu().numpy())
        self.states = constrain.next_states(states, classes)

    def keep(self, beams: torch.Tensor) -> None:
        """See `BeamScorer`."""
        self.states = self.states[beams.cpu().numpy()]


class BeamSearch:
    """A beam search over n rows; see `florence.model.generate.DecodingStrategy`."""

    def __init__(
        self,
        head: LanguageModelHead,
        scorer: BeamScorer,
        max_lengths: np.ndarray,
        prefix: tuple[int, ...],
        beams: int,
        length_penalty: float,
    ) -> None:
        import torch

        device = head.locations.device
        n, longest = len(max_lengths), int(max_lengths.max(initial=1))
        self.head, self.scorer, self.prefix, self.beams, self.step = head, scorer, prefix, beams, 0
        self.length_penalty = length_penalty
        self.rows, self.is_open, self.max_lengths = np.arange(n), np.ones(n, bool), max_lengths
        self.tokens = torch.zeros((n, beams, longest), dtype=torch.long, device=device)
        self.probability = torch.ones((n, beams, longest), device=device)
        # all beams begin alike: only the first may be continued
        self.scores = torch.full((n, beams), NEVER, device=device)
        self.scores[:, 0] = 0.0
        self.finished_tokens, self.finished_probability = self.tokens.clone(), self.probability.clone()
        self.finished_scores = torch.full((n, beams), NEVER, device=device)
        self.finished_lengths = torch.zeros((n, beams), dtype=torch.long, device=device)
        self.next_tokens: torch.Tensor
        self.beam_order: torch.Tensor | None = None
        self.result: list[Generation | None] = [None] * n

    def advance(self, hidden: torch.Tensor) -> None:
        """Choose the next tokens from hidden states (k, beams, width)."""
        import torch

        k, beams, _ = hidden.shape
        left = self.max_lengths[self.rows] - self.step
        scores = self.scorer.scores(self.head.logits(hidden.flatten(0, 1)), self.step, np.repeat(left, beams))
        size = scores.shape[1]
        score, index = (scores.view(k, beams, size) + self.scores[..., None]).view(k, -1).topk(2 * beams)
        parent, token = index // size, index % size
        offset = torch.arange(k, device=index.device)[:, None] * beams
        probability = self.scorer.probability((parent + offset).flatten(), token.flatten()).view(k, -1)
        is_end = (token == self.scorer.eos) | torch.from_numpy(left <= 1).to(index.device)[:, None]
        self._finish(score, parent, token, probability, is_end)
        self.scores, pick = (score + is_end * NEVER).topk(beams)
        order, self.next_tokens = parent.gather(1, pick), token.gather(1, pick)
        self.beam_order = order
        self.tokens, self.probability = (
            _extend(values, order, new.gather(1, pick), self.step)
            for values, new in ((self.tokens, token), (self.probability, probability))
        )
        is_dead = (self.scores <= NEVER / 2).flatten()
        self.scorer.extend((order + offset).flatten(), self.next_tokens.flatten(), is_dead)
        self.step += 1
        best = self.scores[:, :1] / self.step**self.length_penalty
        worst = torch.where(self.finished_lengths > 0, self.finished_scores.min(dim=1, keepdim=True)[0], NEVER)
        self.is_open = self.is_open & ((best > worst).any(dim=1) & ~is_end.all(dim=1)).cpu().numpy()

    def _finish(
        self,
        score: torch.Tensor,
        parent: torch.Tensor,
        token: torch.Tensor,
        probability: torch.Tensor,
        is_end: torch.Tensor,
    ) -> None:
        """Add the candidates that have ended to the finished answers.

        Only those of the first half: the other half is there so that enough candidates continue.
        """
        import torch

        ended = is_end & torch.from_numpy(self.is_open).to(score.device)[:, None] & (score > NEVER / 2)
        ended[:, self.beams :] = False
        if not bool(ended.any()):
            return
        final = score / (self.step + 1) ** self.length_penalty + ~ended * NEVER
        self.finished_scores, pick = torch.cat([self.finished_scores, final], dim=1).topk(self.beams)
        tokens = _extend(self.tokens, parent, token, self.step)
        self.finished_tokens = _take(torch.cat([self.finished_tokens, tokens], dim=1), pick)
        probabilities = _extend(self.probability, parent, probability, self.step)
        self.finished_probability = _take(torch.cat([self.finished_probability, probabilities], dim=1), pick)
        lengths = torch.cat([self.finished_lengths, ended * (self.step + 1)], dim=1)
        self.finished_lengths = lengths.gather(1, pick)

    def keep_rows(self, kept: np.ndarray) -> None:
        """Continue with the rows ``kept`` of the k rows."""
        import torch

        self._store_results()
        rows = torch.from_numpy(kept).to(self.scores.device)
        self.rows, self.is_open = self.rows[kept], self.is_open[kept]
        self.tokens, self.probability, self.scores = self.tokens[rows], self.probability[rows], self.scores[rows]
        self.finished_tokens, self.finished_probability = self.finished_tokens[rows], self.finished_probability[rows]
        self.finished_scores, self.finished_lengths = self.finished_scores[rows], self.finished_lengths[rows]
        self.next_tokens = self.next_tokens[rows]
        self.scorer.keep((rows[:, None] * self.beams + torch.arange(self.beams, device=rows.device)).flatten())

    def _store_results(self) -> None:
        """Store the best finished answer of each row."""
        for at, row in enumerate(self.rows):
            length = int(self.finished_lengths[at, 0])
            self.result[row] = Generation(
                self.finished_tokens[at, 0, :length].cpu().numpy(),
                self.finished_probability[at, 0, :length].double().cpu().numpy(),
            )

    def generations(self) -> list[Generation]:
        """Return the best finished answer of each row."""
        self._store_results()
        return [found for found in self.result if found is not None]


def _take(values: torch.Tensor, pick: torch.Tensor) -> torch.Tensor:
    """Return ``values`` (k, m, length) at ``pick`` (k, j) along the second axis: (k, j, length)."""
    return values.gather(1, pick[..., None].expand(-1, -1, values.shape[-1]))


def _extend(values: torch.Tensor, parent: torch.Tensor, new: torch.Tensor, step: int) -> torch.Tensor:
    """Return the ``values`` (k, beams, length) of the beams ``parent`` (k, j), with ``new`` (k, j) at ``step``."""
    result = _take(values, parent)
    result[:, :, step] = new
    return result
