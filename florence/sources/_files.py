"""A folder of files, local or anywhere fsspec reaches: listed in a fixed order, read one by one."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

import fsspec

from florence.errors import FlorenceError, ImageError, SettingsError, StoreError
from florence.images import ARCHIVES, is_image, sniff_format
from florence.sources._skipped import (
    DEAD_LINK,
    EXPORTED,
    NO_FILE,
    NOT_PERMITTED,
    OWN,
    explain_content,
    explain_file,
    explain_folder,
    explain_output,
    explain_path,
    is_workspace,
)
from florence.store import EXPORT_NOTE

HEAD = 512
"""Bytes of a file that tell its format."""
EXAMPLES = 5
"""Names that are kept of files that are not read for one reason."""


class TreeFile(NamedTuple):
    """A file.

    ``name``: its path below the root, with ``/``, valid Unicode; ``path``: the path to open; ``size``: bytes.
    """

    name: str
    path: str
    size: int


class Tally:
    """Files by the reason why they are not read: how many, and the first names."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count a file."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        known = self.examples.setdefault(reason, [])
        if len(known) < EXAMPLES:
            known.append(name)


class Tree:
    """The files below ``uri``. ``option`` names the setting in errors. Credentials come only from the environment.

    ``skipped``: files that the last listing left out. ``own_paths``: local folders that Florence writes, set by the
    caller before a listing.
    """

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
        self.skipped = Tally()
        self.own_paths: frozenset[str] = frozenset()

    def entries(self) -> tuple[list[TreeFile], list[ImageError]]:
        """Return all files that may be somebody's, sorted by name, and an error for each subfolder that is unreadable.

        Left out are hidden files, thumbnails and files of the system, what workspaces of Florence have written, its
        exports, and installed programs. Raises StoreError if the root is missing, no folder, or not permitted.
        """
        self.skipped = Tally()
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

    def head(self, entry: TreeFile) -> bytes:
        """Return the first bytes of a file, by which its format is known; none where it cannot be read."""
        try:
            return bytes(self.fs.cat_file(entry.path, start=0, end=min(HEAD, entry.size))) if entry.size else b""
        except OSError:
            return b""

    def _local_entries(self) -> tuple[list[TreeFile], list[ImageError]]:
        if not os.path.exists(self.root):
            raise StoreError(
                f"{self.where}: there is no such folder; check the path (relative paths start at the workspace)"
            )
        if not os.path.isdir(self.root):
            raise self._file_error(TreeFile("", self.root, os.stat(self.root).st_size))
        found: list[TreeFile] = []
        failed: list[ImageError] = []

        def report(error: OSError) -> None:
            if error.filename == self.root:
                raise StoreError(
                    f"{self.where}: cannot be listed: {error.strerror}; give this user the right to read it"
                ) from None
            failed.append(ImageError(self._name(error.filename), "unreadable", f"folder: {error.strerror}"))

        workspaces: list[str] = []
        for folder, folders, files in self._walk(report):
            if is_workspace(folder, files, folders):
                workspaces.append(folder)
            folders[:] = [name for name in sorted(folders) if not self._skip_folder(folder, name, workspaces)]
            for name in sorted(files):
                path = os.path.join(folder, name)
                if reason := explain_file(name) or self._explain_own(path, workspaces):
                    self.skipped.add(reason, self._name(path))
                else:
                    self._take_file(path, found, failed)
        return found, failed

    def _walk(self, report: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield each folder once, as `os.walk` does; the caller leaves in its list of folders what is to be followed.

        A folder that is below the root and linked there too is met in its own place, not as the link.
        """
        waiting, visited = [self.root], set[tuple[int, int]]()
        while waiting:
            top = waiting.pop(0)
            if not _is_first_visit(top, visited):
                continue
            for folder, folders, files in os.walk(top, onerror=report):
                yield folder, folders, files
                paths = {name: os.path.join(folder, name) for name in folders}
                waiting += [path for path in paths.values() if os.path.islink(path)]
                folders[:] = [
                    name for name, path in paths.items() if not os.path.islink(path) and _is_first_visit(path, visited)
                ]

    def _take_file(self, path: str, found: list[TreeFile], failed: list[ImageError]) -> None:
        """Add a file to those that are found, to those that have failed, or to what is skipped."""
        name = self._name(path)
        try:
            status = os.stat(path)
        except OSError as error:
            if not os.path.lexists(path):
                return  # removed since the folder was listed
            is_dead = os.path.islink(path) and not isinstance(error, PermissionError)
            if is_image(name):
                detail = "a symbolic link to nothing" if is_dead else error.strerror or type(error).__name__
                failed.append(ImageError(name, "unreadable", detail))
            else:
                self.skipped.add(DEAD_LINK if is_dead else NOT_PERMITTED, name)
            return
        if stat.S_ISREG(status.st_mode):
            found.append(TreeFile(name, path, status.st_size))
        else:
            self.skipped.add(NO_FILE, name)

    def _skip_folder(self, folder: str, name: str, workspaces: list[str]) -> bool:
        """Return whether nothing below a folder is read; its files are counted then."""
        path = os.path.join(folder, name)
        reason = self._explain_own(path, workspaces) or explain_folder(name)
        if not reason:
            try:
                inside = list(os.scandir(path))
            except OSError:
                return False  # os.walk meets the same error and reports it
            names = {entry.name for entry in inside}
            reason = explain_content(names, names)
        if reason:
            count = sum(len(files) for _, _, files in os.walk(path))
            if count:
                self.skipped.add(reason, f"{self._name(path)}/", count)
        return bool(reason)

    def _explain_own(self, path: str, workspaces: list[str]) -> str:
        if path in self.own_paths:
            return OWN
        below = (path[len(root) + 1 :] for root in workspaces if path.startswith(root + os.sep))
        return next(filter(None, (explain_output(rest.replace(os.sep, "/")) for rest in below)), "")

    def _file_error(self, entry: TreeFile) -> StoreError:
        """Return the error for an address that is a file."""
        form = sniff_format(self.head(entry))
        if form in ARCHIVES:
            return StoreError(f"{self.where}: is an archive ({form}): unpack it, and give the folder that it makes")
        return StoreError(f"{self.where}: is a file; give its folder")

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
        if (info := found.get(self.root.rstrip("/"))) and info.get("type") == "file" and len(found) == 1:
            raise self._file_error(TreeFile("", self.root, int(info.get("size") or 0)))
        start = len(self.root.rstrip("/")) + 1
        entries = [
            TreeFile(path[start:], path, int(info.get("size") or 0))
            for path, info in found.items()
            if info.get("type") == "file"
        ]
        exports = tuple(
            entry.name.removesuffix(EXPORT_NOTE) for entry in entries if entry.name.endswith(f"/{EXPORT_NOTE}")
        )
        kept = []
        for entry in entries:
            reason = EXPORTED if exports and entry.name.startswith(exports) else explain_path(entry.name)
            reason = reason or (OWN if any(entry.path.startswith(f"{own}/") for own in self.own_paths) else "")
            if reason:
                self.skipped.add(reason, entry.name)
            elif entry.name:
                kept.append(entry)
        return kept

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
