"""What a registered version is brought back from: a record in git, or files with its run in MLflow."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from florence.errors import FlorenceError
from flows.adapters.environment import redact_text
from flows.adapters.git_records import GitRecord
from flows.frozen import params_file
from flows.terminal import say
from flows.tracked import TrackedWorkspace

FILES = ("data.dvc", "dvc.yaml", "dvc.lock", "code.json")
"""Files that are kept with the run, beside params.yaml, where there is no git repository."""
FOLDER = "record"
"""Folder of a run's artifacts with those files."""


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """What a version's model was made with. ``params``: the settings, redacted; ``git``: None where there is no git."""

    params: bytes
    git: GitRecord | None
    head: str | None

    @property
    def tags(self) -> dict[str, Any]:
        """The version's tags about it."""
        tags: dict[str, Any] = {
            "git_commit": self.head,
            "params": hashlib.sha256(self.params).hexdigest(),
            "florence.record": "git" if self.git else "mlflow",
        }
        if self.git is not None:
            tags["git_record"] = self.git.commit
            if self.git.dirty:
                tags["git_dirty"] = ", ".join(self.git.dirty)[:4000]
        return tags


def record_round(workspace: TrackedWorkspace, message: str) -> RoundRecord:
    """Record the round in git, where the workspace is in a repository and ``snapshots.record`` is set."""
    params = redact_text(params_file(workspace.root).read_text(encoding="utf-8")).encode()
    records = workspace.records
    if not (workspace.settings.snapshots.record and records.is_usable()):
        return RoundRecord(params, None, records.head())
    found = records.record(message, {"params.yaml": params})
    if found.dirty:
        say(f"edited since the last commit, and recorded as they are: {', '.join(found.dirty)}")
    return RoundRecord(params, found, found.head)


def name_record(workspace: TrackedWorkspace, record: RoundRecord, run_id: str, version: str) -> None:
    """Tag the record of a registered version, and push the tag where ``snapshots.git_remote`` names a remote.

    Without git the files are kept with the version's run. A push that fails is told: the record is safe here.
    """
    if record.git is None:
        _attach(workspace, record, run_id)
        return
    name = workspace.records.tag(workspace.registry.name, version, record.git.commit)
    workspace.registry.tag_version(version, {"git_tag": name})
    say(f"recorded in git as {name}")
    if (remote := workspace.settings.snapshots.git_remote) is not None:
        try:
            workspace.records.push(remote, name)
        except FlorenceError as error:
            say(f"the tag {name} was not pushed: {error}")


def _attach(workspace: TrackedWorkspace, record: RoundRecord, run_id: str) -> None:
    with TemporaryDirectory(prefix="florence-") as folder:
        params = Path(folder) / "params.yaml"
        params.write_bytes(record.params)
        files = [workspace.root / name for name in FILES if (workspace.root / name).is_file()]
        workspace.tracker.log_files(run_id, [params, *files], FOLDER)
