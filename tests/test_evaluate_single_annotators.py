"""One annotator alone against the consensus, on images whose figures are known by construction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from evaluations import World, make_object

from florence.config import EvaluateSettings
from florence.evaluate import SingleAnnotator, find_better_annotators, find_gold_references, order_by_hash
from florence.records import Claim, annotations_table

COUNT = 40
CAT, GHOST = make_object("cat", 10), make_object("dog", 60)


def with_score(claim: Claim, score: float) -> Claim:
    return replace(claim, score=score)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A cat in each picture."""
    found = World(tmp_path_factory.mktemp("single"), ["gold"] * COUNT)
    found.truth({index: [CAT] for index in range(COUNT)})
    return found


def single(world: World, name: str, claims: Callable[[int], list[Claim]], looked: int = COUNT) -> SingleAnnotator:
    table = annotations_table(world.rows({index: claims(index) for index in range(looked)}, name))
    return SingleAnnotator(name, table, {"<OD>": frozenset(world.ids[:looked])})


def find(world: World, right: int, *annotators: SingleAnnotator):
    """Compare with a consensus that names the cats of the first ``right`` pictures, and ghosts in the others."""
    rows = world.rows({index: [CAT if index < right else GHOST] for index in range(COUNT)}, "consensus")
    references = find_gold_references(world.data, world.ids)
    return find_better_annotators(annotations_table(rows), annotators, references, EvaluateSettings())


def test_an_annotator_whose_scores_tell_is_better_than_a_poor_consensus(world: World):
    """Its ghosts have low scores: all of its claims have an F1 of 2/3, those above the threshold of 1."""
    scored = single(world, "scored", lambda index: [with_score(CAT, 0.9), with_score(GHOST, 0.2)])
    (better,) = find(world, 30, scored)
    assert (better.annotator, better.task, better.metric, better.reference) == ("scored", "<OD>", "f1", "truth")
    assert (better.alone, better.labels, better.n) == (1.0, 0.75, COUNT) and better.low > 0
    assert better.threshold is not None and 0.2 < better.threshold <= 0.9
    assert "1.000 against 0.750" in better.describe() and "--split gold" not in better.describe()


def test_nothing_is_said_where_the_consensus_is_as_good_or_chance_may_be_why(world: World):
    scored = single(world, "scored", lambda index: [with_score(CAT, 0.9), with_score(GHOST, 0.2)])
    assert find(world, COUNT, scored) == []
    assert find(world, COUNT - 1, scored) == []
    assert find(world, 30, single(world, "ghosts", lambda index: [GHOST])) == []


def test_only_images_that_the_annotator_looked_at_count_and_few_say_nothing(world: World):
    half = single(world, "half", lambda index: [CAT], looked=30)
    assert find(world, 30, half) == []
    (better,) = find(world, 15, half)
    assert (better.labels, better.alone, better.n, better.threshold) == (0.5, 1.0, 30, None)
    assert find(world, 0, single(world, "few", lambda index: [CAT], looked=19)) == []


def test_a_threshold_is_not_chosen_on_the_images_that_judge_it(world: World):
    """The best threshold of one half is the worst of the other: chosen on its own half, each would have an F1 of 1."""
    first = set(order_by_hash(world.ids, EvaluateSettings().seed, "halves")[::2])

    def claim(index: int) -> list[Claim]:
        high = [with_score(CAT, 0.9), with_score(GHOST, 0.2)]
        return high if world.ids[index] in first else [with_score(CAT, 0.2)]

    assert find(world, 20, single(world, "halves", claim)) == []


def test_no_gold_image_with_a_reference_says_nothing(tmp_path: Path):
    empty = World(tmp_path, ["gold"] * 2)
    assert (
        find_better_annotators(
            annotations_table(empty.rows({0: [CAT]}, "consensus")),
            [SingleAnnotator("a", annotations_table(empty.rows({0: [CAT]}, "a")), {"<OD>": frozenset(empty.ids)})],
            find_gold_references(empty.data, empty.ids),
            EvaluateSettings(),
        )
        == []
    )
