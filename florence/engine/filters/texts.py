"""Filters of captions and other texts, each text by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from florence.config import EngineSettings
from florence.engine.filters.alt_text import flag_noise
from florence.engine.filters.language import flag_other_languages
from florence.engine.filters.reasons import ReasonMask
from florence.engine.parse import parse_texts
from florence.engine.wording.tokens import TokenizedTexts, function_word_mask
from florence.records import is_blank

_LETTER_OR_DIGIT = re.compile(r"[^\W_]")


def apply_caption_filters(texts: TokenizedTexts, annotation_type: str, settings: EngineSettings) -> list[ReasonMask]:
    """Return the reasons that apply to each caption of one type, boilerplate stripped, before the consensus."""
    return [
        ("empty_text", flag_empty_texts(texts.text)),
        ("alt_noise", flag_alt_noise(texts.text, settings)),
        ("too_short", flag_short_texts(texts.word_count, annotation_type, settings)),
        ("too_long", flag_long_texts(texts.word_count, annotation_type, settings)),
        ("repetition", flag_repetition(texts, settings)),
        ("language", flag_language(texts.text, settings)),
    ]


def flag_empty_texts(texts: Sequence[str]) -> np.ndarray:
    """Return (n,) whether each text has no letter and no digit: it says nothing."""
    return np.asarray([_LETTER_OR_DIGIT.search(text) is None for text in texts], bool)


def flag_blank_texts(texts: Sequence[str]) -> np.ndarray:
    """Return (n,) whether each text has nothing to be seen: by a person, it says that nothing is there.

    Names of classes are judged by this too: ``+`` and ``★`` are names.
    """
    return np.asarray([is_blank(text) for text in texts], bool)


def flag_alt_noise(texts: Sequence[str], settings: EngineSettings) -> np.ndarray:
    """Return (n,) whether each text describes no picture."""
    return flag_noise(texts) if settings.alt_noise else np.zeros(len(texts), bool)


def flag_language(texts: Sequence[str], settings: EngineSettings) -> np.ndarray:
    """Return (n,) whether each text is in another language than ``engine.language``."""
    if settings.language is None:
        return np.zeros(len(texts), bool)
    return flag_other_languages(texts, settings.language)


def flag_short_texts(word_count: np.ndarray, annotation_type: str, settings: EngineSettings) -> np.ndarray:
    """Return (n,) whether each text has fewer words (n,) than its annotation type needs."""
    return word_count < settings.min_words.get(annotation_type, settings.min_words.get("*", 0))


def flag_long_texts(word_count: np.ndarray, annotation_type: str, settings: EngineSettings) -> np.ndarray:
    """Return (n,) whether each text has more words (n,) than its annotation type allows."""
    return word_count > settings.max_words.get(annotation_type, settings.max_words.get("*", np.inf))


def flag_repetition(texts: TokenizedTexts, settings: EngineSettings) -> np.ndarray:
    """Return (n,) whether each text has the same words more than ``max_repeats`` times in a row."""
    most = settings.max_repeats
    owner = np.repeat(np.arange(len(texts)), texts.lengths)
    result = np.zeros(len(texts), bool)
    for length in range(1, int(texts.lengths.max(initial=0)) // (most + 1) + 1):
        again = (texts.keys[length:] == texts.keys[:-length]) & (owner[length:] == owner[:-length])
        # the tokens that break a run, and how far apart they are
        breaks = np.flatnonzero(np.r_[True, ~again, True])
        rows = np.diff(breaks) > length * most
        result[owner[breaks[:-1][rows]]] = True
    return result


def apply_parse_filters(texts: TokenizedTexts, settings: EngineSettings) -> list[ReasonMask]:
    """Return the reasons of the Florence-2 paper's text filter (section 4.2) that apply to each text.

    They are: too many objects, no object or no action of the complexity asked for. Only texts that may fail are parsed;
    the list is empty where none has to be.
    """
    all_texts = bool(settings.min_object_complexity or settings.min_action_complexity)
    rows = np.arange(len(texts)) if all_texts else np.flatnonzero(_count_content_words(texts) > settings.max_objects)
    if not len(rows):
        return []
    result = {reason: np.zeros(len(texts), bool) for reason in ("too_many_objects", "simple_objects", "simple_actions")}
    for k, parsed in zip(rows.tolist(), parse_texts([texts.text[k] for k in rows.tolist()]), strict=True):
        result["too_many_objects"][k] = len(parsed.objects) > settings.max_objects
        result["simple_objects"][k] = parsed.object_complexity < settings.min_object_complexity
        result["simple_actions"][k] = parsed.action_complexity < settings.min_action_complexity
    return list(result.items())


def _count_content_words(texts: TokenizedTexts) -> np.ndarray:
    """Return (n,) how many words of each text are no function words: the most objects that it can name."""
    return np.bincount(
        np.repeat(np.arange(len(texts)), texts.lengths), ~function_word_mask()[texts.keys], minlength=len(texts)
    )
