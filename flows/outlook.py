"""What a loop would do, told without doing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from florence import annotation, stages
from florence.records import IMAGES, digest
from florence.store import Store
from flows.parts import Parts
from flows.state import LoopState, read_state

SECTIONS = ("engine", "validation", "model", "train", "evaluate", "promotion")
"""Settings that change what a round makes of the same images and annotators."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """``new``: images that would be taken in; ``pending``: annotator → images to annotate, of those that are there already.

    ``changed``: sections of settings that are other than when the last loop ended; ``reviews``: whether people have said something since; ``rounds``: rounds
    that would be done.
    """

    state: LoopState | None
    new: int
    total: int
    pending: dict[str, int]
    changed: tuple[str, ...]
    rounds: range
    reviews: bool = False

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.rounds


class _Dry(Store):
    """A store that keeps nothing that is written to it; the first image shard ends a collection that only asks whether there is one."""

    def __init__(self, uri: str, first: bool) -> None:
        super().__init__(uri)
        self.first = first

    def write_bytes(self, name: str, data: bytes) -> None:
        if self.first and name.startswith("images/"):
            raise _Found


class _Found(Exception):
    """There is a new image."""


def images_hash(store: Store) -> str:
    """A hash of the ids of all images in the store."""
    return digest(sorted(store.read_tables("images", IMAGES, ["image_id"])["image_id"].to_pylist()))


def reviews(store: Store) -> str:
    """The version of what people have said, empty where they have not."""
    people = annotation.reviewed(store)
    return people.version if people is not None else ""


def settings_hashes(parts: Parts) -> dict[str, str]:
    """Section → hash, of the settings that decide what a round makes of its images.

    Defaults are left out: a version of Florence that brings a new setting is no reason for a new loop.
    """
    return {
        name: digest(getattr(parts.settings, name).model_dump(mode="json", exclude_defaults=True)) for name in SECTIONS
    }


def changed_sections(parts: Parts, state: LoopState) -> list[str]:
    """The sections of settings that are other than when the last loop ended."""
    return [name for name, value in settings_hashes(parts).items() if state.settings.get(name) != value]


def waiting(parts: Parts) -> dict[str, int]:
    """Annotator → images that it has not annotated yet; those who have none are left out."""
    left = annotation.pending(parts.settings, parts.store, annotation.annotators(parts.settings))
    return {name: sum(shards.values()) for name, shards in left.items() if shards}


def is_idle(parts: Parts, rounds: int | None) -> bool:
    """Whether a loop would do nothing. Quick where it would do something; else every file of the sources has been looked at."""
    state = read_state(parts.root)
    if state is None or not state.finished or not stages.shards(parts.store) or _more(state, rounds):
        return False
    if (
        changed_sections(parts, state)
        or images_hash(parts.store) != state.images
        or reviews(parts.store) != state.reviews
        or waiting(parts)
    ):
        return False
    try:
        stages.collect(parts.settings, _Dry(parts.store.uri, first=True))
    except _Found:
        return False
    return True


def outlook(parts: Parts, rounds: int | None, progress: stages.Progress = stages.silent) -> Outlook:
    """What a loop would do now. Every image of the sources is looked at; nothing is written."""
    collected = stages.collect(parts.settings, _Dry(parts.store.uri, first=False), progress)
    state, pending = read_state(parts.root), waiting(parts)
    known: dict[str, Any] = {"state": state, "new": collected.new, "total": collected.total, "pending": pending}
    if state is None:
        first = max([-1, *stages.rounds(parts.store), *stages.rounds(parts.data)]) + 1
        return Outlook(**known, changed=(), rounds=range(first, first + (rounds or parts.settings.flow.rounds)))
    changed = tuple(changed_sections(parts, state))
    known["reviews"] = reviews(parts.store) != state.reviews
    if not state.finished:
        return Outlook(
            **known,
            changed=changed,
            rounds=range(state.round, state.first_round + max(rounds or state.wanted, state.done + 1)),
        )
    if collected.new or pending or changed or known["reviews"] or images_hash(parts.store) != state.images:
        return Outlook(
            **known, changed=changed, rounds=range(state.round, state.round + (rounds or parts.settings.flow.rounds))
        )
    return Outlook(
        **known,
        changed=changed,
        rounds=range(state.round, state.first_round + (rounds or 0) if _more(state, rounds) else state.round),
    )


def nothing_new(parts: Parts) -> str:
    """That nothing is to be done, and what there is."""
    snapshot = (
        parts.data.read_json("snapshot.json") if parts.data.exists("snapshot.json") else {"id": "none", "round": "none"}
    )
    leader = parts.tracker.champion()
    images = len(stages.images_table(parts.store))
    text = f"nothing new: {images} images, snapshot {snapshot['id']} of round {snapshot['round']}, champion {'version ' + leader.version if leader else 'none'}"
    state = read_state(parts.root)
    if state is not None and state.rejected:
        text += f"\nthe last loop stopped: {state.rejected}; the same again would give the same, so new images or other settings are needed"
    return text


def _more(state: LoopState, rounds: int | None) -> bool:
    """Whether a finished loop is asked for more rounds and can have them."""
    return rounds is not None and rounds > state.done and bool(state.loop_id) and not state.rejected


def told(found: Outlook) -> str:
    """The outlook in words."""
    lines = [f"images: {found.total - found.new} collected, {found.new} new"]
    lines += [f"annotate: {name} has {count} images left" for name, count in found.pending.items()]
    if found.new:
        lines.append("annotate: every annotator has the new images to look at")
    if found.changed:
        lines.append(f"changed settings: {', '.join(found.changed)}")
    if found.reviews:
        lines.append("people's reviews are new")
    if found.state is not None:
        end = (
            f"stopped: {found.state.rejected}"
            if found.state.rejected
            else "finished"
            if found.state.finished
            else "broken off, to be continued"
        )
        lines.append(f"last loop: {found.state.loop_id}, {found.state.done} of {found.state.wanted} rounds, {end}")
    numbers = ", ".join(map(str, found.rounds))
    return "\n".join([*lines, f"rounds to do: {numbers}" if numbers else "nothing to do"])
