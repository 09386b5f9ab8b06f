"""The files of a data set, local or anywhere fsspec reaches, and a hash of their content."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable

from florence.errors import DataError, StoreError
from florence.store import Store

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".jfif", ".jpe"})


def is_image(name: str) -> bool:
    """Return whether a path has the suffix of an image file."""
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


class Files:
    """One file, or the files of a folder that hold labels.

    ``names``: relative to ``store``, sorted. ``others``: further files, of which only the names matter. Raises
    StoreError if the address is missing, not permitted, or has no such file.
    """

    def __init__(
        self, uri: str, wanted: Callable[[str], bool], expected: str, listed: Callable[[str], bool] = lambda name: False
    ) -> None:
        """List the files at ``uri``.

        ``wanted``: whether a file of a folder holds labels. ``expected``: what should be there, for the error.
        ``listed``: whether a file belongs to `others`.
        """
        path = os.path.expanduser(uri)
        whole = Store(path)
        found = whole.names("")
        self.uri = uri.rstrip("/")
        self.single = found == [""]  # a store lists a single file as the empty name
        self.others: tuple[str, ...] = ()
        if self.single:
            self.store = Store(posixpath.dirname(path) or ".")
            self.names: tuple[str, ...] = (posixpath.basename(path),)
            return
        self.store = whole
        self.names = tuple(name for name in found if wanted(name))
        self.others = tuple(name for name in found if listed(name))
        if not self.names and not self.others:
            there = f"{uri} has no {expected}" if found else f"{uri} does not exist, or is empty"
            raise StoreError(f"{there}; relative paths start at the workspace")

    def where(self, name: str) -> str:
        """Return a file's address, for errors."""
        return self.uri if self.single else f"{self.uri}/{name}"

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return self.store.read_bytes(name)

    def text(self, name: str) -> str:
        """Return a file as text. Raises DataError if it is not UTF-8."""
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.where(name)}: byte {error.start} is not UTF-8, the encoding the file must have"
            ) from None

    def stamp(self) -> tuple[tuple[str, str], ...]:
        """Return names, sizes and times or tags of the files: what shows a change without reading them."""
        fs, path = self.store.fs, self.store.path
        listed = (
            {} if self.single or self.store.local else fs.find(self.store.root, detail=True)
        )  # one request for many files
        stamps = []
        for name in self.names:
            info = listed.get(path(name)) or fs.info(path(name))
            stamps.append((name, repr([info.get(key) for key in ("size", "mtime", "ETag", "LastModified", "created")])))
        return (*stamps, *((name, "") for name in self.others))

    def digest(self) -> str:
        """Return a hash of the files' names and contents."""
        total = hashlib.sha256()
        for name in self.names:
            data = self.read(name)
            total.update(f"{'' if self.single else name}\0{len(data)}\0".encode("utf-8", "surrogateescape") + data)
        for name in self.others:
            total.update(f"{name}\0".encode("utf-8", "surrogateescape"))
        return total.hexdigest()[:16]
