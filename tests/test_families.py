"""What the consensus is told of annotators beside claims: their families, and whether people's labels are complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from annotator_options import options
from workspaces import workspace_of

from florence.annotators import DETECTOR_EXAMPLE
from florence.config import Settings, settings_from
from florence.errors import SettingsError
from florence.records import AnnotatorProfile
from florence.store import Store
from florence.workspace.annotate import (
    describe_families,
    describe_missing_detectors,
    find_family,
    find_sources_without_detector,
    list_annotators,
    read_profiles,
)
from flows.doctor.folder import check_plugins
from flows.plan import describe_plan, find_changed_sections, hash_settings, plan_loop
from flows.state import LoopState

TWO: dict[str, Any] = {"small": {"use": "activation", "weights": "lite0"}, "large": {"use": "activation"}}


def settings_of(annotators: dict[str, dict[str, Any]]) -> Settings:
    """Return settings with these annotators, each of which annotates everything."""
    return settings_from({"sources": {}, "annotators": {k: {"sources": ["*"], **v} for k, v in annotators.items()}})


def profiles_of(settings: Settings, store: Store) -> dict[str, AnnotatorProfile]:
    return {one.name: one for one in read_profiles(settings, store, list_annotators(settings))}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def label_file(tmp_path: Path) -> str:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"image": {"name": "a.png"}, "annotations": []}\n')
    return str(path)


def test_annotators_on_the_packaged_classifier_are_of_one_family_and_others_of_their_own(store: Store):
    settings = settings_of({**TWO, "ranker": {"use": "tag_ranker"}, "reader": {"use": "reader"}})
    found = {name: profile.family for name, profile in profiles_of(settings, store).items()}
    assert found == {"small": "imagenet", "large": "imagenet", "ranker": "imagenet", "reader": ""}


def test_a_model_of_a_hub_is_its_family_whatever_the_revision_and_what_uses_it():
    model = "florence-community/Florence-2-base-ft"
    settings = settings_of(
        {
            "a": {"use": "hub_captioner", "model": model},
            "b": {"use": "hub_captioner", "model": model, "revision": "abc"},
            "c": {"use": "detector", "model": "PekingU/rtdetr_r50vd"},
            "d": {
                "use": "service_captioner",
                "service": {"url": "http://localhost:1/v1", "model": "x/y"},
            },
        }
    )
    found = [find_family(settings, name) for name in settings.annotators]
    assert found == [model, model, "PekingU/rtdetr_r50vd", "x/y"]


@pytest.mark.parametrize("use", ["onnx_detector", "detector"])
def test_weights_in_files_are_known_by_their_content(use: str, tmp_path: Path):
    import shutil

    known = options(use)
    copy = tmp_path / Path(known["model"]).name
    (shutil.copytree if Path(known["model"]).is_dir() else shutil.copy)(known["model"], copy)
    settings = settings_of({"a": {"use": use, **known}, "b": {"use": use, **known, "model": str(copy)}})
    first, second = (find_family(settings, name) for name in "ab")
    assert first == second and first and first != known["model"]


def test_settings_decide_on_family_and_completeness_and_no_version_follows_from_them(store: Store, label_file: str):
    people = {"use": "existing", "format": "jsonl", "uri": label_file, "human": True}
    plain = settings_of({**TWO, "people": people})
    told = settings_of(
        {
            "small": {**TWO["small"], "family": ""},
            "large": {**TWO["large"], "family": " ours "},
            "people": {**people, "complete": True, "family": "crew"},
        }
    )
    assert [one.key for one in list_annotators(plain)] == [one.key for one in list_annotators(told)]
    assert {k: (p.family, p.complete) for k, p in profiles_of(plain, store).items()} == {
        "small": ("imagenet", False),
        "large": ("imagenet", False),
        "people": ("", False),
    }
    assert {k: (p.family, p.complete) for k, p in profiles_of(told, store).items()} == {
        "small": ("", False),
        "large": ("ours", False),
        "people": ("crew", True),
    }


def test_only_peoples_labels_can_be_complete(label_file: str):
    wrong = settings_of({"labels": {"use": "existing", "format": "jsonl", "uri": label_file, "complete": True}})
    with pytest.raises(SettingsError, match=r"annotators\.labels\.complete: only people's labels.*human: true"):
        list_annotators(wrong)


def test_reviews_are_complete_where_their_import_says_so(store: Store):
    from florence.workspace.annotate import AnnotatorVersion

    human = AnnotatorVersion("human", "0001-abc")
    assert read_profiles(settings_of({}), store, [human])[0] == AnnotatorProfile("human")
    store.write_json("annotators/human@0001-abc.json", {"role": "human", "vocabulary": None, "complete": True})
    assert read_profiles(settings_of({}), store, [human])[0] == AnnotatorProfile("human", "human", complete=True)


def test_doctor_and_dry_run_name_families_of_several(store: Store):
    settings = settings_of({**TWO, "ranker": {"use": "tag_ranker"}})
    (line,) = describe_families(settings)
    assert line.startswith("small, large are of one family (imagenet)")
    assert [check.found for check in check_plugins(settings) if check.name == "families"] == [line]
    assert line in describe_plan(plan_loop(workspace_of(settings, store), 1)).splitlines()
    assert describe_families(settings_of({"small": TWO["small"], "large": {**TWO["large"], "family": "ours"}})) == []


def test_a_dry_run_says_where_no_detector_is_named(store: Store):
    scenes = {"scenes": {"use": "scenes", "count": 1, "size": 64}}
    settings = settings_from({"sources": scenes, "annotators": {"small": {**TWO["small"], "sources": ["*"]}}})
    lines = describe_plan(plan_loop(workspace_of(settings, store), 1)).splitlines()
    assert "scenes: no detector is named: image-level tags only" in lines


def test_another_family_is_a_reason_for_another_round(store: Store):
    def hashes(**section: Any) -> dict[str, str]:
        return hash_settings(workspace_of(settings_of({"small": {**TWO["small"], **section}}), store))

    before = LoopState("x", 0, 1, 1, settings={k: v for k, v in hashes().items() if k != "annotators"})
    for section, changed in (({}, []), ({"family": "ours"}, ["annotators"])):
        workspace = workspace_of(settings_of({"small": {**TWO["small"], **section}}), store)
        assert find_changed_sections(workspace, before) == changed


def test_sources_without_a_detector_are_told(store: Store, label_file: str):
    anyone = {"use": "onnx_detector", **options("onnx_detector")}
    tags = {"use": "activation", "sources": ["*"]}
    names = {"use": "crop_classifier", "sources": ["*"]}

    def sources(**annotators: dict[str, Any]) -> list[str]:
        photos = {"photos": {"use": "samples"}, "scenes": {"use": "scenes", "count": 1, "size": 64}}
        settings = settings_from({"sources": photos, "annotators": {"tags": tags, "names": names, **annotators}})
        found = find_sources_without_detector(settings)
        told = [check.found for check in check_plugins(settings) if check.name == "detector"]
        assert describe_missing_detectors(settings) == told
        sentence = f"{', '.join(found)}: no detector is named: image-level tags only"
        assert told == ([sentence] if found else [])
        return found

    assert sources() == ["photos", "scenes"]
    assert sources(boxes={**anyone, "sources": ["*", "!scenes"]}) == ["scenes"]
    assert sources(boxes={**anyone, "sources": ["*"]}) == []
    crew = {"use": "existing", "format": "jsonl", "uri": label_file, "human": True, "sources": ["photos"]}
    assert sources(crew=crew) == ["scenes"], "people's boxes are boxes"
    assert sources(rough={**tags, "tasks": ["<OD>"]}) == []


def test_the_lines_that_name_a_detector_are_settings():
    annotators = yaml.safe_load(DETECTOR_EXAMPLE)
    (section,) = settings_from({"sources": {}, **annotators}).annotators.values()
    assert section.use == "detector" and len(DETECTOR_EXAMPLE.splitlines()) == 5
