"""The hash of the library's code, on which every stage of dvc.yaml depends (docs/adr/0004)."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

HASHED = (".py", ".json", ".safetensors")
"""Endings of the files that decide what the library computes."""


@lru_cache(maxsize=1)
def hash_code() -> str:
    """Return the hash of the library's source and weights."""
    package = Path(__file__).parent.parent
    total = hashlib.sha256()
    for path in sorted(p for p in package.rglob("*") if p.suffix in HASHED and "__pycache__" not in p.parts):
        total.update(path.relative_to(package).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
