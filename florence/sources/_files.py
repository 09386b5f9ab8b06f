"""A folder of files, local or anywhere fsspec reaches: listed in a fixed order, read one by one."""

from __future__ import annotations

import os
import posixpath
from typing import NamedTuple

import fsspec

from florence.errors import FlorenceError, ImageError, SettingsError, StoreError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"})


class TreeFile(NamedTuple):
    """A file.

    ``name``: its path below the root, with ``/``, valid Unicode; ``path``: the path to open; ``size``: bytes.
    """

    name: str
    path: str
    size: int


def is_image(name: str) -> bool:
    """Return whether a name has the suffix of an image file."""
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


class Tree:
    """The files below ``uri``. ``option`` names the setting in errors. Credentials come only from the environment."""

    def __init__(self, source: str, option: str, uri: object) -> None:
        if not isinstance(uri, str) or not uri.strip():
            raise SettingsError(f"source {source}: {option} must be a folder or s3://bucket/prefix; found {uri!r}")
        self.uri, self.where = uri, f"source {source}: {option} {uri}"
        try:
            self.fs, self.root = fsspec.core.url_to_fs(os.path.expanduser(uri))
        except (ImportError, ValueError) as error:
            raise SettingsError(f"{self.where}: cannot be opened: {error}") from None
        protocols = self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)
        self.local = "file" in protocols

    def entries(self) -> tuple[list[TreeFile], list[ImageError]]:
        """Return all files except hidden ones, sorted by name, and an error for each subfolder that cannot be listed.

        Raises StoreError if the root is missing, no folder, or not permitted.
        """
        found, failed = self._local_entries() if self.local else (self._remote_entries(), [])
        return sorted(found), sorted(failed, key=lambda error: error.name)

    def read(self, entry: TreeFile) -> bytes:
        """Return the bytes of a file. Raises ImageError if only this file cannot be read, StoreError if none can."""
        try:
            return self.fs.cat_file(entry.path)
        except OSError as error:
            raise ImageError(entry.name, "unreadable", error.strerror or type(error).__name__) from None
        except Exception as error:
            raise self._store_error(error) from error

    def _local_entries(self) -> tuple[list[TreeFile], list[ImageError]]:
        if not os.path.exists(self.root):
            raise StoreError(
                f"{self.where}: there is no such folder; check the path (relative paths start at the workspace)"
            )
        if not os.path.isdir(self.root):
            raise StoreError(f"{self.where}: is a file; give its folder")
        found: list[TreeFile] = []
        failed: list[ImageError] = []

        def report(error: OSError) -> None:
            if error.filename == self.root:
                raise StoreError(
                    f"{self.where}: cannot be listed: {error.strerror}; give this user the right to read it"
                ) from None
            failed.append(ImageError(self._name(error.filename), "unreadable", f"folder: {error.strerror}"))

        visited = {_identity(self.root)}  # a symbolic link to a folder above must not be followed again
        for folder, folders, files in os.walk(self.root, followlinks=True, onerror=report):
            folders[:] = [
                name
                for name in sorted(folders)
                if not name.startswith(".") and _is_first_visit(os.path.join(folder, name), visited)
            ]
            for path in (os.path.join(folder, name) for name in files if not name.startswith(".")):
                if os.path.isfile(path):
                    found.append(TreeFile(self._name(path), path, os.stat(path).st_size))
                elif os.path.islink(path):
                    failed.append(ImageError(self._name(path), "unreadable", "a symbolic link to nothing"))
        return found, [error for error in failed if is_image(error.name) or error.detail.startswith("folder")]

    def _remote_entries(self) -> list[TreeFile]:
        try:
            self.fs.invalidate_cache()
            found = self.fs.find(self.root, detail=True)
        except FileNotFoundError:
            found = {}
        except PermissionError as error:
            raise StoreError(
                f"{self.where}: not permitted ({error}); check credentials and rights (`florence doctor`)"
            ) from None
        except Exception as error:
            raise self._store_error(error) from error
        if not found:
            raise StoreError(f"{self.where}: nothing is there; check bucket and prefix (`florence doctor`)")
        start = len(self.root.rstrip("/")) + 1
        entries = [
            TreeFile(path[start:], path, int(info.get("size") or 0))
            for path, info in found.items()
            if info.get("type") == "file"
        ]
        return [
            entry for entry in entries if entry.name and not any(part.startswith(".") for part in entry.name.split("/"))
        ]

    def _name(self, path: str) -> str:
        # Names that are not UTF-8 hold lone surrogates, which no table can store.
        name = os.path.relpath(path, self.root).replace(os.sep, "/")
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    def _store_error(self, error: Exception) -> Exception:
        if isinstance(error, FlorenceError) or type(error).__module__.split(".")[0] not in (
            "botocore",
            "aiobotocore",
            "aiohttp",
            "builtins",
        ):
            return error
        return StoreError(f"{self.where}: {error}; check endpoint, credentials and network (`florence doctor`)")


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _is_first_visit(path: str, visited: set[tuple[int, int]]) -> bool:
    try:
        identity = _identity(path)
    except OSError:
        return True  # os.walk meets the same error and reports it
    if identity in visited:
        return False
    visited.add(identity)
    return True
