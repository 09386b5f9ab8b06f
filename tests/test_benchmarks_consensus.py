"""The benchmark of the consensus: its generators, its figures, the other methods, and the tables."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flow_workspaces import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))  # its modules import each other by their names

import consensus
from _cases import Case, Result, list_cases, measure
from _consensus_labels import fuse_sample
from _detections import Detector, Scenario, draw
from _lvis import EXPERIMENTS, draw_experiment, read_double
from _rival_programs import PACKAGES, Worker
from _rival_worker import _clusters
from _rivals import MethodError, best_single, majority, run_rivals, tune_all, tune_single, weighted
from _samples import Declared, Found, Picture, Sample, objects, true_objects
from _scenarios import FAIR, GOOD, SCENARIOS, WEAK, WIDE, draw_scenario
from _scoring import average_precision, hits, judge
from _simulated import draw_scenes


def sample(*pictures: tuple[list[Found], dict[str, list[Found]]]) -> Sample:
    """Return pictures of 100 × 100 pixels with their truth and claims."""
    names = {name: Declared() for name in pictures[0][1]}
    return Sample([Picture(100, 100, "s", truth, claims) for truth, claims in pictures], names)


DOG, MOVED = (10.0, 10.0, 30.0, 30.0), (12.0, 10.0, 32.0, 30.0)
"""Two boxes with an IoU of 9/11."""
CAT = (60.0, 60.0, 90.0, 90.0)


def test_an_object_is_found_once_by_its_name_and_place():
    truth = true_objects(sample(([Found("dog", DOG), Found("dog", CAT)], {"a": []})))
    rows = [(0, 0, DOG, 0.5, 1, True), (0, 0, MOVED, 0.9, 1, True), (0, 0, CAT, 0.1, 1, True)]
    found = objects([*rows, (0, 1, DOG, 0.99, 1, True), (1, 0, DOG, 0.99, 1, True)])
    # the better score takes the dog; another name and another picture are wrong; at 0.85 the exact box is left
    assert hits(found, truth, (0.5, 0.85)).tolist() == [
        [False, True],
        [True, False],
        [True, True],
        [False, False],
        [False, False],
    ]
    # right, wrong, right of two: precision 1 up to half of them, then 2/3
    assert average_precision(np.asarray((0.9, 0.8, 0.7)), np.asarray((1, 0, 1)), 2) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_figures_count_what_is_kept_and_what_is_sure():
    truth = true_objects(sample(([Found("dog", DOG), Found("dog", CAT)], {"a": []})))
    found = objects(
        [(0, 0, MOVED, 0.95, 1, True), (0, 0, (40.0, 0.0, 50.0, 9.0), 0.92, 1, True), (0, 0, CAT, 0.3, 1, False)]
    )
    figures = judge(found, truth)
    assert figures["f1"] == pytest.approx(2 * 1 / (2 + 2)) and figures["f1_75"] == figures["f1"]
    assert (figures["right at 0.9"], figures["sure"], figures["kept"]) == (0.5, 2, 2)
    assert figures["brier"] == pytest.approx((0.05**2 + 0.92**2 + 0.7**2) / 3)


# ---------------------------------------------------------------- the generator


def test_one_seed_draws_one_world():
    one, again, other = (draw(SCENARIOS["five"], 4, seed) for seed in (3, 3, 4))
    assert one == again and one != other


def test_detectors_are_as_good_as_they_are_said_to_be():
    drawn = draw(Scenario({"good": GOOD, "fair": FAIR, "weak": WEAK}), 60, 2)
    f1 = tune_single(drawn).f1
    assert f1["good"] > f1["fair"] > f1["weak"] + 0.1
    for picture in drawn.pictures:
        for found in picture.claims.values():
            boxes = np.asarray([one.box for one in found]).reshape(-1, 4)
            assert (boxes >= 0).all() and (boxes <= (640, 480, 640, 480)).all() and (boxes[:, 2:] > boxes[:, :2]).all()


def test_a_wide_detector_draws_a_tenth_too_wide():
    drawn = draw(Scenario({"wide": replace(WIDE, merges=0, splits=0, doubles=0, spurious=0)}), 80, 2)
    ratios = []
    for picture in drawn.pictures:
        for true in picture.truth:
            width = true.box[2] - true.box[0]
            inside = 40 < true.box[0] and true.box[2] < 600
            near = [f for f in picture.claims["wide"] if np.abs(np.subtract(f.box, true.box)).max() < 0.25 * width]
            if len(near) == 1 and inside:
                ratios.append((near[0].box[2] - near[0].box[0]) / width)
    assert len(ratios) > 100 and np.median(ratios) == pytest.approx(1.1, abs=0.015)


def test_a_family_shares_its_misses():
    def agreement(family: str) -> float:
        one = Detector(skill=0.0, family=family, spurious=0, merges=0, doubles=0, splits=0, confused=0, noise=0.01)
        drawn = draw(Scenario({"a": one, "b": one}, hard_negatives=0), 80, 5)
        seen = {
            name: np.concatenate(
                [
                    [any(np.abs(np.subtract(f.box, t.box)).max() < 30 for f in p.claims[name]) for t in p.truth]
                    for p in drawn.pictures
                ]
            )
            for name in "ab"
        }
        return float(np.corrcoef(seen["a"], seen["b"])[0, 1])

    assert agreement("one") > agreement("") + 0.15 > 0.15  # difficulty is shared by all, more by a family


def test_a_family_shares_its_false_positives():
    def shared(family: str) -> float:
        one = Detector(skill=-9.0, family=family, spurious=3.0, noise=0.01)
        drawn = draw(Scenario({"a": one, "b": one}, hard_negatives=0), 40, 5)
        near = [
            any(f.name == g.name and np.abs(np.subtract(f.box, g.box)).max() < 15 for g in p.claims["b"])
            for p in drawn.pictures
            for f in p.claims["a"]
        ]
        assert len(near) == pytest.approx(120, abs=35)
        return float(np.mean(near))

    assert shared("one") > 0.4 and shared("") < 0.05


def test_scores_names_and_tails_are_those_of_the_detector():
    kinds = {"none": replace(GOOD, scores="none"), "constant": replace(GOOD, scores="constant")}
    kinds |= {"tenths": replace(GOOD, scores="rounded"), "some": replace(GOOD, vocabulary=("a 1", "b 2"), tail=10.0)}
    drawn = draw(Scenario(kinds), 30, 1)
    found = {name: [one for p in drawn.pictures for one in p.claims[name]] for name in kinds}
    assert {one.score for one in found["none"]} == {None} and {one.score for one in found["constant"]} == {1.0}
    assert all(one.score == round(one.score, 1) for one in found["tenths"])
    assert {one.name for one in found["some"]} == {"a 1", "b 2"}
    assert np.median([one.score for one in found["some"]]) < 0.1 < np.median([one.score for one in found["tenths"]])
    assert drawn.annotators["some"].vocabulary == ("a 1", "b 2")


def test_crowds_stand_side_by_side_under_one_name():
    drawn = draw_scenario("crowd-200", 40, 1)
    assert len(drawn.pictures) == 5
    for picture in drawn.pictures:
        assert len(picture.truth) > 190 and len({one.name for one in picture.truth}) == 1


# ---------------------------------------------------------------- two people's labels


def write_doubles(path: Path, as_text: bool) -> Path:
    """Write double annotations of two images; one version of the file has numbers and lists as texts."""

    def given(value):
        return json.dumps(value) if as_text and not isinstance(value, str) else value

    boxes = [(1, 7, "r1", DOG), (1, 7, "r2", MOVED), (1, 8, "r1", CAT), (2, 9, "r1", DOG), (2, 7, "r1", CAT)]
    data = {
        "images": [
            {"id": 1, "width": 100, "height": 80, "not_exhaustive_category_ids": [8]},
            {"id": 2, "width": 90, "height": 100, "not_exhaustive_category_ids": []},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "crumb"}, {"id": 9, "name": "hat"}],
        "annotations": [
            {
                "image_id": given(image),
                "category_id": given(category),
                "rater_id": rater,
                "bbox": given([box[0], box[1], box[2] - box[0], box[3] - box[1]]),
            }
            for image, category, rater, box in boxes
        ],
    }
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("as_text", [False, True])
def test_one_rater_is_the_truth_and_the_other_an_annotator(tmp_path: Path, as_text: bool):
    data = read_double(write_doubles(tmp_path / "double.json", as_text))
    drawn = draw_experiment(data, "second-good", 1)
    first, second = drawn.pictures
    # crumbs are not labelled exhaustively in the first image
    assert first.truth == [Found("dog", DOG)] and first.claims["second rater"] == [Found("dog", MOVED)]
    assert [one.name for one in second.truth] == ["hat", "dog"] and second.claims["second rater"] == []
    assert (first.width, first.height, second.height) == (100, 80, 100) and set(drawn.annotators) == {
        "A",
        "second rater",
    }
    for name in EXPERIMENTS:
        assert len(draw_experiment(data, name, 2).pictures) == 2


@pytest.mark.parametrize("text", ["[]", "{}", '{"images": [], "categories": [], "annotations": []}', "no"])
def test_another_file_is_an_error_that_names_it(tmp_path: Path, text: str):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json holds no double annotations"):
        read_double(path)


# ---------------------------------------------------------------- the methods


def test_majority_and_weighted_boxes_fuse_what_overlaps():
    from ensemble_boxes import weighted_boxes_fusion

    claims = {
        "a": [Found("dog", DOG, 0.9), Found("cat", CAT, 0.4)],
        "b": [Found("dog", MOVED, 0.6)],
        "c": [Found("cat", DOG, 0.8)],
    }
    one = sample(([Found("dog", DOG)], claims))
    settings = {"overlap": 0.5, "own": False, "weights": False, "single": tune_single(one)}
    found = majority(one, settings)
    dog = found.where((found.name == one.names["dog"]) & (found.votes == 2))
    assert dog.box.tolist() == [[11.0, 10.0, 31.0, 30.0]] and sorted(found.votes) == [1, 1, 2]
    boxes, scores, _ = weighted_boxes_fusion(
        [[np.asarray(DOG) / 100, np.asarray(CAT) / 100], [np.asarray(MOVED) / 100], [np.asarray(DOG) / 100]],
        [[0.9, 0.4], [0.6], [0.8]],
        [[1, 0], [1], [0]],
        iou_thr=0.5,
    )
    fused = weighted(one, settings)
    np.testing.assert_allclose(fused.box, boxes * 100, rtol=1e-5)
    np.testing.assert_allclose(fused.score, scores, rtol=1e-5)


def test_each_annotator_is_tuned_by_itself():
    picture = ([Found("dog", DOG)], {"a": [Found("dog", DOG, 0.8), Found("dog", CAT, 0.3)], "b": [Found("cat", DOG)]})
    known = tune_single(sample(picture))
    assert known.f1 == {"a": 1.0, "b": 0.0} and 0.3 < known.threshold["a"] <= 0.8
    assert best_single(sample(picture), known).kept.tolist() == [True, False]


def test_tuning_reaches_what_the_best_annotator_reaches():
    tuning, measured = (draw(SCENARIOS["good-weak"], 50, seed) for seed in (8, 9))
    found = {name: judge(one, true_objects(measured)) for name, one in run_rivals(tuning, measured).items()}
    assert found["weighted boxes fusion"]["f1"] > found["best single"]["f1"] - 0.03
    assert set(tune_all(tuning).methods) == {"majority", "weighted boxes fusion"}


def test_packages_that_are_not_there_are_an_error_that_says_so(tmp_path: Path):
    package = PACKAGES["detection-fusion"]
    home = tmp_path / "detection-fusion-torch-1.1.0"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(sys.executable)
    (home / "ready").touch()  # as if it were installed
    worker = Worker(package, tmp_path)
    one = sample(([Found("dog", DOG)], {"a": [Found("dog", DOG, 0.9)]}))
    with pytest.raises(MethodError, match=r"detection-fusion\[torch\]==1\.1\.0: ModuleNotFoundError"):
        worker(one, {"overlap": 0.5, "own": False, "strategy": "bayesian", "single": tune_single(one)})
    worker.close()
    tuned = tune_all(one, {"detection-fusion": (worker, package.grid)})  # the others go on
    assert set(tuned.methods) == {"majority", "weighted boxes fusion"} and "ModuleNotFound" in str(tuned.failed)
    worker.close()


def test_clusters_for_aggregators_have_each_annotator_once():
    claims = {"a": [["dog", DOG, 0.9], ["dog", MOVED, 0.5]], "b": [["cat", MOVED, 0.7]], "c": [["dog", CAT, 0.1]]}
    assert [sorted(cluster) for cluster in _clusters(claims, 0.5)] == [["a", "b"], ["a"], ["c"]]


# ---------------------------------------------------------------- ours


def test_no_truth_reaches_the_consensus_but_gold():
    drawn = draw(SCENARIOS["two"], 12, 3)
    blind = Sample([replace(p, truth=[]) for p in drawn.pictures], drawn.annotators, drawn.names)
    seen, unseen = fuse_sample(drawn), fuse_sample(blind)
    assert all(np.array_equal(getattr(seen, key), getattr(unseen, key)) for key in ("picture", "name", "box", "score"))
    given = fuse_sample(drawn, gold=3)
    truth = true_objects(drawn)
    part = given.where(given.kept & (given.picture < 3))
    assert hits(part, truth, (0.99,)).sum() == (truth.picture < 3).sum()


def test_ours_is_no_worse_on_simulated_annotators_than_other_ways_tuned_elsewhere():
    measured = draw_scenes(120, 0)
    truth = true_objects(measured)
    ours = judge(fuse_sample(measured), truth)
    found = run_rivals(draw_scenes(60, 10), measured)
    others = {name: judge(one, truth)["f1"] for name, one in found.items()}
    assert ours["f1"] > max(others.values()) - 0.03 and ours["f1"] > others["best single"] + 0.1
    assert ours["ece"] < 0.1


# ---------------------------------------------------------------- the command


def test_scenarios_are_listed_by_part():
    assert len(SCENARIOS) >= 16 and len(EXPERIMENTS) >= 12
    parts = ("simulated", "detections", "photos")
    assert [case.part for case in list_cases(parts, ["six", "places", "three"], None)] == list(parts)
    with pytest.raises(ValueError, match="no scenario nonsense; there are simulated: six, detections: three five"):
        list_cases(parts, ["nonsense", "three"], None)


def test_the_command_prints_tables_and_writes_figures(tmp_path: Path, monkeypatch, capsys):
    doubles, figures = write_doubles(tmp_path / "double.json", False), tmp_path / "figures.json"
    command = "consensus.py --quick --images 8 --workers 1 --scenario two --part lvis --part detections --no-families"
    command += f" --lvis {doubles} --json {figures}"
    monkeypatch.setattr(sys, "argv", command.split())
    consensus.main()
    printed = capsys.readouterr().out
    for title in ("(b) Drawn detections: F1", "(c) Two people's labels", "Failures: F1 more than 0.01", "Counts"):
        assert title in printed
    written = json.loads(figures.read_text())
    assert written["counts"]["detections"]["scenarios"] == 1 and set(written["parts"]) == {"lvis", "detections"}
    ours = written["parts"]["detections"][0]["figures"]["71"]["ours"]
    assert f"{ours['f1']:.3f} / {ours['f1_75']:.3f} / {ours['ap']:.3f}" in printed


def test_what_is_given_as_gold_is_not_measured(tmp_path: Path):
    from _cases import Options

    options = Options((3,), 4, 10, 10, 6, True, "none", (), tmp_path, None)
    rows = measure(Case("detections", "one"), options).figures[3]
    truth = true_objects(draw_scenario("one", 10, 3))
    single = rows["best single"]
    assert single["kept"] < 2 * (truth.picture >= 6).sum() < 2 * (truth.picture < 6).sum() + single["kept"]


def test_failures_are_those_below_the_best_other_method(capsys):
    def row(f1, f1_75, ap, sure=0.95):
        return {"f1": f1, "f1_75": f1_75, "ap": ap, "ece": 0.02, "right at 0.9": sure}

    def result(name, *rows):
        methods = ("ours", "best single", "weighted boxes fusion")
        return Result(Case("detections", name), {71: dict(zip(methods, rows, strict=True))})

    results = [
        result("better", row(0.8, 0.7, 0.9), row(0.7, 0.6, 0.8), row(0.75, 0.65, 0.85)),
        result("equal", row(0.795, 0.7, 0.8, 0.85), row(0.8, 0.6, 0.8), row(0.75, 0.65, 0.85)),
        result("worse", row(0.8, 0.5, 0.9), row(0.7, 0.52, 0.8), row(0.75, 0.45, 0.85)),
    ]
    counts = consensus.summary(results)
    assert (counts["failed"], counts["strictly above"], counts["AP not below weighted boxes fusion"]) == (1, 1, 2)
    assert counts["less than 0.9 right of those stated at 0.9"] == 1
    consensus.print_failures({"detections": results})
    printed = capsys.readouterr().out
    assert (
        "| detections | worse | 0.75 | 0.500 | best single | 0.520 | -0.020 |" in printed and "| equal |" not in printed
    )
