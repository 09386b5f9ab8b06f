"""The plan of a loop: what it would do, found out without doing it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from florence.image_files import NAME as FILES
from florence.people import find_people_version
from florence.progress import Progress, show_nothing
from florence.records import HUMAN, IMAGES, RECORD_COLUMNS, ImageRecord, digest, table_images
from florence.rounds import next_round
from florence.store import Store
from florence.workspace import Workspace
from florence.workspace.annotate import (
    count_missing,
    describe_families,
    describe_missing_detectors,
    find_human_annotator,
    list_annotators,
)
from florence.workspace.collect import collect_images
from florence.workspace.collected import describe_collected
from florence.workspace.layout import list_shards, read_images
from florence.workspace.publish import list_left_out, needs_restoring
from flows.label_sets import list_label_set_lines
from flows.state import LoopState, read_state
from flows.tracked import TrackedWorkspace

SECTIONS = ("engine", "validation", "model", "train", "evaluate", "promotion")
"""Settings that change what a round makes of the same images and annotators."""
SNAPSHOT_MISSING = (
    "data.dvc names a snapshot that is not here: a fresh one is started (`dvc pull` would fetch the old one)"
)


@dataclass(frozen=True, slots=True)
class LoopPlan:
    """What a loop would do.

    ``new``: images that would be collected; ``missing``: annotator → images to annotate, of those collected already.

    ``changed``: sections of settings that differ from when the last loop ended; ``reviews``: whether people's reviews
    are new; ``rounds``: rounds that would be done; ``files``, ``labels``: what would be told about files of sources and
    about label sets; ``evidence``: about annotators that share mistakes, and missing ones. ``restored``: the snapshot
    that the working store would be filled from, "" for none; ``is_lost``: whether it would have to be, but is not here.
    """

    state: LoopState | None
    new: int
    total: int
    missing: dict[str, int]
    changed: tuple[str, ...]
    rounds: range
    reviews: bool = False
    files: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    restored: str = ""
    is_lost: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.rounds


class _DryStore(Store):
    """A store that keeps nothing that is written to it.

    ``stop``: whether a new image, or a change of what is known of the files, raises `_NewsError`. ``images``: the
    records of images that were written.
    """

    def __init__(self, uri: str, stop: bool) -> None:
        super().__init__(uri)
        self.stop = stop
        self.images: list[ImageRecord] = []

    def write_bytes(self, name: str, data: bytes) -> None:
        if self.stop and (name.startswith("images/") or name == FILES):
            raise _NewsError
        if not name.startswith("images/"):
            return
        table = pq.read_table(pa.BufferReader(data), columns=RECORD_COLUMNS)
        self.images += [record for record, _ in table_images(table)]


class _NewsError(Exception):
    """There is a new image, or a file was replaced, is gone, or back again."""


def hash_images(workspace: Workspace) -> str:
    """Return a hash of the ids of all images in the store that a snapshot would have."""
    ids = set(workspace.store.read_tables("images", IMAGES, ["image_id"])["image_id"].to_pylist())
    return digest(sorted(ids - list_left_out(workspace)))


def human_version(store: Store) -> str:
    """Return the version of people's claims and reviews, empty where there are none."""
    human, people = find_human_annotator(store), find_people_version(store)
    return "+".join(part for part in (human.version if human is not None else "", people) if part)


def hash_settings(workspace: Workspace) -> dict[str, str]:
    """Return section → hash, of the settings that decide what a round makes of its images.

    Defaults are left out: a version of Florence that brings a new setting is no reason for a new loop.
    """
    settings = workspace.settings
    profiles = {
        key: section.model_dump(mode="json", include={"family", "complete"}, exclude_defaults=True)
        for key, section in settings.annotators.items()
    }
    return {
        "annotators": digest({key: values for key, values in profiles.items() if values}),
        **{
            name: digest(
                # who decides about a model changes nothing about it
                getattr(settings, name).model_dump(mode="json", exclude_defaults=True, exclude={"approval"})
            )
            for name in SECTIONS
        },
    }


def find_last_state(workspace: Workspace) -> LoopState | None:
    """Return the state of the last loop; where there is a snapshot but no loop has run, as if one had ended with it.

    The working store of ``workspace`` is one that has been restored from the snapshot, or the snapshot itself.
    """
    if (state := read_state(workspace.root)) is not None:
        return state
    data = workspace.data
    last = next_round(workspace.store, data) - 1
    if last < 0:
        return None
    published = data.read_object("snapshot.json").get("annotators", {}) if data.exists("snapshot.json") else {}
    known: dict[str, Any] = {
        "images": hash_images(workspace),
        "settings": hash_settings(workspace),
        "reviews": "+".join(part for part in (published.get(HUMAN, ""), find_people_version(data)) if part),
    }
    return LoopState("", 0, last + 1, last + 1, accepted=last, finished=True, **known)


def lacks_snapshot(workspace: Workspace) -> bool:
    """Return whether data.dvc names a snapshot that is neither in data/ nor in the working store."""
    return (
        (workspace.root / "data.dvc").exists()
        and not workspace.data.exists("snapshot.json")
        and not list_shards(workspace.store)
    )


def find_changed_sections(workspace: Workspace, state: LoopState) -> list[str]:
    """Return the sections of settings that differ from when the last loop ended."""
    defaults = digest({})
    found = hash_settings(workspace)
    return [name for name, value in found.items() if state.settings.get(name, defaults) != value]


def count_unannotated(workspace: Workspace) -> dict[str, int]:
    """Return annotator → images that it has not annotated yet; annotators that have none are left out."""
    missing = count_missing(workspace, list_annotators(workspace.settings, files=workspace.store))
    return {name: sum(shards.values()) for name, shards in missing.items() if shards}


def is_idle(workspace: Workspace, rounds: int | None) -> bool:
    """Return whether a loop would do nothing.

    Read the source files only if nothing else has changed.
    """
    store, state = workspace.store, read_state(workspace.root)
    if state is None or not state.finished or not list_shards(store) or _needs_more_rounds(state, rounds):
        return False
    if (
        find_changed_sections(workspace, state)
        or hash_images(workspace) != state.images
        or human_version(store) != state.reviews
        or count_unannotated(workspace)
    ):
        return False
    try:
        collect_images(replace(workspace, store=_DryStore(store.uri, stop=True)))
    except _NewsError:
        return False
    return True


def plan_loop(workspace: Workspace, rounds: int | None, progress: Progress = show_nothing) -> LoopPlan:
    """Return what a loop would do now. Every source file is read; nothing is written.

    Where a loop would first fill the working store from the snapshot, the plan is made from the snapshot.
    """
    restored, is_lost, store = "", lacks_snapshot(workspace), workspace.store
    if needs_restoring(workspace):
        snapshot, store = workspace.data.read_object("snapshot.json"), workspace.data
        restored = f"snapshot {snapshot['id']} of round {snapshot['round']}"
    dry = _DryStore(store.uri, stop=False)
    workspace = replace(workspace, store=dry)
    collected = collect_images(workspace, progress)
    state, missing = find_last_state(workspace), count_unannotated(workspace)
    by_default = workspace.settings.flow.rounds
    known: dict[str, Any] = {"state": state, "new": collected.new, "total": collected.total, "missing": missing}
    known |= {"restored": restored, "is_lost": is_lost, "files": tuple(describe_collected(collected.files))}
    known["labels"] = tuple(list_label_set_lines(workspace, dry.images))
    known["evidence"] = (
        *describe_families(workspace.settings),
        *describe_missing_detectors(workspace.settings),
    )
    if state is None:
        first = next_round(store, workspace.data)
        return LoopPlan(**known, changed=(), rounds=range(first, first + (rounds or by_default)))
    known["changed"] = tuple(find_changed_sections(workspace, state))
    known["reviews"] = human_version(store) != state.reviews
    if not state.finished:
        last = state.first_round + max(rounds or state.wanted, state.done + 1)
    elif collected.new or missing or known["changed"] or known["reviews"] or hash_images(workspace) != state.images:
        last = state.round + (rounds or by_default)
    else:
        last = state.first_round + (rounds or 0) if _needs_more_rounds(state, rounds) else state.round
    return LoopPlan(**known, rounds=range(state.round, last))


def describe_idle(workspace: TrackedWorkspace) -> str:
    """Return the message of an idle loop: images, snapshot and champion."""
    data = workspace.data
    snapshot = data.read_object("snapshot.json") if data.exists("snapshot.json") else {"id": "none", "round": "none"}
    champion = workspace.registry.champion()
    text = (
        f"nothing new: {len(read_images(workspace.store))} images, "
        f"snapshot {snapshot['id']} of round {snapshot['round']}, "
        f"champion {'version ' + champion.version if champion else 'none'}"
    )
    state = read_state(workspace.root)
    if state is not None and state.rejected:
        text += (
            f"\nthe last loop stopped: {state.rejected}; another run would give the same result: "
            "add images or change settings"
        )
    return text


def _needs_more_rounds(state: LoopState, rounds: int | None) -> bool:
    """Return whether a finished loop is asked for more rounds and can have them."""
    return rounds is not None and rounds > state.done and bool(state.loop_id) and not state.rejected


def describe_plan(plan: LoopPlan) -> str:
    """Return the plan in words, a line for each thing."""
    lines = [SNAPSHOT_MISSING] if plan.is_lost else []
    if plan.restored:
        lines.append(f"restore: the working store is empty and is filled from data/, {plan.restored}")
    lines.append(f"images: {plan.total - plan.new} collected, {plan.new} new")
    lines += plan.files
    lines += [f"annotate: {name} has {count} images left" for name, count in plan.missing.items()]
    if plan.new:
        lines.append("annotate: every annotator annotates the new images")
    lines += plan.labels
    lines += plan.evidence
    if plan.changed:
        lines.append(f"changed settings: {', '.join(plan.changed)}")
    if plan.reviews:
        lines.append("people's reviews are new")
    if (state := plan.state) is not None and not state.loop_id:
        lines.append(f"no loop has run here; the snapshot of round {state.accepted} is what one goes on from")
    elif state is not None:
        if state.waiting:
            end = f"version {state.waiting} waits for approval since {state.since} UTC"
        elif state.rejected:
            end = f"stopped: {state.rejected}"
        else:
            end = "finished" if state.finished else "interrupted, to be continued"
        lines.append(f"last loop: {state.loop_id}, {state.done} of {state.wanted} rounds, {end}")
    numbers = ", ".join(map(str, plan.rounds))
    return "\n".join([*lines, f"rounds to do: {numbers}" if numbers else "nothing to do"])
