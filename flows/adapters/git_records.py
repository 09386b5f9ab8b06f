"""Records of rounds in git: commits on a ref of their own, and a tag for each registered version.

They are made with git's plumbing and an index of their own: branch, index and working tree of the user stay as they
are. Output of git is redacted before anybody reads it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence.errors import FlorenceError
from flows.adapters.environment import redact_text

REF = "refs/florence/rounds"
"""The ref of the last record; each record's first parent is the one before."""
RECORDED = ("params.yaml", "data.dvc", "dvc.yaml", "dvc.lock", "metrics", "plots", "code.json", "expectations")
"""Files and folders that a record holds beside all tracked ones, as far as they exist."""
WRITTEN = ("data.dvc", "dvc.lock", "metrics/", "plots/", "code.json")
"""What a round writes itself: a change of it is no edit of a user."""
NO_COMMITTER = ("tell me who you are", "auto-detect email", "ident name", "no email was given")
IDENTITY = {"NAME": "Florence", "EMAIL": "florence@localhost"}
"""Who commits where git knows nobody."""


@dataclass(frozen=True, slots=True)
class GitRecord:
    """A record. ``commit``: its commit; ``head``: the commit that was checked out; ``dirty``: files edited since."""

    commit: str
    head: str | None
    dirty: tuple[str, ...]


class GitRecords:
    """The records of the workspace ``root``, which may be a folder inside a git repository.

    Every method raises FlorenceError saying what failed and what to do.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).resolve()

    def is_usable(self) -> bool:
        """Return whether git is installed and the workspace is in the working tree of a repository."""
        if shutil.which("git") is None:
            return False
        return self._try("rev-parse", "--is-inside-work-tree").stdout.strip() == "true"

    def head(self) -> str | None:
        """Return the commit that is checked out; None without git, outside of a repository and before a commit."""
        return self.find("HEAD") if self.is_usable() else None

    def find(self, ref: str) -> str | None:
        """Return the commit that ``ref`` leads to; None where there is none."""
        done = self._try("rev-parse", "--verify", "-q", f"{ref}^{{commit}}")
        return done.stdout.strip() if done.returncode == 0 else None

    def read(self, commit: str, name: str) -> bytes | None:
        """Return the file ``name`` of the workspace as ``commit`` holds it; None where it holds none."""
        done = subprocess.run(
            ["git", "cat-file", "blob", f"{commit}:./{name}"],
            cwd=self.root,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout if done.returncode == 0 else None

    def find_dirty(self) -> tuple[str, ...]:
        """Return the tracked files of the workspace that differ from HEAD, without what a round writes itself."""
        if self.find("HEAD") is None:
            return ()
        names = self._git("diff", "--name-only", "--relative", "-z", "HEAD", "--", ".").split("\0")
        return tuple(name for name in names if name and not name.startswith(WRITTEN))

    def find_first(self) -> str | None:
        """Return what tells this workspace from others: the repository's first commit and the folder in it."""
        if self.head() is None:
            return None
        first = self._git("rev-list", "--max-parents=0", "HEAD").split()[-1]
        return f"{first[:12]}/{self._git('rev-parse', '--show-prefix').strip()}".rstrip("/")

    def record(self, message: str, replaced: Mapping[str, bytes]) -> GitRecord:
        """Commit all tracked files as they are, and `RECORDED`, on `REF`; ``replaced``: name → content, in their place.

        Where the last record holds the same files under the same message, that one is returned.
        """
        head, dirty, last = self.find("HEAD"), self.find_dirty(), self.find(REF)
        tree = self._write_tree(head, replaced)
        if last is not None:
            same = self._git("show", "-s", "--format=%T%n%B", last).split("\n", 1)
            if same[0] == tree and same[1].strip() == message:
                return GitRecord(last, head, dirty)
        parents = dict.fromkeys(parent for parent in (last, head) if parent is not None)
        options = [option for parent in parents for option in ("-p", parent)]
        commit = self._git("commit-tree", tree, *options, "-m", message, env=self._identity()).strip()
        self._git("update-ref", "-m", "florence: a round", REF, commit, last or "0" * 40)
        return GitRecord(commit, head, dirty)

    def _write_tree(self, head: str | None, replaced: Mapping[str, bytes]) -> str:
        prefix = self._git("rev-parse", "--show-prefix").rstrip("\n")
        with tempfile.TemporaryDirectory(prefix="florence-") as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self._git("read-tree", head if head is not None else "--empty", env=index)
            tracked = self._git("ls-files", "-z", "--", ".").split("\0")
            names = [name for name in (*tracked, *RECORDED) if name and os.path.lexists(self.root / name)]
            self._git("add", "-u", "--", ".", env=index)
            paths = "".join(f":(literal){name}\0" for name in dict.fromkeys(names))
            self._git("add", "-f", "--pathspec-from-file=-", "--pathspec-file-nul", env=index, given=paths)
            for name, content in replaced.items():
                blob = self._git("hash-object", "-w", "--stdin", given=content.decode()).strip()
                self._git("update-index", "--add", "--cacheinfo", f"100644,{blob},{prefix}{name}", env=index)
            return self._git("write-tree", env=index).strip()

    def tag(self, model: str, version: str, commit: str) -> str:
        """Tag ``commit`` as the record of a model's version; return the tag's name.

        A tag is never moved: where the name belongs to another commit (of a registry that was begun anew), it gets a
        number.
        """
        base = f"{re.sub(r'[^A-Za-z0-9_-]+', '-', model).strip('-') or 'model'}/v{version}"
        for number in range(1, 10_000):
            name = base if number == 1 else f"{base}-{number}"
            if (found := self.find(f"refs/tags/{name}")) is None:
                self._git("update-ref", f"refs/tags/{name}", commit, "0" * 40)
                return name
            if found == commit:
                return name
        raise FlorenceError(f"git has too many tags {base}-N: delete old ones with `git tag -d`")

    def push(self, remote: str, tag: str) -> None:
        """Push a tag, and with it its record and those before, to the git remote ``remote``."""
        self._git("push", "-q", remote, f"refs/tags/{tag}", env={"GIT_TERMINAL_PROMPT": "0"})

    def url(self) -> str:
        """Return the URL of the remote origin, redacted, or else the folder of the repository."""
        found = self._try("remote", "get-url", "origin")
        return redact_text(
            (found.stdout if found.returncode == 0 else self._git("rev-parse", "--show-toplevel")).strip()
        )

    def folder(self) -> str:
        """Return the workspace's folder within the repository, "" for its top."""
        return self._git("rev-parse", "--show-prefix").strip().rstrip("/")

    def _identity(self) -> dict[str, str]:
        """Return an identity for the environment where git has none; without useConfigOnly git makes one up."""
        done = self._try("-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT")
        if done.returncode == 0:
            return {}
        return {f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in IDENTITY.items()}

    def _git(self, *arguments: str, env: Mapping[str, str] | None = None, given: str = "") -> str:
        done = self._try(*arguments, env=env, given=given)
        if done.returncode:
            reason = redact_text(" ".join((done.stderr or done.stdout).split())) or "git gave no reason"
            raise FlorenceError(
                f"git {arguments[0]} failed in {self.root}: {reason}; `git status` there shows the state of the "
                "repository, and snapshots.record: false goes on without records"
            )
        return done.stdout

    def _try(
        self, *arguments: str, env: Mapping[str, str] | None = None, given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = ["git", *arguments]
        environment = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, errors="replace", input=given
        )
