"""People's labels of gold and held-out images: reviewers apart, one reference, who is doubtful, what is decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import World, make_object
from workspaces import workspace_of

from florence.config import settings_from
from florence.errors import DataError, FlorenceError
from florence.evaluate import find_gold_references, find_held_out_references
from florence.people import FOLDERS, Review, combine_reviews, name_reviewer, read_reviews
from florence.records import Annotation, Claim, annotate
from florence.review import BlindChoice, export_blind, export_disagreements, import_review
from florence.workspace import Workspace
from florence.workspace.people import write_reference
from florence.workspace.reviewers import rank_reviewers

NAMES = ("cat", "dog", "cup", "key")
GOLD = 24


def build(tmp_path: Path, **review: Any) -> tuple[Workspace, World]:
    """A workspace of 24 gold images, one held-out and one training image."""
    world = World(tmp_path / "store", ["gold"] * GOLD + ["held_out", "train"])
    settings = settings_from({"sources": {}, "annotators": {}, "review": review})
    return workspace_of(settings, world.data, root=tmp_path), world


def objects_of(index: int) -> list[tuple[str, float]]:
    """What is in a picture: three objects."""
    return [(NAMES[(index + k) % 4], 3.0 + 30.0 * k) for k in range(3)]


def draw(task: dict, objects: list[tuple[str, float]], size: tuple[int, int]) -> list[dict]:
    return [
        {
            "id": f"r{k}",
            "type": "rectanglelabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": size[0],
            "original_height": size[1],
            "value": {
                "x": x / size[0] * 100,
                "y": 10 / size[1] * 100,
                "width": 2000 / size[0],
                "height": 2000 / size[1],
                "rotation": 0,
                "rectanglelabels": [name],
            },
        }
        for k, (name, x) in enumerate(objects)
    ]


def label(world: World, tasks: list[dict], who: dict[str, tuple[Any, float]], path: Path) -> str:
    """Label Studio's export: each reviewer's ``completed_by`` and share of wrong names."""
    made = []
    for number, task in enumerate(tasks):
        index, annotations = world.ids.index(task["data"]["image_id"]), []
        for k, (name, (by, wrong)) in enumerate(who.items()):
            random = np.random.default_rng([k, number])
            objects = [
                ("wrong" if random.random() < wrong else text, x + random.normal()) for text, x in objects_of(index)
            ]
            one = {"result": draw(task, objects, world.sizes[world.ids[index]]), "completed_by": by, "id": name}
            annotations.append({**one, "updated_at": f"2026-01-{number + 1:02d}T00:00:0{k}Z"})
        made.append({"data": task["data"], "annotations": annotations})
    path.write_text(json.dumps(made))
    return str(path)


def read_tasks(folder: Path) -> list[dict]:
    return json.loads((folder / "tasks.json").read_text())


def export(workspace: Workspace, out: Path, **choice: Any) -> list[dict]:
    export_blind(workspace, out, BlindChoice("gold", **{"names": NAMES, **choice}), force=True)
    return read_tasks(out)


PEOPLE = {
    "anna": (1, 0.03),
    "ben": ({"id": 2, "email": "ben@example.org"}, 0.03),
    "cleo": ({"id": 3, "email": "cleo@example.org"}, 0.03),
    "dan": (4, 0.3),
}


def test_a_blind_project_shows_nobody_s_claims_and_grows(tmp_path: Path):
    workspace, world = build(tmp_path)
    world.labels({k: [make_object("cat", 3)] for k in range(GOLD)})
    few, many = (export(workspace, tmp_path / "out", images=n) for n in (6, 12))
    assert all(task["predictions"] == [] and "doubts" not in task["data"] for task in many)
    assert {t["data"]["image_id"] for t in few} < {t["data"]["image_id"] for t in many} <= set(world.ids[:GOLD])
    again = export(workspace, tmp_path / "out", images=12, repeat=0.5)
    ids = [task["data"]["image_id"] for task in again]
    assert (len(ids), len(set(ids))) == (18, 12)
    assert "no predictions" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(FlorenceError, match="train"):
        BlindChoice("train")


def test_reviewers_stay_apart_and_the_bad_one_is_found(tmp_path: Path):
    workspace, world = build(tmp_path)
    tasks = export(workspace, tmp_path / "out", images=GOLD, repeat=0.25)
    path = label(world, tasks, PEOPLE, tmp_path / "p.json")
    result = import_review(workspace, path)
    assert result.blind.reviewers == ("reviewer-1", "reviewer-2", "reviewer-3", "reviewer-4")
    assert (result.blind.images, result.blind.reviews, result.claims) == (GOLD, 4 * len(tasks), 0)
    assert not world.data.names("claims")
    found = rank_reviewers(workspace)
    assert [one.reviewer for one in found if one.doubtful] == ["reviewer-4"] and found[-1].reviewer == "reviewer-4"
    assert all(one.repeats == 6 and one.images == GOLD and one.low < one.quality < one.high for one in found)
    assert found[-1].quality == pytest.approx(0.7, abs=0.12) and found[0].quality > 0.9
    assert found[-1].alpha < found[0].alpha
    stored = "".join(
        str(world.data.read_table(name).to_pylist()) for part in FOLDERS for name in world.data.names(part)
    )
    assert "reviewer-2" in stored
    assert "example.org" not in stored
    assert not import_review(workspace, path).new


def test_the_reference_measures_labels_and_models(tmp_path: Path):
    workspace, world = build(tmp_path)
    tasks = export(workspace, tmp_path / "out", images=GOLD)
    import_review(workspace, label(world, tasks, PEOPLE, tmp_path / "p.json"))
    held = {"data": {"image": "x", "image_id": world.ids[GOLD], "blind": ["<OD>"]}}
    import_review(workspace, label(world, [held], PEOPLE, tmp_path / "held.json"))
    write_reference(Workspace(workspace.root, workspace.settings, world.data, world.data), [])
    found = find_gold_references(world.data, world.ids).select("<OD>", "human")
    assert len(found) == GOLD + 1
    right = [{row.text for row in found[world.ids[k]]} == {name for name, _ in objects_of(k)} for k in range(GOLD)]
    assert np.mean(right) > 0.8
    assert find_held_out_references(world.data, [world.ids[GOLD]]).names == ("human",)


def rows(*objects: Claim, by: str = "a") -> tuple[Annotation, ...]:
    return annotate("i", objects, by, "1")


def test_the_rule_of_the_reference_by_hand():
    cat, near, far = make_object("cat", 10), make_object("Cat", 12), make_object("cat", 60)

    def combine(*sides: tuple[Claim, ...], **more: Any) -> list[str]:
        reviews = [Review("i", f"r{k}", ("<OD>",), rows(*side, by=f"r{k}")) for k, side in enumerate(sides)]
        return [row.text for row in combine_reviews([*reviews, *more.get("decided", ())], more.get("exclude", ()))]

    assert combine((cat, far)) == ["cat", "cat"]  # one: theirs
    assert combine((cat, far), (near,)) == ["cat"]  # two: what both say
    assert combine((cat,), (far,)) == [""]  # nothing is there
    assert combine((cat,), (near,), ()) == ["cat"]  # two of three
    assert combine((cat,), (near,), (), ()) == [""]  # half is no majority
    assert combine((cat,), (near,), (), (), exclude=("r3",)) == ["cat"]
    decided = [Review("i", "x", ("<OD>",), rows(far, by="x"), adjudicated=True)]
    assert combine((cat,), (near,), decided=decided) == ["cat"]
    made = combine_reviews([Review("i", f"r{k}", ("<OD>",), rows(c, by=f"r{k}")) for k, c in enumerate((cat, near))])
    assert made[0].regions[0].box == (11.0, 10.0, 31.0, 30.0)  # the median box


def test_disagreements_are_decided(tmp_path: Path):
    workspace, world = build(tmp_path)
    tasks = export(workspace, tmp_path / "out", images=GOLD)
    import_review(workspace, label(world, tasks, PEOPLE, tmp_path / "p.json"))
    written = export_disagreements(workspace, tmp_path / "decide", 5)
    chosen = read_tasks(tmp_path / "decide")
    assert written.images == len(chosen) == 5
    assert [p["model_version"] for p in chosen[0]["predictions"]] == [f"reviewer-{k}" for k in (1, 2, 3, 4)]
    result = import_review(workspace, label(world, chosen, {"anna": (1, 0.0)}, tmp_path / "d.json"))
    assert result.blind.adjudicated == 5
    decided = {task["data"]["image_id"] for task in chosen}
    export_disagreements(workspace, tmp_path / "decide", GOLD, force=True)
    assert decided.isdisjoint(task["data"]["image_id"] for task in read_tasks(tmp_path / "decide"))
    assert {one.against for one in rank_reviewers(workspace)} == {"known labels"}


def test_hostile_files(tmp_path: Path):
    workspace, world = build(tmp_path)
    task = export(workspace, tmp_path / "out", images=1)[0]
    image = task["data"]["image_id"]
    (annotation,) = json.loads(Path(label(world, [task], {"a": (1, 0.0)}, tmp_path / "p.json")).read_text())[0][
        "annotations"
    ]
    skipped = {**annotation, "was_cancelled": True, "completed_by": 9}
    bare = {k: v for k, v in annotation.items() if k != "completed_by"}
    ellipse = {**annotation["result"][0], "type": "ellipselabels", "value": {"ellipselabels": ["cat"]}}
    unreadable = {**annotation, "completed_by": 7, "result": [*annotation["result"], ellipse]}
    train = {"data": {**task["data"], "image_id": world.ids[-1], "image": "t"}, "annotations": [annotation]}
    unknown = {"data": {**task["data"], "image_id": "0" * 64, "image": "u.jpg"}, "annotations": [annotation]}
    whole = {"data": task["data"], "annotations": [skipped, bare, dict(bare), unreadable]}
    (tmp_path / "h.json").write_text(json.dumps([whole, train, unknown]))
    result = import_review(workspace, str(tmp_path / "h.json"))
    assert result.blind.reviewers == ("reviewer-unknown", "reviewer-unknown-2")
    assert result.images == 1 and result.claims == 3 and result.unknown == ("u.jpg",)
    assert "an ellipse" in " ".join(result.describe_losses())
    assert {one.image_id for one in read_reviews(world.data)} == {image}
    with pytest.raises(DataError, match="none of its"):
        (tmp_path / "u.json").write_text(json.dumps([unknown]))
        import_review(workspace, str(tmp_path / "u.json"))


def test_names_of_reviewers():
    assert name_reviewer(["7"]) == name_reviewer(["7", "a@b.org"]) == "reviewer-7"
    assert name_reviewer(["a@b.org"]) == name_reviewer([" A@B.org"]) != name_reviewer(["c@b.org"])
    assert "@" not in name_reviewer(["a@b.org"]) and name_reviewer([]) == "reviewer-unknown"
    assert name_reviewer(["7", "a@b.org"], given=True) == "a@b.org"
