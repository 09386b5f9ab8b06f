"""Where images come from. One module a source, found by its file; each yields files as they are, with what is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from florence.errors import ImageError, SettingsError
from florence.records import Claim
from florence.registry import Registry


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image file. ``name``: its path within the source; ``data``: the file's bytes; ``truth``: exact claims, where known."""

    name: str
    data: bytes
    licence: str
    alt_text: str | None = None
    truth: tuple[Claim, ...] = ()


class Source:
    """A supplier of image files. Options come from params.yaml; the constructor refuses wrong ones with SettingsError."""

    def images(self, known: frozenset[str]) -> Iterator[SourceImage | ImageError]:
        """Every image in a fixed order; an ImageError in place of a file that cannot be had, and then the next.

        ``known``: names already collected. A source whose names fix its bytes skips those; others give them again.
        """
        raise NotImplementedError

    def count(self) -> int | None:
        """How many `images` would give if nothing were known, or None where that is not cheap to tell."""
        raise NotImplementedError


SOURCES: Registry[type[Source]] = Registry("source", "florence.sources")


def check_options(source: str, options: Mapping[str, Any], allowed: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` over the defaults in ``allowed``. Raises SettingsError naming an option that is not allowed."""
    if unknown := sorted(set(options) - set(allowed)):
        raise SettingsError(f"source {source}: no option {unknown[0]!r}; allowed: {', '.join(allowed) or 'none'}")
    return {**allowed, **options}


def wrong(source: str, option: str, found: Any, allowed: str) -> SettingsError:
    """The error for an option's value: which, what was found, what is allowed."""
    return SettingsError(f"source {source}: {option} must be {allowed}; found {found!r}")
