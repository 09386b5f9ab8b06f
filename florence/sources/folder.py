"""Images of a folder and its subfolders, on local disk or in a bucket."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

from florence.errors import ImageError
from florence.sources import SOURCES, Source, SourceImage, check_options, option_error
from florence.sources._files import Tree, is_image


@SOURCES.register("folder")
class FolderSource(Source):
    """The images below ``uri``, a local path (relative to the workspace) or ``s3://bucket/prefix``.

    Credentials come from the environment. ``licence``: the licence note of every image. Files with the suffixes jpg,
    jpeg, png, gif, bmp, webp, tif and tiff are read, in the order of their names; hidden files are not. A .txt beside
    an image (``cat.txt`` or ``cat.jpg.txt`` for ``cat.jpg``) is its alt text. Each run reads every file again, since
    its content may have changed: the hash decides what is new.

    Raises SettingsError for a wrong option, StoreError if the folder is missing or not permitted.
    """

    def __init__(self, **options: Any) -> None:
        values = check_options("folder", options, {"uri": None, "licence": "not stated"})
        self.tree = Tree("folder", "uri", values["uri"])
        if not isinstance(values["licence"], str) or not values["licence"].strip():
            raise option_error("folder", "licence", values["licence"], "a text")
        self.licence: str = values["licence"]
        self._count: int | None = None

    def count(self) -> int | None:
        """Return how many image files the last listing found; None before it."""
        return self._count

    def images(self, known: frozenset[str]) -> Iterator[SourceImage | ImageError]:
        """Yield every image file, known or not; an ImageError for what cannot be read, or has 0 bytes."""
        entries, failed = self.tree.entries()
        texts = {entry.name: entry for entry in entries if entry.name.lower().endswith(".txt")}
        image_files = [entry for entry in entries if is_image(entry.name)]
        self._count = len(image_files) + len(failed)
        yield from failed
        for entry in image_files:
            note = texts.get(posixpath.splitext(entry.name)[0] + ".txt") or texts.get(entry.name + ".txt")
            try:
                data = self.tree.read(entry)
                alt = " ".join(self.tree.read(note).decode("utf-8-sig", "replace").split()) if note else None
            except ImageError as error:
                yield ImageError(
                    entry.name,
                    error.reason,
                    error.detail if error.name == entry.name else f"{error.name}: {error.detail}",
                )
                continue
            yield (
                SourceImage(entry.name, data, self.licence, alt or None)
                if data
                else ImageError(entry.name, "empty", "0 bytes")
            )
