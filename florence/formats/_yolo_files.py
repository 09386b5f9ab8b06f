"""Where the files of a YOLO data set are, and its settings.

Settings are a YAML file as Ultralytics reads it, Darknet's ``obj.data``, or none, beside a list of names
(``classes.txt``). A YAML file's ``path`` leads from the file to the data set, which may be elsewhere; without it the
set is where the file is. Nothing else outside the address is read, but what a set of the YAML file names.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from florence.errors import DataError, StoreError
from florence.formats import LabelProblem
from florence.formats._files import Files, is_hidden
from florence.images import is_image
from florence.store import Store

YAML = (".yaml", ".yml")
SET_KEYS = ("train", "val", "valid", "validation", "test", "minival")
NOTHING = frozenset({"", "~", "null", "none"})
"""What a YAML file has where a set has no path."""
NAME_FILES = frozenset({"classes.txt", "_classes.txt", "predefined_classes.txt", "obj.names", "_darknet.labels"})
"""Files of names, one a line, as tools call them."""
IMAGE_FOLDERS = frozenset({"images", "jpegimages"})
"""Folders whose last occurrence in a picture's path becomes ``labels``; Darknet does so for VOC's folder too."""


class YoloFiles(Files):
    """The files of a YOLO data set. ``names``: its text files and settings; ``others``: its pictures.

    ``settings``: the file of settings, empty without one; ``values``: its content, scalars as text. ``root``: the data
    set's folder, relative to ``store``: empty, or with a slash at its end. ``names_file``: a list of names that the
    address names. ``problems``: paths that lead nowhere.
    """

    def __init__(self, uri: str) -> None:
        """List the files at ``uri``: a folder, or a YAML, ``.data`` or ``.names`` file of it.

        Raises StoreError if it is missing or no such file, DataError if its settings cannot be read.
        """
        path, self.single = os.path.expanduser(uri).rstrip("/") or "/", False
        base = posixpath.basename(path)
        is_list = base.lower().endswith(".names") or base.lower() in NAME_FILES
        named = base if is_list or base.lower().endswith((*YAML, ".data")) else ""
        self.uri = (posixpath.dirname(path) or ".") if named else path
        self.store = Store(self.uri)
        found = [] if named else self.store.names("")
        if named and not self.store.exists(named) or not named and not found:
            raise StoreError(f"{uri} does not exist, or is empty; relative paths start at the workspace")
        if found == [""]:
            raise StoreError(f"{uri}: found a file; a folder, or its YAML, .data or .names file, is expected")
        self.problems: list[LabelProblem] = []
        self.settings = "" if is_list else named or self._choose_settings(found)
        self.names_file = named if is_list else ""
        self.values = self._read_settings()
        found = [name for name in self._list_set(found) if not is_hidden(name)]
        texts = [name for name in found if name.lower().endswith((".txt", ".names", ".labels"))]
        self.names = tuple(sorted({*texts, *filter(None, (self.settings, self.names_file))}))
        self.others = tuple(name for name in found if is_image(name))

    def _choose_settings(self, found: Sequence[str]) -> str:
        """Return data.yaml, else the only YAML file that has names, else the only ``.data`` file; empty without one."""
        top = [name for name in found if "/" not in name]
        files = [name for name in top if name.lower().endswith(YAML)]
        exact = [name for name in files if name.lower().rpartition(".")[0] == "data"]
        with_names = [name for name in files if not exact and self._has_names(name, only=len(files) == 1)]
        if len(exact) > 1 or len(with_names) > 1:
            several = ", ".join(exact if len(exact) > 1 else with_names)
            raise DataError(f"{self.uri}: {several} all have names of objects; name one of them in uri")
        darknet = [name for name in top if name.lower().endswith(".data")]
        return next(iter([*exact, *with_names, *(darknet if len(darknet) == 1 else [])]), "")

    def _has_names(self, name: str, only: bool) -> bool:
        """Return whether a YAML file has names; what is no YAML has none, unless it is the only one."""
        try:
            return "names" in _load_yaml(self, name)
        except DataError:
            if only:
                raise
            return False

    def _read_settings(self) -> dict[str, Any]:
        if self.settings.lower().endswith(YAML):
            return _load_yaml(self, self.settings)
        pairs = (line.partition("=") for line in split_lines(self.text(self.settings))) if self.settings else ()
        return {key.strip(): value.strip() for key, equals, value in pairs if equals}

    def _list_set(self, found: Sequence[str]) -> list[str]:
        """Return the files of the set; ``store`` goes up to the folder that has all of them and the settings."""
        home = self.store.root.rstrip("/") or "/"
        root = home
        if (path := read_text(self.values.get("path"))) not in NOTHING:
            elsewhere = self._find_root(home, path)
            if elsewhere is None:
                detail = f"{self.where(self.settings)}: path: {path} is no folder; the folder of the file is read"
                self.problems.append(LabelProblem("path leads nowhere", detail, "part"))
            root = elsewhere or home
        tops = [root]
        for text in set_paths(self.values):
            found_set = self._find(root, text)
            if found_set and not _is_below(found_set, root):
                tops += [found_set, *filter(None, [self._find(root, swap_folder(f"{found_set}/")[:-1])])]
        if tops == [home]:
            self.root = ""
            return list(found or self.store.names(""))
        base = posixpath.commonpath([home, *tops])
        own = [posixpath.join(home, name)[len(base.rstrip("/")) + 1 :] for name in (self.settings, self.names_file)]
        self.settings, self.names_file = (
            relative if name else "" for relative, name in zip(own, (self.settings, self.names_file), strict=True)
        )
        if base != home:
            self.uri = base if self.store.local else self.store.fs.unstrip_protocol(base)
            self.store = Store(self.uri)
        start = "" if root == base else posixpath.relpath(root, base)
        self.root = f"{start}/" if start else ""
        listed = (self.store.names("" if top == base else posixpath.relpath(top, base)) for top in tops)
        return sorted({name for names in listed for name in names})

    def _find_root(self, home: str, path: str) -> str | None:
        """Return the folder that ``path`` leads to: from the file of settings, else from the working directory."""
        starts = [home, os.getcwd()] if self.store.local else [home]
        found = (self._find(start, path) for start in starts)
        # the folder of all folders is no data set
        return next((full for full in found if full and full.strip("/") and self.store.fs.isdir(full)), None)

    def _find(self, start: str, text: str) -> str | None:
        """Return the full path of the file or folder that a path leads to, from ``start``; None if there is none."""
        path = text.replace("\\", "/")
        full = posixpath.normpath(posixpath.join(start, path))
        # what is in a bucket says nothing of this machine's folders, or of other buckets
        foreign = not self.store.local and (
            path.startswith("/") or "://" in path or full.lstrip("/").split("/")[0] != start.lstrip("/").split("/")[0]
        )
        return full if not foreign and self.store.fs.exists(full) else None


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


class _TextLoader(yaml.BaseLoader):  # type: ignore[misc]
    """Reads every scalar as the text that it is, so that a class may be called ``no``, ``null`` or ``1.50``."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if double := next((key for key, count in counts.items() if count > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {double!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _load_yaml(files: Files, name: str) -> dict[str, Any]:
    """Return the mapping of a YAML file, each scalar as text. Raises DataError if it is none."""
    try:
        values = yaml.load(files.text(name), Loader=_TextLoader)  # it makes texts, lists and mappings alone
    except yaml.YAMLError as error:
        raise DataError(f"{files.where(name)} is not YAML: {' '.join(str(error).split())}") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{files.where(name)} is not YAML: {type(error).__name__}") from None
    if not isinstance(values, dict):
        raise DataError(f"{files.where(name)}: found no mapping; names and the paths of the sets are expected")
    return values


def read_text(value: Any) -> str:
    """Return a scalar of the settings, without blanks around it; empty if it is none."""
    return value.strip() if isinstance(value, str) else ""


def set_paths(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of the sets, of which one may have several."""
    for key in SET_KEYS:
        given = values.get(key)
        for value in given if isinstance(given, list) else [given]:
            if (text := read_text(value)).lower() not in NOTHING:
                yield text


def split_lines(text: str) -> list[str]:
    """Return the lines of a text; nothing but line feeds and carriage returns ends one."""
    return re.split(r"\r\n|\n|\r", text)


def swap_folder(path: str) -> str:
    """Return a picture's path with ``labels`` for its last folder of images; unchanged without such a folder."""
    parts = path.split("/")
    for k in range(len(parts) - 2, -1, -1):
        if parts[k].lower() in IMAGE_FOLDERS:
            return "/".join([*parts[:k], "labels", *parts[k + 1 :]])
    return path
