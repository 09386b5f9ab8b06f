"""Sources of images. Each is one module, found by its file; it yields image files unchanged, with their facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from florence.errors import ImageError, SettingsError
from florence.records import Claim
from florence.registry import Registry


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image file.

    ``name``: its path within the source; ``data``: the bytes of the file; ``truth``: exact claims, if known.
    """

    name: str
    data: bytes
    licence: str
    alt_text: str | None = None
    truth: tuple[Claim, ...] = ()


class Source:
    """A source of image files. Options come from params.yaml; the constructor raises SettingsError for wrong ones."""

    def images(self, known: frozenset[str]) -> Iterator[SourceImage | ImageError]:
        """Yield every image in a fixed order, an ImageError in place of a file that cannot be read.

        ``known``: names already collected. A source whose names determine the bytes skips them, others yield them
        again.
        """
        raise NotImplementedError

    def count(self) -> int | None:
        """Return how many images there are, known ones included, or None if counting is expensive."""
        raise NotImplementedError


SOURCES: Registry[type[Source]] = Registry("source", "florence.sources")


def check_options(source: str, options: Mapping[str, Any], allowed: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` merged over the defaults in ``allowed``. Raises SettingsError for an unknown option."""
    if unknown := sorted(set(options) - set(allowed)):
        raise SettingsError(f"source {source}: no option {unknown[0]!r}; allowed: {', '.join(allowed) or 'none'}")
    return {**allowed, **options}


def option_error(source: str, option: str, found: Any, allowed: str) -> SettingsError:
    """Return the error for a wrong value of an option: which option, found and allowed value."""
    return SettingsError(f"source {source}: {option} must be {allowed}; found {found!r}")
