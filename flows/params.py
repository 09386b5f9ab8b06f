"""params.yaml changed by the command line, its comments kept."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from florence.config import Settings, lay_over, merged, read_mapping, read_settings, settings_from
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
        overlay = read_mapping(config)
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
    return settings_from(merged(read_mapping(path), overlay), f"{path} with the overlay")


def write_overlay(root: Path, overlay: Mapping[str, Any]) -> bool:
    """Lay ``overlay`` over params.yaml, keeping comments and order; return whether that changed it.

    Raises SettingsError, and leaves the file as it is, where the result is not allowed.
    """
    read_settings_with(root, overlay)
    path = root / "params.yaml"
    text = path.read_text(encoding="utf-8")
    written = _dump_over(text, overlay, merged(read_mapping(path), overlay))
    if written == text:
        return False
    Store(str(root)).write_bytes(path.name, written.encode())
    return True


def _dump_over(text: str, overlay: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the YAML document ``text`` with ``overlay`` laid over it, its comments kept.

    ``wanted``: the settings that it then holds.
    """
    writer = YAML()
    writer.preserve_quotes = True
    writer.width = 4096
    writer.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    writer.representer.add_representer(float, _represent_float)
    document = writer.load(text)
    _open_empty(document, overlay)
    if not lay_over(document, overlay):
        return text
    written = _dump(writer, document)
    if (found := yaml.safe_load(written)) != wanted:
        # Sections that share a mapping by an anchor were changed together: they are written out, each by itself.
        for key in [key for key in wanted if found.get(key) != wanted[key]]:
            document[key] = wanted[key]
        written = _dump(writer, document)
    return written


def _represent_float(representer: Any, value: float) -> Any:
    """Write a number so that each reader takes it for one: 1e-05 is a text for PyYAML, 1.0e-05 is none."""
    node = representer.represent_float(value)
    if "e" in node.value and "." not in node.value:
        node.value = node.value.replace("e", ".0e")
    return node


def _dump(writer: YAML, document: Any) -> str:
    sink = io.StringIO()
    writer.dump(document, sink)
    return sink.getvalue()


def _open_empty(document: Any, overlay: Mapping[str, Any]) -> None:
    """Write empty mappings that get something as blocks: {} is hard to read with something in it."""
    if overlay and not document and hasattr(document, "fa"):
        document.fa.set_block_style()
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(document.get(key), dict):
            _open_empty(document[key], value)


def missing_sections(root: Path, params: Path | None = None) -> list[str]:
    """Return the keys that stages of dvc.yaml depend on and params.yaml lacks: DVC knows no defaults.

    ``params``: the file with the settings, where it is another one.
    """
    path = root / "dvc.yaml"
    stages = read_mapping(path).get("stages", {}) if path.is_file() else {}
    values = read_mapping(params or root / "params.yaml")
    named = {key for stage in stages.values() for key in stage.get("params", ()) if isinstance(key, str)}
    return sorted(key for key in named if not _has_key(values, key))


def _has_key(values: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
