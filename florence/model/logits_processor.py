"""The grammar of answers for transformers' own ``generate``: greedy, with beams, or by sampling.

Without it one answer in five of <OD> is no legal text. The tokens are those of `florence.model.generate.predict`:

    options = constrain_generation(model, processor, ["<OD>"])
    tokens = model.generate(**inputs, **options)
    (answer,) = options["logits_processor"][0].read_answers(tokens, [(width, height)])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from florence.codec import constrain
from florence.codec.constrain import CLASSES, DONE
from florence.errors import ModelError
from florence.model.beam_search import ConstrainedScorer
from florence.model.checkpoint import MAX_TOKENS
from florence.model.decoding import TokenGrammar
from florence.model.generate import LENGTH_PENALTY, check_max_tokens, limit_lengths, spell_tokens
from florence.model.vocabulary import Lexicon, make_lexicon
from florence.tasks import Answer, task

_TABLE = np.concatenate([constrain.TABLE, np.full((len(constrain.TABLE), 1), -1, constrain.TABLE.dtype)], axis=1)
"""The states after a class, and after a token of none."""


class GrammarLogitsProcessor(LogitsProcessor):
    """Lets ``generate`` write nothing but legal answers of the task of each row; it keeps nothing from call to call.

    ``tokenizer``: of the model, or its processor; ``tasks``: of each prompt, in order; ``max_tokens``: of an answer
    without its end, None for no limit but ``generate``'s own, which may cut an answer; ``num_beams``, ``do_sample``: as
    ``generate`` is called. A greedy choice leaves the chosen token alone, with its probability, and a search the tokens
    that `predict` would search among; sampling leaves all legal tokens, as likely as the model has them.

    Raises UnknownNameError for a task, ModelError for none, and for a vocabulary without the tokens of the
    grammar.
    """

    def __init__(
        self,
        tokenizer: Any,
        tasks: Sequence[str],
        *,
        max_tokens: int | None = MAX_TOKENS,
        num_beams: int = 1,
        do_sample: bool = False,
    ) -> None:
        self.tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        self.tasks = [task(name) for name in ([tasks] if isinstance(tasks, str) else tasks)]
        if not self.tasks:
            raise ModelError("the task of each prompt is expected; found none")
        self.starts = np.asarray([one.start for one in self.tasks], np.int64)
        self.max_tokens, self.num_beams, self.do_sample = max_tokens, num_beams, do_sample
        if max_tokens is not None:
            check_max_tokens(max_tokens)
        self._grammar: TokenGrammar | None = None
        self._make_lexicon(len(self.tokenizer))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores (rows, vocabulary) of the next tokens after ``input_ids`` (rows, length)."""
        grammar = self._find_grammar(scores)
        tokens = input_ids.cpu().numpy()
        starts = np.repeat(self.starts, self._count_rows(len(tokens)))
        if tokens.shape[1] < 2:
            first = torch.full_like(scores, -torch.inf)
            first[:, grammar.lexicon.bos] = 0.0
            return first
        answers = tokens[:, self._find_start(grammar.lexicon, tokens) :]
        states = _follow(grammar, starts, answers)
        left = None if self.max_tokens is None else np.full(len(tokens), self.max_tokens + 1 - answers.shape[1])
        allowed = constrain.allowed_classes(states, left)
        scores = _unblock(grammar, scores, allowed)
        if self.do_sample:
            legal = grammar.members[:, :CLASSES] @ torch.from_numpy(allowed.T).float().to(scores.device)
            return scores.masked_fill(legal.T == 0, -torch.inf)
        if self.num_beams > 1:
            unlimited = np.full(len(tokens), np.iinfo(np.int32).max) if left is None else left
            return ConstrainedScorer(grammar, states).scores(scores, answers.shape[1], unlimited)
        chosen, probability = grammar.choose(scores, allowed)
        result = torch.full_like(scores, -torch.inf)
        return result.scatter(1, chosen[:, None], probability.log()[:, None])

    def read_answers(
        self, sequences: torch.Tensor, sizes: Sequence[tuple[int, int]], inputs: Sequence[str] | None = None
    ) -> list[Answer]:
        """Return what the sequences (rows, length) of ``generate`` mean, with boxes in pixels.

        ``sizes``: width and height of each prompt's image; ``inputs``: of each prompt, "" where it has none.
        """
        tokens = np.asarray(sequences.cpu())
        each = self._count_rows(len(tokens), is_output=True)
        lexicon, result = self._make_lexicon(int(tokens.max(initial=0)) + 1), []
        for row, ids in enumerate(tokens[:, self._find_start(lexicon, tokens) :]):
            ends = np.flatnonzero((ids == lexicon.eos) | (ids == lexicon.pad))
            text, _ = spell_tokens(lexicon, ids[: ends[0]] if len(ends) else ids)
            prompt = row // each
            result.append(self.tasks[prompt].decode(text, sizes[prompt], inputs[prompt] if inputs else ""))
        return result

    def _count_rows(self, rows: int, is_output: bool = False) -> int:
        """Return the rows of each prompt. Raises ModelError where they do not fit the tasks."""
        each, rest = divmod(rows, len(self.tasks))
        expected = 0 if self.do_sample or is_output else self.num_beams
        if rest or not each or (expected and each != expected):
            raise ModelError(
                f"{rows} rows are generated for {len(self.tasks)} tasks and {self.num_beams} beams: name the task of "
                "each prompt, and num_beams and do_sample as generate is called"
            )
        return each

    def _find_start(self, lexicon: Lexicon, tokens: np.ndarray) -> int:
        """Return where answers begin: after the decoder's start, and after <s> where it follows."""
        return 2 if tokens.shape[1] > 1 and bool((tokens[:, 1] == lexicon.bos).all()) else 1

    def _make_lexicon(self, size: int) -> Lexicon:
        if self._grammar is not None and len(self._grammar.lexicon.pieces) >= size:
            return self._grammar.lexicon
        return make_lexicon(self.tokenizer, max(size, len(self.tokenizer)))

    def _find_grammar(self, scores: torch.Tensor) -> TokenGrammar:
        size = scores.shape[1]
        known = self._grammar
        if known is None or len(known.lexicon.pieces) != size or known.members.device != scores.device:
            known = self._grammar = TokenGrammar(make_lexicon(self.tokenizer, size), scores.device)
        return known


def constrain_generation(
    model: Any,
    processor: Any,
    tasks: Sequence[str],
    *,
    max_tokens: int = MAX_TOKENS,
    num_beams: int = 1,
    do_sample: bool = False,
) -> dict[str, Any]:
    """Return the options with which ``model.generate`` gives the tokens of `predict`, for prompts of ``tasks``.

    ``model``, ``processor``: of transformers, from one checkpoint; ``tasks``: of each prompt. What a generation
    configuration has against repetition is switched off: an answer repeats its labels. Raises as
    `GrammarLogitsProcessor`.
    """
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    length = int(limit_lengths(model, max_tokens, 1, 2, ends=1)[0])
    constraint = GrammarLogitsProcessor(
        processor, names, max_tokens=length - 1, num_beams=num_beams, do_sample=do_sample
    )
    text = model.config.text_config
    prefix = [text.decoder_start_token_id, constraint.tokenizer.bos_token_id]
    return {
        "logits_processor": LogitsProcessorList([constraint]),
        "decoder_input_ids": torch.tensor([prefix] * len(names), device=model.device),
        "max_new_tokens": length,
        "num_beams": num_beams,
        "do_sample": do_sample,
        "length_penalty": LENGTH_PENALTY,
        "early_stopping": False,
        "no_repeat_ngram_size": 0,
        "repetition_penalty": 1.0,
        "forced_bos_token_id": None,
        "forced_eos_token_id": None,
    }


def _follow(grammar: TokenGrammar, starts: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Return the states (rows,) after ``answers`` (rows, length): `DONE` after the end, and after what is not legal."""
    states = starts.copy()
    classes = grammar.classes.cpu().numpy()[answers] if answers.size else answers
    for kinds in classes.T:
        following = _TABLE[states, kinds].astype(np.int64)
        states = np.where((states == DONE) | (following < 0), DONE, following)
    return states


def _unblock(grammar: TokenGrammar, scores: torch.Tensor, allowed: np.ndarray) -> torch.Tensor:
    """Return ``scores`` with equal ones in rows where another processor has forbidden every legal token."""
    legal = (grammar.members[:, :CLASSES] @ torch.from_numpy(allowed.T).float().to(scores.device)).T > 0
    is_blocked = ~(legal & torch.isfinite(scores)).any(dim=1)
    return torch.where(is_blocked[:, None], torch.zeros_like(scores), scores) if bool(is_blocked.any()) else scores
