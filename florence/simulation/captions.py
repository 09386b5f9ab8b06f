"""Simulate captions as alt texts of the web have them: words dropped or wrong, boilerplate around them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from florence.records import CAPTIONS, Claim, Region
from florence.simulation.errors import ImageErrors
from florence.simulation.words import COLOURS, Phrase, Span, label_pattern, replace_label, split_units

GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"


def simulate_captions(errors: ImageErrors) -> list[Claim]:
    """Return the claims of captions, then those of the phrases that are left in them."""
    claims, grounded = [], []
    tasks = errors.settings.tasks
    for task in CAPTIONS:
        for index, row in enumerate(errors.truth_of(task)):
            text, phrases, score = _distort_caption(errors, task, index, row.text)
            if text and task in tasks:
                claims.append(Claim(task, text, (), score))
            if text and GROUNDING in tasks:
                grounded += [claim for span, regions in phrases if (claim := _ground(errors, text, span, regions))]
    return claims + grounded


def _distort_caption(errors: ImageErrors, task: str, index: int, text: str) -> tuple[str, list[Phrase], float]:
    """Return a caption with errors, the phrases left in it with their regions, and a score."""
    units = split_units(text, _true_phrases(errors, text))
    result, phrases, untouched = "", [], 0
    is_capital = text[:1].isupper()
    draws = errors.stream("caption", task, index).random((len(units), 3))
    for (unit, regions), draw in zip(units, draws.tolist(), strict=True):
        word = _distort_unit(errors, unit, bool(regions), draw)
        untouched += word == unit
        if not word:
            continue
        if is_capital and not result:
            word = word[:1].upper() + word[1:]
        glue = "" if not result or re.match(r"[.,;:!?)]", word) else " "
        start = len(result) + len(glue)
        result += glue + word
        if regions:
            phrases.append(((start, start + len(word)), regions))
    draw = errors.stream("boilerplate", task, index)
    if not re.search(r"\w", result):
        return "", [], 0.0
    result, moved = _add_boilerplate(errors, result, draw)
    score = errors.score(draw, untouched / len(units))
    return result, [((a + moved, b + moved), regions) for (a, b), regions in phrases], score


def _true_phrases(errors: ImageErrors, text: str) -> list[Phrase]:
    """Return the true phrases of a caption in order, without those that overlap an earlier one."""
    rows = [row for row in errors.truth_of(GROUNDING) if row.text == text and row.regions]
    spans = [(row.regions[0].span, row.regions) for row in rows if row.regions[0].span is not None]
    result: list[Phrase] = []
    for span, regions in sorted(spans, key=lambda pair: pair[0]):
        if not result or span[0] >= result[-1][0][1]:
            result.append((span, regions))
    return result


def _distort_unit(errors: ImageErrors, unit: str, is_phrase: bool, draw: Sequence[float]) -> str:
    """Return a phrase or word as it is, empty if it is dropped, or wrong. ``draw``: three random numbers, 0…1."""
    happens, how, which = draw
    if happens >= errors.settings.alt_noise or not re.search(r"\w", unit):
        return unit
    if how < 0.4:
        return ""
    colour = next((word for word in re.findall(r"\w+", unit) if word.lower() in COLOURS), None)
    if colour and (how < 0.7 or not is_phrase):
        others = [c for c in COLOURS if c not in (colour.lower(), "grey")]
        return replace_label(unit, colour, others[int(which * len(others))])
    if not is_phrase:
        return ""
    known = {row.text for row in errors.truth_of("<OD>")}
    named = [label for label in known if re.search(label_pattern(label), unit, re.IGNORECASE)]
    head = max(named, key=lambda label: (len(label), label), default=re.findall(r"\w+", unit)[-1])
    return replace_label(unit, head, errors.wrong_label(head, which))


def _add_boilerplate(errors: ImageErrors, text: str, draw: np.random.Generator) -> tuple[str, int]:
    """Return ``text`` with what web pages put around an alt text, and by how many characters that moved it."""
    happens, how, number = draw.random(3)
    if happens >= errors.settings.alt_noise:
        return text, 0
    n = int(number * 9000) + 1000
    front, back = [
        ("photo of ", ""),
        ("Image: ", ""),
        (f"IMG_{n}.jpg ", ""),
        (f"DSC0{n}.JPG - ", ""),
        ("", " | stock photo"),
        ("", f" #{n}"),
        ("", " - buy online"),
        ("picture of ", f" ({n}x{n // 2})"),
    ][int(how * 8)]
    return front + text + back, len(front)


def _ground(errors: ImageErrors, text: str, span: Span, regions: tuple[Region, ...]) -> Claim | None:
    """Return the claim of a phrase with its regions that are found; None if none is."""
    phrase = text[span[0] : span[1]]
    found = []
    for region in regions:
        # the key is the box, not the order: the same box has the same outcome in every caption
        outcome = errors.outcome_at(region.bounds, "place", *(round(v, 3) for v in region.bounds))
        if outcome.is_found:
            found.append(replace(outcome.move_region(region, phrase, polygons=False), span=span))
    if not found:
        return None
    return Claim(GROUNDING, text, tuple(found), sum(r.score for r in found if r.score is not None) / len(found))
