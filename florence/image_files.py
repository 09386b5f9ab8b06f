"""Which file has had which content: the table ``files.parquet`` of a working store or snapshot.

A picture is known by the hash of its bytes (``image_id``). A file has one content at a time: when a photo is replaced
in place, the row of the earlier content ends and another begins. Two files with the same bytes have a row each, with
the same ``image_id``. A collection that changes anything has a number, counted from 1.
"""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.images import IMAGE_SUFFIXES, is_image
from florence.store import Store

NAME = "files.parquet"
READINGS = "first_readings"
"""Folder of a store: for each content of label files, by its hash, the collection after which it was first read."""
STATUSES = PRESENT, REPLACED, GONE = "present", "replaced", "gone"
FILES = pa.schema(
    [
        ("source", pa.string()),
        ("uri", pa.string()),
        ("name", pa.string()),
        ("image_id", pa.string()),
        ("since", pa.int32()),
        ("until", pa.int32()),
        ("status", pa.string()),
    ]
)
"""``uri``: address of the source, null where it is unknown. ``since``: number of the collection in which this content
of the file was first met; ``until``: of that which met another, or no file; null while it is there."""


def normalise_path(name: str) -> str:
    """Return a path in the form that is compared: ``/`` between folders, no ``./`` in front, composed Unicode."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/")).lstrip("/")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def cut_suffix(name: str) -> str:
    """Return a path without the ending of a picture, if it has one."""
    return posixpath.splitext(name)[0] if is_image(name) else name


class FileRow(NamedTuple):
    """A row of the table; see `FILES`."""

    source: str
    uri: str | None
    name: str
    image_id: str
    since: int
    until: int | None
    status: str


class Lookup:
    """The positions of keys, in 16 bytes a key whatever their length."""

    def __init__(self, keys: Iterable[object], count: int) -> None:
        hashes = np.fromiter(map(hash, keys), np.int64, count)
        self._order = np.argsort(hashes, kind="stable").astype(np.int32)
        self._hashes = hashes[self._order]

    def find(self, key: object) -> np.ndarray:
        """Return the positions of keys with the hash of ``key``, in order: those of ``key``, rarely of others too."""
        value = np.int64(hash(key))
        start, end = np.searchsorted(self._hashes, value, "left"), np.searchsorted(self._hashes, value, "right")
        return self._order[start:end]


def read_files(store: Store) -> pa.Table:
    """Return the table of files (schema `FILES`); an empty one where a store has none."""
    return store.read_table(NAME) if store.exists(NAME) else FILES.empty_table()


def list_rows(table: pa.Table, positions: Sequence[int] | np.ndarray | None = None) -> list[FileRow]:
    """Return rows of the table, all or those at ``positions``."""
    chosen = table if positions is None else table.take(pa.array(positions, pa.int64()))
    return [FileRow(*values) for values in zip(*(chosen[name].to_pylist() for name in FILES.names), strict=True)]


def find_dropped_images(store: Store) -> frozenset[str]:
    """Return the ids of images that no file has any more: each of their rows is replaced or gone."""
    table = read_files(store)
    there = pc.equal(table["status"], PRESENT)
    ended = pc.unique(table.filter(pc.invert(there))["image_id"])
    return frozenset(ended.filter(pc.invert(pc.is_in(ended, pc.unique(table.filter(there)["image_id"])))).to_pylist())


# ---------------------------------------------------------------- what is ambiguous


class ImageFiles:
    """The files of a store whose names alone do not tell the picture. What is unambiguous takes no memory.

    Held are the rows of names that several pictures have or had, in one source or in several, and of pictures that
    have or had several names. Rows are read again when the table has changed.
    """

    def __init__(
        self,
        store: Store | None = None,
        looks_at: Callable[[str], bool] = lambda source: True,
        key: tuple[object, ...] = (),
    ) -> None:
        """``looks_at``: whether the files of a source count; ``key``: what they are known by to whoever keeps this."""
        self._store, self.looks_at, self.key = store, looks_at, key
        self._stamp = ""
        self._ambiguous: _Ambiguous | None = None
        self._bases: _Ambiguous | None = None
        self._copies: dict[str, frozenset[str]] | None = None

    @classmethod
    def of_rows(cls, rows: Iterable[FileRow]) -> ImageFiles:
        """Return the files of ``rows``, without a store."""
        result = cls()
        columns = list(zip(*rows, strict=True)) or [()] * len(FILES.names)
        table = pa.table([pa.array(c, f.type) for c, f in zip(columns, FILES, strict=True)], schema=FILES)
        result._ambiguous, result._bases = _Ambiguous(table), _Ambiguous(table, by_base=True)
        return result

    def refresh(self) -> str:
        """Forget what is held if the table has changed; return what shows a change."""
        if self._store is not None:
            info = self._store.fs.info(self._store.path(NAME)) if self._store.exists(NAME) else {}
            stamp = repr([info.get(key) for key in ("size", "mtime", "ino", "ETag", "LastModified", "created")])
            if stamp != self._stamp:
                self._stamp, self._ambiguous, self._bases, self._copies = stamp, None, None, None
        return self._stamp

    def _read(self) -> pa.Table:
        return read_files(self._store) if self._store is not None else FILES.empty_table()

    @property
    def _rows(self) -> _Ambiguous:
        if self._ambiguous is None:
            self._ambiguous = _Ambiguous(self._read())
        return self._ambiguous

    @property
    def _base_rows(self) -> _Ambiguous:
        if self._bases is None:
            self._bases = _Ambiguous(self._read(), by_base=True)
        return self._bases

    @property
    def collection(self) -> int:
        """The number of the last collection; 0 before the first."""
        return self._rows.collection

    def list_files(self, image_id: str) -> list[FileRow]:
        """Return the rows of a picture that has or had several names, the first first; none for any other."""
        return [row for row in self._rows.of_image(image_id) if self.looks_at(row.source)]

    def list_contents(self, stem: str) -> list[FileRow]:
        """Return the rows of names that are ``stem`` with any ending, where several pictures have or had them.

        ``stem``: by `normalise_path`, without ending.
        """
        return [row for row in self._rows.of_key(stem) if self.looks_at(row.source)]

    def list_contents_of_base(self, base: str) -> list[FileRow]:
        """Return the rows of files called ``base``, with any ending in any folder, where they are several pictures."""
        return [row for row in self._base_rows.of_key(base) if self.looks_at(row.source)]

    def list_ambiguous(self, base_names: bool = False) -> Iterator[FileRow]:
        """Yield the first row of each picture that has a row here; ``base_names``: of shared base names too."""
        seen: set[str] = set()
        for part in (self._rows, self._base_rows) if base_names else (self._rows,):
            for row in part.all():
                if row.image_id not in seen and self.looks_at(row.source):
                    seen.add(row.image_id)
                    yield row

    def list_copies(self) -> dict[str, frozenset[str]]:
        """Return source → ids of pictures that were first met in a source that does not count, and have a file in one.

        Their records name the first file.
        """
        if self._copies is not None:
            return self._copies
        result: dict[str, set[str]] = {}
        for rows in self._rows.by_image():
            if not self.looks_at(rows[0].source) and any(self.looks_at(row.source) for row in rows):
                result.setdefault(rows[0].source, set()).add(rows[0].image_id)
        self._copies = {source: frozenset(ids) for source, ids in result.items()}
        return self._copies

    # ------------------------------------------------------------ first readings

    def first_read(self, content: str) -> int:
        """Return the number of the collection after which label files with this hash were first read.

        The last one's number where they are read for the first time.
        """
        name = f"{READINGS}/{content}.json"
        if self._store is not None and self._store.exists(name):
            return int(self._store.read_object(name, "collection")["collection"])
        return self.collection

    def note_reading(self, content: str) -> None:
        """Write down that label files with this hash are read now, unless they were read before."""
        name = f"{READINGS}/{content}.json"
        if self._store is not None and self.collection and not self._store.exists(name):
            self._store.write_json(name, {"collection": self.collection})


class _Ambiguous:
    """The rows of a table that share a name, or a picture, with others. ``collection``: the highest number in it."""

    def __init__(self, table: pa.Table, by_base: bool = False) -> None:
        numbers = [pc.max(table[name]).as_py() or 0 for name in ("since", "until")]
        self.collection = max(numbers)
        keys = list_keys(table["name"], by_base=by_base)
        images = _codes(table["image_id"])
        kept = _shared(_codes(keys), images)
        if not by_base:
            files = pc.binary_join_element_wise(table["source"], table["name"], "\0")
            kept |= _shared(images, _codes(files))
        positions = np.flatnonzero(kept)
        self._table = table.take(pa.array(positions, pa.int64())).combine_chunks()
        self._keys = keys.take(pa.array(positions, pa.int64())).to_pylist()
        self._by_key = Lookup(self._keys, len(self._keys))

    @cached_property
    def _by_image(self) -> Lookup:
        return Lookup(self._table["image_id"].to_pylist(), len(self._table))

    def of_key(self, key: str) -> list[FileRow]:
        """Return the rows of a name."""
        found = [k for k in self._by_key.find(key).tolist() if self._keys[k] == key] if self._keys else []
        return list_rows(self._table, found) if found else []

    def of_image(self, image_id: str) -> list[FileRow]:
        """Return the rows of a picture."""
        found = self._by_image.find(image_id) if self._keys else ()
        return [row for row in list_rows(self._table, found) if row.image_id == image_id] if len(found) else []

    def by_image(self) -> Iterator[list[FileRow]]:
        """Yield the rows of each picture that has several."""
        found: dict[str, list[FileRow]] = {}
        for row in self.all():
            found.setdefault(row.image_id, []).append(row)
        yield from (rows for rows in found.values() if len(rows) > 1)

    def all(self) -> Iterator[FileRow]:
        """Yield all rows."""
        for start in range(0, len(self._table), 10_000):
            yield from list_rows(self._table.slice(start, 10_000))


def list_keys(names: pa.ChunkedArray, by_base: bool) -> pa.ChunkedArray:
    """Return `cut_suffix` of `normalise_path` of each name, or (``by_base``) of the last part of the path."""
    if not pc.all(pc.string_is_ascii(names)).as_py():  # pyarrow's own normalisation to NFC decomposes
        composed = [unicodedata.normalize("NFC", name) for name in names.to_pylist()]
        names = pa.chunked_array([pa.array(composed, pa.string())])
    keys = pc.replace_substring(names, "\\", "/")
    keys = pc.replace_substring_regex(keys, r"^(\.?/+)+", "")
    if by_base:
        keys = pc.replace_substring_regex(keys, r"^(?s:.*)/", "")
    endings = "|".join(ending[1:] for ending in sorted(IMAGE_SUFFIXES))
    return pc.replace_substring_regex(keys, rf"([^/.])\.(?i:{endings})$", r"\1")


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Return a number for each value, equal for equal values."""
    return np.asarray(column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False), np.int64)


def _shared(groups: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return which rows belong to a group that has more than one distinct member."""
    if not len(groups):
        return np.zeros(0, bool)
    pairs = np.unique(np.stack([groups, members], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=int(groups.max()) + 1)[groups] > 1


NO_FILES = ImageFiles()
"""No file is known: a picture has the name in its record."""
