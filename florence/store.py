"""Parquet tables and JSON on local disk or ``s3://`` (fsspec).

Every write is atomic: a reader sees the whole file or none.
"""

from __future__ import annotations

import errno
import json
import os
import posixpath
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from florence.errors import StoreError

EXPORT_NOTE = "florence-export.json"
"""File with the facts of an export, without labels. Its presence allows another export to replace the folder."""
REMEDY = "put it back as it was (`dvc checkout --force`, where DVC has it), or move it away to have it made again"
"""What to do about a file that is not as Florence has written it."""
GROUP = 16
"""Rows of a table with files' bytes that are read, and held in memory, at once."""


class Store:
    """A folder at ``uri``: a local path, ``s3://bucket/prefix``, or anything fsspec opens.

    Paths are relative, with ``/``.

    Credentials come from the environment (as boto3 reads it), never from settings.
    """

    def __init__(self, uri: str) -> None:
        self.uri = str(uri).rstrip("/")
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.uri)
        except (ImportError, ValueError) as error:
            raise StoreError(f"{uri}: cannot be opened as a store: {error}") from None
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def path(self, name: str) -> str:
        """Return the full path of ``name`` on this store's file system."""
        return posixpath.join(self.root, name)

    def exists(self, name: str) -> bool:
        """Return whether ``name`` is there, whole."""
        return bool(self._do("look for", name, lambda: self.fs.exists(self.path(name))))

    def names(self, folder: str, suffix: str = "") -> list[str]:
        """Return the files below ``folder``, sorted, relative to the store's root; none without the folder."""
        if not self.local:
            self.fs.invalidate_cache()
        found = self._do("list", folder, lambda: self.fs.find(self.path(folder)))
        start = len(self.root.rstrip("/")) + 1
        return sorted(p[start:] for p in found if p.endswith(suffix) and not posixpath.basename(p).startswith("."))

    def stems(self, folder: str) -> list[str]:
        """Return the Parquet tables below ``folder``, sorted, without folders and ending; none without the folder."""
        return [posixpath.basename(name).removesuffix(".parquet") for name in self.names(folder, ".parquet")]

    def read_bytes(self, name: str) -> bytes:
        """Return the bytes of ``name``. Raises StoreError where it is missing or unreadable."""
        return self._do("read", name, lambda: self.fs.cat_file(self.path(name)))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write ``name`` atomically: beside it first, then renamed (an object store's put is atomic by itself)."""

        def write() -> None:
            target = self.path(name)
            if not self.local:
                self.fs.pipe_file(target, data)
                return
            folder = posixpath.dirname(target)
            os.makedirs(folder, exist_ok=True)
            part = posixpath.join(folder, f".{posixpath.basename(target)}.{uuid.uuid4().hex}.part")
            try:
                with open(part, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, target)
            except BaseException:
                if os.path.exists(part):
                    os.unlink(part)
                raise

        self._do("write", name, write)

    def read_table(
        self, name: str, columns: list[str] | None = None, filters: Any = None, schema: pa.Schema | None = None
    ) -> pa.Table:
        """Return the Parquet table ``name``; columns of the ``schema`` that it lacks are null.

        Raises StoreError where it is missing or no Parquet file.
        """

        def read() -> pa.Table:
            fs = None if self.local else self.fs
            return pq.read_table(
                self.path(name), filesystem=fs, columns=columns, filters=filters, partitioning=None, schema=schema
            )

        return self._do("read", name, read)

    def footer(self, name: str) -> pq.FileMetaData:
        """Return the footer of a Parquet file: the number of rows, and of nulls by column.

        Rows are not read. Raises StoreError as `read_table` does.
        """
        return self._do(
            "read", name, lambda: pq.read_metadata(self.path(name), filesystem=None if self.local else self.fs)
        )

    def read_batches(self, name: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of ``name``, up to `GROUP` at a time; no more than a row group of the file is in memory.

        Raises StoreError as `read_table` does.
        """
        # With pre_buffer, pyarrow would read whole columns before it gives the first row.
        with self._do(
            "read",
            name,
            lambda: pq.ParquetFile(self.path(name), pre_buffer=False, filesystem=None if self.local else self.fs),
        ) as file:
            batches = file.iter_batches(GROUP, columns=columns, use_threads=False)
            while (batch := self._do("read", name, lambda: next(batches, None))) is not None:
                yield batch

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet table atomically; the same table gives the same bytes.

        One that holds files' bytes has a row group for every `GROUP` rows. One of no rows has no row group: a group
        of no rows is allowed, but 🤗 datasets cannot read it.
        """
        sink = pa.BufferOutputStream()
        rows, options = None, {}
        if any(pa.types.is_binary(field.type) for field in table.schema):
            # A dictionary of files would be one page, as large as all of them.
            rows = GROUP
            options = {"use_dictionary": [field.name for field in table.schema if not pa.types.is_binary(field.type)]}
        with pq.ParquetWriter(sink, table.schema, compression="zstd", **options) as writer:
            if len(table):
                writer.write_table(table, rows)
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def read_tables(
        self, folder: str, schema: pa.Schema, columns: list[str] | None = None, *, older: bool = False
    ) -> pa.Table:
        """Return all Parquet tables below ``folder`` as one, in order of their names; an empty one if there are none.

        ``older``: whether files may lack columns of the schema that are newer than they; these are null.
        """
        tables = [
            self.read_table(name, columns, schema=schema if older else None) for name in self.names(folder, ".parquet")
        ]
        if not tables:
            wanted = schema if columns is None else pa.schema([schema.field(c) for c in columns])
            return wanted.empty_table()
        return pa.concat_tables(tables, promote_options="default")

    def read_json(self, name: str) -> Any:
        """Return the JSON document ``name``. Raises StoreError where it is missing or no JSON."""
        try:
            return json.loads(self.read_bytes(name))
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{self.uri}/{name} is not JSON: {error}; {REMEDY}") from None

    def read_object(self, name: str, *required: str) -> dict[str, Any]:
        """Return the JSON object ``name``, which has the keys ``required``.

        Raises StoreError where it is missing, no JSON, no object, or lacks one of them.
        """
        found = self.read_json(name)
        if not isinstance(found, dict):
            raise StoreError(f"{self.uri}/{name} is not what Florence writes (no object); {REMEDY}")
        if lacking := [key for key in required if key not in found]:
            raise StoreError(f"{self.uri}/{name} is not what Florence writes (without {lacking[0]!r}); {REMEDY}")
        return found

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON document atomically, keys sorted."""
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        self.write_bytes(name, text.encode())

    def delete(self, folder: str) -> None:
        """Remove ``folder`` and all below it; nothing happens where it is missing."""
        if self.fs.exists(self.path(folder)):
            self._do("delete", folder, lambda: self.fs.rm(self.path(folder), recursive=True))

    def copy_in(self, other: Store, name: str, *, grows: bool = False) -> None:
        """Copy ``name`` from another store, unless it is here: a file of the same size, or bytes if it ``grows``."""
        same = self.exists(name) and self.fs.size(self.path(name)) == other.fs.size(other.path(name))
        if same and not grows:
            return
        data = other.read_bytes(name)
        if not same or self.read_bytes(name) != data:
            self.write_bytes(name, data)

    def _do(self, verb: str, name: str, action: Callable[[], Any]) -> Any:
        where = f"{self.uri}/{name}"
        try:
            return action()
        except FileNotFoundError:
            raise StoreError(f"cannot {verb} {where}: it does not exist") from None
        except PermissionError as error:
            raise StoreError(
                f"cannot {verb} {where}: not permitted ({error}); check credentials and rights (`florence doctor`)"
            ) from None
        except pa.ArrowInvalid as error:
            raise StoreError(
                f"cannot {verb} {where}: not a Parquet file, or a damaged one ({error}); {REMEDY}"
            ) from None
        except OSError as error:
            hint = (
                "; the disk is full: free some space and start again, finished shards are kept"
                if error.errno == errno.ENOSPC
                else ""
            )
            raise StoreError(f"cannot {verb} {where}: {error}{hint}") from None
        except Exception as error:
            if type(error).__module__.split(".")[0] in ("botocore", "aiobotocore", "aiohttp"):
                raise StoreError(
                    f"cannot {verb} {where}: {error}; check endpoint and credentials (`florence doctor`)"
                ) from None
            raise
