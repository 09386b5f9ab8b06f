"""Every old name of a setting is refused with its new name, in params.yaml and in overlays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from flow_workspaces import params, write_params
from typer.testing import CliRunner

from florence.annotators import ANNOTATORS
from florence.config import Settings, merged, settings_from
from florence.errors import SettingsError
from florence.records import digest
from florence.renamed import RENAMED, renamed_keys
from flows.cli import app

OLD = sorted(RENAMED)


def overlay_with(pattern: str) -> tuple[dict[str, Any], str, str]:
    """Return settings with the old key of ``pattern``, its path, and the path of its new name."""
    *front, last = pattern.replace("*", "careful").split(".")
    overlay: dict[str, Any] = {last: {"careful": {}} if RENAMED[pattern] == "annotators" else 1}
    for key in reversed(front):
        overlay = {key: overlay}
    return overlay, ".".join([*front, last]), ".".join([*front, RENAMED[pattern]])


def test_a_key_that_is_gone_is_refused_with_what_there_is_instead():
    with pytest.raises(SettingsError, match=r"snapshots\.commit: .*snapshots\.record.*remove the key"):
        settings_from(merged(params(), {"snapshots": {"commit": False}}))


@pytest.mark.parametrize("pattern", OLD)
def test_an_old_name_is_refused_with_the_new_one(pattern: str):
    overlay, old, new = overlay_with(pattern)
    with pytest.raises(SettingsError) as error:
        settings_from(merged(params(), overlay))
    assert f"{old}: this setting is now called {new}" in str(error.value)


@pytest.mark.parametrize("pattern", OLD)
def test_an_old_name_in_an_overlay_is_refused_and_params_yaml_stays(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    overlay, old, new = overlay_with(pattern)
    write_params(tmp_path)
    before = (tmp_path / "params.yaml").read_bytes()
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["loop", "--config", "overlay.yaml"])
    assert done.exit_code == 1 and f"{old}: this setting is now called {new}" in done.output, done.output
    assert (tmp_path / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("pattern", OLD)
def test_the_new_name_is_a_setting(pattern: str):
    *front, _ = pattern.split(".")
    section: Any = Settings
    for key in front:
        annotation = section.model_fields[key].annotation if key != "*" else section
        section = annotation.__args__[1] if hasattr(annotation, "__args__") else annotation
    is_annotators_option = front == ["annotators", "*"] and RENAMED[pattern] == "min_polygon_iou"
    assert RENAMED[pattern] in section.model_fields or is_annotators_option


def test_settings_without_old_names_pass():
    assert list(renamed_keys(params())) == []
    assert list(renamed_keys({"annotators": {"batch": {"use": "masks"}}, "train": None, "engine": 3})) == []


def test_versions_of_annotators_are_those_from_before_the_renaming():
    simulated = ANNOTATORS.get("simulated")(
        name="careful", missed=0.2, mislabelled=0.15, invented=0.1, shifted=0.1, alt_noise=0.2, misread=0.05
    )
    assert simulated.version == "bfc3e9445015"  # as the code called it when its ingredient had another name
    masks = ANNOTATORS.get("masks")(name="masks", min_polygon_iou=0.9)
    options = masks.options.model_dump(mode="json")
    options["fidelity"] = options.pop("min_polygon_iou")
    assert masks.version == digest(["Masks", masks.revision, options, masks.ingredients()], length=12)
