"""`florence loop` on a folder in which all is mixed ends with a page that tells every file and label not used."""

from __future__ import annotations

import html
import json
import subprocess
from pathlib import Path

import pytest
from flow_workspaces import florence, write_params
from mixed_folder import PICTURES, MixedFolder, make_mixed_folder

from florence.report.facts import VERSION, LoopFacts
from flows.init import create_workspace

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> MixedFolder:
    return make_mixed_folder(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def folder(mixed: MixedFolder) -> Path:
    found = mixed.root / "w"
    create_workspace(found)
    write_settings(mixed, found, mixed.annotators)
    return found


def write_settings(mixed: MixedFolder, folder: Path, annotators: dict) -> None:
    write_params(
        folder,
        sources={"scenes": None, "photos": {"use": "folder", "uri": str(mixed.photos)}},
        annotators={"careful": None, "hasty": None, "crude": None, **annotators},
        split={"held_out": 0.3, "gold": 0.0},
        engine={"language": None},
    )


@pytest.fixture(scope="module")
def done(folder: Path) -> subprocess.CompletedProcess[str]:
    result = florence(folder, "loop", "--rounds", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_labels_of_no_image_stop_the_loop_before_it_annotates(mixed: MixedFolder, folder: Path):
    wrong = {"voc_rf": {**mixed.annotators["boxes"], "prefix": "elsewhere/"}, "people": mixed.annotators["people"]}
    write_settings(mixed, folder, wrong)
    refused = florence(folder, "loop")
    write_settings(mixed, folder, mixed.annotators)
    assert refused.returncode == 1 and "voc_rf: knows 0 of 7 images; " in refused.stderr, refused.stderr
    assert not (folder / ".florence/store/coverage").exists() and not (folder / "data/snapshot.json").exists()


def test_the_terminal_the_facts_and_the_page_tell_what_was_not_used(mixed: MixedFolder, folder: Path, done):
    (facts,) = LoopFacts.from_json((folder / "build/loop.json").read_bytes()).rounds
    (listing,) = facts.listings
    assert listing.files == sum(mixed.outcomes.values()) and listing.images == len(PICTURES)
    assert listing.files == listing.images + listing.texts + sum(one.count for one in listing.unused)
    page = html.unescape((folder / "build/report/index.html").read_text(encoding="utf-8"))
    for one in facts.label_sets:
        used = sum(one.used.values())
        assert (used + one.lost, used) == mixed.labels[one.annotator]
        assert f"\n{one.annotator} (" in done.stdout, done.stdout
        assert all(loss.reason in page for loss in one.losses)
    assert {one.annotator for one in facts.label_sets} == set(mixed.labels)
    assert "gone: not used, as it is not required" in done.stdout and "nowhere.json" in page
    assert (folder / f"build/report/round-{facts.round}/rejected_files.csv").exists()


def test_a_run_with_nothing_new_tells_it_again(mixed: MixedFolder, folder: Path, done):
    again = florence(folder, "loop")
    assert again.returncode == 0 and "nothing new" in again.stdout
    planned = florence(folder, "loop", "--dry-run").stdout
    for name in mixed.labels:
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{name} (")]
        assert line in again.stdout.splitlines() and line in planned.splitlines()
    assert json.loads((folder / "build/loop.json").read_text())["version"] == VERSION
