"""A generator of detections: what detectors claim about photographs, drawn from a world that no engine assumes.

It shares no code and no assumption with the engine's model of annotators or with the simulated annotators:

- Images of 640 × 480 pixels hold objects of 24 names, in 8 groups of three look-alikes, with a long tail of names and
  log-normal sizes.
- An object has a difficulty: small and crowded ones are missed by all. Detectors of one family share more of it. Some
  objects have an edge that all see in a wrong place.
- A wrong name is a look-alike, and each detector has a direction in which it confuses them; a wrong name has a lower
  score.
- Boxes are loose or tight by side, and shifted in proportion to their size; an unclear object's more. Two neighbours
  of one name may be claimed as one box, a large object as two, one object twice under one name or two.
- Some places tempt every detector (hard negatives); others are false positives of one detector or of its family.
- Scores rise with how clear the object is, and are calibrated differently by each detector. A detector that exports
  everything has a long tail of low scores: missed objects, parts, shifted boxes, look-alikes, background.

`Detector` describes one detector and `Scenario` an experiment; `draw` makes its pictures.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from _samples import Box, Declared, Found, Picture, Sample
from _scoring import box_overlaps

WIDTH, HEIGHT = 640, 480
NAMES = tuple(f"{group} {number}" for group in "abcdefgh" for number in (1, 2, 3))
"""24 names: a letter for each group of look-alikes."""


@dataclass(frozen=True)
class Detector:
    """What a detector does. ``skill``: log odds of finding an object of average difficulty; the rest are rates.

    ``loose``: share of a side by which boxes are too wide, signed, by side (left, top, right, bottom); ``noise``: share
    of a side by which edges scatter. ``confused``: share of names that are a look-alike's. ``spurious``: own false
    positives an image. ``tempted``: share of the hard negatives that it claims. ``merges``, ``splits``, ``doubles``:
    shares of objects. ``temperature``, ``offset``: of the log odds of its scores; ``scores``: "graded", "rounded" (to
    tenths), "constant" or "none". ``tail``: mean number of boxes of low score an image; with one, missed objects have
    low scores too. ``vocabulary``: names that it can claim; None: all. ``family``: detectors of one family share
    ``kinship`` of their errors; ``declares_family``: whether that is known.
    """

    skill: float = 1.5
    noise: float = 0.05
    loose: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    confused: float = 0.08
    spurious: float = 0.5
    tempted: float = 0.3
    merges: float = 0.1
    splits: float = 0.02
    doubles: float = 0.03
    temperature: float = 1.0
    offset: float = 0.0
    scores: str = "graded"
    tail: float = 0.0
    vocabulary: tuple[str, ...] | None = None
    family: str = ""
    kinship: float = 0.8


@dataclass(frozen=True)
class Scenario:
    """Detectors by name and the world that they look at.

    ``objects``: mean number an image; ``hard_negatives``: mean number of places that tempt everybody; ``names``: those
    of the world; ``crowd``: objects of one name that stand in rows, instead of the others; ``sources``: of images, each
    with skills of its own; ``side``: median side of an object in pixels.
    """

    detectors: Mapping[str, Detector]
    objects: float = 6.0
    hard_negatives: float = 0.6
    names: tuple[str, ...] = NAMES
    crowd: int = 0
    sources: int = 1
    side: float = 70.0


@dataclass(frozen=True)
class Thing:
    """An object, or a place that looks like one.

    ``seen``: the box as everybody sees it; ``difficulty``: in log odds of being missed; ``seed``: of what all detectors
    of a family share about it.
    """

    name: str
    box: Box
    seen: Box
    difficulty: float
    is_real: bool
    seed: int


@dataclass(frozen=True)
class Scene:
    """What detectors look at: the image's size, its things, the world's names, and the look-alikes of each name."""

    width: float
    height: float
    things: Sequence[Thing]
    names: tuple[str, ...]
    alike: Mapping[str, tuple[str, ...]]


def draw(scenario: Scenario, images: int, seed: int) -> Sample:
    """Return ``images`` pictures of a scenario; the same seed gives the same."""
    rng = np.random.default_rng([seed, 7719])
    shifts = {name: rng.normal(0, 0.8, scenario.sources) for name in scenario.detectors}
    alike = {name: tuple(n for n in NAMES if n[0] == name[0]) for name in NAMES}
    pictures = []
    for _ in range(images):
        source = int(rng.integers(scenario.sources))
        scene = Scene(WIDTH, HEIGHT, _draw_things(scenario, rng), scenario.names, alike)
        pictures.append(
            Picture(
                WIDTH,
                HEIGHT,
                f"source {source + 1}",
                [Found(thing.name, thing.box) for thing in scene.things if thing.is_real],
                {
                    name: look(detector, scene, rng, float(shifts[name][source]) if scenario.sources > 1 else 0.0)
                    for name, detector in scenario.detectors.items()
                },
            )
        )
    return Sample(pictures, declared(scenario.detectors), {name: k for k, name in enumerate(NAMES)})


def declared(detectors: Mapping[str, Detector]) -> dict[str, Declared]:
    """Return what a user would know about detectors."""
    return {name: Declared(detector.vocabulary, detector.family) for name, detector in detectors.items()}


# ---------------------------------------------------------------- the world


def _draw_things(scenario: Scenario, rng: np.random.Generator) -> list[Thing]:
    share = 1.0 / np.arange(1, len(scenario.names) + 1) ** 0.8
    share /= share.sum()
    boxes = [
        (str(rng.choice(scenario.names, p=share)), draw_box(rng, scenario.side))
        for _ in range(1 + rng.poisson(max(scenario.objects - 1, 0)))
    ]
    if scenario.crowd:
        most = 0.95 * np.sqrt(WIDTH * HEIGHT / scenario.crowd)
        name, side = boxes[0][0], float(rng.uniform(22, min(most, 44)))
        boxes = [(name, box) for box in _draw_crowd(rng, scenario.crowd, side)]
    places = [
        (str(rng.choice(scenario.names, p=share)), draw_box(rng, scenario.side))
        for _ in range(rng.poisson(scenario.hard_negatives))
    ]
    return make_things(boxes, rng) + tempting_things(places, boxes, rng)


def tempting_things(
    places: Sequence[tuple[str, Box]], boxes: Sequence[tuple[str, Box]], rng: np.random.Generator
) -> list[Thing]:
    """Return places that look like an object to every detector, without those on an object of ``boxes``."""
    corners = np.asarray([box for _, box in boxes])
    return [
        Thing(name, box, box, float(rng.normal(0, 0.8)), False, int(rng.integers(1 << 31)))
        for name, box in places
        if (box_overlaps(np.asarray([box]), corners) < 0.2).all()
    ]


def make_things(boxes: Sequence[tuple[str, Box]], rng: np.random.Generator) -> list[Thing]:
    """Return objects with a difficulty, by size and crowding, and the edges that everybody sees."""
    corners = np.asarray([box for _, box in boxes])
    crowding = box_overlaps(corners, corners).sum(axis=1) - 1
    things = []
    for (name, box), crowded in zip(boxes, crowding, strict=True):
        width, height = box[2] - box[0], box[3] - box[1]
        difficulty = 1.1 * np.log(55 / np.sqrt(width * height)) + 0.4 * min(crowded, 1.5) + rng.normal(0, 1.3)
        seen = np.asarray(box)
        if rng.random() < 0.12:
            edge = int(rng.integers(4))
            seen = seen + np.eye(4)[edge] * rng.normal(0, 0.12) * (width, height)[edge % 2]
        things.append(Thing(name, box, _as_box(seen), float(difficulty), True, int(rng.integers(1 << 31))))
    return things


def draw_box(
    rng: np.random.Generator, median: float = 70.0, size: tuple[float, float] = (float(WIDTH), float(HEIGHT))
) -> Box:
    """Return a box inside an image, its side log-normal around ``median``."""
    side, aspect = float(np.exp(rng.normal(np.log(median), 0.75))), float(np.exp(rng.normal(0, 0.35)))
    width, height = (
        float(np.clip(v, 8, 0.94 * most)) for v, most in zip((side * aspect, side / aspect), size, strict=True)
    )
    x, y = rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height)
    return (float(x), float(y), float(x + width), float(y + height))


def _draw_crowd(rng: np.random.Generator, count: int, side: float) -> list[Box]:
    """Return boxes of about one size, in rows, most of them touching or overlapping their neighbours."""
    columns = max(1, int(WIDTH // (side * 0.9)))
    boxes = []
    for k in range(count):
        x, y = (k % columns) * side * 0.9, (k // columns) * side * 0.9 % (HEIGHT - side)
        x, y = x + rng.normal(0, side * 0.12), y + rng.normal(0, side * 0.12)
        width, height = side * np.exp(rng.normal(0, 0.15, 2))
        boxes.append(_clip(np.asarray([x, y, x + width, y + height]), WIDTH, HEIGHT))
    return [box for box in boxes if box[2] - box[0] > 4 and box[3] - box[1] > 4]


def _clip(box: np.ndarray, width: float, height: float) -> Box:
    return _as_box(np.clip(box, 0, [width, height, width, height]))


def _as_box(box: np.ndarray) -> Box:
    left, top, right, bottom = (float(v) for v in box)
    return (left, top, right, bottom)


# ---------------------------------------------------------------- a detector


def look(detector: Detector, scene: Scene, rng: np.random.Generator, shift: float = 0.0) -> list[Found]:
    """Return what a detector claims about a scene; ``shift`` is added to its skill, and its false positives fall."""
    found: list[Found] = []
    for thing in _merge(detector, scene.things, rng):
        found += _claim_thing(detector, scene, thing, rng, shift)
    for name, box, level in _spurious_places(detector, scene, rng, shift):
        found += _scatter(detector, scene, name, box, _score(detector, level, rng), rng)
    for _ in range(rng.poisson(detector.tail)):
        found += _claim_low(detector, scene, rng)
    return [found[k] for k in rng.permutation(len(found))]


def _spurious_places(
    detector: Detector, scene: Scene, rng: np.random.Generator, shift: float
) -> list[tuple[str, Box, float]]:
    """Return name, box and clarity of a detector's own false positives; most are those of all its family."""
    vocabulary = detector.vocabulary or scene.names
    rate = detector.spurious * np.exp(-0.4 * shift)
    kin = detector.kinship if detector.family else 0.0

    def draw_places(source: np.random.Generator, mean: float) -> list[tuple[str, Box, float]]:
        size = (scene.width, scene.height)
        return [
            (str(source.choice(vocabulary)), draw_box(source, size=size), float(source.normal(-1.6, 0.9)))
            for _ in range(source.poisson(mean))
        ]

    places = draw_places(rng, rate * (1 - kin))
    if kin and scene.things:
        shared = np.random.default_rng([scene.things[0].seed, _number(detector.family)])
        places += [place for place in draw_places(shared, rate) if rng.random() < kin]
    return places


def _claim_thing(detector: Detector, scene: Scene, thing: Thing, rng: np.random.Generator, shift: float) -> list[Found]:
    """Return a detector's claims about one thing: none, one, or several if it is split or claimed twice."""
    kin = detector.kinship if detector.family else 0.0
    shared = np.random.default_rng([thing.seed, _number(detector.family)])
    own = np.sqrt(kin) * shared.normal() + np.sqrt(1 - kin) * rng.normal()
    common = shared.random(2)
    luck = common if detector.family and rng.random() < kin else rng.random(2)
    clarity = detector.skill + shift - thing.difficulty + 0.8 * own
    if not thing.is_real:
        clarity = np.log(detector.tempted / (1 - detector.tempted)) - thing.difficulty + own
    name = _name(detector, scene, thing.name, float(luck[1]))
    if name is None:
        return []
    if luck[0] >= 1 / (1 + np.exp(-clarity)):
        missed = detector.tail > 0 and rng.random() < 0.6
        return _scatter(detector, scene, name, thing.seen, _low_score(detector, -2.8, rng), rng, 1.5) if missed else []
    clarity = float(clarity) - (0.7 if name != thing.name else 0.0)
    vague = float(np.exp(-0.12 * (np.clip(clarity, -2, 4) - 1.5)))
    boxes = _split(thing.seen, rng) if thing.is_real and rng.random() < detector.splits else [thing.seen]
    found = []
    for k, box in enumerate(boxes):
        found += _scatter(detector, scene, name, box, _score(detector, clarity - 0.8 * k, rng), rng, vague)
    if rng.random() < detector.doubles:
        other = name if rng.random() < 0.5 else _look_alike(detector, scene, name) or name
        found += _scatter(detector, scene, other, thing.seen, _score(detector, clarity - 1.5, rng), rng, 2 * vague)
    return found


def _claim_low(detector: Detector, scene: Scene, rng: np.random.Generator) -> list[Found]:
    """Return one of the many claims of low score: a part, a shifted box or a look-alike of a thing, or background.

    Parts are halves and boxes with a margin: where one detector has one, others have it as well.
    """
    score = _low_score(detector, -3.6, rng)
    vocabulary = detector.vocabulary or scene.names
    if not scene.things or rng.random() < 0.35:
        box = draw_box(rng, size=(scene.width, scene.height))
        return _scatter(detector, scene, str(rng.choice(vocabulary)), box, score, rng)
    thing = scene.things[int(rng.integers(len(scene.things)))]
    name = thing.name if rng.random() < 0.6 else _look_alike(detector, scene, thing.name) or thing.name
    if name not in vocabulary:
        return []
    left, top, right, bottom = thing.seen
    width, height = right - left, bottom - top
    if rng.random() < 0.5:
        parts = np.asarray(((0, 0, 0.55, 1), (0.45, 0, 1, 1), (0, 0, 1, 0.55), (-0.2, -0.2, 1.2, 1.2)))
        part = parts[int(rng.integers(len(parts)))]
        box = np.asarray((left, top, left, top)) + part * (width, height, width, height)
        return _scatter(detector, scene, name, _as_box(box), score, rng)
    scale, move = np.exp(rng.normal(-0.3, 0.4, 2)), rng.normal(0, 0.25, 2)
    x, y = left + width * (0.5 + move[0]), top + height * (0.5 + move[1])
    half = (width * scale[0] / 2, height * scale[1] / 2)
    return _scatter(detector, scene, name, (x - half[0], y - half[1], x + half[0], y + half[1]), score, rng)


def _merge(detector: Detector, things: Sequence[Thing], rng: np.random.Generator) -> list[Thing]:
    """Return what the detector takes for one thing: neighbours of one name may be one."""
    left = list(things)
    result = []
    corners = np.asarray([thing.box for thing in things]).reshape(-1, 4)
    near = box_overlaps(corners, corners) > 0.1
    place = {thing.seed: k for k, thing in enumerate(things)}
    while left:
        thing = left.pop(0)
        beside = [
            other
            for other in left
            if near[place[thing.seed], place[other.seed]]
            and other.is_real
            and thing.is_real
            and other.name == thing.name
        ]
        if beside and rng.random() < detector.merges:
            other = beside[0]
            left.remove(other)
            low, high = np.minimum(thing.seen, other.seen), np.maximum(thing.seen, other.seen)
            box = _as_box(np.r_[low[:2], high[2:]])
            thing = Thing(thing.name, box, box, min(thing.difficulty, other.difficulty), True, thing.seed)
        result.append(thing)
    return result


def _split(box: Box, rng: np.random.Generator) -> list[Box]:
    """Return the two halves of a large box, along its longer side."""
    left, top, right, bottom = box
    if max(right - left, bottom - top) <= 60:
        return [box]
    if right - left >= bottom - top:
        middle = (left + right) / 2 + float(rng.normal(0, 5))
        return [(left, top, middle, bottom), (middle, top, right, bottom)]
    middle = (top + bottom) / 2 + float(rng.normal(0, 5))
    return [(left, top, right, middle), (left, middle, right, bottom)]


def _name(detector: Detector, scene: Scene, name: str, luck: float) -> str | None:
    """Return the name that is claimed; None if the detector has no name for it."""
    other = _look_alike(detector, scene, name)
    if luck < detector.confused and other is not None:
        return other
    if detector.vocabulary is None or name in detector.vocabulary:
        return name
    return other if luck > 0.7 else None


def _look_alike(detector: Detector, scene: Scene, name: str) -> str | None:
    """Return the look-alike that a detector confuses a name with: the next or the one before, by its direction."""
    group = scene.alike[name]
    direction = 1 + _number(f"{detector.family}{detector.skill}{detector.confused}{detector.noise}") % 2
    other = group[(group.index(name) + direction) % len(group)]
    known = detector.vocabulary is None or other in detector.vocabulary
    return other if known and other != name and other in scene.names else None


def _scatter(
    detector: Detector,
    scene: Scene,
    name: str,
    box: Box,
    score: float | None,
    rng: np.random.Generator,
    times: float = 1.0,
) -> list[Found]:
    """Return a claim with the detector's box of a thing; none if nothing of the box is left inside the image."""
    sides = np.tile([box[2] - box[0], box[3] - box[1]], 2)
    outwards = np.asarray([-1, -1, 1, 1]) * np.asarray(detector.loose) * sides
    # heavier tails than a normal distribution
    noise = rng.standard_t(4, 4) * detector.noise * times * sides * 0.8
    drawn = _clip(np.asarray(box) + outwards + noise, scene.width, scene.height)
    return [Found(name, drawn, score)] if drawn[2] - drawn[0] > 2 and drawn[3] - drawn[1] > 2 else []


def _score(detector: Detector, clarity: float, rng: np.random.Generator) -> float | None:
    return _give_score(detector, detector.offset + (clarity + rng.normal(0, 0.7)) / detector.temperature * 0.8)


def _low_score(detector: Detector, level: float, rng: np.random.Generator) -> float | None:
    # few are high: the number of claims falls with the score, without a gap
    return _give_score(detector, level + float(rng.gumbel(-0.3, 0.85)))


def _give_score(detector: Detector, logit: float) -> float | None:
    if detector.scores == "none":
        return None
    if detector.scores == "constant":
        return 1.0
    value = float(np.clip(1 / (1 + np.exp(-logit)), 0.01, 0.999))
    return round(value, 1 if detector.scores == "rounded" else 4)


def _number(text: str) -> int:
    return zlib.crc32(text.encode())
