"""Questions about scenes: answers follow from the rest of the truth, and cannot be guessed from the question alone."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from florence.drawn_scenes.figures import COLOURS
from florence.errors import SettingsError
from florence.metrics import METRICS, Prediction, Reference
from florence.records import BASE_TYPES, FINE_TUNED
from florence.sources import SOURCES

SIDE = 96


@pytest.fixture(scope="module")
def scenes():
    return [image for image in SOURCES.get("scenes")(count=700, size=SIDE, questions=True).images(frozenset())]


def read_questions(scene):
    return [(claim.text, claim.regions[0].label) for claim in scene.truth if claim.task == "<VQA>"]


def of(scene, task):
    return [claim for claim in scene.truth if claim.task == task]


def test_nothing_else_changes_with_them(scenes):
    plain = list(SOURCES.get("scenes")(count=40, size=SIDE).images(frozenset()))
    for without, scene in zip(plain, scenes, strict=False):
        assert (without.name, without.data) == (scene.name, scene.data)
        assert without.truth == tuple(claim for claim in scene.truth if claim.task in BASE_TYPES)
        assert {claim.task for claim in scene.truth} - set(BASE_TYPES) <= set(FINE_TUNED)


def test_every_answer_follows_from_the_rest_of_the_truth(scenes):
    counts = Counter()
    for scene in scenes:
        boxes = {(claim.text, claim.regions[0].box): claim for claim in of(scene, "<OD>")}
        names = [name for name, _ in boxes]
        descriptions = {claim.regions[0].box: claim.text for claim in of(scene, "<DENSE_REGION_CAPTION>")}
        for question, answer in read_questions(scene):
            counts[question.split()[1]] += 1
            if found := re.fullmatch(r"Is there an? (.+)\?", question):
                assert (found[1] in names) == (answer == "yes") and answer in ("yes", "no")
            elif question == "How many objects are there?":
                assert answer == str(len(boxes))
            elif found := re.fullmatch(r"What colour is the (.+)\?", question):
                (text,) = [descriptions[box] for name, box in boxes if name == found[1]]
                assert [word for word in text.split(" that says ")[0].split() if word in COLOURS] == [answer]
            elif found := re.fullmatch(r"What does the (.+) say\?", question):
                assert names.count(found[1]) == 1
                assert answer == " ".join(claim.text for claim in of(scene, "<OCR_WITH_REGION>"))
            else:
                way, anchor = re.fullmatch(
                    r"What is (to the left of|to the right of|above|below) the (.+)\?", question
                ).groups()
                fits = [
                    box
                    for name, box in boxes
                    if set(anchor.split()) <= set(descriptions[box].split(" that says ")[0].split())
                    and anchor.endswith(name)
                ]
                (base,) = fits
                axis, sign = (0, 1)["to the" not in way], -1 if way in ("to the left of", "above") else 1
                distance = {
                    (name, box): sign * (box[axis] + box[axis + 2] - base[axis] - base[axis + 2]) / 2
                    for name, box in boxes
                }
                (there,) = [key for key, value in distance.items() if value > 0]
                assert there[0] == answer and distance[there] >= SIDE / 12
    assert set(counts) == {"there", "many", "colour", "does", "is"} and min(counts.values()) > 100


def test_a_category_is_that_of_the_largest_object(scenes):
    found = 0
    for scene in scenes:
        for claim in of(scene, "<CLASSIFICATION>"):
            found += 1
            assert claim.regions[0].label == claim.text and claim.regions[0].box == (0, 0, SIDE, SIDE)
            assert claim.text in {row.text for row in of(scene, "<OD>")}
    assert found > len(scenes) / 3


def test_yes_and_no_are_as_frequent_for_every_object(scenes):
    counts = defaultdict(Counter)
    for scene in scenes:
        for question, answer in read_questions(scene):
            if answer in ("yes", "no"):
                counts[question][answer] += 1
    assert sum(c["yes"] for c in counts.values()) == sum(c["no"] for c in counts.values()) == len(scenes)
    # (yes − no)² / (yes + no) is χ² with one degree of freedom each: the mean over n labels is 1 ± 3·√(2/n)
    apart = [(c["yes"] - c["no"]) ** 2 / (c["yes"] + c["no"]) for c in counts.values()]
    assert sum(apart) / len(apart) < 1 + 3 * (2 / len(apart)) ** 0.5


def test_a_prior_over_answers_is_not_enough(scenes):
    """Give the commonest answer of half of the scenes on the other half; the truth scores 1."""
    half = len(scenes) // 2
    answers, starts = defaultdict(Counter), defaultdict(Counter)
    for scene in scenes[:half]:
        for question, answer in read_questions(scene):
            answers[question][answer] += 1
            starts[question[:9]][answer] += 1
    references, prior = [], []
    for index, scene in enumerate(scenes[half:]):
        for question, answer in read_questions(scene):
            known = answers.get(question) or starts[question[:9]]
            references.append(Reference(str(index), answer))
            prior.append(Prediction(str(index), known.most_common(1)[0][0]))
    metric = METRICS.get("answer")()
    assert metric.score([Prediction(r.image_id, r.text) for r in references], references).value == 1
    score = metric.score(prior, references)
    assert score.value < 0.4 and score.details["yes_no"] < 0.58 and score.details["other"] < 0.2


def test_the_option_is_true_or_false():
    with pytest.raises(SettingsError, match="questions"):
        SOURCES.get("scenes")(questions="yes")
