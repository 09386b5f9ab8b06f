"""Files of a workspace that git or DVC leave out, because an ignore file says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import florence
from florence.errors import FlorenceError

POINTERS = ("data.dvc", "dvc.lock", "dvc.yaml")
"""Files that DVC refuses where git ignores them."""
VERSIONED = (
    *POINTERS,
    "params.yaml",
    "code.json",
    ".gitignore",
    ".dvcignore",
    ".dvc/config",
    "expectations/labels.json",
    "metrics/scores.json",
    "plots/train.csv",
)
"""Examples of everything that git is to hold of a workspace."""
TRACKED = (
    "data",
    "data/snapshot.json",
    "data/statistics.json",
    "data/images/shard-00000.parquet",
    "data/labels/round-00000.parquet",
    "model/model.safetensors",
    "scores/scores.parquet",
)
"""Examples of everything that DVC is to hold of a workspace."""


TEMPLATE = Path(florence.__file__).parent / "template" / "dvcignore"


@dataclass(frozen=True, slots=True)
class IgnoredFile:
    """A file that is left out. ``rule``: the line that says so, as FILE:LINE (PATTERN)."""

    name: str
    rule: str


def find_git_ignored(root: Path, names: Sequence[str] = VERSIONED) -> tuple[IgnoredFile, ...]:
    """Return those of ``names``, files in the workspace ``root``, that git leaves out; none where there is no git.

    A file that git holds already is not left out, whatever is ignored.
    """
    try:
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=root, capture_output=True, text=True)
        done = subprocess.run(
            ["git", "check-ignore", "-v", "-z", "--stdin"],
            cwd=root,
            input="\0".join(names).encode(),
            capture_output=True,
        )
    except OSError:
        return ()
    folder = Path(top.stdout.removesuffix("\n") or root)
    fields = done.stdout.decode(errors="replace").split("\0")
    found = zip(*[iter(fields[:-1])] * 4, strict=False)
    return tuple(
        IgnoredFile(name, f"{folder / file}:{line} ({pattern})")
        for file, line, pattern, name in found
        if not pattern.startswith("!")
    )


def find_dvc_ignored(root: Path, names: Sequence[str] = TRACKED) -> tuple[IgnoredFile, ...]:
    """Return those of ``names`` that DVC leaves out by a .dvcignore: they would be missing in snapshots.

    DVC is only asked where there are other lines than those that `florence init` writes.
    """
    own = set(TEMPLATE.read_text(encoding="utf-8").splitlines())
    if not any(_other_lines(file, own) for file in (root / ".dvcignore", root / "data/.dvcignore")):
        return ()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "check-ignore", "-d", *names], cwd=root, capture_output=True, text=True
    )
    pairs = (line.rsplit("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    return tuple(
        IgnoredFile(name, str(root / file) + f":{line} ({pattern})")
        for rule, name in pairs
        for file, line, pattern in [(*rule.split(":", 2), "", "")[:3]]
        if not pattern.startswith("!")
    )


def lines_against(ignored: Sequence[IgnoredFile]) -> list[str]:
    """Return lines of a workspace's own .gitignore by which git holds what is ignored by one further above."""
    lines = []
    for name in (one.name for one in ignored):
        folder = name.rpartition("/")[0]
        within = [f"/{folder}/.gitignore", f"/{name}"] if folder == ".dvc" else [f"/{folder}/**"]
        lines += [f"/{folder}", *within] if folder else [f"/{name}"]
    lines = [f"!{line}" for line in lines]
    return list(dict.fromkeys(lines))


def describe_ignored(ignored: Sequence[IgnoredFile]) -> str:
    """Return which files are ignored, and by which lines."""
    by_rule: dict[str, list[str]] = {}
    for one in ignored:
        by_rule.setdefault(one.rule, []).append(one.name)
    return "; ".join(f"{', '.join(names)} by {rule}" for rule, names in by_rule.items())


def refuse_ignored(root: Path) -> None:
    """Raise FlorenceError where ignore files leave out what a snapshot needs, before hours of work for it."""
    if hidden := find_git_ignored(root, POINTERS):
        raise FlorenceError(
            f"git ignores {describe_ignored(hidden)}, and DVC refuses such files: "
            f"write {', '.join(lines_against(hidden))} into {root / '.gitignore'}, or remove these lines"
        )
    if left_out := find_dvc_ignored(root):
        raise FlorenceError(f"DVC ignores {describe_ignored(left_out)}: snapshots would lack them; remove these lines")


def _other_lines(file: Path, own: set[str]) -> bool:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() and not line.startswith("#") and line.strip() not in own for line in lines)
