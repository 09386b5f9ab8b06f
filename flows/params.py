"""params.yaml changed by the command line, its comments kept."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from florence.config import Settings, merged, read_settings, settings_from
from florence.errors import SettingsError
from florence.sources import SOURCES
from florence.store import Store

IMAGES = "images"
"""The key of the source that `florence loop --images URI` writes."""


def read_overlay(images: str | None, config: Path | None) -> dict[str, Any]:
    """Return the settings that ``--images`` and ``--config`` lay over params.yaml.

    Raises SettingsError where the overlay file is missing or no mapping.
    """
    overlay: dict[str, Any] = {}
    if config is not None:
        overlay = _check_mapping(config, _read(config))
    if images is not None:
        source = {"use": "folder", "uri": images}
        overlay = merged(overlay, {"sources": {IMAGES: source}})
    return overlay


def check_images(uri: str) -> None:
    """Raise StoreError or SettingsError where no images can be listed below ``uri``."""
    options = {"uri": uri}
    next(iter(SOURCES.get("folder")(**options).images(frozenset())), None)


def read_settings_with(root: Path, overlay: Mapping[str, Any]) -> Settings:
    """Return the workspace's settings with ``overlay`` laid over them; nothing is written."""
    path = root / "params.yaml"
    read_settings(path)
    return settings_from(merged(_check_mapping(path, _read(path)), dict(overlay)), f"{path} with the overlay")


def write_overlay(root: Path, overlay: Mapping[str, Any]) -> bool:
    """Lay ``overlay`` over params.yaml, keeping comments and order; return whether that changed it.

    Raises SettingsError, and leaves the file as it is, where the result is not allowed.
    """
    read_settings_with(root, overlay)
    writer = YAML()
    writer.preserve_quotes = True
    writer.width = 4096
    writer.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    path = root / "params.yaml"
    text = path.read_text(encoding="utf-8")
    document = writer.load(text)
    if not _lay_over(document, overlay):
        return False
    sink = io.StringIO()
    writer.dump(document, sink)
    Store(str(root)).write_bytes("params.yaml", sink.getvalue().encode())
    return True


def missing_sections(root: Path) -> list[str]:
    """Return the keys that stages of dvc.yaml depend on and params.yaml lacks: DVC knows no defaults."""
    path = root / "dvc.yaml"
    stages = _check_mapping(path, _read(path)).get("stages", {}) if path.is_file() else {}
    values = _check_mapping(root / "params.yaml", _read(root / "params.yaml"))
    named = {key for stage in stages.values() for key in stage.get("params", ()) if isinstance(key, str)}
    return sorted(key for key in named if not _has_key(values, key))


def _has_key(values: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def _lay_over(document: Any, overlay: Mapping[str, Any]) -> bool:
    """Do what `florence.config.merged` does, in place, on a document with comments; return whether anything changed."""
    changed = False
    if overlay and not document and hasattr(document, "fa"):
        document.fa.set_block_style()  # {} is hard to read with something in it
    for key, value in overlay.items():
        present = document.get(key)
        if value is None and isinstance(present, dict):
            del document[key]
            changed = True
        elif isinstance(value, Mapping) and isinstance(present, dict):
            changed |= _lay_over(present, value)
        elif key not in document or present != value:
            document[key] = value
            changed = True
    return changed


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not YAML: {error}") from None


def _check_mapping(path: Path, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: a mapping of settings is expected; found {type(values).__name__}")
    return values
