"""How far each annotator is to be believed, told by what the others say; no truth is looked at.

A model of how claims come about is fitted by expectation maximisation, after Dawid and Skene (1979): there are things, and an annotator sees a thing, or
not, and names it right, or not; and it tells of things that are not there. Three points differ from theirs. Things that nobody saw
leave no trace, so their number is estimated as in capture–recapture (Lincoln, Petersen), which also keeps one annotator's inventions from being taken for what the
others missed. An annotator may repeat the word of another one, mistakes included, as two versions of one model do: such pairs are found, and
their agreement counts for little. And how well things are seen and named is told name by name, held to the annotator's mean where a name is rare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from florence.engine.consensus.label_matrix import LEVELS, Ballots, Edges

SEEN, NAMED, RIGHT = 0.6, 0.85, 0.8
"""What is taken for granted of an annotator that cannot be judged: how much of what is there it sees, how often it then names it right, and how many of
its claims are right."""
PRIOR = 4.0
"""Things that this counts for where an annotator is judged."""
BY_NAME = 20.0
"""Things that an annotator's mean counts for, against those of one name."""
BY_CLAIMS = 10.0
"""Claims that the mean of all names counts for, against those that say one, and that the claims of all levels of a score count for, against one."""
BY_CLAIMS_OF_TEXTS = 100.0
"""The same mean where texts are written freely: few are said twice, and what is believed of one claim must not prove it."""
COINCIDENCE = 0.02
"""How likely two inventions in one image are in one place."""
ENOUGH = 30
"""Things that several annotators looked at under which nothing is estimated; of a pair, things of one under which they are taken to be independent."""
COPIES = 0.1
"""Share of repeated words from which one annotator is taken to repeat another."""
PROVEN = 20.0
"""How much likelier (log) that has to make what both say."""
SAMPLE, PAIRED = 5000, 1500
"""Things that the model is fitted to at most, and of those, that two annotators are compared on."""
CHUNK = 20_000
"""Things whose evidence is in memory at once."""
STEPS, SETTLED = 40, 1e-3
MOST_UNSEEN = 0.95


@dataclass(frozen=True)
class Trust:
    """What is known of A annotators, of things with V names. The last name stands for every one that has not been met.

    ``precision``: (A,), share of an annotator's claims that are right; ``seen``: (A, V), how likely an annotator says something of a thing of that name; ``named``: (A, V), how likely that is its name; ``invented``: (A,), claims
    about nothing; ``things``: how many there are, unseen ones included, and ``of``: how many were spoken of; ``called``, ``mistaken``: (V,), how often a thing has that name, and how often
    a wrong claim says it; ``right``, ``wrong``: (A, levels), how often an annotator's right and wrong claims have that level of its score; ``repeats``: (A,), the
    annotator whose word one repeats, -1 for none, and ``repeated``: (A,), for how many things; ``estimated``: (A,), whether there was enough to tell by;
    ``edges``: see `Ballots`. ``names``: what the names are, where others may say them too; ``number``: (labels + 1,), the name that each label of a ballot is.
    """

    precision: np.ndarray
    seen: np.ndarray
    named: np.ndarray
    invented: np.ndarray
    things: float
    of: int
    called: np.ndarray
    mistaken: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    repeats: np.ndarray
    repeated: np.ndarray
    estimated: np.ndarray
    edges: Edges
    names: tuple[str, ...]
    number: np.ndarray

    def about(self, names: Sequence[str], count: int) -> Trust:
        """The same for ballots of which each label is one of ``names``, the first of ``count`` labels in all."""
        known = {name: k for k, name in enumerate(self.names)}
        number = np.full(count + 1, len(self.called) - 1)
        number[: len(names)] = [known.get(name, len(self.called) - 1) for name in names]
        return replace(self, number=number)

    @property
    def recall(self) -> np.ndarray:
        """(A,): share of the things that an annotator sees and names right."""
        return (self.seen * self.named) @ self.called

    @property
    def reliability(self) -> np.ndarray:
        """(A,): the harmonic mean of precision and recall, F1."""
        return 2 * self.precision * self.recall / np.maximum(self.precision + self.recall, 1e-9)


@dataclass(frozen=True)
class Belief:
    """What is believed of c things. ``nothing``: (c,), how likely there is nothing; ``names``: (c, A), how likely the thing has the name that an annotator was the first to say
    (0 for the others); ``claims``: (c, A), how likely what an annotator says is right, 0 where it says nothing.
    """

    nothing: np.ndarray
    names: np.ndarray
    claims: np.ndarray


def believe(votes: Ballots, trust: Trust, capped: int | None = None, cap: float = 1.0) -> Belief:
    """What the claims come to, all evidence taken together. The evidence of annotator ``capped`` is at most ``cap`` of all there is about a thing.

    Where a person speaks, what it says holds.
    """
    log, first = _evidence(votes, trust), votes.turned.first
    possible = np.concatenate([np.ones((1, len(votes.claim)), bool), first, np.ones((1, len(votes.claim)), bool)])
    if capped is not None and cap < 1:
        log[:, capped] *= _share(log, possible, capped, cap)
    total = log.sum(axis=1) + _prior(votes, trust)
    total[~possible] = -np.inf
    total -= total.max(axis=0)
    chance = np.exp(total)
    chance /= chance.sum(axis=0)
    _rule(votes, chance)
    names = chance[1:-1]
    right = np.einsum("jc,jac->ac", names, votes.turned.same) * votes.turned.spoke
    return Belief(chance[0], np.ascontiguousarray(names.T), np.ascontiguousarray(right.T))


def believed(votes: Ballots, trust: Trust, capped: int | None = None, cap: float = 1.0) -> Belief:
    """`believe`, of as many things as there are: so many at once as memory is meant for, and of those of which the same is said one alone."""
    few, number = votes.few
    cuts = np.array_split(np.arange(len(few.claim)), max(1, -(-len(few.claim) // CHUNK)))
    parts = [believe(few if len(cuts) == 1 else few.take(rows), trust, capped, cap) for rows in cuts]
    return Belief(
        *(np.concatenate([getattr(part, name) for part in parts])[number] for name in ("nothing", "names", "claims"))
    )


# in the following things stand last: numpy is slow where its inner loops are as short as there are annotators


def _rule(votes: Ballots, chance: np.ndarray) -> None:
    """Make certain what a person has said."""
    if votes.human is None:
        return
    ruled = np.flatnonzero(votes.spoke[:, votes.human])
    chance[:, ruled] = 0
    said = votes.label[ruled, votes.human]
    # the first to say the same stands for all who do
    first = (votes.spoke[ruled] & (votes.label[ruled] == said[:, None])).argmax(axis=1)
    chance[np.where(said == votes.void, 0, 1 + first), ruled] = 1


def _share(log: np.ndarray, possible: np.ndarray, who: int, cap: float) -> np.ndarray:
    """(c,) what to scale an annotator's evidence by, so that its span over what is possible is ``cap`` of the sum of all spans at most."""
    shown = possible[:, None]
    span = np.where(shown, log, -np.inf).max(axis=0) - np.where(shown, log, np.inf).min(axis=0)
    others = span.sum(axis=0) - span[who]
    return np.minimum(1.0, others * cap / (1 - cap) / np.maximum(span[who], 1e-12))


def _prior(votes: Ballots, trust: Trust) -> np.ndarray:
    """(2 + A, c) log of how many things of each sort there are: nothing, the name that each annotator says, another name."""
    count = np.full((2 + votes.claim.shape[1], len(votes.claim)), np.log(trust.things))
    count[0] = np.log(max(trust.of, 1) / COINCIDENCE)
    count[1:-1] += np.log(trust.called)[trust.number][votes.turned.label]
    return count


def _evidence(votes: Ballots, trust: Trust) -> np.ndarray:
    """(2 + A, A, c) log of how likely each annotator says what it says, if there is nothing, if the thing has the name that annotator j says, or another name."""
    one, many = _alone(votes, trust)
    turned = votes.turned
    annotator = np.arange(len(one))[:, None]
    right, wrong = trust.right[annotator, turned.level], trust.wrong[annotator, turned.level]
    for a in np.flatnonzero(trust.repeats >= 0).tolist():
        b = int(trust.repeats[a])
        again = trust.repeated[a] * turned.heard[b]
        agree = votes.agree(b, a)
        one[a] = again * agree + (1 - again) * one[a]
        many[:, a] = again * agree + (1 - again) * many[:, a]
    one *= np.where(turned.spoke, wrong, 1.0)
    many[:-1] *= np.where(turned.spoke, turned.same * right + (1 - turned.same) * wrong, 1.0)
    many[-1] *= np.where(turned.spoke, wrong, 1.0)
    log = np.log(np.concatenate([one[None], many]) + 1e-300)
    log *= turned.heard
    return log


def _alone(votes: Ballots, trust: Trust) -> tuple[np.ndarray, np.ndarray]:
    """(A, c) and (1 + A, A, c): how likely each annotator, whatever the others say, says what it says, if there is nothing, and if there is something."""
    turned = votes.turned
    spoke, same, name = turned.spoke, turned.same, trust.number[turned.label]
    mistaken = trust.mistaken[name]
    invents = np.minimum(trust.invented * COINCIDENCE / max(trust.of, 1), 0.5)
    # (whose name the thing has, annotator, thing): what the annotator sees of a thing of that name
    seen, named = trust.seen[:, name].swapaxes(0, 1), trust.named[:, name].swapaxes(0, 1)
    says = seen * (same * named + (1 - same) * (1 - named) * mistaken)
    # what one has no name for it cannot tell
    silent = 1 - seen if turned.able is None else np.where(turned.able, 1 - seen, 1.0)
    mean = trust.seen @ trust.called
    right = trust.recall / np.maximum(mean, 1e-9)
    other = np.where(spoke, (mean * (1 - right))[:, None] * mistaken, (1 - mean)[:, None])
    many = np.concatenate([np.where(spoke, says, silent), other[None]])
    return np.where(spoke, invents[:, None] * mistaken, 1.0), many


# ---------------------------------------------------------------- fitting


def fit(
    votes: Ballots, capped: int | None = None, cap: float = 1.0, names: Sequence[str] = (), shared: float = BY_CLAIMS
) -> Trust:
    """What the claims tell of their annotators; ``capped`` and ``cap`` as in `believe`; ``names``: what each label is; ``shared``: claims that the mean of all names counts for. It takes three who look at the same things to judge each of them, and four to find who repeats whom.

    Where two look, only the number of things and of inventions is estimated; where one does, nothing is.
    """
    start = replace(_assumed(votes), names=tuple(names))
    looked = votes.heard.sum(axis=1)
    for least in (3, 2):
        rows = np.flatnonzero(looked >= least)
        if len(rows) >= ENOUGH:
            sample = votes.take(rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(np.int64)])
            found = _fitted(sample, _assumed(sample), capped, cap, shared, judged=least > 2)
            scale = len(votes.claim) / len(sample.claim)
            there = sample.heard.any(axis=0)
            invented = np.where(there, found.invented * _presence(votes, sample), start.invented)
            return replace(
                found,
                things=found.things * scale,
                of=len(votes.claim),
                invented=invented,
                estimated=found.estimated & there,
                names=start.names,
            )
    return start


def _presence(votes: Ballots, sample: Ballots) -> np.ndarray:
    """(A,) how many of each annotator's claims there are to one in the sample."""
    return votes.spoke.sum(axis=0) / np.maximum(sample.spoke.sum(axis=0), 1)


def _assumed(votes: Ballots) -> Trust:
    """What is taken for granted before anything is known."""
    count, names = votes.claim.shape[1], votes.names + 1
    said = votes.spoke.sum(axis=0)
    share = np.maximum(votes.heard.mean(axis=0), 1e-9) if len(votes.claim) else np.ones(count)
    things = [RIGHT * n / (SEEN * NAMED * s) for n, s in zip(said.tolist(), share.tolist(), strict=True) if n]
    flat = np.full((count, LEVELS + 1), 1.0 / (LEVELS + 1))
    return Trust(
        np.full(count, RIGHT),
        np.full((count, names), SEEN),
        np.full((count, names), NAMED),
        np.maximum((1 - RIGHT) * said, 0.1),
        float(np.median(things)) if things else 1.0,
        len(votes.claim),
        np.full(names, 1 / names),
        np.full(names, 1 / names),
        flat,
        flat,
        np.full(count, -1),
        np.zeros(count),
        np.zeros(count, bool),
        votes.edges,
        (),
        np.arange(names),
    )


def _fitted(votes: Ballots, trust: Trust, capped: int | None, cap: float, shared: float, *, judged: bool) -> Trust:
    estimated = votes.heard.sum(axis=0) >= ENOUGH if judged else np.zeros(votes.claim.shape[1], bool)
    trust = replace(trust, estimated=estimated)
    for step in range(STEPS):
        before = trust
        belief = believed(votes, trust, capped, cap)
        trust = _learnt(votes, belief, trust, shared)
        if judged and estimated.sum() > 3 and step >= 5 and step % 3 == 2:
            trust = _repeating(votes, belief, trust)
        settled = max(abs(trust.things / before.things - 1), float(np.abs(trust.recall - before.recall).max()))
        if settled < SETTLED and step > 12:
            break
    return trust


def _learnt(votes: Ballots, belief: Belief, trust: Trust, shared: float) -> Trust:
    """The trust that fits what is believed of the things best."""
    spoke, claims = votes.spoke, belief.claims
    there = 1 - belief.nothing
    unseen = 1 / (1 - _unseen(votes, trust))
    things = float((there * unseen).sum())
    fresh = 1 - np.stack(
        [
            votes.agree(int(b), a) * r if b >= 0 else np.zeros(len(there))
            for a, (b, r) in enumerate(zip(trust.repeats.tolist(), trust.repeated.tolist(), strict=True))
        ],
        axis=1,
    )
    # claims that nobody could have confirmed are taken to be as often wrong as the others
    tested = spoke & votes.testable
    share = (spoke.sum(axis=0) + 0.5) / (tested.sum(axis=0) + 0.5)
    invented = ((belief.nothing[:, None] * tested * fresh).sum(axis=0) + 0.5) * share
    right, wrong = _levels_of(votes, claims), _levels_of(votes, spoke - claims)
    called, mistaken = _names_of(votes, claims, tested, shared)
    precision = ((claims * tested).sum(axis=0) + RIGHT * PRIOR) / (tested.sum(axis=0) + PRIOR)
    changed = replace(
        trust,
        precision=precision,
        things=max(things, 0.5),
        invented=invented,
        called=called,
        mistaken=mistaken,
        right=right,
        wrong=wrong,
    )
    if not trust.estimated.any():
        return changed
    seen, named = _by_name(votes, belief, unseen)
    who = trust.estimated[:, None]
    return replace(changed, seen=np.where(who, seen, trust.seen), named=np.where(who, named, trust.named))


def _by_name(votes: Ballots, belief: Belief, unseen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(A, V) twice: `Trust.seen` and `Trust.named`, each name's figures held to the annotator's mean."""
    names, count = votes.names + 1, votes.claim.shape[1]
    things, by = np.nonzero(votes.first)
    chance, label = belief.names[things, by], votes.label[things, by]
    seen, named = np.empty((count, names)), np.empty((count, names))
    for a in range(count):
        looked = votes.heard[:, a] if votes.able is None else votes.heard[:, a][:, None] & votes.able[a][votes.label]
        heard = looked[things] if looked.ndim == 1 else looked[things, by]
        spoke = votes.spoke[things, a]
        there = np.bincount(label, chance * heard * unseen[things], minlength=names)
        told = np.bincount(label, chance * spoke, minlength=names)
        well = np.bincount(label, chance * votes.same[things, by, a], minlength=names)
        mean_seen = (told.sum() + PRIOR * SEEN) / (there.sum() + PRIOR)
        mean_named = (well.sum() + PRIOR * NAMED) / (told.sum() + PRIOR)
        seen[a] = np.clip((told + BY_NAME * mean_seen) / (there + BY_NAME), 0.005, 0.995)
        named[a] = np.clip((well + BY_NAME * mean_named) / (told + BY_NAME), 0.005, 0.995)
    return seen, named


def _levels_of(votes: Ballots, weight: np.ndarray) -> np.ndarray:
    """(A, levels): how the weight of each annotator's claims is spread over the levels of its score, held to the spread of all its claims."""
    result = np.empty((votes.claim.shape[1], LEVELS + 1))
    for a in range(len(result)):
        mine = votes.spoke[:, a]
        level = votes.level[mine, a]
        spread = (np.bincount(level, minlength=LEVELS + 1) + 0.01) / (mine.sum() + 0.01 * (LEVELS + 1))
        found = np.bincount(level, weight[mine, a], minlength=LEVELS + 1)
        result[a] = (found + BY_CLAIMS * spread) / (found.sum() + BY_CLAIMS)
    return result


def _names_of(votes: Ballots, claims: np.ndarray, tested: np.ndarray, shared: float) -> tuple[np.ndarray, np.ndarray]:
    """(V,) twice: `Trust.called` and `Trust.mistaken`; a name that is seldom said where others could confirm it is as often right as names are on the whole."""
    names = votes.names + 1
    said = np.bincount(votes.label[votes.spoke], minlength=names) + 0.01
    said[-1] += 1  # a name that has not been met is as rare as one that was said once
    label = votes.label[tested]
    right, of = np.bincount(label, claims[tested], minlength=names), np.bincount(label, minlength=names)
    share = (right + shared * right.sum() / max(of.sum(), 1)) / (of + shared)
    called, mistaken = said * np.clip(share, 0.001, 0.999), said * np.clip(1 - share, 0.001, 0.999)
    return called / called.sum(), mistaken / mistaken.sum()


def _unseen(votes: Ballots, trust: Trust) -> np.ndarray:
    """(c,) how likely nobody who looked would have said anything of such a thing."""
    mean = trust.seen @ trust.called
    silent = 1 - mean
    for a in np.flatnonzero(trust.repeats >= 0).tolist():
        silent[a] = trust.repeated[a] + (1 - trust.repeated[a]) * silent[a]
    return np.minimum(np.exp(votes.heard @ np.log(np.maximum(silent, 1e-9))), MOST_UNSEEN)


def _repeating(votes: Ballots, belief: Belief, trust: Trust) -> Trust:
    """Who repeats whom: of all pairs that share more words than what they see explains, those that join all with the strongest ties."""
    count = votes.claim.shape[1]
    one, many = _alone(votes, trust)
    chance = np.concatenate(
        [belief.nothing[:, None], belief.names, np.clip(1 - belief.nothing - belief.names.sum(axis=1), 0, 1)[:, None]],
        axis=1,
    )
    ties = []
    for a, b in combinations(np.flatnonzero(trust.estimated).tolist(), 2):
        shares, gains = zip(
            *(
                _repeats(votes, chance, np.concatenate([one[None, who], many[:, who]]).T, of, who)
                for of, who in ((a, b), (b, a))
            ),
            strict=True,
        )
        if min(gains) >= PROVEN and np.mean(shares) >= COPIES:
            ties.append((float(np.mean(shares)), a, b))
    group, edges = list(range(count)), []
    for share, a, b in sorted(ties, reverse=True):
        if group[a] != group[b]:
            edges.append((a, b, share))
            group = [group[a] if g == group[b] else g for g in group]
    repeats, repeated = _rooted(edges, count)
    return replace(trust, repeats=repeats, repeated=repeated)


def _repeats(votes: Ballots, chance: np.ndarray, alone: np.ndarray, of: int, who: int) -> tuple[float, float]:
    """For which share of the things that ``of`` speaks of ``who`` says the same because it repeats it, and how much likelier (log) that makes what they say."""
    rows = np.flatnonzero(votes.spoke[:, of] & votes.heard[:, who])
    if len(rows) < ENOUGH:
        return 0.0, 0.0
    everything, rows = len(rows), rows[np.linspace(0, len(rows) - 1, min(len(rows), PAIRED)).astype(np.int64)]
    agree, alone, chance, share = votes.agree(of, who)[rows, None], np.maximum(alone[rows], 1e-12), chance[rows], 0.3
    for _ in range(10):
        share = float((chance * (share * agree / (share * agree + (1 - share) * alone))).sum(axis=1).mean())
    gain = (chance * np.log((share * agree + (1 - share) * alone) / alone)).sum(axis=1).mean()
    return share, float(gain * everything)


def _rooted(edges: list[tuple[int, int, float]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ties as who repeats whom, and for how many things: in each group the first annotator repeats nobody."""
    repeats, repeated = np.full(count, -1), np.zeros(count)
    known: set[int] = set()
    for root in range(count):
        waiting = [root] if root not in known else []
        known.update(waiting)
        while waiting:
            one = waiting.pop()
            for a, b, share in edges:
                other = b if a == one else a if b == one else None
                if other is not None and other not in known:
                    repeats[other], repeated[other] = one, share
                    known.add(other)
                    waiting.append(other)
    return repeats, repeated
