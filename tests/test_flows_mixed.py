"""A folder in which all is mixed: the page tells every file and label that was not used, and the counts add up."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mixed_folder import PICTURES, MixedFolder, make_mixed_folder
from workspaces import workspace_of

from florence.config import settings_from
from florence.report import LoopFacts, RoundFacts, build_report
from florence.store import Store
from florence.workspace import Workspace
from florence.workspace.annotate import annotate_shard, list_annotators
from florence.workspace.audit import audit_round
from florence.workspace.collect import collect_images
from florence.workspace.fuse import fuse_round
from florence.workspace.layout import list_shards, read_images
from florence.workspace.publish import publish_snapshot
from flows.label_sets import check_label_sets, list_label_set_lines


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> MixedFolder:
    return make_mixed_folder(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def workspace(mixed: MixedFolder) -> Workspace:
    settings = settings_from(
        {
            "sources": {"photos": {"use": "folder", "uri": str(mixed.photos)}},
            "annotators": mixed.annotators,
            "split": {"held_out": 0.0, "gold": 0.0},
            "engine": {"language": None, "near_duplicate": None},
        }
    )
    root = mixed.root / "w"
    found = workspace_of(settings, Store(str(root / "store")), Store(str(root / "data")), root=root)
    collect_images(found)
    return found


@pytest.fixture(scope="module")
def facts(workspace: Workspace) -> RoundFacts:
    """The facts of a round over the folder, by the steps that a loop takes."""
    annotators = list_annotators(workspace.settings, None, workspace.store)
    for shard in list_shards(workspace.store):
        annotate_shard(workspace, annotators, shard)
    fuse_round(workspace, annotators, 0)
    publish_snapshot(workspace, annotators, 0)
    return audit_round(workspace, annotators, 0)


@pytest.fixture(scope="module")
def page(workspace: Workspace, facts: RoundFacts) -> Path:
    return build_report(LoopFacts("mixed", (facts,)), workspace.data, workspace.root / "report")


class Text(HTMLParser):
    """The text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_file_is_an_image_or_is_told_of(mixed: MixedFolder, workspace: Workspace, facts: RoundFacts):
    there = [path for path in mixed.photos.rglob("*") if path.is_file()]
    (listing,) = facts.listings
    assert sorted(read_images(workspace.store)["name"].to_pylist()) == sorted(PICTURES)
    assert listing.files == len(there) == sum(mixed.outcomes.values())
    assert listing.files == listing.images + listing.texts + sum(one.count for one in listing.unused)
    counts = {one.reason: one.count for one in listing.unused}
    assert (listing.images, counts["duplicate"]) == (mixed.outcomes["images"], 1)
    told = " ".join(example for one in listing.unused for example in one.examples)
    for outcome in ("duplicate", "rejected", "unused"):
        for name in mixed.files[outcome]:
            assert name.split("/")[0] in told, name
    assert listing.texts == mixed.outcomes["texts"]
    assert sum(counts.values()) == sum(mixed.outcomes[o] for o in ("duplicate", "rejected", "unused"))


def test_every_image_has_one_state_for_each_label_set(mixed: MixedFolder, facts: RoundFacts):
    found = {
        one.annotator: (one.labelled, one.empty, one.not_listed + sum(loss.count for loss in one.refused))
        for one in facts.label_sets
    }
    assert found == mixed.images


def test_every_label_is_used_or_told_of(mixed: MixedFolder, facts: RoundFacts):
    found = {one.annotator: (sum(one.used.values()) + one.lost, sum(one.used.values())) for one in facts.label_sets}
    assert found == mixed.labels
    for one in facts.label_sets:
        assert all(loss.examples and loss.reason for loss in one.losses), one.annotator
    activity = {one.name: one for one in facts.annotator_activity}
    assert activity["gone"].missing == len(PICTURES) and "nowhere.json" in activity["gone"].missing_reason
    assert [(one.annotator, one.count) for one in facts.failed_images] == [("gone", len(PICTURES))]
    assert {one.name: one.claims for one in facts.annotator_activity if one.name != "gone"} == {
        name: used for name, (_, used) in mixed.labels.items()
    }


def test_the_page_says_it_all_and_the_terminal_the_same(
    mixed: MixedFolder, workspace: Workspace, facts: RoundFacts, page: Path, capsys
):
    text = re.sub(r"\s+", "", Text(page).text)
    part = text[text.index("Everyfileofthesources") : text.index("Thedatasetinthepaper")]
    (listing,) = facts.listings
    for one in listing.unused:
        assert re.sub(r"\s+", "", f"{one.reason.replace('_', ' ')}{one.remedy}{one.count}") in part, one
    for one in facts.label_sets:
        total, used = mixed.labels[one.annotator]
        assert f"{one.annotator}labelalllabels{total}labelused{used}" in part
        for loss in one.losses:
            assert re.sub(r"\s+", "", f"{loss.reason}{loss.count}") in part, loss
    check_label_sets(workspace)
    printed = capsys.readouterr().out
    for name in mixed.labels:
        assert re.search(rf"^{name} \(", printed, re.MULTILINE), printed
    assert "gone: not used, as it is not required: " in printed
    assert printed.splitlines() == list_label_set_lines(workspace)
