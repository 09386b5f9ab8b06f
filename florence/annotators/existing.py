"""Labels that a data set already has, as those of an annotator: COCO, VOC, YOLO, Label Studio, alt texts, a snapshot (`florence.formats`)."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from pydantic import Field

from florence.annotators import ANNOTATORS, Annotator, ImageBatch, among
from florence.config import Section
from florence.errors import FlorenceError, SettingsError
from florence.formats import FORMATS, OBJECTS, Format, LabelSet
from florence.formats._files import Files
from florence.records import ANNOTATION_TYPES, ClaimsOrError, ImageRecord

logger = logging.getLogger(__name__)


@ANNOTATORS.register("existing")
class Existing(Annotator):
    """Claims what the data set says of each image, matched by its path in its source. An image that it does not know is no image without labels: `NotListedError`."""

    needs = frozenset()

    class Options(Section):
        """Settings."""

        format: str = Field(description="alttext, coco, jsonl, labelstudio, snapshot, voc or yolo")
        uri: str = Field(
            description="the file or folder: a local path (relative to the workspace) or s3://bucket/prefix"
        )
        human: bool = Field(False, description="whether people made the labels: their word outranks all others'")
        tasks: Annotated[tuple[str, ...], among(ANNOTATION_TYPES)] = Field(
            ANNOTATION_TYPES, min_length=1, description="kinds that are taken, of those that the format has"
        )
        strip: str = Field(
            "",
            description="what images' paths in their source begin with, and the data set's names do not, as `train2017/`",
        )
        prefix: str = Field("", description="what the data set's names begin with, and images' paths do not")
        base_names: bool = Field(
            False,
            description="whether an image whose path is not found is matched by its file's name, where the data set has that once; no two images may share one",
        )
        settings: dict[str, Any] = Field({}, description="settings of the format")

    def __init__(self, *, name: str, **options: Any) -> None:
        super().__init__(name=name, **options)
        self.format: Format = FORMATS.get(self.options.format)(f"annotators.{name}.settings.", **self.options.settings)
        self.tasks = tuple(task for task in self.options.tasks if task in self.format.annotation_types)
        if not self.tasks:
            raise SettingsError(
                f"annotators.{name}.tasks: {', '.join(self.options.tasks)}: the format {self.options.format} has {', '.join(self.format.annotation_types)} alone"
            )
        self.role = "human" if self.options.human else "annotator"
        self._hashed: tuple[Any, str] | None = None
        self._labels: tuple[str, LabelSet] | None = None

    def ingredients(self) -> dict[str, str]:
        """A hash of all that the data set's files say. They are read again where their sizes or times have changed."""
        return {"labels": self._digest(self._files())}

    def vocabulary(self) -> tuple[str, ...] | None:
        """The names that the data set gives to objects: of others it says nothing. None where no objects are taken."""
        if self._labels is None:
            self.load()
        return self._opened().vocabulary if OBJECTS in self.tasks else None

    def load(self) -> None:
        """Read the data set, once for each state of its files."""
        files = self._files()
        digest = self._digest(files)
        if self._labels is None or self._labels[0] != digest:
            labels = self.format.open(files)
            if files.digest() != digest:
                raise FlorenceError(f"{files.uri} changed while it was read; start again when it is whole")
            self._labels = (digest, labels)
            if labels.problems:
                logger.warning(
                    "%s: %d things of %s cannot be used; the first: %s",
                    self.name,
                    len(labels.problems),
                    files.uri,
                    labels.problems[0],
                )

    def annotate(self, batch: ImageBatch) -> list[ClaimsOrError]:
        """What the data set says of each image."""
        if self._labels is None:
            self.load()
        return [self._said(record) for record in batch.records]

    def _said(self, record: ImageRecord) -> ClaimsOrError:
        names = {name: getattr(self.options, name) for name in ("strip", "prefix", "base_names")}
        try:
            claims = self._opened().find_claims(record, **names)
        except FlorenceError as error:
            return error
        if claims.problems:
            logger.warning(
                "%s: %d labels of %s cannot be used; the first: %s",
                self.name,
                len(claims.problems),
                record.name,
                claims.problems[0],
            )
        return [claim for claim in claims.claims if claim.task in self.tasks]

    def _files(self) -> Files:
        return self.format.files(self.options.uri)

    def _digest(self, files: Files) -> str:
        stamp = files.stamp()
        if self._hashed is None or self._hashed[0] != stamp:
            self._hashed = (stamp, files.digest())
        return self._hashed[1]

    def _opened(self) -> LabelSet:
        assert self._labels is not None
        return self._labels[1]
