"""Checks of the workspace: its files, settings, plug-ins, labels, models and data."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from florence.config import Settings
from florence.errors import FlorenceError, ModelError
from florence.hub.models import REPUBLISHED, explain_older
from florence.model.presets import PRESETS
from florence.sources import SOURCES
from florence.store import Store
from florence.workspace import bind_workspace, working_store
from florence.workspace.annotate import (
    describe_families,
    describe_missing_detectors,
    find_unusable_annotators,
    list_annotators,
    make_annotator,
)
from flows.adapters.ignored import POINTERS, describe_ignored, find_dvc_ignored, find_git_ignored, lines_against
from flows.doctor.check import Check
from flows.doctor.hub import check_hub_models
from flows.label_sets import rate_label_sets
from flows.params import missing_sections

FILES = ("params.yaml", "dvc.yaml", "expectations", ".dvc", ".git", "code.json")
LEAST_DISK = 2.0
"""GB below which a loop is likely to stop half-way."""


def check_folder(root: Path) -> Iterator[Check]:
    """Check the files of a workspace, that they can be written and are not ignored, and the programs it needs."""
    missing = [name for name in FILES if not (root / name).exists() and name not in (".git", "code.json")]
    if missing:
        yield Check(
            "workspace",
            "fail",
            f"{root}: {', '.join(missing)} missing",
            "`florence init DIR` makes a workspace; run commands inside it",
        )
    else:
        yield Check("workspace", "ok", str(root))
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        yield Check("git", "warn", "no repository", "`git init` lets settings and data.dvc be versioned")
    if not os.access(root, os.W_OK | os.X_OK):
        yield Check("workspace", "fail", f"{root} cannot be written to", "mount it writable, or copy it elsewhere")
    yield from _ignored(root)
    for program in ("git", "dvc"):
        if shutil.which(program) is None and not (Path(sys.executable).parent / program).exists():
            yield Check(program, "fail", "not found on PATH", f"install {program}")


def _ignored(root: Path) -> Iterator[Check]:
    """Check that no ignore file leaves out what git or DVC are to hold."""
    hidden = find_git_ignored(root)
    if fatal := [one for one in hidden if one.name in POINTERS]:
        remedy = f"DVC refuses these: write {', '.join(lines_against(fatal))} into {root / '.gitignore'}"
        yield Check("git", "fail", f"git ignores {describe_ignored(fatal)}", remedy)
    if others := [one for one in hidden if one not in fatal]:
        remedy = f"no commit will hold these: write {', '.join(lines_against(others))} into {root / '.gitignore'}"
        yield Check("git", "warn", f"git ignores {describe_ignored(others)}", remedy)
    if left_out := find_dvc_ignored(root):
        remedy = "snapshots would lack these: remove the lines"
        yield Check("DVC", "fail", f"DVC ignores {describe_ignored(left_out)}", remedy)


def check_sections(root: Path) -> Iterator[Check]:
    """Check that params.yaml has what stages depend on."""
    missing = missing_sections(root)
    found = f"params.yaml lacks {', '.join(missing)}" if missing else "params.yaml has what its stages depend on"
    yield Check(
        "dvc.yaml",
        "fail" if missing else "ok",
        found,
        "write these sections, with their defaults if nothing else: stages of dvc.yaml depend on them",
    )


def check_plugins(settings: Settings) -> Iterator[Check]:
    """Check that each source and annotator can be made, and annotates something."""
    faults = []
    for key, section in settings.sources.items():
        try:
            SOURCES.get(section.use)(**section.options)
        except FlorenceError as error:
            faults.append(f"sources.{key}: {error}")
    left_out: dict[str, str] = {}
    try:
        left_out = find_unusable_annotators(settings)
    except FlorenceError as error:
        faults.append(str(error))
    for key, reason in left_out.items():
        remedy = "runs go on without it, as it is not required; put its files in place, or remove it from params.yaml"
        yield Check(f"annotators.{key}", "warn", reason, remedy)
    for key in settings.annotators:
        try:
            _ = key in left_out or make_annotator(settings, key)[0].version  # raises where a package is missing
        except FlorenceError as error:
            faults.append(f"annotators.{key}: {error}")
    try:
        _ = list_annotators(settings) if not faults else None  # raises where dependencies are wrong
    except FlorenceError as error:
        faults.append(str(error))
    for line in describe_families(settings) if not faults else ():
        yield Check("families", "ok", line)
    for line in describe_missing_detectors(settings) if not faults else ():
        yield Check(
            "detector", "warn", line, "name one in params.yaml, as configs/photos.yaml and docs/extending.md do"
        )
    if not settings.sources:
        yield Check(
            "sources",
            "warn",
            "params.yaml names none",
            "`florence loop --images DIR` names one; docs/settings.md describes others",
        )
    for key, annotator in settings.annotators.items() if settings.sources else ():
        if not any(annotator.looks_at(source) for source in settings.sources):
            yield Check(
                "annotators", "warn", f"{key} annotates no source of params.yaml", f"correct annotators.{key}.sources"
            )
    found = f"{len(settings.sources)} sources, {len(settings.annotators)} annotators"
    yield Check("plug-ins", "fail" if faults else "ok", "; ".join(faults) or found, "correct params.yaml")


def check_labels(settings: Settings, root: Path) -> Iterator[Check]:
    """Check what the label sets match."""
    for name, status, found, remedy in rate_label_sets(bind_workspace(root, settings)):
        yield Check(name, status, found, remedy)


def check_data(settings: Settings, root: Path) -> Iterator[Check]:
    """Check whether there is a snapshot, and images."""
    data = Store(str(root / "data"))
    if data.exists("snapshot.json"):
        snapshot = data.read_object("snapshot.json", "id", "round", "counts")
        yield Check(
            "data",
            "ok",
            f"snapshot {snapshot['id']} of round {snapshot['round']}, {snapshot['counts']['images']} images",
        )
    elif (root / "data.dvc").exists():
        yield Check(
            "data",
            "warn",
            "data.dvc names a snapshot that is not here",
            "`dvc pull` fetches it; `florence loop` makes a fresh one (in the repository: `make demo`)",
        )
    else:
        yield Check("data", "warn", "no snapshot yet", "`florence loop` makes one (in the repository: `make demo`)")
    shards = len(working_store(settings, root).names("images", ".parquet"))
    yield Check(
        "images",
        "ok" if shards else "warn",
        f"{shards} shards in the working store",
        "`florence collect` takes images in",
    )


def check_model(settings: Settings, root: Path) -> Iterator[Check]:
    """Check that the models that the settings name are there."""
    from florence.model.checkpoint import SCRATCH

    name = settings.model.init
    names = [("model.init", name, None)] + [
        (f"annotators.{key}.{option}", value, section.options.get("revision"))
        for key, section in settings.annotators.items()
        for option, value in section.options.items()
        if option in ("model", "weights", "checkpoint") and isinstance(value, str)
    ]
    on_hub = []
    for where, value, revision in names:
        if value.removesuffix(SCRATCH) in PRESETS:
            yield Check(where, "ok", f"{value}, a preset")
        elif (folder := root / value).is_dir():
            fault = _find_model_fault(folder, deep=where == "model.init")
            yield Check(
                where, "fail" if fault else "ok", fault or f"{value}, a folder", "name the folder of a whole model"
            )
        elif value in REPUBLISHED:
            if where == "model.init":
                found = (
                    f"{value}, also published as {REPUBLISHED[value]}, in transformers' layout; this one is converted"
                )
                yield Check(where, "ok", found)
            else:
                yield Check(where, "warn", f"{value}: {explain_older(value)}", f"name {REPUBLISHED[value]}")
        elif re.fullmatch(r"[\w.-]+/[\w.-]+", value):
            on_hub.append((where, value, revision))
        elif where == "model.init":  # an annotator may have names of its own
            yield Check(
                where,
                "fail",
                f"{value}: neither a preset, a folder nor a name on the hub",
                f"presets: {', '.join(PRESETS)}",
            )
    yield from check_hub_models(on_hub)


def _find_model_fault(folder: Path, deep: bool) -> str:
    """Return why a folder holds no model that can be loaded, "" where it does. ``deep``: check every tensor's shape."""
    from florence.model.folders import open_folder

    if not (folder / "config.json").is_file():
        return f"{folder}, a folder without config.json"
    try:
        _ = open_folder(str(folder)) if deep else None
    except ModelError as error:
        return str(error)
    return ""


def check_disk(root: Path) -> Iterator[Check]:
    """Check how much of the disk is free."""
    free = shutil.disk_usage(root).free / 1e9
    data = sum(file.stat().st_size for file in (root / "data").rglob("*") if file.is_file()) / 1e9
    # The working store, data/ and DVC's cache each may hold what data/ does, and each snapshot adds its labels.
    need = max(LEAST_DISK, 3 * data)
    yield Check(
        "disk",
        "ok" if free > need else "warn" if free > need / 4 else "fail",
        f"{free:.1f} GB free, about {need:.1f} GB wanted",
        "free some space; `dvc gc -w` removes old snapshots from the cache",
    )
