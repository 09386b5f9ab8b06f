"""Claim the labels that a data set already has: COCO, VOC, YOLO, Label Studio, alt texts, a snapshot.

The formats are plug-ins of `florence.formats`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, subset_of
from florence.config import Section
from florence.errors import FlorenceError, NotListedError, SettingsError
from florence.formats import FORMATS, OBJECTS, Format, LabelSet
from florence.formats._files import Files
from florence.formats.accounting import report_label_set
from florence.formats.matching import Contents, LabelMatcher, Matching
from florence.label_report import LabelSetReport
from florence.records import ANNOTATION_TYPES, ClaimsOrError, ImageRecord, PartialClaims, digest


@ANNOTATORS.register("existing")
class Existing(Annotator):
    """Claims the data set's labels of each image, matched by its content, else by its files' paths in their sources.

    An image that the data set does not list is answered with NotListedError; it is not an image without labels.
    """

    needs = frozenset()
    has_label_set = True
    later_options = frozenset({"source", "contents", "upload_prefix"})

    class Options(Section):
        """Settings."""

        format: str = Field(description="alttext, coco, imagefolder, jsonl, labelstudio, snapshot, voc or yolo")
        uri: str = Field(
            description="the file or folder: a local path (relative to the workspace) or s3://bucket/prefix"
        )
        human: bool = Field(False, description="whether people made the labels: theirs count for more than all others'")
        tasks: Annotated[tuple[str, ...], subset_of(ANNOTATION_TYPES)] = Field(
            ANNOTATION_TYPES, min_length=1, description="annotation types that are read, of those that the format has"
        )
        strip: str = Field(
            "",
            description="removed from the front of images' paths in their source, as `train2017/`",
        )
        prefix: str = Field("", description="put in front of images' paths, to match the data set's names")
        base_names: bool = Field(
            False,
            description="whether an image whose path is not found is matched by its file's name, if it occurs once; "
            "no two images may have the same",
        )
        upload_prefix: bool = Field(
            False,
            description="whether the data set's file names begin with eight hexadecimal digits and a dash, which Label "
            "Studio puts before the names of uploaded files (0e9b3c1f-a.jpg)",
        )
        source: str = Field(
            "", description="key of the source whose files the data set's names mean; by default those of all"
        )
        contents: Contents = Field(
            "ask",
            description="whose the labels are of a file that was replaced by another picture: first, current, or ask: "
            "the one that was there when the labels were first read; the image is refused if that was not one alone",
        )
        settings: dict[str, Any] = Field({}, description="settings of the format")

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self.format: Format = FORMATS.get(self.options.format)(f"annotators.{name}.settings.", **self.options.settings)
        self.tasks = tuple(task for task in self.options.tasks if task in self.format.annotation_types)
        if not self.tasks:
            raise SettingsError(
                f"annotators.{name}.tasks: {', '.join(self.options.tasks)}: "
                f"the format {self.options.format} has {', '.join(self.format.annotation_types)} alone"
            )
        self.role = "human" if self.options.human else "annotator"
        self._stamp_and_digest: tuple[Any, str] | None = None
        self._labels: tuple[str, LabelSet] | None = None
        self._matchers: tuple[Any, LabelMatcher] | None = None
        self._differences: tuple[LabelMatcher, str] | None = None

    def ingredients(self) -> dict[str, str]:
        """Return a hash of the data set's files, and one of the matches that files' names and contents decide, if any.

        The data set's files are read again only if their sizes or times have changed.
        """
        found = {"labels": self._digest(self._files())}
        if self.format.revision > 1:
            found["reader"] = str(self.format.revision)
        if differences := self._hash_differences():
            found["files"] = differences
        return found

    def vocabulary(self) -> tuple[str, ...] | None:
        """Return the labels that the data set has for objects; None if no objects are read."""
        if self._labels is None:
            self.load()
        return self._label_set().vocabulary if OBJECTS in self.tasks else None

    def load(self) -> None:
        """Read the data set, and what is known of the files, again only if they have changed."""
        files = self._files()
        content = self._digest(files)
        if self._labels is None or self._labels[0] != content:
            labels = self.format.open(files)
            if files.digest() != content:
                raise FlorenceError(f"{files.uri} changed while it was read; start again when it is whole")
            self._labels = (content, labels)
        self._matcher()

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """Return the data set's labels of each image."""
        if self._labels is None:
            self.load()
        matcher = self._matcher() if self._matchers is None else self._matchers[1]
        return [self._image_claims(matcher, record) for record in batch.records]

    def _image_claims(self, matcher: LabelMatcher, record: ImageRecord) -> ClaimsOrError:
        try:
            found = matcher.find_claims(record)
        except FlorenceError as error:
            return error
        claims = [claim for claim in found.claims if claim.task in self.tasks]
        looks = self._label_set().held or self.tasks if found.looked_at is None else found.looked_at
        looked_at = tuple(task for task in self.tasks if task in looks)
        if not looked_at:
            wanted = ", ".join(self.tasks)
            return NotListedError(f"{record.name}: {self._label_set().where} says nothing about it of {wanted}")
        return claims if looked_at == self.tasks else PartialClaims(claims, looked_at)

    def report_labels(self, images: Sequence[ImageRecord]) -> LabelSetReport:
        """Return what the data set has about ``images``, and what of it is not used."""
        self.load()
        empty = LabelSetReport(self.name, self.options.format, self.options.uri, self.options.human)
        return report_label_set(empty, self._label_set(), images, self.tasks, self._matcher().matching)

    def note_reading(self) -> None:
        """Write down in the store that the data set has been read: later contents of a file are not what it means."""
        self.files.note_reading(self._digest(self._files()))

    def _hash_differences(self) -> str:
        """Return a hash of the images that are not matched as their records alone would be; empty for none."""
        self.files.refresh()
        if next(self.files.list_ambiguous(self.options.base_names), None) is None:
            return ""
        if self._labels is None or self._labels[0] != self._digest(self._files()):
            self.load()
        matcher = self._matcher()
        if self._differences is None or self._differences[0] is not matcher:
            found = matcher.hash_differences()
            self._differences = (matcher, digest(found) if found else "")
        return self._differences[1]

    def _matcher(self) -> LabelMatcher:
        """Return the matcher of the data set that was loaded and of what is known of the files now."""
        assert self._labels is not None
        content, labels = self._labels
        options = ("strip", "prefix", "base_names", "upload_prefix", "source", "contents")
        chosen = {name: getattr(self.options, name) for name in options}
        state = (content, self.files, self.files.refresh(), self.files.first_read(content))
        if self._matchers is None or self._matchers[0] != state:
            matching = Matching(**chosen, first_read=state[-1], files=self.files)
            self._matchers = (state, LabelMatcher(labels, matching))
        return self._matchers[1]

    def _files(self) -> Files:
        return self.format.files(self.options.uri)

    def _digest(self, files: Files) -> str:
        stamp = files.stamp()
        if self._stamp_and_digest is None or self._stamp_and_digest[0] != stamp:
            self._stamp_and_digest = (stamp, files.digest())
        return self._stamp_and_digest[1]

    def _label_set(self) -> LabelSet:
        assert self._labels is not None
        return self._labels[1]
