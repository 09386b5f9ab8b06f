"""The files of a data set, local or anything fsspec opens, with a hash of all that they say."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable

from florence.errors import DataError, StoreError
from florence.store import Store

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".jfif", ".jpe"})


def is_image(name: str) -> bool:
    """Whether a path ends as an image's does."""
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


class Files:
    """One file, or those of a folder that hold labels. ``names``: relative to ``store``, sorted; ``others``: further files, whose names alone matter.

    Raises StoreError where the address is missing, not permitted, or has no such file.
    """

    def __init__(
        self, uri: str, wanted: Callable[[str], bool], expected: str, listed: Callable[[str], bool] = lambda name: False
    ) -> None:
        """``wanted``: whether a file of a folder holds labels; ``expected``: what there should be, for the error; ``listed``: which are `others`."""
        path = os.path.expanduser(uri)
        whole = Store(path)
        found = whole.names("")
        self.uri = uri.rstrip("/")
        self.single = found == [""]  # a file is what is found below itself
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
        """A file's address, for errors."""
        return self.uri if self.single else f"{self.uri}/{name}"

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return self.store.read_bytes(name)

    def text(self, name: str) -> str:
        """A file as text. Raises DataError where it is not UTF-8."""
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.where(name)}: byte {error.start} is not UTF-8, which the file has to be in"
            ) from None

    def stamp(self) -> tuple[tuple[str, str], ...]:
        """What tells, without reading them, whether the files have changed: their names, sizes, and times or tags."""
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
        """A hash of the files' names and contents."""
        total = hashlib.sha256()
        for name in self.names:
            data = self.read(name)
            total.update(f"{'' if self.single else name}\0{len(data)}\0".encode("utf-8", "surrogateescape") + data)
        for name in self.others:
            total.update(f"{name}\0".encode("utf-8", "surrogateescape"))
        return total.hexdigest()[:16]
