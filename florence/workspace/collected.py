"""What a collection found in each source, as counts that add up to the files that were there, and in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from florence.errors import StoreError
from florence.sources import UnusedFiles
from florence.store import REMEDY, Store

NAME = "collected.json"
"""In a working store: the state of the sources at the last collection."""
_CHANGES = ("new", "replaced", "returned", "newly_gone", "newly_gone_examples", "moved_from")


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """The files of a source. ``listed`` of them were there, each in exactly one of the counts that follow.

    ``images``: whose picture is in the store; ``duplicates``: that have the picture of another file; ``texts``: read
    beside images; ``rejected``: pictures that cannot be used, by reason; ``unused``: all others, by reason.

    ``gone``: files that were there once, with ``gone_examples``. Of this collection alone: ``new`` images were added,
    ``replaced`` of them in place of another picture; ``returned`` files were gone before; ``newly_gone`` files are now;
    ``moved_from`` is the earlier address of a folder that has moved. ``left``: images of files that are not read any
    more, as the source's folder was ``left_uri`` then, or as the settings do not have the source; ``left_examples``.
    """

    source: str
    uri: str = ""
    listed: int = 0
    images: int = 0
    duplicates: int = 0
    texts: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    unused: tuple[UnusedFiles, ...] = ()
    gone: int = 0
    gone_examples: tuple[str, ...] = ()
    new: int = 0
    replaced: int = 0
    returned: int = 0
    newly_gone: int = 0
    newly_gone_examples: tuple[str, ...] = ()
    moved_from: str = ""
    left: int = 0
    left_uri: str = ""
    left_examples: tuple[str, ...] = ()


def write_collected(store: Store, files: Iterable[SourceFiles]) -> None:
    """Write what there is in the sources, without what has changed in this collection, if it is not written already."""
    rows = [{k: v for k, v in dataclasses.asdict(one).items() if k not in _CHANGES} for one in files]
    if not store.exists(NAME) or store.read_json(NAME) != _plain(rows):
        store.write_json(NAME, rows)


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows as JSON gives them back."""
    return [
        {
            **row,
            "gone_examples": list(row["gone_examples"]),
            "left_examples": list(row["left_examples"]),
            "unused": [{**one, "examples": list(one["examples"])} for one in row["unused"]],
        }
        for row in rows
    ]


def read_collected(store: Store) -> tuple[SourceFiles, ...]:
    """Return what the last collection found; empty where none wrote it. Raises StoreError where it is not readable."""
    if not store.exists(NAME):
        return ()
    try:
        return tuple(
            SourceFiles(
                **{
                    **row,
                    "gone_examples": tuple(row["gone_examples"]),
                    "left_examples": tuple(row.get("left_examples", ())),
                    "unused": tuple(UnusedFiles(**{**u, "examples": tuple(u["examples"])}) for u in row["unused"]),
                }
            )
            for row in store.read_json(NAME)
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StoreError(f"{store.uri}/{NAME} is not what a collection writes ({error}); {REMEDY}") from None


# ---------------------------------------------------------------- in words


def describe_collected(files: Iterable[SourceFiles]) -> list[str]:
    """Return lines that tell of each source what was not taken and what has changed; none for a source without both."""
    return [line for one in files for line in _describe_source(one)]


def _describe_source(one: SourceFiles) -> list[str]:
    lines = []
    if one.moved_from:
        lines.append(f"the folder has moved from {one.moved_from} to {one.uri}; files of equal names are the same")
    if one.replaced:
        lines.append(
            f"{_count_files(one.replaced)} replaced by another picture; labels stay with the picture that they were "
            "made for"
        )
    if one.returned:
        lines.append(f"{_count_files(one.returned)} back again")
    if one.newly_gone:
        names = ", ".join(one.newly_gone_examples)
        more = one.newly_gone - len(one.newly_gone_examples)
        lines.append(
            f"{_count_files(one.newly_gone)} gone ({names}{f' and {more:,} more' if more else ''}); "
            "collect.gone says whether their images stay"
        )
    if one.left:
        where = f"in {one.left_uri}, which" if one.left_uri else "of a source that"
        lines.append(
            f"{one.left:,} {'image is' if one.left == 1 else 'images are'} {where} is not read any more "
            f"({', '.join(one.left_examples[:3])}{' …' if one.left > 3 else ''}); collect.gone says whether they stay. "
            "To have several folders read, give each a key of its own below `sources`"
        )
    if unread := [group for group in one.unused if group.ending]:
        unread.sort(key=lambda group: (not group.remedy, -group.count, group.ending))
        lines.append("not read: " + ", ".join(map(_describe_ending, unread)))
    if others := [group for group in one.unused if not group.ending]:
        lines.append("left out: " + ", ".join(f"{group.reason} ({group.count:,})" for group in others))
    return [f"{one.source}: {line}" for line in lines]


def _count_files(number: int) -> str:
    return f"{number:,} {'file is' if number == 1 else 'files are'}"


def _describe_ending(group: UnusedFiles) -> str:
    text = f"{group.count:,} {group.ending}"
    return f"{text} ({group.remedy})" if group.remedy else text
