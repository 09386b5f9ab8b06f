"""params.yaml changed by the command line, its comments kept."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florence.config import Settings, merged, read_settings, settings_from
from florence.errors import SettingsError
from florence.store import Store

IMAGES = "images"
"""The key of the source that `florence loop --images URI` writes."""


def overlay_of(images: str | None, config: Path | None) -> dict[str, Any]:
    """What ``--images`` and ``--config`` lay over params.yaml. Raises SettingsError where the overlay file is missing or no mapping."""
    overlay: dict[str, Any] = {}
    if config is not None:
        overlay = _mapping(config, _read(config))
    if images is not None:
        source = {"use": "folder", "uri": images}
        overlay = merged(overlay, {"sources": {IMAGES: source}})
    return overlay


def check_images(uri: str) -> None:
    """Raise StoreError or SettingsError where ``uri`` is no folder of images that can be listed."""
    from florence.sources import SOURCES

    options = {"uri": uri}
    next(iter(SOURCES.get("folder")(**options).images(frozenset())), None)


def overlaid(root: Path, overlay: Mapping[str, Any]) -> Settings:
    """The settings with ``overlay`` laid over them; nothing is written."""
    path = root / "params.yaml"
    read_settings(path)
    return settings_from(merged(_mapping(path, _read(path)), dict(overlay)), f"{path} with the overlay")


def write_overlay(root: Path, overlay: Mapping[str, Any]) -> bool:
    """Lay ``overlay`` over params.yaml, keeping comments and order; returns whether that changed it.

    Raises SettingsError, and leaves the file as it is, where the result would not be allowed.
    """
    from ruamel.yaml import YAML

    overlaid(root, overlay)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    path = root / "params.yaml"
    text = path.read_text(encoding="utf-8")
    document = yaml.load(text)
    if not _lay(document, overlay):
        return False
    sink = io.StringIO()
    yaml.dump(document, sink)
    Store(str(root)).write_bytes("params.yaml", sink.getvalue().encode())
    return True


def missing_sections(root: Path) -> list[str]:
    """What stages of dvc.yaml depend on and params.yaml does not have: for DVC a default is none."""
    path = root / "dvc.yaml"
    stages = _mapping(path, _read(path)).get("stages", {}) if path.is_file() else {}
    values = _mapping(root / "params.yaml", _read(root / "params.yaml"))
    named = {key for stage in stages.values() for key in stage.get("params", ()) if isinstance(key, str)}
    return sorted(key for key in named if not _has(values, key))


def _has(values: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def _lay(document: Any, overlay: Mapping[str, Any]) -> bool:
    """`florence.config.merged`, in place, on a document with comments; whether anything changed."""
    changed = False
    if overlay and not document and hasattr(document, "fa"):
        document.fa.set_block_style()  # {} reads badly when something stands in it
    for key, value in overlay.items():
        present = document.get(key)
        if value is None and isinstance(present, dict):
            del document[key]
            changed = True
        elif isinstance(value, Mapping) and isinstance(present, dict):
            changed |= _lay(present, value)
        elif key not in document or present != value:
            document[key] = value
            changed = True
    return changed


def _read(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not YAML: {error}") from None


def _mapping(path: Path, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: a mapping of settings is expected; found {type(values).__name__}")
    return values
