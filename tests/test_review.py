"""People's corrections: out as a Label Studio project, back as claims that outrank models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.compute as pc
import pytest
from flow_workspaces import params, write_params
from PIL import Image
from reviews import (
    ReviewWorkspace,
    export_tasks,
    publish_round,
    read_claim_files,
    read_labels,
    read_records,
    write_corrections,
)
from test_cli import call
from workspaces import workspace_of

from florence.config import settings_from
from florence.coverage import COVERAGE
from florence.errors import DataError, StoreError
from florence.evaluate import find_held_out_references
from florence.geometry import paired_iou
from florence.records import ANNOTATIONS, CAPTIONS, table_annotations
from florence.review import doubts, export_review, import_review
from florence.store import Store
from florence.workspace.annotate import find_human_annotator, list_annotators, read_profiles
from florence.workspace.collect import collect_images
from florence.workspace.evaluate import measure_all_labels
from florence.workspace.fuse import fuse_round
from florence.workspace.publish import restore_store
from flows.terminal import describe_review


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A workspace with a published round."""
    root = tmp_path_factory.mktemp("workspace")
    write_params(root)
    settings, store = settings_from(params()), Store(str(root / ".florence/store"))
    collect_images(workspace_of(settings, store))
    publish_round(settings, store, Store(str(root / "data")), 0)
    return root


@pytest.fixture
def parts(published: Path, tmp_path: Path) -> ReviewWorkspace:
    """A copy of it."""
    import shutil

    shutil.copytree(published, tmp_path / "w")
    return (
        settings_from(params()),
        Store(str(tmp_path / "w/.florence/store")),
        Store(str(tmp_path / "w/data")),
        tmp_path,
    )


# ---------------------------------------------------------------- exported images


def test_the_images_with_the_most_wrong_labels_are_asked_about(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    result = export_review(workspace_of(settings, store, data), folder / "out", 5)
    tasks = json.loads((folder / "out/tasks.json").read_text())
    wrong: dict[str, float] = {}
    train = {image_id for image_id, record in read_records(data).items() if record.split == "train"}
    for row in (row for row in read_labels(data) if row.image_id in train):
        if row.confidence is not None and row.reason in ("", "low_confidence") and row.task in ("<OD>", *CAPTIONS):
            wrong[row.image_id] = wrong.get(row.image_id, 0.0) + (1 - row.confidence if row.kept else row.confidence)
    chosen = [task["data"]["image_id"] for task in tasks]
    assert len(set(chosen)) == 5 and chosen[0] == max(sorted(wrong), key=lambda i: round(wrong[i], 9))
    assert result.expected_wrong == pytest.approx((wrong[chosen[0]], wrong[chosen[-1]]))
    assert result.total_wrong == pytest.approx((sum(wrong[i] for i in chosen), sum(wrong.values())))
    kept = [row for row in read_labels(data) if row.image_id in chosen and row.kept and row.task in ("<OD>", *CAPTIONS)]
    assert result.labels == len(kept) == sum(len(task["predictions"][0]["result"]) for task in tasks)
    likely = [
        row
        for row in read_labels(data)
        if row.image_id in chosen and row.reason == "low_confidence" and row.confidence >= 0.1 and row.task == "<OD>"
    ]
    assert [p["model_version"] for p in tasks[0]["predictions"]] == ["kept", "kept and uncertain"]
    shown = [result for task in tasks for result in task["predictions"][1]["result"]]
    assert {row.annotation_id for row in [*kept, *likely]} == {result["id"] for result in shown}
    assert len(result.first) == 5
    assert all("wrong labels expected" in line for line in result.first)


def test_a_reviewer_sees_who_claims_what(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    export_review(workspace_of(settings, store, data), folder / "out", 24)
    claims = [
        row
        for annotator in list_annotators(settings)
        for row in table_annotations(store.read_tables(f"claims/{annotator.key}", ANNOTATIONS))
    ]
    lines = [json.loads(line) for line in (folder / "out/doubts.jsonl").read_text().splitlines()]
    tasks = json.loads((folder / "out/tasks.json").read_text())
    assert [line["image_id"] for line in lines] == [task["data"]["image_id"] for task in tasks]
    named = [(line["image_id"], label) for line in lines for label in line["labels"] if label["task"] == "<OD>"]
    assert named
    for image_id, label in named:
        assert label["claims"], "every label is somebody's claim"
        for claim in label["claims"]:
            assert any(
                row.image_id == image_id
                and (row.annotator, row.text, row.regions[0].box)
                == (claim["annotator"], claim["text"], tuple(claim["box"]))
                for row in claims
                if row.task == "<OD>"
            )
        who = [claim["annotator"] for claim in label["claims"]]
        assert len(set(who)) == len(who)
        assert set(who).isdisjoint(label["silent"])
    label_of = {row.annotation_id: row for row in read_labels(data)}
    for task in tasks:
        for result in task["predictions"][0]["result"]:
            if result["type"] == "rectanglelabels":
                (note,) = result["meta"]["text"]
                row = label_of[result["id"]]
                assert note.startswith(f"{row.text} {row.confidence:.2f}. ")
                assert any(annotator.name in note for annotator in list_annotators(settings))
        assert list(task["data"]["doubts"])[:1] == [] or next(iter(task["data"]["doubts"])).startswith("1. ")
    config = ElementTree.parse(folder / "out/config.xml").getroot()
    assert config.find("Table").get("value") == "$doubts"


def test_of_many_images_a_sample_judges_the_annotators(parts: ReviewWorkspace, monkeypatch):
    settings, store, data, folder = parts
    monkeypatch.setattr(doubts, "MAX_IMAGES", 10)
    monkeypatch.setattr(doubts, "MODEL_IMAGES", 12)
    export_review(workspace_of(settings, store, data), folder / "out", 5)
    lines = [json.loads(line) for line in (folder / "out/doubts.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    named = [label for line in lines for label in line["labels"] if label["task"] == "<OD>" and label["kept"]]
    assert named
    assert all(label["claims"] for label in named)


def test_the_data_of_a_project_are_no_labels_when_it_comes_back_as_json_min(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    (task,) = export_tasks(parts, 1)
    box = next(r for r in task["predictions"][0]["result"] if r["type"] == "rectanglelabels")
    sides = {key: box[key] for key in ("original_width", "original_height")}
    flat = {**task["data"], "id": 1, "annotator": 1, "annotation_id": 1, "label": [{**box["value"], **sides}]}
    assert flat["doubts"]
    (folder / "min.json").write_text(json.dumps([flat]))
    result = import_review(workspace_of(settings, store, data), str(folder / "min.json"))
    assert (result.images, result.losses, result.complete) == (1, (), True)


def test_a_snapshot_without_claims_is_reviewed_all_the_same(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    data.delete("claims")
    data.delete("coverage")
    assert export_review(workspace_of(settings, store, data), folder / "out", 2).images == 2
    line = json.loads((folder / "out/doubts.jsonl").read_text().splitlines()[0])
    assert line["labels"]
    assert all(label["claims"] == [] for label in line["labels"])


def test_a_project_is_whole(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    tasks = export_tasks(parts)
    config = ElementTree.parse(folder / "review/config.xml").getroot()
    names = {label.get("value") for label in config.iter("Label")}
    controls = {element.get("name") for element in config.iter() if element.get("toName")}
    for task in tasks:
        path = folder / "review" / task["data"]["image"].split("?d=")[1]
        record = read_records(data)[task["data"]["image_id"]]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record.image_id and Image.open(path).size == (
            record.width,
            record.height,
        )
        assert task["data"]["round"] == 0
        for result in task["predictions"][0]["result"]:
            assert result["from_name"] in controls and set(result["value"].get("rectanglelabels", ())) <= names
    assert {row.text for row in read_labels(data) if row.kept and row.task == "<OD>"} <= names, (
        "a name that is missed can be given"
    )
    assert "label-studio start" in (folder / "review/README.md").read_text()


# ---------------------------------------------------------------- imported corrections


def test_corrections_outrank_models_in_the_next_round(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    tasks = export_tasks(parts, 6)
    box = {"x": 10.0, "y": 20.0, "width": 30.0, "height": 40.0, "rotation": 0}
    renamed, moved, removed, added, captions, emptied = (task["data"]["image_id"] for task in tasks)
    first = {
        task["data"]["image_id"]: next(r for r in task["predictions"][0]["result"] if r["type"] == "rectanglelabels")
        for task in tasks
    }

    def change(data: dict, results: list[dict]) -> list[dict]:
        mine = first[data["image_id"]]
        others = [r for r in results if r["id"] != mine["id"]]
        if data["image_id"] == renamed:
            return [{**mine, "value": {**mine["value"], "rectanglelabels": ["unicorn"]}}, *others]
        if data["image_id"] == moved:
            return [{**mine, "value": {**mine["value"], "width": mine["value"]["width"] * 0.8}}, *others]
        if data["image_id"] == removed:
            return others
        if data["image_id"] == added:
            return [*results, {**mine, "id": "new", "value": {**box, "rectanglelabels": ["dragon"]}}]
        if data["image_id"] == captions:
            return [
                {**r, "value": {"text": ["What a person wrote."]}} if r["type"] == "textarea" else r for r in results
            ]
        return []

    result = import_review(workspace_of(settings, store, data), write_corrections(folder, tasks, change))
    assert result.new and result.images == result.total == 6 and not result.losses and not result.unknown
    before, after = read_labels(data), publish_round(settings, store, data, 1)
    kept = {i: [row for row in after if row.image_id == i and row.kept and row.task == "<OD>"] for i in first}
    old = {row.annotation_id: row for row in before}

    def place(image_id: str) -> tuple:
        return old[first[image_id]["id"]].regions[0].box

    assert [row.text for row in kept[renamed] if row.regions[0].box == pytest.approx(place(renamed))] == ["unicorn"]
    x0, y0, x1, y1 = place(moved)
    assert any(
        row.regions[0].box == pytest.approx((x0, y0, x0 + 0.8 * (x1 - x0), y1)) and row.confidence == 1
        for row in kept[moved]
    )
    assert not any(
        paired_iou(np.asarray([row.regions[0].box]), np.asarray([place(removed)]))[0] > 0.5
        for row in kept[removed]
        if row.text == old[first[removed]["id"]].text
    )
    assert any(row.reason == "rejected" for row in after if row.image_id == removed)
    record = read_records(data)[added]
    dragon = [row for row in kept[added] if row.text == "dragon"]
    assert len(dragon) == 1 and dragon[0].regions[0].box == pytest.approx(
        (0.1 * record.width, 0.2 * record.height, 0.4 * record.width, 0.6 * record.height)
    )
    assert [row.text for row in after if row.image_id == captions and row.task == "<CAPTION>" and row.kept] == [
        "What a person wrote."
    ]
    assert not [row for row in after if row.image_id == emptied and row.kept and row.task in ("<OD>", *CAPTIONS)], (
        "there is nothing"
    )
    assert {row.reason for row in after if row.image_id == emptied} >= {"rejected"}
    for image_id in (added, captions):  # what was left as it was stays
        for result in (
            r
            for r in tasks[[t["data"]["image_id"] for t in tasks].index(image_id)]["predictions"][0]["result"]
            if r["type"] == "rectanglelabels"
        ):
            assert any(
                row.text == old[result["id"]].text
                and row.regions[0].box == pytest.approx(old[result["id"]].regions[0].box)
                for row in kept[image_id]
            )


def test_the_snapshot_holds_what_people_said_and_gives_it_back(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    result = import_review(
        workspace_of(settings, store, data), write_corrections(folder, export_tasks(parts), lambda _, results: results)
    )
    after = publish_round(settings, store, data, 1)
    assert data.read_json("snapshot.json")["annotators"]["human"] == result.version
    fresh = Store(str(folder / "fresh"))
    restore_store(workspace_of(store=fresh, data=data))
    assert find_human_annotator(fresh) == find_human_annotator(store)
    fuse_round(workspace_of(settings, fresh), list_annotators(settings, None, fresh), 1)
    assert table_annotations(fresh.read_table("labels/round-00001.parquet")) == after


def test_the_same_file_again_changes_nothing(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    path = write_corrections(folder, export_tasks(parts), lambda _, results: results[:1])
    first = import_review(workspace_of(settings, store, data), path)
    before = read_claim_files(store)
    again = import_review(workspace_of(settings, store, data), path)
    assert (
        not again.new
        and again.version == first.version
        and again.total == first.total == 4
        and read_claim_files(store) == before
    )
    (annotator,) = [a for a in list_annotators(settings, None, store) if a.name == "human"]
    assert annotator.version == first.version and not [a for a in list_annotators(settings) if a.name == "human"], (
        "nobody asks them"
    )


def test_a_later_review_of_an_image_replaces_the_earlier_one(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    tasks = export_tasks(parts, 4)

    def named(name: str) -> Callable:
        return lambda _, results: [
            {**r, "value": {**r["value"], "rectanglelabels": [name]}} for r in results if r["type"] == "rectanglelabels"
        ]

    one = import_review(
        workspace_of(settings, store, data), write_corrections(folder, tasks[:3], named("first"), "1.json")
    )
    two = import_review(
        workspace_of(settings, store, data), write_corrections(folder, tasks[2:], named("second"), "2.json")
    )
    assert (one.images, one.total, two.images, two.total) == (3, 3, 2, 4) and one.version < two.version
    people = find_human_annotator(store)
    assert people is not None and people.version == two.version
    rows = table_annotations(store.read_tables(f"claims/{people.key}", ANNOTATIONS))
    output = {
        task["data"]["image_id"]: {row.text for row in rows if row.image_id == task["data"]["image_id"] and row.text}
        for task in tasks
    }
    assert list(output.values()) == [{"first"}, {"first"}, {"second"}, {"second"}]
    assert len({row.annotation_id for row in rows}) == len(rows) and {row.version for row in rows} == {two.version}
    third = import_review(workspace_of(settings, store, data), str(folder / "1.json"))
    assert not third.new and read_claim_files(store) and find_human_annotator(store) == people, (
        "an old file does not take back what a newer one says"
    )


def test_what_was_rejected_stays_so_when_the_image_is_reviewed_again(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    tasks = export_tasks(parts, 1)
    import_review(
        workspace_of(settings, store, data), write_corrections(folder, tasks, lambda _, results: [], "1.json")
    )
    publish_round(settings, store, data, 1)
    image_id = tasks[0]["data"]["image_id"]
    again = [{"data": {**tasks[0]["data"], "round": 1}, "predictions": [{"result": []}]}]
    result = import_review(
        workspace_of(settings, store, data), write_corrections(folder, again, lambda _, results: [], "2.json")
    )
    assert result.new and result.rejected > 0
    assert not [
        row
        for row in publish_round(settings, store, data, 2)
        if row.image_id == image_id and row.kept and row.task == "<OD>"
    ]


def test_an_import_that_is_killed_does_not_count(parts: ReviewWorkspace, monkeypatch):
    settings, store, data, folder = parts
    tasks = export_tasks(parts, 8)
    first = import_review(
        workspace_of(settings, store, data), write_corrections(folder, tasks[:1], lambda _, results: results, "1.json")
    )
    path = write_corrections(folder, tasks, lambda _, results: [], "2.json")
    whole = Store.write_table

    for stop in ("claims", "coverage"):
        left = [1]

        def dying(self, name: str, table, stop=stop, left=left) -> None:
            if name.startswith(stop) and not left.pop():
                raise KeyboardInterrupt
            left.append(0)
            whole(self, name, table)

        monkeypatch.setattr(Store, "write_table", dying)
        with pytest.raises(KeyboardInterrupt):
            import_review(workspace_of(settings, store, data), path)
        monkeypatch.setattr(Store, "write_table", whole)
        people = find_human_annotator(store)
        assert people is not None and people.version == first.version
    result = import_review(workspace_of(settings, store, data), path)
    assert result.new and result.total == 8 and find_human_annotator(store).version == result.version


def test_reviewed_images_are_not_asked_about_again(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    tasks = export_tasks(parts, 3)
    import_review(workspace_of(settings, store, data), write_corrections(folder, tasks, lambda _, results: results))
    result = export_review(workspace_of(settings, store, data), folder / "next", 1000)
    next_ones = {task["data"]["image_id"] for task in json.loads((folder / "next/tasks.json").read_text())}
    assert result.reviewed == 3 and next_ones and not next_ones & {task["data"]["image_id"] for task in tasks}
    import_review(
        workspace_of(settings, store, data),
        write_corrections(
            folder, json.loads((folder / "next/tasks.json").read_text()), lambda _, results: results, "all.json"
        ),
    )
    with pytest.raises(DataError, match="no other labels to review beside those of the"):
        export_review(workspace_of(settings, store, data), folder / "none", 5)


def test_skipped_and_unknown_tasks_are_told(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    tasks = export_tasks(parts, 3)
    foreign = {
        "data": {**tasks[1]["data"], "image_id": "0" * 64, "image": "elsewhere/x.jpg"},
        "predictions": tasks[1]["predictions"],
    }
    skipped = tasks[0]["data"]["image_id"]
    result = import_review(
        workspace_of(settings, store, data),
        write_corrections(
            folder, [tasks[0], foreign, tasks[2]], lambda d, results: None if d["image_id"] == skipped else results
        ),
    )
    assert result.images == 1 and result.unknown == ("elsewhere/x.jpg",) and "it was skipped" in result.losses[0].reason
    with pytest.raises(DataError, match="none of its 1 annotated images"):
        import_review(
            workspace_of(settings, store, data),
            write_corrections(folder, [foreign], lambda _, results: results, "other.json"),
        )
    with pytest.raises(StoreError, match="does not exist"):
        import_review(workspace_of(settings, store, data), str(folder / "none.json"))


def test_a_label_that_cannot_be_read_is_not_one_that_was_removed(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    tasks = export_tasks(parts, 3)
    redrawn, only, removed = (task["data"]["image_id"] for task in tasks)

    def change(about: dict, results: list[dict]) -> list[dict]:
        boxes = [r for r in results if r["type"] == "rectanglelabels"]
        names = boxes[0]["value"]["rectanglelabels"]
        value = {"x": 40, "y": 40, "radiusX": 20, "radiusY": 10, "rotation": 0, "ellipselabels": names}
        ellipse = {**boxes[0], "type": "ellipselabels", "value": value}
        if about["image_id"] == only:
            return [ellipse]
        others = [r for r in results if r is not boxes[0]]
        return [*others, ellipse] if about["image_id"] == redrawn else others

    result = import_review(workspace_of(settings, store, data), write_corrections(folder, tasks, change))
    assert result.images == 2 and result.rejected, "nobody has looked at the image of which nothing was understood"
    claims = table_annotations(store.read_tables(f"claims/human@{result.version}", ANNOTATIONS))
    assert {row.image_id for row in claims if not row.text} == {removed} and redrawn in {row.image_id for row in claims}
    told = describe_review(result)
    assert "not looked at: none of its labels was understood (1)" in told and "not used: an ellipse (2)" in told


def test_a_project_of_somebody_else_s_takes_nothing_away(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    record = next(record for record in read_records(data).values() if record.split == "train")
    value = {"x": 1.0, "y": 1.0, "width": 5.0, "height": 5.0, "rotation": 0, "rectanglelabels": ["knob"]}
    result = {
        "id": "1",
        "type": "rectanglelabels",
        "from_name": "l",
        "to_name": "i",
        "original_width": record.width,
        "original_height": record.height,
        "value": value,
    }
    path = folder / "foreign.json"
    path.write_text(
        json.dumps(
            [{"data": {"image": f"/data/upload/1/1a2b3c4d-{record.name}"}, "annotations": [{"result": [result]}]}]
        )
    )
    result = import_review(workspace_of(settings, store, data), str(path))
    assert (result.images, result.claims, result.rejected) == (1, 1, 0)
    kept = [
        row
        for row in publish_round(settings, store, data, 1)
        if row.image_id == record.image_id and row.kept and row.task == "<OD>"
    ]
    old = [row for row in read_labels(data) if row.image_id == record.image_id and row.kept and row.task == "<OD>"]
    assert {row.text for row in kept} >= {row.text for row in old} | {"knob"}


def test_people_s_claims_are_complete_if_all_of_them_saw_the_labels_and_could_add(parts: ReviewWorkspace):
    settings, store, data, folder = parts

    def are_complete() -> bool:
        (profile,) = read_profiles(settings, store, [find_human_annotator(store)])
        return profile.role == "human" and profile.complete

    workspace, tasks = workspace_of(settings, store, data), export_tasks(parts, 4)
    first = import_review(workspace, write_corrections(folder, tasks[:2], lambda _, results: results, "1.json"))
    assert first.complete and are_complete()
    # a project of other origin does not say what its reviewers were shown
    foreign = [{**task, "data": {k: v for k, v in task["data"].items() if k != "round"}} for task in tasks[2:3]]
    second = import_review(workspace, write_corrections(folder, foreign, lambda _, results: results, "2.json"))
    assert not second.complete and not are_complete()
    third = import_review(workspace, write_corrections(folder, tasks[3:], lambda _, results: results, "3.json"))
    assert not third.complete and not are_complete(), "the image of the second import is still among them"
    fourth = import_review(workspace, write_corrections(folder, tasks, lambda _, results: results, "4.json"))
    assert fourth.complete and are_complete()


def test_what_is_said_not_to_be_there_is_no_reference_for_models(parts: ReviewWorkspace):
    settings, store, data, folder = parts
    tasks = export_tasks(parts, 2)
    import_review(
        workspace_of(settings, store, data),
        write_corrections(folder, tasks, lambda d, results: [] if d is tasks[0]["data"] else results),
    )
    publish_round(settings, store, data, 1)
    for name in data.names("truth"):
        (Path(data.root) / name).unlink()
    ids = [task["data"]["image_id"] for task in tasks]
    known = find_held_out_references(data, ids)
    assert known.select("<OD>", "human")[ids[0]] == () and all(
        row.text for row in known.select("<OD>", "human")[ids[1]]
    )
    figures = measure_all_labels(workspace_of(settings, data=data))
    assert "human" not in figures.get("annotators", {})


# ---------------------------------------------------------------- the commands


def test_commands_from_end_to_end(parts: ReviewWorkspace, monkeypatch):
    settings, store, data, folder = parts
    monkeypatch.chdir(folder / "w")
    output = call("review", "export", "--out", str(folder / "out"), "--images", "2")
    assert output.startswith("2 images of round 0 with") and "README.md" in output
    assert "--force replaces it" in call("review", "export", "--out", str(folder / "out"), code=1)
    call("review", "export", "--out", str(folder / "out"), "--images", "3", "--force")
    tasks = json.loads((folder / "out/tasks.json").read_text())
    path = write_corrections(folder, tasks, lambda d, results: None if d is tasks[0]["data"] else results[:1])
    output = call("review", "import", path)
    assert output.startswith("2 images reviewed,") and "it was skipped" in output and "florence loop" in output
    assert call("review", "import", path).startswith("nothing new: this file has been imported before")
    assert "tasks.json" not in call("review", "import", str(folder / "w/params.yaml"), code=1)
    for command in ("export", "import"):
        assert f"florence review {command}" in call("review", command, "--help").split("Example", 1)[1]


def test_a_review_is_a_reason_for_a_round(parts: ReviewWorkspace, monkeypatch):
    from flows.loop.start import find_changes
    from flows.plan import describe_plan, hash_settings, human_version, is_idle, plan_loop
    from flows.state import LoopState, write_state
    from flows.tracked import open_workspace

    settings, store, data, folder = parts
    monkeypatch.chdir(folder / "w")
    opened = open_workspace(folder / "w")
    from flows.plan import hash_images

    state = LoopState(
        "x", 0, 1, 1, accepted=0, finished=True, images=hash_images(opened), settings=hash_settings(opened)
    )
    write_state(folder / "w", state)
    assert is_idle(opened, None) and find_changes(opened, state) == [] and human_version(store) == ""
    import_review(
        workspace_of(settings, store, data),
        write_corrections(folder, export_tasks(parts, 1), lambda _, results: results),
    )
    assert not is_idle(opened, None) and find_changes(opened, state) == ["new reviews"]
    assert "people's reviews are new" in describe_plan(plan_loop(opened, 1))
    assert pc.sum(store.read_tables("coverage/human@" + human_version(store), COVERAGE)["claims"]).as_py() > 0
