"""Places that several annotators speak of, fused: objects, descriptions of regions, outlines of expressions, written lines."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from florence.config import EngineSettings
from florence.engine.claims import NO_SPAN, Claims, Labels, Regions, moved, no_polygons
from florence.engine.consensus.annotator_models import BY_CLAIMS, BY_CLAIMS_OF_TEXTS, Trust, fit
from florence.engine.consensus.label_matrix import Ballots, Similarity, ballots
from florence.engine.consensus.vote import HUMAN, STUDENT, Outcome, gather, paired_iou, sharpness, vote
from florence.engine.consensus.word_consensus import spell
from florence.engine.enhance.names import build_name_table
from florence.engine.filters.reasons import choose_first_reason
from florence.engine.filters.regions import flag_degenerate_boxes, flag_duplicates, flag_near_full_boxes
from florence.engine.filters.scores import flag_low_confidence, flag_low_scores
from florence.engine.filters.texts import flag_empty_texts, flag_repetition
from florence.engine.ranks import DESCRIBED, Ranks
from florence.engine.wording.alignment import align_pairs
from florence.engine.wording.overlap import word_overlap
from florence.engine.wording.sequences import expand_ranges
from florence.engine.wording.tokens import encode_key, tokenize_texts
from florence.geometry import box_quad
from florence.metrics import same
from florence.metrics.reading import normal
from florence.records import BASE_TYPES

OBJECTS, READ = "<OD>", "<OCR_WITH_REGION>"
PLACES = (OBJECTS, DESCRIBED, "<REFERRING_EXPRESSION_SEGMENTATION>", READ)
ALIKE = 0.25
"""How far readings are the same (see `Similarity`) that are versions of one string."""


@dataclass(frozen=True)
class Units:
    """m claims, each about one place. ``claim``: row in `Claims`; ``region``: row in its regions, -1 for none; ``group``: within which places are one, in
    order; ``code``: what is said, the same for what counts as the same; ``reason``: why it has no vote, empty where it has one; ``names``: what each code says, where it may
    be said of other images too.
    """

    claim: np.ndarray
    region: np.ndarray
    group: np.ndarray
    image: np.ndarray
    annotator: np.ndarray
    bounds: np.ndarray
    text: tuple[str, ...]
    code: np.ndarray
    score: np.ndarray
    reason: np.ndarray
    human: np.ndarray
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.claim)


@dataclass(frozen=True)
class Judged:
    """What is known of those who speak of places of one kind. ``sharp``: (A,) the weight of each annotator's boxes, see `sharpness`; ``draws``: (A,) who draws
    outlines in the boxes of others and does nothing else, where it was asked.
    """

    trust: Trust
    sharp: np.ndarray
    draws: np.ndarray | None = None


@dataclass(frozen=True)
class Poll:
    """What is asked about the places of one kind. ``place``: (m,) of each unit; ``thing``: (places,), row in the ballots, -1 where nobody has a vote;
    ``voter``: unit of each claim in the ballots; ``by_name``: see `vote`.
    """

    units: Units
    place: np.ndarray
    thing: np.ndarray
    voter: np.ndarray
    votes: Ballots
    judged: Judged
    by_name: bool


@dataclass(frozen=True)
class Fused:
    """The answer. ``speaker``: (places,), the unit whose word stands; ``winner``: (places,), its annotator in the ballots; ``box``: (places, 4);
    ``agreement``: NaN where nobody has a vote; ``weight``, ``sharp``: (m,), of each unit's word, and of its box.
    """

    speaker: np.ndarray
    winner: np.ndarray
    box: np.ndarray
    confidence: np.ndarray
    score: np.ndarray
    weight: np.ndarray
    sharp: np.ndarray


def place_units(claims: Claims, kind: int, size: np.ndarray | None, settings: EngineSettings) -> Units:
    """The claims of a kind with their first region, and the filters that look at one claim alone. ``size``: of the images; None filters nothing by it."""
    rows = np.flatnonzero(claims.kind == kind)
    region = claims.regions.claim.searchsorted(rows)
    region = np.where(np.append(claims.regions.claim, -1)[region] == rows, region, -1)
    bounds = np.append(claims.regions.bounds, np.full((1, 4), np.nan), axis=0)[region]
    known, place = np.unique(claims.text[rows], return_inverse=True)
    said = [claims.texts[k] for k in known.tolist()]
    plain = (
        normal
        if BASE_TYPES[kind] == READ
        else build_name_table(settings).canonical
        if BASE_TYPES[kind] == OBJECTS
        else same
    )
    codes: dict[str, int] = {}
    code = np.asarray([codes.setdefault(plain(text), len(codes)) for text in said], np.int64)[place]
    human = is_human(claims)[claims.annotator[rows]]
    found = [
        ("empty_text", flag_empty_texts(said)[place]),
        (
            "low_score",
            flag_low_scores(claims.score[rows], claims.annotator[rows], BASE_TYPES[kind], claims.annotators, settings),
        ),
        ("repetition", flag_repetition(tokenize_texts(said), settings)[place]),
        ("degenerate", flag_degenerate_boxes(bounds, settings)),
    ]
    if size is not None and BASE_TYPES[kind] != READ:
        found.append(("near_full", flag_near_full_boxes(bounds, size[claims.image[rows]], settings)))
    # what a person says is not filtered
    found = [("no_place", np.isnan(bounds).any(axis=1)), *((name, applies & ~human) for name, applies in found)]
    image = claims.image[rows]
    return Units(
        rows,
        region,
        image,
        image,
        claims.annotator[rows],
        bounds,
        tuple([said[k] for k in place.tolist()]),
        code,
        claims.score[rows],
        choose_first_reason(len(rows), found),
        human,
        tuple(codes),
    )


def is_human(claims: Claims) -> np.ndarray:
    """(annotators,) whether it is a person."""
    return np.asarray([name == HUMAN for name in claims.annotators], bool)


def ask(
    claims: Claims,
    units: Units,
    looked: np.ndarray,
    settings: EngineSettings,
    similarity: Similarity | None,
    able: np.ndarray | None = None,
    *,
    by_name: bool = False,
    known: Judged | None = None,
    shared: float = BY_CLAIMS,
) -> Poll:
    """Gather units by place, and estimate whom to trust how far, unless it is ``known``. ``looked``: (groups, A), who could have said something; ``able``: see `Ballots`;
    ``shared``: see `fit`.
    """
    good = units.reason == ""
    place = gather(units.group, units.annotator, units.bounds, units.code, settings.iou, settings.same_iou, first=good)
    voter = np.flatnonzero(good)
    asked, thing_of = np.unique(place[voter], return_inverse=True)
    thing = np.full(int(place.max(initial=-1)) + 1, -1, np.int64)
    thing[asked] = np.arange(len(asked))
    group = np.zeros(len(asked), np.int64)
    group[thing_of] = units.group[voter]
    human = claims.annotators.index(HUMAN) if HUMAN in claims.annotators else None
    # only a person's empty text is let in; all of them have one code
    empty = [k for k in voter[units.human[voter]].tolist() if similarity and flag_empty_texts([units.text[k]])[0]]
    void = int(units.code[empty[0]]) if empty else -1
    edges = known.trust.edges if known else None
    votes = ballots(
        thing_of,
        units.annotator[voter],
        looked[group],
        units.code[voter],
        units.score[voter],
        similarity,
        able,
        human,
        void,
        edges,
    )
    if known:
        judged = replace(known, trust=known.trust.about(units.names, votes.names))
    else:
        student = claims.annotators.index(STUDENT) if STUDENT in claims.annotators else None
        trust = fit(votes, student, settings.student.cap, units.names, shared)
        judged = Judged(trust, sharpness(units.bounds[voter], votes, trust))
    return Poll(units, place, thing, voter, votes, judged, similarity is None or by_name)


def ask_places(
    claims: Claims, kind: int, size: np.ndarray | None, settings: EngineSettings, known: Judged | None = None
) -> Poll:
    """The poll on all places of a kind. ``size``: of the images; None filters nothing by it. ``known``: what was found of other images."""
    units = place_units(claims, kind, size, settings)
    objects = BASE_TYPES[kind] == OBJECTS
    able, shared = (vocabulary(claims, units, settings), BY_CLAIMS) if objects else (None, BY_CLAIMS_OF_TEXTS)
    return ask(
        claims,
        units,
        claims.able(kind),
        settings,
        likeness(units, BASE_TYPES[kind], settings),
        able,
        by_name=objects,
        known=known,
        shared=shared,
    )


def vocabulary(claims: Claims, units: Units, settings: EngineSettings) -> np.ndarray | None:
    """(A, codes) whether an annotator has a name, or that of a kind, for what has that code; None where all have any."""
    if all(known is None for known in claims.vocabularies):
        return None
    table = build_name_table(settings)
    example = dict(zip(units.code.tolist(), units.text, strict=True))
    able = np.ones((len(claims.annotators), len(example)), bool)
    for who, known in enumerate(claims.vocabularies):
        if known is not None:
            words = {table.canonical(name) for name in known}
            able[who] = [bool(words & table.with_hypernyms(example[code])) for code in range(len(example))]
    return able


def likeness(units: Units, task: str, settings: EngineSettings) -> Similarity:
    """How right what is said is where something else is the case: names of objects by the table of kinds, descriptions by words in common, lines by characters."""
    example = dict(zip(units.code.tolist(), units.text, strict=True))
    known: dict[tuple[int, int], float] = {}

    def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        pairs = list(zip(a.tolist(), b.tolist(), strict=True))
        new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        if task == OBJECTS:
            table = build_name_table(settings)
            plain = {code: table.canonical(example[code]) for pair in new for code in pair}
            known.update({(x, y): table.similarity(plain[x], plain[y]) for x, y in new})
        elif task == READ:
            sides = align_pairs([(letters(example[x]), letters(example[y])) for x, y in new])
            known.update(
                {both: side.similarity**2 for (x, y), side in zip(new, sides, strict=True) for both in ((x, y), (y, x))}
            )
        else:
            # squared: two words of four in common is little
            known.update({both: word_overlap(example[x], example[y]) ** 2 for x, y in new for both in ((x, y), (y, x))})
        return np.asarray([known[pair] for pair in pairs])

    return compare


def letters(text: str) -> list[int]:
    """The codes of a reading's characters."""
    return [encode_key(c) for c in normal(text)]


# ---------------------------------------------------------------- fusing


def fuse(claims: Claims, asked: Poll, settings: EngineSettings) -> Fused:
    """Vote on every place, and put its box where its claims are on average, the sharper ones counting for more."""
    outcome = vote(asked.votes, asked.judged.trust, claims.annotators, settings.student.cap, by_name=asked.by_name)
    units = asked.units
    weight = np.zeros(len(units))
    where = np.nonzero(asked.votes.spoke)
    weight[asked.voter[asked.votes.claim[where]]] = outcome.weight[where]
    speaker, winner = _speakers(asked, outcome)
    sharp = weight * asked.judged.sharp[units.annotator]
    return Fused(
        speaker=speaker,
        winner=winner,
        box=average(units.bounds, sharp, asked.place, speaker),
        confidence=np.append(outcome.confidence, np.nan)[asked.thing],
        score=average(units.score[:, None], weight, asked.place, speaker)[:, 0],
        weight=weight,
        sharp=sharp,
    )


def _speakers(asked: Poll, outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """(places,) the unit whose text stands for the place, and its annotator in the ballots: the winner's; where nobody has a vote, the first claim's, and -1."""
    speaker = np.full(len(asked.thing), len(asked.units), np.int64)
    np.minimum.at(speaker, asked.place, np.arange(len(asked.units)))
    heard = asked.thing >= 0
    things = asked.thing[heard]
    speaker[heard] = asked.voter[asked.votes.claim[things, outcome.winner[things]]]
    return speaker, np.append(outcome.winner, -1)[asked.thing]


def average(values: np.ndarray, weight: np.ndarray, place: np.ndarray, speaker: np.ndarray) -> np.ndarray:
    """(places, k): weighted means of (m, k) by place, NaN left out; the speaker's values where nothing weighs anything."""
    count = len(speaker)
    mass = weight * ~np.isnan(values.T)
    total = np.stack([np.bincount(place, column, minlength=count) for column in mass], axis=1)
    sums = np.stack([np.bincount(place, column, minlength=count) for column in mass * np.nan_to_num(values.T)], axis=1)
    # rounded, because the mean of equal values may come out a little off them, and so outside the image
    return np.where(total > 1e-12, np.round(sums / np.maximum(total, 1e-12), 6), values[speaker])


def place_labels(claims: Claims, kind: int, asked: Poll, settings: EngineSettings) -> list[Labels]:
    """One row for each place that a kind's claims are about; then the texts of regions that rankers find to fit less well than the one that is taken."""
    task, units = BASE_TYPES[kind], asked.units
    fused = fuse(claims, asked, settings)
    speaker, box = fused.speaker, fused.box
    there = ~np.isnan(box).any(axis=1)
    text = _spelled(asked, fused) if task == READ else [units.text[k] for k in speaker.tolist()]
    if task == OBJECTS:
        table = build_name_table(settings)
        text = [t if human else table.label(t) for t, human in zip(text, units.human[speaker].tolist(), strict=True)]
    nothing = np.full((len(box), 8), np.nan)
    quad = (
        average(_alike_quads(claims.regions, asked, speaker), fused.sharp, asked.place, speaker)
        if task == READ
        else nothing
    )
    labels = Labels(
        kind=kind,
        image=units.image[speaker],
        text=text,
        score=fused.score,
        confidence=fused.confidence,
        reason=_verdicts(asked, fused, settings),
        count=there.astype(np.int64),
        label=[t for t, has in zip(text, there.tolist(), strict=True) if has],
        box=nothing[there, :4] if task == READ else box[there],
        quad=quad[there],
        polygons=outlines(claims.regions, asked, fused, np.flatnonzero(there)),
        region_score=fused.score[there],
        span=np.full((int(there.sum()), 2), NO_SPAN),
        order=np.nan_to_num(box[:, [1, 0, 3, 2]], nan=-1.0),
        fixed=units.human[speaker[there]],
    )
    return ranked(labels, claims.ranks, units.human[speaker], settings) if task == DESCRIBED else [labels]


def ranked(labels: Labels, ranks: Ranks, fixed: np.ndarray, settings: EngineSettings) -> list[Labels]:
    """Descriptions of regions under the text that rankers find to fit best, and those that they find to fit less well, as dropped rows.

    The score of both is the rankers'. ``fixed``: (n,) rows whose text stands, as it is a person's. Rows have a region each, or none.
    """
    there = np.flatnonzero((labels.count > 0) & ~fixed & (np.asarray(labels.reason, object) == ""))
    region = np.cumsum(labels.count) - 1
    start, end = (np.searchsorted(ranks.image, labels.image[there], side=side) for side in ("left", "right"))
    row = np.repeat(there, end - start)
    rank = expand_ranges(start, end - start)
    near = paired_iou(labels.box[region[row]], ranks.box[rank]) >= settings.iou
    fitting: dict[int, list[int]] = {}
    for r, k in zip(row[near].tolist(), rank[near].tolist(), strict=True):
        fitting.setdefault(r, []).append(k)
    text, score, label, region_score = (
        list(labels.text),
        labels.score.copy(),
        list(labels.label),
        labels.region_score.copy(),
    )
    rest: list[tuple[int, str, float]] = []
    for here, ranked_there in fitting.items():
        best: dict[str, tuple[float, str]] = {}
        for k in ranked_there:
            best[same(ranks.text[k])] = max(
                best.get(same(ranks.text[k]), (-1.0, "")), (float(ranks.score[k]), ranks.text[k])
            )
        for place, (fits, words) in enumerate(sorted(best.values(), reverse=True)):
            if place:
                rest.append((here, words, fits))
            else:
                text[here], score[here], label[region[here]], region_score[region[here]] = words, fits, words, fits
    chosen = replace(labels, text=text, score=score, label=label, region_score=region_score)
    return [chosen, _ranked_lower(labels, region, rest)] if rest else [chosen]


def _ranked_lower(labels: Labels, region: np.ndarray, rest: list[tuple[int, str, float]]) -> Labels:
    """(row, text, score) as dropped rows in the places of those rows."""
    rows = np.asarray([row for row, _, _ in rest], np.int64)
    words, fits = [words for _, words, _ in rest], np.asarray([fits for _, _, fits in rest], float)
    return Labels(
        kind=labels.kind,
        image=labels.image[rows],
        text=words,
        score=fits,
        confidence=labels.confidence[rows],
        reason=["ranked_lower"] * len(rest),
        count=np.ones(len(rest), np.int64),
        label=words,
        box=labels.box[region[rows]],
        quad=np.full((len(rest), 8), np.nan),
        polygons=no_polygons(len(rest)),
        region_score=fits,
        span=np.full((len(rest), 2), NO_SPAN),
        order=labels.order[rows],
    )


def _verdicts(asked: Poll, fused: Fused, settings: EngineSettings) -> list[str]:
    units, speaker = asked.units, fused.speaker
    heard, ruled = asked.thing >= 0, units.human[fused.speaker]
    reason = np.where(heard, "", units.reason[speaker]).astype(object)
    said = np.flatnonzero(heard & ruled)
    reason[said[flag_empty_texts([units.text[k] for k in speaker[said].tolist()])]] = "rejected"
    reason[(reason == "") & flag_low_confidence(fused.confidence, settings.min_confidence)] = "low_confidence"
    kept = np.flatnonzero(reason == "")
    rank = fused.confidence[kept] + ruled[kept]
    again = flag_duplicates(units.image[speaker[kept]], units.code[speaker[kept]], fused.box[kept], rank, settings)
    # two that a person has drawn are two
    reason[kept[again & ~ruled[kept]]] = "duplicate"
    return reason.tolist()


def _spelled(asked: Poll, fused: Fused) -> list[str]:
    """(places,) what is read there: character by character, of all who read about the same as the winner."""
    units, votes = asked.units, asked.votes
    text = [units.text[k] for k in fused.speaker.tolist()]
    places = np.flatnonzero((asked.thing >= 0) & ~units.human[fused.speaker])
    things, winners = asked.thing[places], fused.winner[places]
    near = votes.same[things, winners] >= ALIKE
    items = []
    for thing, who, winner in zip(things.tolist(), near, winners.tolist(), strict=True):
        order = [winner, *(a for a in np.flatnonzero(who).tolist() if a != winner)]
        readers = asked.voter[votes.claim[thing, order]].tolist()
        items.append([(normal(units.text[k]), float(fused.weight[k])) for k in readers])
    for place, read in zip(places.tolist(), spell(items), strict=True):
        text[place] = read or text[place]
    return text


def _alike_quads(regions: Regions, asked: Poll, speaker: np.ndarray) -> np.ndarray:
    """(m, 8) quads, a box's corners where there is none, started at the corner that lies nearest to where the speaker's starts."""
    units = asked.units
    corners = np.asarray([box_quad(box) for box in units.bounds.tolist()]).reshape(-1, 8)
    quad = np.append(regions.quad, np.full((1, 8), np.nan), axis=0)[units.region]
    quad = np.where(np.isnan(quad), corners, quad)
    turned = np.stack([np.roll(quad, -2 * turn, axis=1) for turn in range(4)])
    away = ((turned - quad[speaker][asked.place]) ** 2).sum(axis=2)
    return turned[np.nan_to_num(away, nan=np.inf).argmin(axis=0), np.arange(len(quad))]


def outlines(regions: Regions, asked: Poll, fused: Fused, places: np.ndarray) -> pa.ListArray:
    """Polygons of some places: those of its heaviest claim that has any, carried along to the fused box."""
    units = asked.units
    drawn = np.append(np.diff(regions.polygons.offsets.to_numpy()) > 0, False)[units.region]
    outlined = np.flatnonzero(drawn)
    best = np.full(len(asked.thing), -1, np.int64)
    order = outlined[np.lexsort((-outlined, fused.weight[outlined]))]
    best[asked.place[order]] = order
    chosen = best[places]
    has = np.flatnonzero(chosen >= 0)
    if not len(has):
        return no_polygons(len(places))
    source = regions.polygons.take(pa.array(units.region[chosen[has]]))
    carried = moved(source, units.bounds[chosen[has]], fused.box[places[has]])
    index = np.full(len(places), len(has), np.int64)
    index[has] = np.arange(len(has))
    return pa.concat_arrays([carried, no_polygons(1)]).take(pa.array(index))
