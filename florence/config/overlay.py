"""An overlay: settings that are laid over params.yaml."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from florence.config.base import PluginSettings
from florence.config.settings import Settings


def merged(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``overlay`` laid over it, as `lay_over` does; neither is changed."""
    result: dict[str, Any] = _copy(base)
    lay_over(result, overlay)
    return result


def lay_over(settings: MutableMapping[str, Any], overlay: Mapping[str, Any], at: Sequence[str] = ()) -> bool:
    """Lay ``overlay`` over ``settings``, in place; return whether that changed anything.

    Mappings are merged, lists and scalars replaced. A null takes away: a source, an annotator, a section, or a
    plug-in's option, whose default then counts; where nothing is to be taken away it does nothing. Only for a setting
    that can have no value is it a value. So the same overlay changes nothing the second time. ``at``: keys that lead
    to ``settings`` from the top of params.yaml.
    """
    changed = False
    for key, value in overlay.items():
        present, there = settings.get(key), key in settings
        if value is None and _takes_away((*at, key)):
            if there:
                del settings[key]
                changed = True
        elif isinstance(value, Mapping) and isinstance(present, MutableMapping):
            changed |= lay_over(present, value, (*at, key))
        elif isinstance(value, Mapping):
            new: dict[str, Any] = {}
            lay_over(new, value, (*at, key))
            settings[key] = new
            changed = True
        elif not there or present != value or isinstance(present, bool) != isinstance(value, bool):  # True == 1
            settings[key] = _copy(value)
            changed = True
    return changed


def _copy(value: Any) -> Any:
    """Return a copy in which every mapping and list stands once: an alias (*name) in YAML is the same object twice."""
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _takes_away(path: Sequence[str]) -> bool:
    """Return whether a null at ``path`` takes the key away, rather than being its value.

    An unknown key keeps its null: so it is refused by its name.
    """
    kind: Any = Settings
    for key in path:
        kind, _ = _strip(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if key not in kind.model_fields:
                return issubclass(kind, PluginSettings)
            kind = kind.model_fields[key].annotation
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            return False
    kind, optional = _strip(kind)
    is_mapping = get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, BaseModel))
    return is_mapping or not optional


def _strip(kind: Any) -> tuple[Any, bool]:
    """Return a type without Annotated and None, and whether None was allowed."""
    if get_origin(kind) is Annotated:
        return _strip(get_args(kind)[0])
    others = [part for part in get_args(kind) if part is not NoneType]
    if NoneType in get_args(kind) and len(others) == 1:
        return _strip(others[0])[0], True
    return kind, False
