"""The chain behind a registered model, with each hash of it verified: version, run, snapshot, settings, git record.

What is not on this machine is not checked, and is said to be so.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import yaml

from florence.errors import FlorenceError
from florence.store import Store
from florence.workspace.publish import recompute_id
from flows.adapters.mlflow_locations import local_path
from flows.adapters.model_registry import ModelVersion
from flows.adapters.snapshots import find_other_params
from flows.models import hash_weights, own_ids
from flows.record import FOLDER
from flows.tracked import TrackedWorkspace

Status = Literal["ok", "broken", "not checked"]
MARKS: dict[str, str] = {"ok": "✓", "broken": "✗", "not checked": "·"}


@dataclass(frozen=True, slots=True)
class LineageLink:
    """A link of the chain. ``value``: as the version says; ``detail``: what was found; ``remedy``: of a broken one."""

    name: str
    value: str
    status: Status
    detail: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Lineage:
    """The chain behind a model version; ``commands`` bring what it was made from into another folder."""

    model: str
    version: str
    links: tuple[LineageLink, ...]
    commands: tuple[str, ...]

    @property
    def is_broken(self) -> bool:
        """Whether a link is broken."""
        return any(link.status == "broken" for link in self.links)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "broken": self.is_broken}


def trace_model(workspace: TrackedWorkspace, ref: str) -> Lineage:
    """Follow the chain behind a version or alias. Raises FlorenceError where the registry has no such version."""
    version = workspace.registry.find(ref)
    return _Tracer(workspace, version).trace()


def format_lineage(lineage: Lineage) -> str:
    """Return the chain as lines: mark, link, value, and what was found."""
    lines = [f"{lineage.model} version {lineage.version}"]
    for link in lineage.links:
        lines.append(
            f"  {MARKS[link.status]} {link.name:<12} {link.value}" + (f"  ({link.detail})" if link.detail else "")
        )
        if link.status == "broken" and link.remedy:
            lines.append(f"      {link.remedy}")
    if lineage.commands:
        lines += ["", "By hand, in an empty folder:", *(f"  {command}" for command in lineage.commands)]
    broken = [link.name for link in lineage.links if link.status == "broken"]
    unchecked = [link.name for link in lineage.links if link.status == "not checked"]
    lines.append("")
    lines.append(f"broken: {', '.join(broken)}" if broken else "no link is broken")
    if unchecked:
        lines.append(f"not checked: {', '.join(unchecked)}")
    return "\n".join(lines)


class _Tracer:
    """Follows the chain of one version; ``record`` reads a file of what the version is brought back from."""

    def __init__(self, workspace: TrackedWorkspace, version: ModelVersion) -> None:
        self.workspace, self.version, self.tags = workspace, version, version.tags
        self.commit = self.tags.get("git_record") if workspace.records.is_usable() else None
        self.has_commit = self.commit is not None and workspace.records.find(self.commit) is not None

    def trace(self) -> Lineage:
        """Return the chain."""
        links = (
            self.check_weights(),
            self.check_run(),
            *self.check_owner(),
            *self.check_record(),
            self.check_params(),
            self.check_pointer(),
            *self.check_snapshot(),
            self.check_lock(),
            *self.show_tags(),
            self.check_parent(),
        )
        return Lineage(self.workspace.registry.name, self.version.version, links, self.commands())

    def read(self, name: str) -> bytes | None:
        """Return a file of the record: from git, or from the version's run."""
        if self.tags.get("florence.record") == "mlflow" and self.version.run_id:
            return self.workspace.tracker.read_file(self.version.run_id, f"{FOLDER}/{name}")
        return self.workspace.records.read(self.commit, name) if self.commit and self.has_commit else None

    def read_yaml(self, name: str) -> dict[str, Any] | None:
        """Return a YAML file of the record, None where it is missing or no mapping."""
        content = self.read(name)
        try:
            found = None if content is None else yaml.safe_load(content)
        except yaml.YAMLError:
            return None
        return found if isinstance(found, dict) else None

    def compare(self, name: str, wanted: str | None, found: str | None, absent: str, remedy: str) -> LineageLink:
        """Return a link that is ok where ``found`` is ``wanted``, and not checked where one of both is missing."""
        if wanted is None:
            return LineageLink(name, "unknown", "not checked", "the version has no tag of it: it is an older one")
        if found is None:
            return LineageLink(name, wanted, "not checked", absent)
        if found != wanted:
            return LineageLink(name, wanted, "broken", f"found {found}", remedy)
        return LineageLink(name, wanted, "ok")

    def check_weights(self) -> LineageLink:
        """Compare the registered weights with their SHA-256 at registration."""
        place = local_path(self.workspace.registry.artifact_uri(self.version.version))
        folder = place / "artifacts/model" if place is not None else None
        wanted = self.tags.get("weights")
        if folder is not None and hash_weights(folder) is None:
            return LineageLink(
                "weights", wanted or "unknown", "broken", f"none in {folder}", "restore the MLflow store"
            )
        if folder is None:
            fetched = self.workspace.root / ".florence/models" / self.version.version
            folder = fetched if fetched.is_dir() else None
        remedy = "the registered files were changed: restore the MLflow store, or register the model again"
        found = hash_weights(folder) if folder is not None else None
        return self.compare("weights", wanted, found, "they are on a server and were not fetched", remedy)

    def check_run(self) -> LineageLink:
        """Ask MLflow for the version's run."""
        fault = self.workspace.registry.find_fault(self.version.version)
        if self.version.run_id is None or fault.startswith("its run"):
            return LineageLink("run", self.version.run_id or "none", "broken", fault, "restore the run in MLflow")
        return LineageLink("run", self.version.run_id, "ok")

    def check_owner(self) -> Iterator[LineageLink]:
        """Tell which workspace has registered the version."""
        if (owner := self.tags.get("florence.workspace")) is not None:
            detail = "" if owner in own_ids(self.workspace) else "another workspace"
            yield LineageLink("workspace", owner, "ok", detail)

    def check_record(self) -> Iterator[LineageLink]:
        """Look for the record's commit and tag."""
        if self.tags.get("florence.record") == "mlflow":
            status: Status = "ok" if self.read("data.dvc") is not None else "broken"
            yield LineageLink("record", f"files with the run, {FOLDER}/", status, "", "restore the run's artifacts")
            return
        commit, tag = self.tags.get("git_record"), self.tags.get("git_tag")
        if commit is None:
            yield LineageLink("git record", "none", "not checked", "the version was not recorded")
            return
        if not self.has_commit:
            yield LineageLink(
                "git record", commit, "not checked", "this repository does not have it: `git fetch --tags`"
            )
            return
        dirty = self.tags.get("git_dirty")
        yield LineageLink("git record", commit, "ok", f"with edits of {dirty}" if dirty else "")
        if tag is None:
            yield LineageLink("git tag", "none", "broken", "", f"`git tag NAME {commit}` makes one")
            return
        found = self.workspace.records.find(f"refs/tags/{tag}")
        remedy = f"`git tag -f {tag} {commit}` puts it back"
        if found is None:
            yield LineageLink("git tag", tag, "broken", "there is no such tag", remedy)
        else:
            link = self.compare("git tag", commit, found, "", remedy)
            yield LineageLink("git tag", tag, link.status, link.detail, link.remedy)

    def check_params(self) -> LineageLink:
        """Compare the settings in the record with their hash at registration."""
        content = self.read("params.yaml")
        found = hashlib.sha256(content).hexdigest() if content is not None else None
        return self.compare("params", self.tags.get("params"), found, "no record here", "the record was changed")

    def check_pointer(self) -> LineageLink:
        """Compare data.dvc in the record with the version's hash of data/."""
        pointer = self.read_yaml("data.dvc")
        found = pointer["outs"][0]["md5"] if pointer else None
        remedy = "the record holds another snapshot: the tag names the wrong commit"
        return self.compare("dvc hash", self.tags.get("dvc_hash"), found, "no record here", remedy)

    def check_snapshot(self) -> Iterator[LineageLink]:
        """Hash every file of the snapshot in DVC's cache, and the snapshot's id from them."""
        wanted, md5 = self.tags.get("snapshot"), self.tags.get("dvc_hash")
        if wanted is None or md5 is None:
            return
        files = find_tracked_files(self.workspace.snapshots.file_folders(), md5)
        remedy = "`dvc pull` fetches the files anew, once the false ones are deleted from DVC's cache"
        if isinstance(files, str):
            yield LineageLink("snapshot", wanted, "broken", files, remedy)
            return
        if files is None or None in files.values():
            yield LineageLink("snapshot", wanted, "not checked", "its files are not on this machine: `dvc pull`")
            return
        for name, path in files.items():
            assert path is not None
            if _md5(path) != path.parent.name + path.name:
                yield LineageLink("snapshot", wanted, "broken", f"{name} was changed in {path}", remedy)
                return
        with TemporaryDirectory(prefix="florence-") as folder:
            for name, path in files.items():
                (target := Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                os.symlink(str(path), target)
            try:
                found = recompute_id(Store(folder))
            except FlorenceError as error:
                yield LineageLink("snapshot", wanted, "broken", str(error), remedy)
                return
        link = self.compare("snapshot", wanted, found, "", remedy)
        yield LineageLink("snapshot", wanted, link.status, link.detail or f"{len(files)} files", link.remedy)

    def check_lock(self) -> LineageLink:
        """Compare dvc.lock in the record with the settings, the snapshot and the weights."""
        lock, text, params = self.read_yaml("dvc.lock"), self.read("dvc.lock"), self.read("params.yaml")
        if lock is None or text is None or params is None:
            return LineageLink("dvc.lock", "", "not checked", "no record here")
        faults = [f"{key} of {stage} is not the record's" for stage, key in find_other_params(text, params)]
        stages = lock.get("stages") or {}
        for stage, entry in stages.items():
            for dep in entry.get("deps") or ():
                if dep.get("path") == "data" and dep.get("md5") != self.tags.get("dvc_hash"):
                    faults.append(f"{stage} depends on data {dep.get('md5')}")
        faults += self._find_other_weights(stages)
        status: Status = "broken" if faults else "ok"
        remedy = "the stages were not run with this snapshot and these settings: `florence loop` makes a version anew"
        return LineageLink("dvc.lock", ", ".join(stages), status, "; ".join(faults), remedy)

    def _find_other_weights(self, stages: dict[str, Any]) -> Iterator[str]:
        """Yield what is wrong with the model that the stage train has written, where DVC's cache has it."""
        for out in (stages.get("train") or {}).get("outs") or ():
            if out.get("path") == "model":
                files = find_tracked_files(self.workspace.snapshots.file_folders(), str(out.get("md5")))
                path = files.get("model.safetensors") if isinstance(files, dict) else None
                wanted = self.tags.get("weights")
                if path is not None and wanted is not None:
                    with open(path, "rb") as opened:
                        if hashlib.file_digest(opened, "sha256").hexdigest() != wanted:
                            yield "its model is not the registered one"

    def show_tags(self) -> Iterator[LineageLink]:
        """Yield what the version says of its annotators, engine, settings of training and code."""
        content = self.read("code.json")
        found = json.loads(content).get("code") if content is not None else None
        yield self.compare(
            "code", self.tags.get("code"), found, "no record here", "code.json of the record was changed"
        )
        for name in ("annotators", "engine", "train", "git_commit"):
            if name in self.tags:
                yield LineageLink(name, self.tags[name], "ok")

    def check_parent(self) -> LineageLink:
        """Look for the version whose model annotated as student."""
        parent = self.tags.get("parent")
        if not parent:
            return LineageLink("student", "none", "ok")
        known = {version.version for version in self.workspace.registry.versions()}
        if parent not in known:
            return LineageLink(
                "student", f"version {parent}", "broken", "is not registered", "restore the MLflow store"
            )
        return LineageLink("student", f"version {parent}", "ok", f"`florence lineage {parent}`")

    def commands(self) -> tuple[str, ...]:
        """Return the commands that bring back, by hand, what the version was made from."""
        if (tag := self.tags.get("git_tag")) is None or not self.workspace.records.is_usable():
            return ()
        folder = self.workspace.records.folder()
        return (
            f"git clone {self.workspace.records.url()} workspace",
            f"cd workspace{f'/{folder}' if folder else ''}",
            f"git checkout {tag}",
            "dvc pull",
            "dvc repro",
        )


def find_tracked_files(folders: list[Path], md5: str) -> dict[str, Path | None] | str | None:
    """Return name → file of a folder that DVC tracks under ``md5``, None for a file that is not here.

    ``folders``: as `Snapshots.file_folders` has them. None where its list of files is not here, and a sentence where
    that list is not what it was.
    """
    listing = _find_file(folders, md5)
    if listing is None:
        return None
    if _md5(listing) != md5.removesuffix(".dir"):
        return f"the list of its files was changed: {listing}"
    return {one["relpath"]: _find_file(folders, one["md5"]) for one in json.loads(listing.read_bytes())}


def _find_file(folders: list[Path], md5: str) -> Path | None:
    paths = (folder / md5[:2] / md5[2:] for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _md5(path: Path) -> str:
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
