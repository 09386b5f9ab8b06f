"""Public benchmarks: their published files, read by path, and the scores that papers report of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence.errors import DataError
from florence.records import Region


@dataclass(frozen=True, slots=True)
class BenchmarkImage:
    """An image of a benchmark and what is asked about it.

    ``key``: the benchmark's own id; ``queries``: task and input of each question; ``query_keys``: their ids.
    """

    key: str
    path: Path
    queries: tuple[tuple[str, str], ...]
    query_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BenchmarkAnswer:
    """A model's answer to a question of a benchmark; boxes in pixels. ``invalid``: it broke the task's grammar."""

    text: str
    regions: tuple[Region, ...]
    invalid: bool


class Benchmark(ABC):
    """A benchmark in its published files.

    ``images``: in the order in which they are asked, so that a limit takes the first; ``files``: what was read;
    ``paper``: published figures in percent, by key of `score` and name of the model.
    """

    name: str
    paper: Mapping[str, Mapping[str, float]]
    images: Sequence[BenchmarkImage]
    files: Sequence[Path]

    @abstractmethod
    def score(self, images: Sequence[BenchmarkImage], answers: Mapping[str, BenchmarkAnswer]) -> dict[str, float]:
        """Return the figures, in percent, of ``answers`` by the key of their question."""

    def digest(self) -> str:
        """Return the SHA-256 of the name and of the bytes of the files that the benchmark was read from."""
        found = hashlib.sha256(self.name.encode())
        for path in self.files:
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        return found.hexdigest()


def find_file(root: Path, name: str, benchmark: str) -> Path:
    """Return the file ``name`` below ``root``. Raises DataError where it is missing, with what is expected."""
    path = root / name
    if not path.is_file():
        raise DataError(f"{benchmark}: {path} does not exist; --root has to be the folder that holds {name}")
    return path
