"""params.yaml and overlays as YAML: faults are one sentence with their line, and an overlay changes nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from flow_workspaces import params as tiny_params
from flow_workspaces import write_params
from typer.testing import CliRunner

from florence.config import merged, read_mapping, read_settings, settings_from
from florence.errors import SettingsError
from flows.cli import app
from flows.params import read_overlay, read_settings_with, write_overlay


def written(folder: Path, text: str | bytes, name: str = "s.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---------------------------------------------------------------- what is refused

TWICE = "annotators:\n  a: {use: x}\nsources: {}\nannotators:\n  b: {use: y}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWICE, "annotators stands twice, in lines 1 and 4"),
        ("a:\n  b: 1\n  c: 2\n  'b': 3\n", "a.b stands twice, in lines 2 and 4"),
        ("a: {b: 1, b: 1}\n", "a.b stands twice, in line 1"),
        ("a:\n- b: 1\n- c: 1\n  c: 2\n", "a.1.c stands twice, in lines 3 and 4"),
        ("x: &x {k: 1}\ny: &y {l: 1}\nz:\n  <<: *x\n  <<: *y\n", "z.<< stands twice, in lines 4 and 5"),
        ("a:\n\tb: 1\n", "line 2: not YAML: .*indent with blanks, not with tabs"),
        ("- a\n- b\n", "a mapping of settings is expected; found list"),
        ("words\n", "a mapping of settings is expected; found str"),
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("a: 1\n---\nb: 2\n", "one document is read"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1: not YAML: .*without tags"),
        ("a: !mine {b: 1}\n", "line 1: not YAML: .*without tags"),
        ("a: *nobody\n", "line 1: not YAML: .*has to stand above"),
        ("a: [1, 2\n", "line 2: not YAML"),
        ("a: 2026-13-45\n", "not YAML: month must be in 1"),
        ("? [a, b]\n: 1\n", "line 1: the key of a setting is a word"),
        ("ä: 1\n".encode("latin-1"), "byte 0 is no UTF-8.*save the file as UTF-8"),
        ("a: 1\n".encode("utf-16"), "save the file as UTF-8"),
    ],
)
def test_what_is_no_mapping_of_settings_is_refused_in_one_sentence(text, message: str, tmp_path: Path):
    path = written(tmp_path, text)
    with pytest.raises(SettingsError, match=message) as caught:
        read_mapping(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path):
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        read_mapping(tmp_path)
    with pytest.raises(SettingsError, match="does not exist"):
        read_mapping(tmp_path / "no.yaml")


def test_anchors_and_merges_are_read_and_merged_keys_may_be_set_again(tmp_path: Path):
    text = "a: &a {x: 1, y: 2}\nb: *a\nc:\n  <<: *a\n  x: 3\nd: {<<: [*a, {z: 4}]}\n"
    expected = {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"x": 3, "y": 2}, "d": {"x": 1, "y": 2, "z": 4}}
    assert read_mapping(written(tmp_path, text)) == expected
    assert read_mapping(written(tmp_path, "\ufeffa: 1\r\nb: ä\r\n")) == {"a": 1, "b": "ä"}


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"tracking": {"experiment": True}}, r"tracking.experiment: .*found True \(write it in quotes"),
        ({"tracking": {"model": 7}}, r"tracking.model: .*found 7 \(write it in quotes"),
        ({"annotators": {1: {"use": "reader", "sources": ["*"]}}}, r"annotators.1.*found 1 \(write it in quotes"),
        ({"train": None}, "train"),
        ({True: 1}, "True"),
    ],
)
def test_values_and_keys_of_other_types_are_refused_with_the_remedy(overlay: dict, message: str):
    with pytest.raises(SettingsError, match=message):
        settings_from({**tiny_params(), **overlay})


@pytest.fixture
def twice(tmp_path: Path, monkeypatch) -> Path:
    """Return a workspace whose params.yaml has a second block of annotators."""
    write_params(tmp_path)
    lines = (tmp_path / "params.yaml").read_text().splitlines()
    more = ["annotators:", "  labels: {use: existing, format: jsonl, uri: l.jsonl, sources: ['*']}"]
    written(tmp_path, "\n".join([*lines, *more]) + "\n", "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["loop --dry-run", "loop", "collect", "train", "compare", "annotate", "schedule"])
def test_a_second_block_is_one_sentence_in_every_command(twice: Path, command: str):
    before = (twice / "params.yaml").read_bytes()
    done = CliRunner().invoke(app, command.split())
    assert (done.exit_code, done.output.count("\n")) == (1, 1), (done.output, done.exception)
    assert "annotators stands twice, in lines " in done.output and "params.yaml" in done.output
    assert (twice / "params.yaml").read_bytes() == before


def test_the_doctor_says_it_too(twice: Path):
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1 and "annotators stands twice, in lines " in done.output


# ---------------------------------------------------------------- overlays

BASE = """\
sources:
  photos: {use: folder, uri: /photos}
annotators:
  a: &a {use: simulated, sources: ["*"], missed: 0.2}   # the first
  b: *a
  c: {<<: *a, missed: 0.3}
engine:
  language: de
  synonyms: {dog: [hound]}
train: {steps: 5, lora: {rank: 4}}
snapshots:
  push: storage
"""


@pytest.mark.parametrize(
    ("overlay", "gone", "values"),
    [
        ("annotators: {a: null}", ["annotators.a"], {}),
        ("annotators: {nobody: null}", [], {}),
        ("sources: {photos: null}", ["sources.photos"], {}),
        ("engine: null", ["engine"], {}),
        ("promotion: null", [], {}),
        ("engine: {synonyms: null}", ["engine.synonyms"], {}),
        ("engine: {synonyms: {dog: null}}", ["engine.synonyms.dog"], {}),
        ("train: {steps: null, lora: null}", ["train.steps", "train.lora"], {}),
        ("annotators: {b: {missed: null}}", ["annotators.b.missed"], {"annotators.a.missed": 0.2}),
        ("annotators: {c: {missed: null}}", [], {"annotators.a.missed": 0.2}),
        ("annotators: {d: {use: simulated, sources: ['*'], missed: null}}", ["annotators.d.missed"], {}),
        ("engine: {language: null}", [], {"engine.language": None}),
        ("snapshots: {push: null}", [], {"snapshots.push": None}),
        ("tracking: {artifacts: null}", [], {"tracking.artifacts": None}),
        ("annotators: {b: {missed: 0.5}}", [], {"annotators.a.missed": 0.2, "annotators.b.missed": 0.5}),
        ("annotators: {c: {mislabelled: 0.5}}", [], {"annotators.a.missed": 0.2, "annotators.c.missed": 0.3}),
    ],
)
def test_an_overlay_changes_nothing_the_second_time(overlay: str, gone: list, values: dict, tmp_path: Path):
    written(tmp_path, BASE, "params.yaml")
    file = written(tmp_path, overlay, "overlay.yaml")
    first = read_settings_with(tmp_path, read_overlay(None, file))
    write_overlay(tmp_path, read_overlay(None, file))
    after = (tmp_path / "params.yaml").read_bytes()
    assert read_settings(tmp_path / "params.yaml") == first, "what is written is what a dry run tells"
    assert not write_overlay(tmp_path, read_overlay(None, file))
    assert (tmp_path / "params.yaml").read_bytes() == after
    found = read_mapping(tmp_path / "params.yaml")
    for path in gone:
        assert _at(found, path) is KeyError
    for path, value in values.items():
        assert _at(found, path) == value
    if overlay.endswith("nobody: null}") or "promotion" in overlay:
        assert after == BASE.encode()


def _at(values, path: str):
    for key in path.split("."):
        if key not in values:
            return KeyError
        values = values[key]
    return values


@pytest.mark.parametrize("overlay", ["trian: null", "train: {stps: null}", "annotaters: {ranker: null}"])
def test_an_unknown_key_is_refused_with_null_too(overlay: str, tmp_path: Path):
    written(tmp_path, BASE, "params.yaml")
    with pytest.raises(SettingsError, match="no such setting"):
        write_overlay(tmp_path, read_overlay(None, written(tmp_path, overlay, "overlay.yaml")))


def test_true_is_not_one():
    assert merged({"train": {"steps": 1}}, {"train": {"steps": True}}) == {"train": {"steps": True}}
    assert merged({"a": 1}, yaml.safe_load("a: 1")) == {"a": 1}
