"""Which labels of a data set belong to which image.

Labels belong to a picture. Where a data set tells the content (an entry with the hash of the bytes, as our own formats
have it), that alone decides. Else an image is matched by the path of its file in its source, and a file can have had
other contents, and a picture other names: `florence.image_files` knows. One name of several pictures is never guessed.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from florence.errors import DataError, FlorenceError, NotListedError
from florence.formats import (
    ImageClaims,
    LabelProblem,
    LabelSet,
    LabelSetEntry,
    UnusableLabelError,
    describe_problem,
)
from florence.formats._merging import merge_claims
from florence.image_files import NO_FILES, PRESENT, FileRow, ImageFiles, cut_suffix, normalise_path
from florence.images import is_image
from florence.records import ImageRecord

Contents = Literal["ask", "first", "current"]
NOT_UNDERSTOOD = "none of its labels was understood"
SEVERAL_SOURCES = "one name in several sources"
SEVERAL_CONTENTS = "a picture that was replaced under its name"
SEVERAL_SPELLINGS = "a name that Unicode writes in several ways"
SEVERAL_BASES = "a file name of several pictures"
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Matching:
    """How images are matched with entries.

    ``strip``: removed from the front of the image's path in its source; ``prefix``: then put there. ``base_names``:
    whether a path that is not found is matched by its file's name. ``upload_prefix``: whether the data set's file names
    begin with what Label Studio puts before the names of files that are uploaded. ``source``: the source whose files
    the data set's names mean, empty for all. ``contents``: which content of a file that has had several: the first, the
    current one, or, for "ask", that which was alone when the data set was first read (after collection ``first_read``).
    ``files``: what is known of the files.
    """

    strip: str = ""
    prefix: str = ""
    base_names: bool = False
    upload_prefix: bool = False
    source: str = ""
    contents: Contents = "ask"
    first_read: int | None = None
    files: ImageFiles = NO_FILES


class LabelMatcher:
    """The entries of a data set by id, path and base name."""

    def __init__(self, labels: LabelSet, matching: Matching) -> None:
        self.labels, self.matching = labels, matching
        self._ids: dict[str, list[int]] = {}
        self._by_name: dict[str, list[int]] = {}
        self._by_stem: dict[str, list[int]] = {}
        self._by_added: dict[str, list[int]] = {}
        self._by_base: dict[str, list[int]] = {}
        for k, entry in enumerate(labels.entries):
            if entry.image_id is not None:
                self._ids.setdefault(entry.image_id, []).append(k)
                if _HASH.fullmatch(entry.image_id) or not entry.names:
                    continue
            names = dict.fromkeys(map(normalise_path, entry.names))
            if matching.upload_prefix:
                names = dict.fromkeys(map(cut_upload_prefix, names))
            for name in names:
                self._by_name.setdefault(name, []).append(k)
                # An export puts the right ending behind a name that has none, or a wrong one.
                (self._by_added if is_image(name) else self._by_stem).setdefault(cut_suffix(name), []).append(k)
            for base in dict.fromkeys(map(base_name, names)):
                self._by_base.setdefault(base, []).append(k)

    def find_entries(self, record: ImageRecord) -> list[LabelSetEntry]:
        """Return the entries of an image: by id; else by each of its files' names, that of its record first.

        Raises NotListedError if there is none, UnusableLabelError if it is unknown whether they belong to this image.
        """
        return [self.labels.entries[k] for k in self._find(record)]

    def find_mentions(self, record: ImageRecord) -> list[LabelSetEntry]:
        """Return the entries that the names of an image can mean, whether or not they are of its content."""
        positions: dict[int, None] = {}
        for _, name in self._list_names(record):
            try:
                positions.update(dict.fromkeys(self._look_up(name)[0]))
            except NotListedError:
                continue
        return [self.labels.entries[k] for k in positions]

    def find_claims(self, record: ImageRecord) -> ImageClaims:
        """Return the claims about an image. Raises NotListedError and DataError as `find_entries` does.

        Raises UnusableLabelError too if none of its labels can be used.
        """
        read, error = self.read_entries(self.find_entries(record), record)
        if error is not None:
            raise error
        return read

    def read_entries(
        self, entries: Sequence[LabelSetEntry], record: ImageRecord
    ) -> tuple[ImageClaims, DataError | None]:
        """Return the claims of ``entries`` about their image as one, and why none can be used, if so.

        Raises NotListedError if the data set has the image, but nothing says that anybody looked at it.
        """
        total: ImageClaims | None = None
        errors: list[DataError] = []
        not_listed: list[NotListedError] = []
        for entry in entries:
            try:
                self.labels.check_size(entry, record)
                read = self.labels.read_claims(entry, record)
            except DataError as error:
                errors.append(error)
                continue
            except NotListedError as error:
                not_listed.append(error)
                continue
            total = read if total is None else merge_claims(total, read, entry, record)
        if total is None:
            if not errors:
                raise not_listed[0]
            return ImageClaims(()), errors[0]
        if not total.claims and (lost := sum(p.count for p in total.problems if p.unit == "label")):
            first = next(str(p) for p in total.problems if p.unit == "label")
            return total, UnusableLabelError(
                NOT_UNDERSTOOD, f"{record.name}: none of its {lost} labels can be used; the first: {first}", "image"
            )
        return replace(total, problems=(*total.problems, *(describe_problem(e, "part") for e in errors))), None

    def hash_differences(self) -> list[tuple[str, list[str]]]:
        """Return image id and outcome of each image that files' names and contents match otherwise than its own name.

        Empty where each image's record alone decides.
        """
        plain = LabelMatcher.__new__(LabelMatcher)
        plain.__dict__.update(self.__dict__)
        plain.matching = Matching(
            self.matching.strip,
            self.matching.prefix,
            self.matching.base_names,
            self.matching.upload_prefix,
            self.matching.source,
        )
        result = []
        for row in self.matching.files.list_ambiguous(self.matching.base_names):
            record = ImageRecord(row.image_id, 1, 1, row.source, row.name, "", None, "train")
            if (outcome := self._outcome(record)) != plain._outcome(record):
                result.append((row.image_id, outcome))
        for source, ids in self.matching.files.list_copies().items():
            for image_id in ids:
                if outcome := self._outcome(ImageRecord(image_id, 1, 1, source, "", "", None, "train")):
                    result.append((image_id, ["copy", *outcome]))
        return sorted(result)

    def _outcome(self, record: ImageRecord) -> list[str]:
        try:
            return [str(k) for k in self._find(record)]
        except NotListedError:
            return []
        except UnusableLabelError as error:
            return [error.reason]

    # ------------------------------------------------------------ by names

    def _find(self, record: ImageRecord) -> list[int]:
        if found := self._ids.get(record.image_id):
            if len(found) > 1:
                raise self._repeated(record, record.name, found)
            return found
        names = self._list_names(record)
        result: list[int] = []
        errors: list[FlorenceError] = []
        for source, name in names:
            try:
                position = self._find_by_name(record, source, name)
            except (NotListedError, UnusableLabelError) as error:
                errors.append(error)
            else:
                result += [position] if position not in result else []
        if result:
            return result
        raise next((e for e in errors if isinstance(e, UnusableLabelError)), errors[0])

    def _list_names(self, record: ImageRecord) -> list[tuple[str, str]]:
        """Return source and name of the files of an image that the data set's names may mean."""
        files, wanted = self.matching.files, self.matching.source
        rows = [(row.source, row.name) for row in files.list_files(record.image_id)]
        own = [(record.source, record.name)] if files.looks_at(record.source) else []
        names = [pair for pair in dict.fromkeys([*own, *rows]) if wanted in ("", pair[0])]
        if not names:
            raise NotListedError(
                f"{record.name} is a file of the source {record.source}, and the names of {self.labels.where} mean "
                f"files of {wanted or 'others'} (option source)"
            )
        return names

    def _find_by_name(self, record: ImageRecord, source: str, own: str) -> int:
        """Return the position of the entry that one name of an image means."""
        found, how = self._look_up(own)
        twins = self._list_twins(source, own) if found and how != "base" else ()
        if twins:
            found = self._choose_spelling(record, own, found, twins)
        if not found:
            raise NotListedError(f"{self.labels.where} has no labels of {own}{self._hint(own)}")
        if len(found) > 1:
            raise self._repeated(record, self._map_path(own) or own, found)
        if how == "base":
            self._check_base(record, own)
        else:
            self._check_content(record, source, normalise_path(own), how == "path", twins)
        return found[0]

    def _list_twins(self, source: str, own: str) -> tuple[str, ...]:
        """Return the names of other files that are there now, which differ from ``own`` in how Unicode writes them."""
        name = normalise_path(own)
        rows = self.matching.files.list_contents(cut_suffix(name))
        there = {row.name for row in rows if row.source == source and row.status == PRESENT}
        return tuple(sorted(one for one in there - {own} if own in there and normalise_path(one) == name))

    def _choose_spelling(self, record: ImageRecord, own: str, found: Sequence[int], twins: Sequence[str]) -> list[int]:
        """Return those of the entries that are written as the name of a file that has ``twins``.

        Raises NotListedError if they are written as a twin's, UnusableLabelError if as that of none.
        """

        def list_spelt(name: str) -> list[int]:
            spelt = self.matching.prefix + name.removeprefix(self.matching.strip)
            return [k for k in found if spelt in self.labels.entries[k].names]

        if mine := list_spelt(own):
            return mine
        if any(map(list_spelt, twins)):
            raise NotListedError(
                f"{self.labels.where} has labels of {own}, but of the other file whose name looks the same"
            )
        raise UnusableLabelError(
            SEVERAL_SPELLINGS,
            f"{record.name}: {len(twins) + 1} files have this name and differ only in how Unicode writes it, and "
            f"{self.labels.where} writes it as none of them, so it is unknown whose the labels are; rename one",
            "image",
        )

    def _map_path(self, own: str) -> str | None:
        """Return the path that the data set would have for a file; None where its path has another front."""
        name, strip = normalise_path(own), normalise_path(self.matching.strip)
        return normalise_path(self.matching.prefix) + name.removeprefix(strip) if name.startswith(strip) else None

    def _look_up(self, own: str) -> tuple[list[int], Literal["path", "stem", "base"]]:
        """Return the positions of the entries that a file's name can mean, and what of it matches.

        Raises NotListedError where its path has another front.
        """
        path = self._map_path(own)
        if path is None:
            raise NotListedError(
                f"{own} does not begin with {self.matching.strip}, so {self.labels.where} has no labels of it"
            )
        if found := self._by_name.get(path):
            return found, "path"
        if found := self._by_stem.get(posixpath.splitext(path)[0]):
            return found, "stem"
        if found := self._by_added.get(path):
            return list(dict.fromkeys(found)), "stem"
        return (self._by_base.get(base_name(path), []) if self.matching.base_names else []), "base"

    def _check_base(self, record: ImageRecord, own: str) -> None:
        """Raise UnusableLabelError if the file name of an image is that of other pictures too."""
        base = base_name(normalise_path(own))
        rows = self._means(self.matching.files.list_contents_of_base(base))
        if len({row.image_id for row in rows}) > 1:
            listed = ", ".join(sorted({f"{row.source}/{row.name}" for row in rows})[:3])
            raise UnusableLabelError(
                SEVERAL_BASES,
                f"{record.name}: several pictures are called {base} ({listed}), so it is unknown whose the "
                f"labels in {self.labels.where} are; set strip or prefix instead of base_names",
                "image",
            )

    def _check_content(
        self, record: ImageRecord, source: str, name: str, is_exact: bool, twins: Collection[str] = ()
    ) -> None:
        """Raise NotListedError if a name means another picture, UnusableLabelError if it is unknown which it means."""
        rows = [
            row
            for row in self._means(self.matching.files.list_contents(cut_suffix(name)))
            if (normalise_path(row.name) == name or (not is_exact and row.source != source))
            and not (row.source == source and row.name in twins)
        ]
        if len({row.image_id for row in rows}) <= 1:
            return
        chosen = rows
        if self.matching.contents == "ask" and (number := self.matching.first_read) is not None:
            # What was not there yet when these labels were first read is not what they were made for.
            chosen = [row for row in rows if row.since <= number] or rows
        if len(sources := sorted({row.source for row in chosen})) > 1 and len({row.image_id for row in chosen}) > 1:
            raise UnusableLabelError(
                SEVERAL_SOURCES,
                f"{record.name}: the sources {', '.join(sources)} have different pictures of this name, so it is "
                f"unknown whose the labels in {self.labels.where} are; set the option source to the source that they "
                f"are of (source: {sources[0]})",
                "image",
            )
        if self.matching.contents == "current":
            chosen = [row for row in chosen if row.status == PRESENT]
        elif self.matching.contents == "first":
            chosen = [row for row in chosen if row.since == min(row.since for row in chosen)]
        owners = {row.image_id for row in chosen}
        if len(owners) > 1:
            raise UnusableLabelError(
                SEVERAL_CONTENTS,
                f"{record.name}: the file was replaced by another picture, so it is unknown which of the "
                f"{len(owners)} the labels in {self.labels.where} are of; set the option contents to first or current",
                "image",
            )
        if record.image_id not in owners:
            raise NotListedError(
                f"{self.labels.where} has labels of {record.name}, but of another picture that the file has had"
            )

    def _means(self, rows: Iterable[FileRow]) -> list[FileRow]:
        return [row for row in rows if self.matching.source in ("", row.source)]

    def _repeated(self, record: ImageRecord, name: str, found: Sequence[int]) -> NotListedError:
        return NotListedError(
            f"{record.name}: {self.labels.where} has labels of {len(found)} images called {name}; "
            "it is unknown which belong to this one"
        )

    def _hint(self, own: str) -> str:
        if same := self._by_base.get(base_name(normalise_path(own))):
            other = self.labels.entries[same[0]].names[0]
            return f", but of {other}: if that is the same image, set strip, prefix or base_names"
        return ""


def cut_upload_prefix(path: str) -> str:
    """Return a path without the eight hexadecimal digits and the dash that Label Studio puts before a file's name."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, re.sub(r"^[0-9a-f]{8}-(?=.)", "", name))


def base_name(name: str) -> str:
    """Return the last part of a path, without the ending of a picture."""
    return cut_suffix(posixpath.basename(name))


# ---------------------------------------------------------------- whole sets


@dataclass(frozen=True, slots=True)
class ReadResult:
    """A data set's claims about some images.

    ``claims``: by image id. ``errors``: by image id, why an image of the data set has no claims. ``unknown``: names
    of our images that the data set does not list. ``unmatched``: names of its images that we do not have.
    ``problems``: what could not be used, each with its position. ``entries``: by image id, what matched, also of images
    in ``errors``; each entry once. ``others``: entries that match no image.
    """

    claims: Mapping[str, ImageClaims]
    errors: Mapping[str, FlorenceError] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    problems: tuple[LabelProblem, ...] = ()
    entries: Mapping[str, tuple[LabelSetEntry, ...]] = field(default_factory=dict)
    others: tuple[LabelSetEntry, ...] = ()


def find_claims(
    labels: LabelSet,
    record: ImageRecord,
    *,
    strip: str = "",
    prefix: str = "",
    base_names: bool = False,
    source: str = "",
) -> ImageClaims:
    """Return the claims about one image, whose only name is that of its record; see `Matching`, `LabelMatcher`."""
    return LabelMatcher(labels, Matching(strip, prefix, base_names, source=source)).find_claims(record)


def read_label_set(labels: LabelSet, images: Iterable[ImageRecord], matching: Matching | None = None) -> ReadResult:
    """Return the claims of ``labels`` about ``images``.

    Without ``matching``, they are matched by id, path, or a base name that is unique on both sides, and ``images`` are
    all that is known of the files.
    """
    records = list(images)
    bases: Counter[str] = Counter()
    if matching is None:
        rows = (FileRow(r.source, None, r.name, r.image_id, 1, None, PRESENT) for r in records)
        matching = Matching(files=ImageFiles.of_rows(rows))
        bases = Counter(base_name(normalise_path(record.name)) for record in records)
    matcher = LabelMatcher(labels, matching)
    by_base = LabelMatcher(labels, Matching(base_names=True)) if bases else matcher
    claims: dict[str, ImageClaims] = {}
    errors: dict[str, FlorenceError] = {}
    matched: dict[str, tuple[LabelSetEntry, ...]] = {}
    unknown: list[str] = []
    problems: list[LabelProblem] = []
    used: set[int] = set()
    for record in records:
        chosen = by_base if bases[base_name(normalise_path(record.name))] == 1 else matcher
        try:
            entries = chosen.find_entries(record)
        except NotListedError:
            unknown.append(record.name)
            continue
        except DataError as error:
            errors[record.image_id] = error
            entries = [e for e in chosen.find_mentions(record) if id(e) not in used]
        else:
            try:
                read, failure = chosen.read_entries(entries, record)
            except NotListedError:
                unknown.append(record.name)
                used.update(map(id, entries))
                continue
            if failure is None:
                claims[record.image_id] = read
            else:
                errors[record.image_id] = failure
            problems += read.problems
        matched[record.image_id] = tuple(entries)
        used.update(map(id, entries))
    others = tuple(entry for entry in labels.entries if id(entry) not in used)
    unmatched = tuple(next(iter(entry.names), entry.image_id or "") for entry in others)
    return ReadResult(claims, errors, tuple(unknown), unmatched, (*labels.problems, *problems), matched, others)
