"""Names of image files in an export: unique, below their folder, with the ending that their content has.

Other programs find images by their endings, and skip what has none, hidden files, and comments of lists without a word.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Sequence

from florence.records import ImageRecord

MAX_BYTES = 250
"""The longest name of a file; disks allow 255, and label files have other endings."""


class FileNames:
    """Gives each image's file a path of its own; ``renamed``: how many differ from the path in the image's source."""

    def __init__(self, *, by_stem: bool, with_source: bool, flat: bool = False) -> None:
        """``by_stem``: paths are unique without endings too.

        ``with_source``: paths begin with the source's key. ``flat``: there are no subfolders, ``a/b.jpg`` is
        ``a-b.jpg``.
        """
        self.renamed = 0
        self._by_stem, self._with_source, self._flat = by_stem, with_source, flat
        self._taken: set[str] = set()

    def assign(self, record: ImageRecord, endings: Sequence[str]) -> str:
        """Return the path of an image's file. ``endings``: those its content may have, the usual one first; none: any.

        A missing or wrong ending is put behind the whole name, so that the name without it is that of the source.
        """
        own = f"{record.source}/{record.name}" if self._with_source else record.name
        cleaned = _clean(own)
        stem, ending = posixpath.splitext(cleaned.replace("/", "-") if self._flat else cleaned)
        if endings and ending.lower() not in endings:
            stem, ending = stem + ending, endings[0]
        stem = stem.rstrip() + "_" * (len(stem) - len(stem.rstrip()))
        path = next(
            path
            for k in itertools.count(1)
            if self._unique_part(path := _join(stem, f"-{k}" if k > 1 else "", ending)) not in self._taken
        )
        self._taken.add(self._unique_part(path))
        self.renamed += path != own
        return path

    def _unique_part(self, path: str) -> str:
        # Some disks take two names that differ only in case for one.
        return (posixpath.splitext(path)[0] if self._by_stem else path).casefold()


def _join(stem: str, number: str, ending: str) -> str:
    """Return a path whose last part is no longer than disks allow; the end of its stem gives way."""
    folder, slash, last = stem.rpartition("/")
    room = MAX_BYTES - len(f"{number}{ending}".encode())
    return f"{folder}{slash}{last.encode()[:room].decode(errors='ignore')}{number}{ending}"


def _clean(path: str) -> str:
    """Return a path that stays below its folder and on one line, without a hidden part or a comment's mark in front."""
    parts = ["".join(c if c.isprintable() else "_" for c in part) for part in path.replace("\\", "_").split("/")]
    parts = [part for part in parts if part not in ("", ".", "..")] or ["image"]
    parts = ["_" + part[1:] if part[0] == "." else part for part in parts]
    return ("_" + parts[0][1:] if parts[0][0] in " #" else parts[0]) + "".join(f"/{part}" for part in parts[1:])
