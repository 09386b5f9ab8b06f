"""Questions for names that are known to be absent: what is known, and what is asked."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest
from trainings import scenes, small

from florence.codec.grammar import LabelledRegions, write
from florence.coverage import COVERAGE
from florence.model.checkpoint import build
from florence.records import Annotation, Region, annotations_table
from florence.store import Store
from florence.tasks import Example, task
from florence.training import read_dataset
from florence.training.absent import add_absent, read_absent_names

NAME, SIZE = "<OPEN_VOCABULARY_DETECTION>", (100, 100)
BOX = (10.0, 20.0, 50.0, 60.0)
LABELS = "labels/round-00000.parquet"


def _rows(annotator, names, round=0):
    """Return claims by image: an image with no name is looked at, and nothing is found."""
    return [
        Annotation(f"{annotator}{image}{i}", image, "<OD>", annotator, "1", round, text, (Region(text, BOX),))
        for image, texts in names.items()
        for i, text in enumerate(texts)
    ]


def _annotator(data, name, claims, errors=(), **declared):
    """Write claims, coverage and declaration of an annotator, by `claims`: image → names."""
    data.write_table(f"claims/{name}@1/s-00000.parquet", annotations_table(_rows(name, claims)))
    rows = [
        dict.fromkeys(COVERAGE.names) | {"image_id": i, "annotator": name, "error": "x" if i in errors else None}
        for i in claims
    ]
    data.write_table(f"coverage/{name}@1/s-00000.parquet", pa.Table.from_pylist(rows, COVERAGE))
    facts = {"role": "annotator", "tasks": ["<OD>"], "vocabulary": None, "use": "simulated", **declared}
    data.write_json(f"annotators/{name}@1.json", facts)


@pytest.fixture
def data(tmp_path):
    """A snapshot in which three names are kept in three images each, and `rare` in one."""
    store = Store(str(tmp_path))
    kept = {f"{i}": ["cat", "dog", "Cow", *(["rare"] if not i else [])] for i in range(3)}
    store.write_table(LABELS, annotations_table(_rows("consensus", kept)))
    return store


def _find(data, *images):
    return read_absent_names(data, LABELS).find(images, ["s-00000.parquet"])


def test_a_name_is_absent_where_one_looked_who_can_claim_it_and_nobody_claims_it(data):
    _annotator(data, "a", {"x": ["dog"], "y": []}, vocabulary=["cat", "dog", "rare"])
    _annotator(data, "b", {"y": ["COW"], "z": ["cow", "cat"]})
    # of x, b says nothing: nobody who looked knows the cow; in y the claim of b, in other case, is one
    assert _find(data, "x", "y", "z", "never") == {"x": ["cat"], "y": ["cat", "dog"], "z": [], "never": []}


def test_an_image_that_was_not_read_is_not_taken_for_empty(data):
    _annotator(data, "a", {"x": [], "y": []}, errors=("x",), vocabulary=["cat"])
    assert _find(data, "x", "y") == {"x": [], "y": ["cat"]}


@pytest.mark.parametrize(
    ("name", "declared"),
    [("student", {}), ("names", {"use": "crop_classifier"}), ("r", {"role": "ranker"}), ("t", {"tasks": ["<OCR>"]})],
)
def test_the_silence_of_some_shows_nothing(data, name, declared):
    _annotator(data, name, {"x": []}, vocabulary=["cat", "dog"], **declared)
    assert _find(data, "x") == {"x": []}


def test_the_claims_of_those_count_all_the_same(data):
    _annotator(data, "a", {"x": []}, vocabulary=["cat", "dog"])
    _annotator(data, "student", {"x": ["cat"]})
    assert _find(data, "x") == {"x": ["dog"]}


@pytest.mark.parametrize(
    ("complete", "expected"),
    [(False, {"x": [], "y": ["Cow", "cat", "dog"]}), (True, {"x": ["Cow", "cat"], "y": ["Cow", "cat", "dog"]})],
)
def test_people_show_it_by_saying_nothing_is_there_or_by_labelling_everything(data, complete, expected):
    _annotator(data, "human", {"x": ["dog"], "y": [""]}, role="human", complete=complete)
    assert _find(data, "x", "y") == expected


def _examples():
    regions = {name: (Region(name, (x, 10.0, x + 20, 40.0)),) for name, x in (("cat", 5.0), ("dog", 60.0))}
    return [
        Example("0" * 64, NAME, name, write([LabelledRegions(name, found)], task(NAME).form, SIZE), "", found)
        for name, found in regions.items()
    ]


def test_answers_name_present_names_alone_and_the_share_is_kept():
    alone = total = 0
    absent, orders = ["cow", "hen", "owl"], set()
    for number in range(400):
        image = hashlib.sha256(str(number).encode()).hexdigest()
        found = add_absent(_examples(), image, SIZE, absent, share=0.4, seed=0)
        assert found == add_absent(_examples(), image, SIZE, absent, share=0.4, seed=0)
        for example in found:
            names = task(NAME).checked_input(example.input).split("<and>")
            answer = task(NAME).decode(example.target, SIZE)
            assert answer.error is None
            assert task(NAME).encode(answer, SIZE) == example.target
            assert {r.label for r in answer.regions} == set(names) - set(absent)
            if len(names) > 1 and answer.regions:
                orders.add(names.index(answer.regions[0].label))
            alone, total = alone + (not answer.regions), total + 1
    assert alone / total == pytest.approx(0.4, abs=0.02)
    assert orders == {0, 1}


def test_without_a_share_or_absent_names_nothing_is_added():
    assert add_absent(_examples(), "0" * 64, SIZE, ["cow"], share=0.0, seed=0) == _examples()
    assert add_absent(_examples(), "0" * 64, SIZE, [], share=0.4, seed=0) == _examples()


def test_a_training_draws_questions_without_an_answer_only_where_it_is_asked_to(tmp_path):
    store = scenes(tmp_path)
    for name in store.names("truth", ".parquet"):
        table, shard = store.read_table(name), name.rpartition("/")[2]
        store.write_table(f"claims/a@1/{shard}", table)
        looks = [dict.fromkeys(COVERAGE.names) | {"image_id": i} for i in table["image_id"].unique().to_pylist()]
        store.write_table(f"coverage/a@1/{shard}", pa.Table.from_pylist(looks, COVERAGE))
    checkpoint = build("nano", image_size=32)
    counts = []
    for share in (0.0, 0.5):
        dataset = read_dataset(checkpoint, small(absent_share=share), store)
        buffer = dataset.read_buffer(dataset.order.buffers(0)[0])
        images = [buffer.read_image(index, 32) for index in range(len(dataset))]
        # <s> and </s> alone
        counts.append(sum(len(one.target) == 2 for image in images for one in image.examples.get(NAME, ())))
    assert counts[0] == 0 < counts[1]
