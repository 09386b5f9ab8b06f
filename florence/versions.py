"""Versions of what an annotator answers with: installed packages and files of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from florence.errors import SettingsError


def package_versions(*names: str) -> dict[str, str]:
    """Return the installed version of each package. Raises SettingsError naming a missing one and how to install it."""
    result = {}
    for name in names:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            raise SettingsError(f"the package {name} is not installed: pip install {name} -c constraints.txt") from None
    return result


def files_version(files: Iterable[Path]) -> str:
    """Return a hash of the names and contents of some files. A file is read again only when it has changed.

    Raises OSError for a file that cannot be read.
    """
    return _hashed(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=64)
def _hashed(files: tuple[tuple[str, int, int], ...]) -> str:
    total = hashlib.sha256()
    for path, _, _ in files:
        with open(path, "rb") as file:
            total.update(Path(path).name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]
