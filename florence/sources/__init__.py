"""Sources of images. Each is one module, found by its file; it yields image files unchanged, with their facts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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


@dataclass(frozen=True, slots=True)
class UnusedFiles:
    """Files of a source that are not read for one reason.

    ``ending``: of all of them, in lower case, where the reason is their format; ``examples``: the first names;
    ``remedy``: what would have them read, empty where nothing would.
    """

    reason: str
    count: int
    examples: tuple[str, ...] = ()
    remedy: str = ""
    ending: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source found besides the images that it yielded.

    ``texts``: files whose text was read beside an image; ``is_whole``: whether all that is there was listed.
    """

    texts: int = 0
    unused: tuple[UnusedFiles, ...] = ()
    is_whole: bool = True


class Source:
    """A source of image files. Options come from params.yaml; the constructor raises SettingsError for wrong ones.

    ``uri``: the address of its files, empty where it has none; ``moved_from``: an earlier address of the same files.
    ``listing``: set at the end of `images` by a source of files, which can say that a file is gone. ``own_paths``:
    folders that Florence writes, set by the caller; their files are not read.
    """

    uri: str = ""
    moved_from: str = ""
    listing: Listing | None = None
    own_paths: frozenset[str] = frozenset()

    def images(self, known: frozenset[str]) -> Iterator[SourceImage | ImageError]:
        """Yield every image in a fixed order, an ImageError in place of a file that cannot be read.

        ``known``: names already collected. A source whose names determine the bytes skips them, others yield them
        again.
        """
        raise NotImplementedError

    def read_named(self, names: Collection[str]) -> Iterator[SourceImage | ImageError]:
        """Yield the images with these names, of those that are there."""
        return (found for found in self.images(frozenset()) if found.name in names)

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
