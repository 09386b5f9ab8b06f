"""The table of files while a collection goes on: what is met, replaced, gone or back again."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from florence.image_files import FILES, GONE, NAME, PRESENT, REPLACED, STATUSES, FileRow, Lookup, read_files
from florence.records import IMAGES
from florence.store import Store


class FileLog:
    """The table of files while a collection goes on; `write` puts it into the store if anything has changed.

    Pictures in the store that the table does not have are added first: a store that was made before the table, or a
    collection that was killed, left them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        table = read_files(store)
        numbers = [pc.max(table[name]).as_py() or 0 for name in ("since", "until")]
        self.number = max(numbers) + 1
        known = store.read_tables("images", IMAGES, ["image_id", "source", "name"])
        added = known.filter(pc.invert(pc.is_in(known["image_id"], pc.unique(table["image_id"]))))
        rows = {name: added[name] for name in ("source", "name", "image_id")} | {
            "uri": pa.nulls(len(added), pa.string()),
            "since": pa.array(np.full(len(added), self.number, np.int32)),
            "until": pa.nulls(len(added), pa.int32()),
            "status": pa.array([PRESENT] * len(added), pa.string()),
        }
        self._table = pa.concat_tables([table, pa.table(rows).select(FILES.names).cast(FILES)]).combine_chunks()
        self._is_changed = bool(len(added))
        self._status = pc.index_in(self._table["status"], pa.array(STATUSES)).to_numpy(zero_copy_only=False).copy()
        self._until = self._table["until"].fill_null(0).to_numpy(zero_copy_only=False).copy()
        self._uris: dict[int, str] = {}
        self._source = self._table["source"]
        self._met = np.zeros(len(self._table), bool)
        keys = zip(self._table["source"].to_pylist(), self._table["name"].to_pylist(), strict=True)
        self._lookup = Lookup(keys, len(self._table))
        self._moved: set[str] = set()
        self._new: list[FileRow] = []
        self._parts: list[pa.Table] = []

    def meet(self, source: str, uri: str, name: str, image_id: str) -> str:
        """Note the content of a file; return "new", "same", "replaced" (another than before) or "returned"."""
        rows = self._find(source, name)
        self._met[rows] = True
        current = [k for k in rows if self._is(k, PRESENT)]
        same = [k for k in current or rows[-1:] if self._image_id(k) == image_id and not self._is(k, REPLACED)]
        if same:
            returned = self._is(same[0], GONE)
            if self._uri(same[0]) not in (uri, None):
                self._moved.add(source)
            if returned or self._uri(same[0]) != uri:
                self._set(same[0], None, PRESENT, uri)
            for k in current:
                if k != same[0]:
                    self._set(k, self.number, REPLACED)
            return "returned" if returned else "same"
        for k in current:
            self._set(k, self.number, REPLACED)
        self._new.append(FileRow(source, uri, name, image_id, self.number, None, PRESENT))
        self._is_changed = True
        if len(self._new) >= 20_000:
            self._pack()
        return "replaced" if rows else "new"

    def skip(self, source: str, name: str, *, is_content_lost: bool = False) -> None:
        """Note that a file is there and cannot be read; ``is_content_lost``: it was read and is no picture now."""
        rows = self._find(source, name)
        self._met[rows] = True
        for k in rows if is_content_lost else ():
            if self._is(k, PRESENT):
                self._set(k, self.number, REPLACED)

    def close_source(self, source: str, uris: Collection[str]) -> list[str]:
        """Mark the files of a source that was listed whole and that were not met as gone; return their names.

        ``uris``: the addresses that are this one; files of other addresses stay as they are.
        """
        gone = []
        for k in self._rows_of(source):
            if not self._met[k] and self._is(k, PRESENT) and self._uri(k) in (*uris, None):
                self._set(k, self.number, GONE)
                gone.append(self._name(k))
        return sorted(gone)

    def list_moved(self, source: str, uri: str) -> dict[str, tuple[str, str]]:
        """Return name → (address, image id) of the files of a source that were met at another address than ``uri``."""
        return {
            self._name(k): (str(self._uri(k)), self._image_id(k))
            for k in self._rows_of(source)
            if not self._is(k, REPLACED) and self._uri(k) not in (uri, None)
        }

    def list_gone(self, source: str) -> list[str]:
        """Return the names of the files of a source that are gone."""
        return sorted({self._name(k) for k in self._rows_of(source) if self._is(k, GONE)})

    def list_left(self, addresses: Mapping[str, Collection[str]]) -> list[tuple[str, str, str]]:
        """Return (source, address, name) of the files, not known to be gone, of which nothing is read any more.

        That are those of sources and addresses other than ``addresses``, unless their picture is there elsewhere.
        """
        return [(self._source[k].as_py(), self._uri(k) or "", self._name(k)) for k in self._find_left(addresses)]

    def close_left(self, addresses: Mapping[str, Collection[str]]) -> None:
        """Mark the files of `list_left` as gone."""
        for k in self._find_left(addresses):
            self._set(k, self.number, GONE)

    def _find_left(self, addresses: Mapping[str, Collection[str]]) -> list[int]:
        uris, is_read = self._read_uris(), self._met.copy()
        for source, known in addresses.items():
            is_here = pc.or_(pc.is_null(uris), pc.is_in(uris, pa.array(sorted(known), pa.string())))
            is_read |= pc.and_(pc.equal(self._source, source), is_here).to_numpy(zero_copy_only=False)
        is_there = self._status == STATUSES.index(PRESENT)
        if not (left := np.flatnonzero(is_there & ~is_read).tolist()):
            return []
        self._pack()
        ids = self._table["image_id"]
        new = [chunk for part in self._parts for chunk in part["image_id"].chunks]
        elsewhere = pa.concat_arrays([*ids.filter(pa.array(is_there & is_read)).chunks, *new])
        kept = pc.is_in(ids.take(pa.array(left, pa.int64())), elsewhere).to_pylist()
        return [k for k, is_kept in zip(left, kept, strict=True) if not is_kept]

    def has_moved(self, source: str) -> bool:
        """Return whether a file of a source was met at another address than before."""
        return source in self._moved

    def write(self, sources: Sequence[str]) -> None:
        """Write the table, if anything has changed; what is new is in the order of ``sources``, then of names."""
        if not self._is_changed:
            return
        columns = {
            "uri": self._read_uris(),
            "until": pa.array(self._until, pa.int32(), mask=self._until == 0),
            "status": pa.array(STATUSES, pa.string()).take(pa.array(self._status)),
        }
        old = pa.table([columns.get(name, self._table[name]) for name in FILES.names], schema=FILES)
        self._pack()
        table = pa.concat_tables([old, *self._parts])
        place = pc.index_in(table["source"], pa.array(sources, pa.string())).fill_null(len(sources))
        place = pc.if_else(pc.equal(table["since"], self.number), place, -1)
        row = pc.if_else(pc.equal(place, -1), np.arange(len(table)), -1)
        keys = {"place": place, "row": row, "name": table["name"], "image": table["image_id"]}
        order = pc.sort_indices(pa.table(keys), [(key, "ascending") for key in keys])
        self._store.write_table(NAME, table.take(order).combine_chunks())
        self._is_changed = False

    def _find(self, source: str, name: str) -> list[int]:
        """Return the positions of a file's rows, in order."""
        return [
            k
            for k in self._lookup.find((source, name)).tolist()
            if self._table["name"][k].as_py() == name and self._source[k].as_py() == source
        ]

    def _rows_of(self, source: str) -> list[int]:
        return np.flatnonzero(pc.equal(self._source, source).to_numpy(zero_copy_only=False)).tolist()

    def _is(self, position: int, status: str) -> bool:
        return bool(STATUSES[self._status[position]] == status)

    def _image_id(self, position: int) -> str:
        return str(self._table["image_id"][position].as_py())

    def _name(self, position: int) -> str:
        return str(self._table["name"][position].as_py())

    def _uri(self, position: int) -> str | None:
        found = self._uris.get(position)
        return self._table["uri"][position].as_py() if found is None else found

    def _read_uris(self) -> pa.ChunkedArray:
        """Return the address of each row of the table."""
        if not self._uris:
            return self._table["uri"]
        uris = self._table["uri"].to_pylist()
        for k, uri in self._uris.items():
            uris[k] = uri
        return pa.chunked_array([pa.array(uris, pa.string())])

    def _set(self, position: int, until: int | None, status: str, uri: str | None = None) -> None:
        self._until[position], self._status[position] = until or 0, STATUSES.index(status)
        if uri is not None:
            self._uris[position] = uri
        self._is_changed = True

    def _pack(self) -> None:
        if self._new:
            columns = list(zip(*self._new, strict=True))
            arrays = [pa.array(column, field.type) for column, field in zip(columns, FILES, strict=True)]
            self._parts.append(pa.table(arrays, schema=FILES))
            self._new = []


def normalise_uri(uri: str) -> str:
    """Return an address in the form that is compared: local paths without ``file://``, ``./`` or a slash at the end."""
    uri = uri.removeprefix("file://")
    return uri.rstrip("/") if "://" in uri else os.path.normpath(os.path.expanduser(uri))


def is_same_place(uri: str, other: str) -> bool:
    """Return whether two addresses by `normalise_uri` are one folder: as one leads to it by a link, or is relative."""
    return uri == other or ("://" not in uri + other and os.path.realpath(uri) == os.path.realpath(other))
