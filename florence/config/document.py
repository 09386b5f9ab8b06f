"""docs/settings.md, made of the descriptions of the settings."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from florence.config.base import PluginSettings
from florence.config.settings import Settings
from florence.records import TASKS


def settings_markdown() -> str:
    """Return docs/settings.md: every setting with its type, bounds, default and meaning."""
    lines = [
        "# Settings",
        "",
        "Every key of `params.yaml`. An overlay (`florence loop --config FILE`) has the same keys, and is merged into",
        "it: lists and single values are replaced, and `null` takes a source, an annotator, a section or a plug-in's",
        "option away, so that its default counts (for a setting that can be none, `null` is that value). The same",
        "overlay changes nothing the second time. A key that is not listed here is refused with its name, a key that",
        "stands twice in one mapping with its lines.",
        "Made by `python -m florence.config > docs/settings.md`.",
    ]
    return "\n".join([*lines, *_section_lines("", Settings)]) + "\n"


def _section_lines(prefix: str, section: type[BaseModel]) -> list[str]:
    """Return a heading and a table for ``section``, then the same for the sections inside it."""
    title = f"`{prefix.rstrip('.')}`" if prefix else "Top level"
    about = " ".join((section.__doc__ or "").split())
    rows, inner = [], []
    for name, field in section.model_fields.items():
        annotation = field.annotation
        parts = [a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
        plugin = next((a for a in parts if issubclass(a, PluginSettings)), None)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            inner += _section_lines(f"{prefix}{name}.", annotation)
        elif plugin is not None:
            inner += _section_lines(f"{prefix}{name}.<key>.", plugin)
        else:
            for part in parts:
                inner += _section_lines(f"{prefix}{name}{'[]' if get_origin(annotation) is tuple else ''}.", part)
            rows.append(
                f"| `{prefix}{name}` | {_type_text(annotation, field)} | {_default(field)} | {field.description} |"
            )
    if issubclass(section, PluginSettings):
        rows.append("| any other | | | the plug-in's own settings; a wrong one is refused with its name |")
    head = ["| key | value | default | meaning |", "|---|---|---|---|"]
    return ["", f"## {title}", "", about, "", *(head if rows else []), *rows, *inner]


def _type_text(annotation: Any, field: FieldInfo) -> str:
    """Return the type and bounds of a field in plain words."""
    bounds = [
        f"{sign} {getattr(item, name)}"
        for item in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(item, name, None) is not None
    ]
    text = str(annotation) if get_args(annotation) else annotation.__name__
    choices = next((a for a in (annotation, *get_args(annotation)) if get_origin(a) is Literal), None)
    if choices is not None:
        text = ("list of " if get_origin(annotation) is tuple else "") + " or ".join(get_args(choices))
    elif any(isinstance(a, type) and issubclass(a, BaseModel) for a in get_args(annotation)):
        text = "list of sections" if get_origin(annotation) is tuple else "section or none"
    elif get_origin(annotation) is dict:
        parts = (get_args(a)[0] if get_origin(a) is Annotated else a for a in get_args(annotation))
        text = f"dict[{', '.join(getattr(part, '__name__', str(part)) for part in parts)}]"
    text = (
        text.replace("tuple[str, ...]", "list of str")
        .replace("NoneType", "none")
        .replace("None", "none")
        .replace("|", "or")
    )
    return text + (f" {', '.join(bounds)}" if bounds else "")


def _default(field: FieldInfo) -> str:
    """Return the default as written in params.yaml."""
    if field.is_required():
        return "required"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    if field.default == TASKS:
        return "all tasks"
    return f"`{json.dumps(value)}`" if value is not None else "none"
