"""Public benchmarks: hand-made files in the published forms, and the scores of pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from florence.benchmarks import BenchmarkAnswer
from florence.benchmarks.coco_detection import CocoDetection
from florence.benchmarks.opening import open_benchmark
from florence.benchmarks.run import collect_benchmark_answers
from florence.errors import DataError, UnknownNameError
from florence.records import Region
from florence.store import Store
from florence.tasks import Answer
from flows.evaluate import evaluate_benchmark, format_benchmark

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 90, "name": "toothbrush"}]


def write_coco(root, annotations, images=2):
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    rows = [{"id": 7 * n, "file_name": f"{7 * n:012d}.jpg", "width": 640, "height": 480} for n in range(1, images + 1)]
    for row in rows[:3]:
        Image.new("RGB", (640, 480), (90, 90, 90)).save(root / "val2017" / row["file_name"])
    truth = {
        "images": rows,
        "categories": CATEGORIES,
        "annotations": [{"id": n, "segmentation": [], **row} for n, row in enumerate(annotations, start=1)],
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(truth))


def thing(image, category, box, area=None, crowd=0):
    size = box[2] * box[3] if area is None else area
    return {"image_id": image, "category_id": category, "bbox": box, "area": size, "iscrowd": crowd}


def answer(*regions):
    return BenchmarkAnswer("", tuple(Region(name, box, score=score) for name, box, score in regions), False)


def test_crowds_are_ignored_and_sizes_are_those_of_masks(tmp_path):
    people = [thing(7, 1, [0, 0, 200, 200], area=500), thing(7, 1, [300, 0, 300, 300], crowd=1)]
    write_coco(tmp_path, people)
    benchmark = CocoDetection(tmp_path)
    inside = ("Person", (310.0, 10.0, 400.0, 100.0), 0.9)  # in the crowd, and likelier than the person
    right = ("person", (0.0, 0.0, 200.0, 200.0), 0.5)
    found = benchmark.score(benchmark.images, {"7": answer(inside, right), "14": answer(("sofa", right[1], 0.9))})
    assert found["ap"] == found["ap50"] == found["ap_small"] == found["ap/person"] == pytest.approx(100)
    assert "ap_large" not in found and "ap/dog" not in found
    assert found["unknown_names"] == pytest.approx(100 / 3)
    wrong = ("person", (0.0, 300.0, 100.0, 400.0), 0.9)  # before the right one: precision 1/2 at every recall
    found = benchmark.score(benchmark.images, {"7": answer(wrong, right), "14": answer()})
    assert found["ap"] == pytest.approx(50) and found["ap_unscored"] == pytest.approx(50)
    found = benchmark.score(benchmark.images, {"7": answer(), "14": answer()})
    assert found["ap"] == 0


def test_the_figures_are_those_of_pycocotools_on_1000_random_images(tmp_path):
    rng = np.random.default_rng(5)

    def box():
        w, h = rng.integers(4, 300, 2)
        return [float(rng.integers(0, 640 - w)), float(rng.integers(0, 480 - h)), float(w), float(h)]

    truth, rows, answers = [], [], {}
    for image in range(7, 7007, 7):
        regions = []
        for _ in range(rng.integers(0, 5)):
            at, category = box(), CATEGORIES[rng.integers(3)]
            crowd = int(rng.random() < 0.1)
            truth.append(thing(image, category["id"], at, at[2] * at[3] * float(rng.uniform(0.3, 1)), crowd))
            if rng.random() < 0.8:
                x, y, w, h = (float(v) for v in np.asarray(at) + rng.integers(-4, 5, 4))
                named = category if rng.random() < 0.8 else CATEGORIES[rng.integers(3)]
                score = float(rng.random())
                regions.append((named["name"], (x, y, x + max(w, 1), y + max(h, 1)), score))
                rows.append((image, named["id"], [x, y, max(w, 1), max(h, 1)], score))
        answers[str(image)] = answer(*regions)
    write_coco(tmp_path, truth, images=1000)
    benchmark = CocoDetection(tmp_path)
    found = benchmark.score(benchmark.images, answers)
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO(str(tmp_path / "annotations" / "instances_val2017.json"))
        keys = ("image_id", "category_id", "bbox", "score")
        theirs = COCOeval(gold, gold.loadRes([dict(zip(keys, row, strict=True)) for row in rows]), "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    ours = [found[key] for key in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")]
    assert ours == pytest.approx(list(100 * theirs.stats[:6]), abs=1e-9)
    assert 20 < ours[0] < 90
    dogs = theirs.eval["precision"][:, :, 1, 0, 2]
    assert found["ap/dog"] == pytest.approx(100 * dogs.mean(), abs=1e-9)


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    write_coco(tmp_path / "coco", [thing(7, 1, [0, 0, 9, 9])], images=3)
    images = CocoDetection(tmp_path / "coco").images
    monkeypatch.setattr("florence.benchmarks.run.CHUNK_QUESTIONS", 1)
    out, asked = Store(str(tmp_path / "out")), []

    def predict(pixels, queries):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(queries[0].task)
        return [Answer("dog", (Region("dog", (1.0, 2.0, 3.0, 4.0), score=0.5),))]

    with pytest.raises(KeyboardInterrupt):
        collect_benchmark_answers(images, out, predict)
    asked[:] = ["before"]
    found = collect_benchmark_answers(images, out, predict)
    assert asked == ["before", "<OD>"] and found.keys() == {"7", "14", "21"}
    dog = BenchmarkAnswer("dog", (Region("dog", (1.0, 2.0, 3.0, 4.0), score=0.5),), False)
    assert found["7"] == found["21"] == dog
    images[0].path.unlink()
    with pytest.raises(DataError, match=r"000000000007\.jpg.*needs all images"):
        collect_benchmark_answers(images, Store(str(tmp_path / "other")), predict)


def write_vqa(root, answers):
    (root / "val2014").mkdir()
    Image.new("RGB", (64, 48)).save(root / "val2014" / "COCO_val2014_000000000042.jpg")
    asked = [{"image_id": 42, "question": "Is it wet?", "question_id": 42000 + n} for n in range(len(answers))]
    (root / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": asked}))
    rows = [
        {
            "question_id": 42000 + n,
            "image_id": 42,
            "answer_type": kind,
            "answers": [{"answer": text, "answer_id": i} for i, text in enumerate(given, start=1)],
        }
        for n, (kind, given) in enumerate(answers)
    ]
    (root / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": rows}))


def test_questions_are_scored_by_leaving_one_person_out(tmp_path):
    write_vqa(tmp_path, [("yes/no", ["yes"] * 10), ("number", ["2"] * 2 + ["3"] * 8)])
    benchmark = open_benchmark("vqav2", tmp_path)
    answers = {"42000": BenchmarkAnswer("Yes.", (), False), "42001": BenchmarkAnswer("two", (), False)}
    found = benchmark.score(benchmark.images, answers)
    # two of ten said 2: without one of them 1/3, without another person 2/3
    number = 100 * (2 / 3 * 8 + 1 / 3 * 2) / 10
    assert found == pytest.approx(
        {"accuracy": (100 + number) / 2, "accuracy/yes/no": 100, "accuracy/number": number, "invalid": 0}
    )
    (tmp_path / "v2_mscoco_val2014_annotations.json").write_text('{"annotations": []}')
    with pytest.raises(DataError, match="do not belong together: question 42000"):
        open_benchmark("vqav2", tmp_path)


def test_a_preset_is_scored_beside_the_papers_figures(tmp_path):
    write_coco(tmp_path / "coco", [thing(7, 1, [0, 0, 90, 90])])
    result = evaluate_benchmark(tmp_path, "coco-det", tmp_path / "coco", "nano", 1, lambda *_: None)
    assert (result.images, result.of) == (1, 2) and 0 <= result.figures["ap"] <= 100
    text = format_benchmark(result)
    assert "1 of 2 images: a part, not comparable" in text and "34.7" in text and "43.4" in text
    assert json.loads((result.folder / "scores.json").read_text())["figures"]["ap"] == result.figures["ap"]


def test_an_unknown_benchmark_and_a_wrong_folder_are_named(tmp_path):
    with pytest.raises(UnknownNameError, match="coco-det, vqav2"):
        open_benchmark("imagenet", tmp_path)
    with pytest.raises(DataError, match="instances_val2017.json does not exist; --root"):
        open_benchmark("coco-det", tmp_path)
