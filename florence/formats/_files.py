"""The files of a data set, local or anywhere fsspec reaches, and a hash of their content."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Callable
from typing import Any

from florence.errors import DataError, StoreError
from florence.store import EXPORT_NOTE, Store
from florence.text_files import decode_text


def is_hidden(name: str) -> bool:
    """Return whether a file is in a folder that a system or a program keeps for itself, and is of no data set."""
    return any(part.startswith((".", "@eaDir", "__MACOSX")) for part in name.split("/")[:-1])


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
        found = [name for name in whole.names("") if not is_hidden(name)]
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

    def text(self, name: str, encoding: str = "") -> str:
        """Return a file as text; ``encoding``: see `florence.text_files.decode_text`.

        Raises DataError if it is in another encoding.
        """
        try:
            return decode_text(self.read(name), encoding)
        except DataError as error:
            raise DataError(f"{self.where(name)}: {error}") from None

    def json(self, name: str, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
        """Return the value in a file of JSON; ``object_hook`` replaces each object.

        Raises DataError if it is not JSON.
        """
        text = self.text(name)
        try:
            return json.loads(text, object_hook=object_hook)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.where(name)} is not JSON: {error}") from None

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


def list_json(uri: str) -> Files:
    """Return one file, or every JSON file of a folder, compressed or not, but the note of an export."""
    endings = (".json", ".json.gz")
    return Files(
        uri,
        lambda name: name.lower().endswith(endings) and posixpath.basename(name) != EXPORT_NOTE,
        "file that ends in .json",
    )
