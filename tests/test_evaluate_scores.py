"""Scores of models whose answers are known: their references, their questions, and the shuffled-image baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluations import Oracle, World, make_object

from florence.codec.grammar import box_tokens
from florence.config import EvaluateSettings
from florence.evaluate import (
    build_scores_json,
    build_scores_table,
    calibrate_tasks,
    find_held_out_references,
    score_tasks,
)
from florence.evaluate.scores import choose_questions
from florence.records import Claim, Region, annotations_table, table_images
from florence.tasks import Answer

OD = EvaluateSettings(tasks=("<OD>",), shuffled_image_tasks=("<OD>",))


def records(world: World):
    return [r for r, _ in table_images(world.data.read_tables("images", None)) if r.split == "held_out"]


def pictures(world: World):
    return lambda wanted: [
        (r.image_id, np.full((r.height, r.width, 3), int(r.name.removesuffix(".png")), np.uint8))
        for r in records(world)
        if r.image_id in set(wanted)
    ]


def run(world: World, predict, settings: EvaluateSettings = OD):
    return score_tasks(
        records(world),
        pictures(world),
        find_held_out_references(world.data, [r.image_id for r in records(world)]),
        settings,
        predict,
    )


def test_scores_by_hand(tmp_path: Path):
    world = World(tmp_path, ["held_out"] * 4 + ["train"])
    world.truth(
        {
            0: [make_object("cat", 10), make_object("dog", 60)],
            1: [make_object("cat", 10)],
            2: [make_object("cat", 30)],
            3: [make_object("dog", 40)],
            4: [make_object("cat", 0)],
        }
    )
    answers = {
        0: [make_object("cat", 10)],
        1: [make_object("cat", 10), make_object("cup", 150)],
        2: [make_object("cup", 30)],
        3: [make_object("dog", 40)],
    }
    (result,) = run(world, Oracle(world, answers))
    one, two, three, four = world.ids[:4]
    assert result.score.per_image == pytest.approx({one: 2 / 3, two: 2 / 3, three: 0.0, four: 1.0})
    assert result.score.details["f1_boxes"] == pytest.approx(2 * 4 / (5 + 5))
    # two of three cats and one of two dogs at precision 1, read at recalls of 0, 0.01 … 1; no reference has a cup
    assert result.score.value == pytest.approx((67 / 101 + 51 / 101) / 2)
    assert result.low <= result.score.value <= result.high and result.low < result.high
    assert (result.score.reference, result.score.invalid, result.score.n) == ("truth", 0.0, 4)


def test_the_shuffled_image_baseline_asks_each_question_of_another_picture_in_its_own_proportions(tmp_path: Path):
    world = World(tmp_path, ["held_out"] * 6)
    # the same place in proportion in narrow and wide pictures: shuffled answers are right once they are scaled
    same = {
        i: [Claim("<OD>", "cat", (Region("cat", box=(10.0 * w, 10.0, 40.0 * w, 60.0)),))]
        for i in range(6)
        for w in [1 + i % 2]
    }
    world.truth(same)
    (result,) = run(world, Oracle(world, same))
    assert result.shuffled.value == 1.0 == result.score.value
    different = {i: [make_object(f"thing {i}", 10.0 + 10 * i)] for i in range(6)}
    shuffled_image = World(tmp_path / "other", ["held_out"] * 6)
    shuffled_image.truth(different)
    (result,) = run(shuffled_image, Oracle(shuffled_image, different))
    assert (result.score.value, result.shuffled.value) == (1.0, 0.0)


def test_a_shuffled_predictor_is_near_chance(tmp_path: Path):
    rng = np.random.default_rng(0)
    world = World(tmp_path, ["held_out"] * 80)
    names = ("cat", "dog", "cup", "hat")
    truth = {
        i: [make_object(str(rng.choice(names)), float(rng.uniform(0, 70)), float(rng.uniform(0, 70)))]
        for i in range(80)
    }
    world.truth(truth)
    settings = EvaluateSettings(
        tasks=("<OD>", "<REGION_TO_CATEGORY>"), shuffled_image_tasks=("<OD>", "<REGION_TO_CATEGORY>")
    )
    perfect = {r.score.task: r for r in run(world, Oracle(world, truth), settings)}
    assert perfect["<OD>"].score.value == perfect["<REGION_TO_CATEGORY>"].score.value == 1.0
    assert perfect["<OD>"].shuffled.value < 0.1

    class Guess(Oracle):
        def answer(self, index, ask):
            return Answer(self.claims[(index * 7 + 3) % 80][0].text)

    (guess,) = run(world, Guess(world, truth), settings.model_copy(update={"tasks": ("<REGION_TO_CATEGORY>",)}))
    assert guess.score.value == pytest.approx(0.25, abs=0.12)
    assert guess.low < 0.25 < guess.high


def test_references_by_standing_and_frozen_in_the_first_round(tmp_path: Path):
    world = World(tmp_path, ["held_out"] * 4)
    world.truth({0: [make_object("cat", 10)]})
    world.claims({1: [make_object("dog", 10)]}, "human", "1", 0)
    world.claims({1: [make_object("cow", 10)]}, "human", "2", 1)
    world.claims({2: [make_object("dog", 90)]}, "watcher")
    first = world.rows(
        {0: [make_object("hat", 0)], 1: [make_object("hat", 0)], 2: [make_object("cup", 10), make_object("pot", 60)]},
        "consensus",
        "e",
    )
    from dataclasses import replace

    dropped = [replace(row, kept=False, reason="low_confidence") if row.text == "pot" else row for row in first]
    world.data.write_table("labels/round-00000.parquet", annotations_table(dropped))
    world.labels({2: [make_object("moved", 70)], 3: [make_object("key", 10)]}, round=1)
    world.labels({2: [make_object("again", 70)], 3: [make_object("moved", 10)]}, round=10)
    known = find_held_out_references(world.data, world.ids)
    found = {
        world.ids.index(image): (name, [row.text for row in rows])
        for (image, annotation_type), (name, rows) in known.rows.items()
        if annotation_type == "<OD>"
    }
    assert found == {0: ("truth", ["cat"]), 1: ("human", ["cow"]), 2: ("consensus", ["cup"]), 3: ("consensus", ["key"])}
    assert known.rows[world.ids[0], "<CAPTION>"] == ("consensus", ()), "truth tells of objects alone"
    # scores are kept apart
    results = run(world, Oracle(world, {0: [make_object("cat", 10)], 1: [make_object("cow", 10)]}))
    assert [(r.score.reference, r.score.value) for r in results] == [("truth", 1.0), ("human", 1.0), ("consensus", 0.0)]
    assert [r.shuffled is None for r in results] == [True, True, False], "one picture cannot be shuffled"
    assert build_scores_table(r.score for r in results).column("reference").to_pylist() == [
        "consensus",
        "consensus",
        "human",
        "truth",
    ]


def test_a_source_that_knows_signs_knows_where_there_are_none(tmp_path: Path):
    world = World(tmp_path, ["held_out"] * 3)
    sign = Claim("<OCR_WITH_REGION>", "EXIT", (Region("EXIT", quad=(1.0, 1.0, 30.0, 1.0, 30.0, 9.0, 1.0, 9.0)),))
    world.truth({0: [make_object("cat", 10), sign], 1: [make_object("cat", 10)]})
    world.labels({1: [sign], 2: [sign]})
    known = find_held_out_references(world.data, world.ids)
    assert known.rows[world.ids[1], "<OCR_WITH_REGION>"] == ("truth", ())
    assert known.rows[world.ids[2], "<OCR_WITH_REGION>"][0] == "consensus"


def test_what_is_asked_is_bounded_and_drawn_by_hash(tmp_path: Path):
    world = World(tmp_path, ["held_out"] * 9)
    world.truth({i: [make_object(name, 10.0 * k) for k, name in enumerate("abcdefgh")] for i in range(9)})
    settings = EvaluateSettings(
        tasks=("<OD>", "<OPEN_VOCABULARY_DETECTION>"), shuffled_image_tasks=(), max_images=5, max_examples=2
    )
    known = find_held_out_references(world.data, world.ids)
    asked, _ = choose_questions(records(world), known, settings)
    images = {q.example.image_id for q in asked}
    assert len(images) == 5
    assert [sum(q.example.task == name for q in asked) for name in settings.tasks] == [5, 10]
    assert len({q.example.input for q in asked}) > 3, "not the same names everywhere"
    assert asked == choose_questions(records(world)[::-1], known, settings)[0]
    fewer, _ = choose_questions([r for r in records(world) if r.image_id in images], known, settings)
    assert {q.example.image_id for q in fewer} == images
    assert {
        q.example.image_id for q in choose_questions(records(world), known, settings.model_copy(update={"seed": 5}))[0]
    } != images


def test_pictures_come_in_batches_and_nothing_is_asked_twice(tmp_path: Path):
    world = World(tmp_path, ["held_out"] * 7)
    truth = {i: [make_object("cat", 10), make_object("dog", 50)] for i in range(7)}
    world.truth(truth)
    oracle = Oracle(world, truth)
    settings = EvaluateSettings(
        tasks=("<OD>", "<REGION_TO_CATEGORY>"), shuffled_image_tasks=("<OD>", "<REGION_TO_CATEGORY>"), batch_size=3
    )
    done: list[tuple[int, int]] = []
    known = find_held_out_references(world.data, world.ids)
    score_tasks(records(world), pictures(world), known, settings, oracle, lambda *found: done.append(found))
    assert [len({ask.image for ask in call}) for call in oracle.asked] == [3, 3, 1]
    assert done == [(3, 7), (6, 7), (7, 7)]
    assert sum(ask.task == "<OD>" for call in oracle.asked for ask in call) == 7, (
        "the shuffled-image baseline of a task without input costs nothing"
    )
    assert all(len(call) == len(set(call)) for call in oracle.asked)


class TwoLooks:
    """Every picture has one object at 10. The first look calls it a cat; the second a cat, or a dog on every third.

    Both are surer on pictures of a higher number.
    """

    def __init__(self) -> None:
        self.second: list[tuple[int, str]] = []

    def __call__(self, images, asks, **_) -> list[Answer]:
        return [self.answer(int(images[ask.image][0, 0, 0]), ask) for ask in asks]

    def answer(self, number: int, ask) -> Answer:
        sure = 0.2 + number / 250
        if ask.task == "<OD>":
            return Answer("", (Region("cat", box=(10.0, 10.0, 30.0, 30.0), score=sure),), score=sure)
        self.second.append((number, ask.input))
        return Answer("dog" if number % 3 == 0 else "cat", score=sure)


def test_both_looks_at_an_object_are_calibrated_together(tmp_path: Path):
    world = World(tmp_path, ["held_out"] * 150)
    # the name of the second look is right where both agree, and on each second picture where they differ
    names = {i: "cat" if i % 3 else ("dog" if i % 2 else "hen") for i in range(150)}
    world.truth({i: [make_object(names[i], 10)] for i in range(150)})
    predict = TwoLooks()
    (result,) = run(world, predict, EvaluateSettings(tasks=("<OD>",), max_images=150, bootstrap=100))
    found = result.second_look
    assert found.confidence(0.5, 0.5, True, "made") > 0.95 > 0.65 > found.confidence(0.5, 0.5, False, "made") > 0.35
    assert found.calibration.n == 150 and set(found.calibration.sources) == {"made"}
    assert found.calibration.calibrated < 0.15 < found.calibration.error, "bins of fifteen answers are noisy"
    assert sorted(number for number, _ in predict.second) == list(range(150))
    boxes = dict(predict.second)
    assert boxes[0] == box_tokens((10, 10, 30, 30), (100, 100)), "of the box that the first look found"
    assert build_scores_json([result])["<OD>"]["truth"]["second_look"]["n"] == 150
    known = calibrate_tasks([result])
    assert known.second_look == found and known.get("<OD>") == result.calibration
    # an answer without scores, or one that breaks the grammar, is not looked at again
    quiet = Oracle(world, {i: [make_object("cat", 10)] for i in range(150)})
    (result,) = run(world, quiet, EvaluateSettings(tasks=("<OD>",), max_images=150, bootstrap=100))
    assert result.second_look is None and {ask.task for call in quiet.asked for ask in call} == {"<OD>"}


def test_a_source_without_truth_has_a_map_of_its_own(tmp_path: Path):
    """The first hundred pictures have truth; the others, of another source, the consensus, and answers are wrong."""
    world, other = (
        World(tmp_path, splits, source=name)
        for splits, name in (
            (["held_out"] * 100, "scenes"),
            (["train"] * 100 + ["held_out"] * 40, "photos"),
        )
    )
    world.truth({i: [make_object("cat" if i % 3 else "dog", 10)] for i in range(100)})
    other.labels({i: [make_object("owl", 10)] for i in range(100, 140)})
    both = [*records(world)]
    references = find_held_out_references(world.data, [r.image_id for r in both])
    settings = EvaluateSettings(tasks=("<OD>",), max_images=200, bootstrap=100)
    results = score_tasks(both, pictures(world), references, settings, TwoLooks())
    assert {result.score.reference for result in results} == {"truth", "consensus"}
    found = calibrate_tasks(results).second_look
    assert found.confidence(0.5, 0.5, True, "scenes") > 0.9 > 0.5 > found.confidence(0.5, 0.5, True, "photos")


def test_captions_of_equal_standing_are_alternatives(tmp_path: Path):
    world = World(tmp_path, ["held_out"] * 3)
    texts = {0: ["a red cat sleeps here", "the cat is asleep now"], 1: ["two dogs run"], 2: ["one hat lies there"]}
    world.truth({i: [Claim("<CAPTION>", text) for text in found] for i, found in texts.items()})
    answers = {
        0: [Claim("<CAPTION>", texts[0][1])],
        1: [Claim("<CAPTION>", "two dogs run")],
        2: [Claim("<CAPTION>", "nothing at all")],
    }
    (result,) = run(world, Oracle(world, answers), EvaluateSettings(tasks=("<CAPTION>",)))
    assert result.score.n == 3 and result.score.details["exact"] == pytest.approx(2 / 3)


def test_answers_out_of_the_grammar_are_counted_and_figures_are_plain_numbers(tmp_path: Path):
    world = World(tmp_path, ["held_out", "train", "held_out"])
    world.truth({i: [make_object("cat", 10)] for i in (0, 2)})

    class Broken(Oracle):
        def answer(self, index, ask):
            # the first one would have gone on
            return replace(self.of(index), truncated=not index)

        def of(self, index):
            from florence.tasks import task

            return task("<OD>").decode("cat<loc_1>" if index else "cat<loc_100><loc_100><loc_299><loc_299>", (100, 100))

    results = run(world, Broken(world, {}))
    (found,) = build_scores_json(results)["<OD>"].values()
    assert (
        found["invalid"] == 0.5
        and found["truncated"] == 0.5
        and found["n"] == 2
        and found["metric"] == "map50"
        and found["shuffled"] == round(51 / 101, 6)
    )
    assert found["per_image"] == 0.5
    assert all(isinstance(v, (int, float)) for k, v in found.items() if k not in ("metric", "details"))


def test_labels_that_can_not_be_asked_about_are_counted(tmp_path: Path):
    world = World(tmp_path, ["held_out"] * 2)
    world.truth({0: [make_object("cat", 10), make_object("bad <sep> name", 40)], 1: [make_object("dog", 10)]})
    (result,) = run(world, Oracle(world, {0: [make_object("cat", 10)], 1: [make_object("dog", 10)]}))
    assert result.refused == 1 and result.score.value == 1.0


def test_nothing_held_out_gives_nothing(tmp_path: Path):
    world = World(tmp_path, ["train", "gold"])
    world.truth({0: [make_object("cat", 10)]})
    assert run(world, Oracle(world, {})) == []
    assert build_scores_json([]) == {} and len(build_scores_table([])) == 0


def test_predictor_is_given_the_pixels_of_the_picture(tmp_path: Path):
    world = World(tmp_path, ["held_out"] * 2)
    world.truth({i: [make_object("cat", 10)] for i in range(2)})
    seen = []

    def look(found, asks):
        seen.extend(int(p[0, 0, 0]) for p in found)
        return [Answer("")] * len(asks)

    run(world, look)
    assert sorted(seen) == [0, 1]  # a picture's colour is its number
