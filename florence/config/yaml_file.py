"""A YAML file of settings as a mapping: what YAML itself would let pass in silence is refused, with its place."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from florence.errors import SettingsError

MERGE = "tag:yaml.org,2002:merge"
HINTS = (
    ("'\\t'", "indent with blanks, not with tabs"),
    ("could not determine a constructor for the tag", "settings are plain YAML, without tags"),
    ("found another document", "one document is read: remove the line ---"),
    ("found undefined alias", "the anchor (&name) has to stand above it"),
)
"""Part of a message of the YAML parser, and what to do about it."""


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises SettingsError, naming the file and the line, where it is missing, unreadable, no YAML, no mapping, or has a
    key twice in one mapping: YAML's readers differ in which of the two counts.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path}: byte {error.start} is no UTF-8 ({error.reason}); save the file as UTF-8"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror or error}") from None
    values = _load(path, text)
    if values is None:
        raise SettingsError(f"{path} is empty; a mapping of settings is expected (docs/settings.md)")
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: a mapping of settings is expected; found {type(values).__name__}")
    return values


def _load(path: Path, text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        if (node := loader.get_single_node()) is None:
            return None
        _check_keys(path, loader, node, "", set())
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SettingsError(_explain(path, mark.line + 1 if mark else None, str(error.problem or error))) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: as the date 2026-13-45
        raise SettingsError(_explain(path, None, " ".join(str(error).split()))) from None
    except RecursionError:
        raise SettingsError(f"{path}: the settings are nested too deeply") from None
    finally:
        loader.dispose()


def _explain(path: Path, line: int | None, problem: str) -> str:
    hint = next((f"; {hint}" for part, hint in HINTS if part in problem), "")
    return f"{path}{f', line {line}' if line is not None else ''}: not YAML: {problem}{hint}"


def _check_keys(path: Path, loader: yaml.SafeLoader, node: yaml.Node, prefix: str, seen: set[int]) -> None:
    """Raise SettingsError where a mapping in ``node`` has a key twice; merged keys (<<) may be set again.

    ``seen``: ids of the nodes that were checked; an alias leads to the same node again.
    """
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _check_keys(path, loader, item, f"{prefix}{number}.", seen)
        return
    lines: dict[Hashable, int] = {}
    for key_node, value in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise SettingsError(f"{path}, line {key_node.start_mark.line + 1}: the key of a setting is a word")
        key = key_node.value if key_node.tag == MERGE else loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if key in lines:
            where = f"lines {lines[key]} and {line}" if lines[key] != line else f"line {line}"
            raise SettingsError(f"{path}: {prefix}{key_node.value} stands twice, in {where}; make one of the two")
        lines[key] = line
        _check_keys(path, loader, value, f"{prefix}{key_node.value}.", seen)
