"""Evaluate, compare, publish the champion's scores: on scenes with a right predictor, and on photos without truth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from evaluations import Oracle, World, make_object
from workspaces import workspace_of

from florence.config import settings_from
from florence.engine.reliability import Reliability
from florence.evaluate import make_baseline
from florence.records import ANNOTATIONS, Claim, table_annotations, table_images
from florence.report.facts import LoopFacts, RoundFacts
from florence.report.summary import summarize_rounds
from florence.store import Store
from florence.workspace import audit, publish
from florence.workspace.annotate import AnnotatorVersion, annotate_shard, list_annotators
from florence.workspace.collect import collect_images
from florence.workspace.compare import compare_models
from florence.workspace.evaluate import evaluate_model, measure_labels
from florence.workspace.layout import ANCHOR, REJECTED_FILES, list_shards
from florence.workspace.publish import publish_snapshot, restore_store

SIMULATED = {"use": "simulated", "sources": ["scenes"]}
SCENES = settings_from(
    {
        "sources": {"scenes": {"use": "scenes", "count": 40}},
        "annotators": {
            "careful": {**SIMULATED, "missed": 0.02, "mislabelled": 0.02, "shifted": 0.02, "seed": 1},
            "careless": {**SIMULATED, "missed": 0.4, "mislabelled": 0.4},
        },
        "split": {"held_out": 0.5, "gold": 0.3},
        "promotion": {"min_images": 10},
    }
)
PHOTOS = settings_from({"sources": {"made": {"use": "folder", "uri": "photos"}}, "annotators": {}})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """Return an engine whose labels are the claims of one annotator; the real one has its own tests."""
    monkeypatch.setattr(
        audit,
        "estimate_reliability",
        lambda claims, coverage, settings, profiles=(): {
            (name, "<OD>"): Reliability(0.5, {"cat": 0.75}) for name in set(claims["annotator"].to_pylist())
        },
    )
    monkeypatch.setattr(publish, "compute_statistics", lambda labels, images: {})


def labels_of(store: Store, annotator: AnnotatorVersion, round: int) -> pa.Table:
    table = store.read_tables(f"claims/{annotator.key}", ANNOTATIONS)
    columns = {"annotator": pa.array(["consensus"] * len(table)), "round": pa.array([round] * len(table), pa.int32())}
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), ANNOTATIONS.field(name), values)
    return table


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> Path:
    """Make a store of scenes with two annotators' claims, and two rounds of labels: first the careless one's."""
    folder = tmp_path_factory.mktemp("scenes")
    store = Store(str(folder))
    collect_images(workspace_of(SCENES, store))
    for number, annotator in enumerate(sorted(list_annotators(SCENES), key=lambda a: a.name, reverse=True)):
        for shard in list_shards(store):
            annotate_shard(workspace_of(SCENES, store), [annotator], shard)
        store.write_table(f"labels/round-{number:05d}.parquet", labels_of(store, annotator, number))
    return folder


@pytest.fixture
def store(annotated: Path, tmp_path: Path) -> Store:
    shutil.copytree(annotated, tmp_path / "store")
    return Store(str(tmp_path / "store"))


class Right:
    """A predictor that knows the truth; ``blind``: it answers about the first picture whatever it is shown."""

    def __init__(self, store: Store, blind: bool = False) -> None:
        from florence.images import decode_image

        self.records = {}
        self.truth: dict = {}
        for name in store.names("images", ".parquet"):
            for record, content in table_images(store.read_table(name)):
                self.records[decode_image(content, record.name).tobytes()] = record
        for row in table_annotations(store.read_tables("truth", ANNOTATIONS)):
            self.truth.setdefault((row.image_id, row.task), []).append(row)
        self.only = next(iter(self.records.values())) if blind else None

    def __call__(self, pictures, asks, **_):
        from florence.tasks import task

        answers = []
        for ask in asks:
            record, one = self.only or self.records[pictures[ask.image].tobytes()], task(ask.task)
            examples = one.examples(record, self.truth.get((record.image_id, one.annotation_type), []))
            found = [example for example in examples if example.input == ask.input] or examples[:1] * (
                self.only is not None
            )
            height, width = pictures[ask.image].shape[:2]
            answers.append(one.decode(found[0].target if found else "", (width, height), ask.input))
        return answers


def check_files_of_an_evaluation(first: Path, logged: dict[str, float]) -> None:
    assert set(contents(first)) == {
        "scores/scores.parquet",
        "scores/shuffled.parquet",
        "scores/initial.parquet",
        "scores/calibration.json",
        "metrics/scores.json",
        "metrics/summary.json",
        "metrics/labels.json",
        "plots/scores.csv",
    }
    scores = json.loads((first / "metrics/scores.json").read_text())
    for task in (
        "<OD>",
        "<REGION_TO_CATEGORY>",
        "<REGION_PROPOSAL>",
        "<CAPTION_TO_PHRASE_GROUNDING>",
        "<OCR>",
        "<DENSE_REGION_CAPTION>",
    ):
        assert scores[task]["truth"]["value"] == 1.0 and scores[task]["truth"]["invalid"] == 0, task
    summary = json.loads((first / "metrics/summary.json").read_text())
    assert summary == {
        task.strip("<>"): next(found["value"] for found in by_reference.values() if "value" in found)
        for task, by_reference in scores.items()
        if any("value" in found for found in by_reference.values())
    }
    assert scores["<OD>"]["truth"]["shuffled"] < 0.1 and scores["<REGION_TO_CATEGORY>"]["truth"]["shuffled"] < 0.3
    assert scores["<MORE_DETAILED_CAPTION>"]["truth"]["details"]["exact"] == 1.0
    assert logged["scores/od/truth"] == 1.0
    assert (first / "plots/scores.csv").read_text().startswith("task,reference,value\n<CAPTION>,truth,")
    labels = json.loads((first / "metrics/labels.json").read_text())
    assert set(labels) == {"gold", "train", "annotators"} and set(labels["annotators"]) == {"careful", "careless"}
    f1 = {name: found["truth"]["<OD>"]["f1"]["value"] for name, found in labels["annotators"].items()}
    assert f1["careful"] > f1["careless"] + 0.2
    assert labels["gold"]["truth"]["<OD>"]["f1"]["value"] == f1["careless"], (
        "round 0 is what the careless annotator says"
    )


def test_a_round_from_scores_to_the_next_baseline(store: Store, tmp_path: Path):
    annotators, data = list_annotators(SCENES), Store(str(tmp_path / "data"))
    publish_snapshot(workspace_of(SCENES, store, data), annotators, 0)
    right, first = Right(store), tmp_path / "first"
    logged: dict[str, float] = {}
    evaluate_model(
        workspace_of(SCENES, data=data, root=first), lambda step, figures: logged.update(figures), predict=right
    )
    again = tmp_path / "again"
    evaluate_model(workspace_of(SCENES, data=data, root=again), predict=right)
    assert contents(first) == contents(again)
    check_files_of_an_evaluation(first, logged)
    assert compare_models(workspace_of(SCENES, data=data, root=first)).accepted
    decision = (first / "metrics/decision.json").read_bytes()
    compare_models(workspace_of(SCENES, data=data, root=first))
    assert (first / "metrics/decision.json").read_bytes() == decision
    store.write_table(
        "baseline/round=1/scores.parquet", make_baseline(Store(str(first)).read_table("scores/scores.parquet"))
    )
    publish_snapshot(workspace_of(SCENES, store, data), annotators, 1)
    assert len(data.read_table("baseline/scores.parquet")) > 100
    same = compare_models(workspace_of(SCENES, data=data, root=first))
    assert not same.accepted and "<OD>, 1.000 before, is 1.000 now" in same.reason
    assert "not shown to be better" in same.reason


def test_a_model_that_ignores_the_image_is_no_champion(store: Store, tmp_path: Path):
    data, root = Store(str(tmp_path / "data")), tmp_path / "root"
    publish_snapshot(workspace_of(SCENES, store, data), list_annotators(SCENES), 0)
    evaluate_model(workspace_of(SCENES, data=data, root=root), predict=Right(store, blind=True))
    decision = compare_models(workspace_of(SCENES, data=data, root=root))
    assert not decision.accepted and "not shown to be better than" in decision.reason
    assert "with the images shuffled" in decision.reason
    (initial,) = [c for c in decision.changes if c.against == "initial"]
    assert initial.before == 0.0 and initial.n == 20, "the model that training began with is scored as it is"


def test_the_champion_of_each_round_is_published_again_as_it_was(store: Store, tmp_path: Path):
    annotators, data = list_annotators(SCENES), Store(str(tmp_path / "data"))
    publish_snapshot(workspace_of(SCENES, store, data), annotators, 0)
    assert len(data.read_table("baseline/scores.parquet")) == 0
    from florence.evaluate import SCORES, make_baseline

    table = pa.Table.from_pylist([{"image_id": "a", "task": "<OD>", "reference": "truth", "value": 0.5}], schema=SCORES)
    store.write_table("baseline/round=1/scores.parquet", table)
    store.write_table("baseline/round=2/scores.parquet", make_baseline(SCORES.empty_table()))
    publish_snapshot(workspace_of(SCENES, store, data), annotators, 1)
    assert data.read_table("baseline/scores.parquet") == table
    before = contents(tmp_path / "data")
    publish_snapshot(workspace_of(SCENES, store, data), annotators, 1)
    assert contents(tmp_path / "data") == before
    fresh = Store(str(tmp_path / "fresh"))
    restore_store(workspace_of(store=fresh, data=data))
    assert fresh.names("baseline") == ["baseline/round=1/scores.parquet", "baseline/round=1/trial.json"]
    assert fresh.read_table(ANCHOR) == table, "the champion is the first one"
    publish_snapshot(workspace_of(SCENES, fresh, data), annotators, 1)
    assert contents(tmp_path / "data") == before


def check_summary(bare: RoundFacts, facts: RoundFacts, f1: float, gain: float) -> None:
    """Check the terminal's summary of two rounds; ``f1`` and its ``gain``: of the second one's objects."""
    text = summarize_rounds(LoopFacts("loop").with_round(bare).with_round(facts))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    assert lines[0].split()[:3] == ["round", "0", "1"]
    (line,) = [line for line in lines if line.startswith("  <OD> f1 (truth)")]
    assert line.split()[3:5] == ["–", f"{f1:.3f}"]
    (line,) = [line for line in lines if line.startswith("  <OD> f1 (since 0)")]
    assert line.split()[4:6] == ["–", f"{gain:+.3f}"] and line.split()[-1] == "+0.000"
    assert any(line.startswith("round 1: the first model: <OD> 1.000, the mean over images of F1 at") for line in lines)
    assert [line.split() for line in lines if line.startswith("decision")] == [["decision", "none", "accepted"]]
    many = LoopFacts(
        "loop", tuple(type(facts)(**{**{k: getattr(facts, k) for k in facts.__slots__}, "round": n}) for n in range(12))
    )
    assert (
        max(map(len, summarize_rounds(many).splitlines())) <= 110 and " 11 " in summarize_rounds(many).splitlines()[0]
    )


def test_the_audit_of_a_round(store: Store, tmp_path: Path):
    annotators, data, root = list_annotators(SCENES), Store(str(tmp_path / "data")), tmp_path / "root"
    publish_snapshot(workspace_of(SCENES, store, data), annotators, 0)
    bare = audit.audit_round(workspace_of(SCENES, store, data, root), annotators, 0)
    empty = (bare.decision, bare.scores, bare.label_quality, bare.label_quality_gain, bare.churn)
    assert empty == (None, (), (), (), ())
    publish_snapshot(workspace_of(SCENES, store, data), annotators, 1)
    evaluate_model(workspace_of(SCENES, data=data, root=root), predict=Right(store))
    compare_models(workspace_of(SCENES, data=data, root=root))
    facts = audit.audit_round(
        workspace_of(SCENES, store, data, root),
        annotators,
        1,
        without_student=store.read_table("labels/round-00000.parquet"),
    )
    assert LoopFacts.from_json(LoopFacts("loop", (facts,)).to_json()).rounds == (facts,)
    assert (facts.decision, facts.parent) == ("accepted", bare.snapshot_id) and facts.snapshot_id != bare.snapshot_id
    assert sum(i.images for i in facts.images) == 40
    assert sum(c.kept for c in facts.counts) == len(store.read_table("labels/round-00001.parquet")) and not facts.drops
    gain = {(g.task, g.metric): g for g in facts.label_quality_gain}["<OD>", "f1"]
    quality = {(q.task, q.metric, q.split): q.value for q in facts.label_quality}
    before = {
        (q.task, q.metric): q
        for q in measure_labels(workspace_of(SCENES, data=data), store.read_table("labels/round-00000.parquet"))
    }["<OD>", "f1"]
    assert gain.value == pytest.approx(
        quality["<OD>", "f1", "gold"] - sum(before.per_image.values()) / len(before.per_image), abs=1e-6
    )
    assert gain.low > 0 and gain.without_student == 0 and gain.since == 0
    assert {s.task: s for s in facts.scores}["<OD>"].value == 1.0
    claimed = {(a.name, a.task): a for a in facts.annotator_quality}
    assert claimed["careful", "<OD>"].reliability == 0.5 and claimed["careful", "<CAPTION>"].reliability is None
    (churn,) = [c for c in facts.churn if c.task == "<OD>"]
    assert (
        churn.same + churn.renamed + churn.moved + churn.added == sum(c.kept for c in facts.counts if c.task == "<OD>")
        and 0 < churn.value < 1
    )
    assert churn.without_student == 0, "without the student the labels are those of round 0"
    assert (
        claimed["careful", "<OD>"].metric == "f1"
        and claimed["careful", "<OD>"].measured > claimed["careless", "<OD>"].measured + 0.2
    )
    (cats,) = [n for n in facts.reliability_by_name if n.annotator == "careful"]
    assert (cats.name, cats.estimated) == ("cat", 0.75) and (cats.measured is None) == (cats.n == 0)
    check_summary(bare, facts, quality["<OD>", "f1", "gold"], gain.value)


def test_photos_alone_need_no_truth(tmp_path: Path):
    world = World(tmp_path / "data", ["train"] * 5 + ["held_out", "gold"], source="made")
    claims = {i: [make_object("cat", 10 + i), Claim("<CAPTION>", f"a cat, number {i}")] for i in range(7)}
    world.labels(claims)
    data, root = world.data, tmp_path / "root"
    data.write_json("snapshot.json", {"id": "s", "parent": None, "round": 0, "annotators": {}})
    from florence.evaluate import SCORES

    data.write_table("baseline/scores.parquet", SCORES.empty_table())
    data.write_table("rejected_files.parquet", REJECTED_FILES.empty_table())
    evaluate_model(workspace_of(PHOTOS, data=data, root=root), predict=Oracle(world, claims))
    assert not data.names("truth")
    assert json.loads((root / "metrics/labels.json").read_text()) == {}
    scores = json.loads((root / "metrics/scores.json").read_text())
    assert scores["<OD>"]["consensus"]["value"] == 1.0 and scores["<OD>"]["consensus"]["n"] == 1
    assert "value" not in scores["<CAPTION>"]["consensus"], "one text alone has no CIDEr"
    decision = compare_models(workspace_of(PHOTOS, data=data, root=root))
    assert decision.accepted
    for part in ("accepted untested: <OD> 1.000", "on 1 held-out image against consensus", "30 images are needed"):
        assert part in decision.reason
    facts = audit.audit_round(workspace_of(PHOTOS, data, data, root), [], 0)
    assert facts.label_quality == () and facts.scores and summarize_rounds(LoopFacts("l", (facts,)))


def test_a_model_from_disk_is_asked(tmp_path: Path):
    from florence.model.checkpoint import build

    world = World(tmp_path / "data", ["held_out"] * 3)
    world.truth({i: [make_object("cat", 10), Claim("<CAPTION>", "a cat")] for i in range(3)})
    build("nano", image_size=64, seed=0).save(tmp_path / "model")
    chosen = PHOTOS.model_copy(
        update={
            "evaluate": PHOTOS.evaluate.model_copy(update={"tasks": ("<OD>", "<REGION_TO_CATEGORY>"), "bootstrap": 100})
        }
    )
    evaluate_model(workspace_of(chosen, data=world.data, root=tmp_path))
    first = contents(tmp_path / "scores")
    scores = json.loads((tmp_path / "metrics/scores.json").read_text())
    assert set(scores) == {"<OD>", "<REGION_TO_CATEGORY>"} and scores["<OD>"]["truth"]["invalid"] == 0
    evaluate_model(workspace_of(chosen, data=world.data, root=tmp_path))
    assert contents(tmp_path / "scores") == first
