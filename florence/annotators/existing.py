"""Claim the labels that a data set already has: COCO, VOC, YOLO, Label Studio, alt texts, a snapshot.

The formats are plug-ins of `florence.formats`.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, subset_of
from florence.config import Section
from florence.errors import FlorenceError, SettingsError
from florence.formats import FORMATS, OBJECTS, Format, LabelSet
from florence.formats._files import Files
from florence.records import ANNOTATION_TYPES, ClaimsOrError, ImageRecord

logger = logging.getLogger(__name__)


@ANNOTATORS.register("existing")
class Existing(Annotator):
    """Claims the data set's labels of each image, matched by the image's path in its source.

    An image that the data set does not list is answered with NotListedError; it is not an image without labels.
    """

    needs = frozenset()

    class Options(Section):
        """Settings."""

        format: str = Field(description="alttext, coco, jsonl, labelstudio, snapshot, voc or yolo")
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

    def ingredients(self) -> dict[str, str]:
        """Return a hash of the data set's files. They are read again only if their sizes or times have changed."""
        return {"labels": self._digest(self._files())}

    def vocabulary(self) -> tuple[str, ...] | None:
        """Return the labels that the data set has for objects; None if no objects are read."""
        if self._labels is None:
            self.load()
        return self._label_set().vocabulary if OBJECTS in self.tasks else None

    def load(self) -> None:
        """Read the data set, again only if its files have changed."""
        files = self._files()
        digest = self._digest(files)
        if self._labels is None or self._labels[0] != digest:
            labels = self.format.open(files)
            if files.digest() != digest:
                raise FlorenceError(f"{files.uri} changed while it was read; start again when it is whole")
            self._labels = (digest, labels)
            if labels.problems:
                logger.warning(
                    "%s: %d labels of %s cannot be used; the first: %s",
                    self.name,
                    len(labels.problems),
                    files.uri,
                    labels.problems[0],
                )

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """Return the data set's labels of each image."""
        if self._labels is None:
            self.load()
        return [self._image_claims(record) for record in batch.records]

    def _image_claims(self, record: ImageRecord) -> ClaimsOrError:
        names = {name: getattr(self.options, name) for name in ("strip", "prefix", "base_names")}
        try:
            found = self._label_set().find_claims(record, **names)
        except FlorenceError as error:
            return error
        if found.problems:
            logger.warning(
                "%s: %d labels of %s cannot be used; the first: %s",
                self.name,
                len(found.problems),
                record.name,
                found.problems[0],
            )
        return [claim for claim in found.claims if claim.task in self.tasks]

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
