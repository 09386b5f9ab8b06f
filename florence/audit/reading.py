"""Reads what is audited: the pictures or their sizes, the given labels, and other annotators' claims in files."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from florence.audit.alignment import GivenLabels
from florence.audit.others import AnnotatorClaims
from florence.coverage import COVERAGE
from florence.errors import DataError, ImageError, SettingsError
from florence.formats import FORMATS, OBJECTS, Format, LabelSet
from florence.formats._files import Files
from florence.formats.accounting import count_problems, describe_error
from florence.formats.matching import ReadResult, read_label_set
from florence.images import read_size
from florence.label_report import LossCount
from florence.progress import Progress, show_nothing
from florence.records import (
    HUMAN,
    IMAGES,
    RECORD_COLUMNS,
    STUDENT,
    Annotation,
    AnnotatorProfile,
    Claim,
    ImageRecord,
    annotate,
    annotations_table,
    table_images,
)
from florence.sources.folder import FolderSource
from florence.store import EXPORT_NOTE, Store
from florence.workspace.layout import read_images

VERSION = "file"
"""Of annotators whose claims are in files."""
SOURCE = "audit"
"""The source of images that are of no workspace."""
WHOLE_RESULTS = 0.5
"""Share of the images from which a file of results is taken to be about all of them."""


# ---------------------------------------------------------------- pictures


class AuditImages:
    """The images of an audit: ``records``, and their files where there are any. ``rejected``: files that are none."""

    def __init__(self, records: Sequence[ImageRecord], rejected: Sequence[ImageError] = ()) -> None:
        self.records, self.rejected = tuple(records), tuple(rejected)

    @property
    def has_files(self) -> bool:
        """Whether `read` returns anything."""
        return False

    def read(self, image_ids: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of the files of some images, those that are there."""
        return {}

    def table(self) -> pa.Table:
        """Return the records as a table."""
        rows = [{name: getattr(record, name) for name in RECORD_COLUMNS} for record in self.records]
        return pa.Table.from_pylist(rows, schema=pa.schema([IMAGES.field(name) for name in RECORD_COLUMNS]))


class FolderImages(AuditImages):
    """The pictures below a folder. One that is there under two names counts once."""

    def __init__(self, folder: str, progress: Progress = show_nothing) -> None:
        self.source = FolderSource(uri=folder)
        records: dict[str, ImageRecord] = {}
        rejected = []
        for done, found in enumerate(self.source.images(frozenset()), start=1):
            progress("read pictures", done, self.source.count())
            try:
                if isinstance(found, ImageError):
                    raise found
                width, height = read_size(found.data, found.name)
            except ImageError as error:
                rejected.append(error)
                continue
            image_id = hashlib.sha256(found.data).hexdigest()
            records.setdefault(
                image_id, ImageRecord(image_id, width, height, SOURCE, found.name, found.licence, None, "train")
            )
        super().__init__(list(records.values()), rejected)

    @property
    def has_files(self) -> bool:
        """See `AuditImages.has_files`."""
        return True

    def read(self, image_ids: Iterable[str]) -> dict[str, bytes]:
        """See `AuditImages.read`. A file that has changed since is left out."""
        wanted = set(image_ids)
        names = {record.name: record.image_id for record in self.records if record.image_id in wanted}
        result = {}
        for found in self.source.read_named(names):
            if not isinstance(found, ImageError) and hashlib.sha256(found.data).hexdigest() == names[found.name]:
                result[names[found.name]] = found.data
        return result


class StoreImages(AuditImages):
    """The images of a working store or a snapshot."""

    def __init__(self, store: Store) -> None:
        self.store = store
        super().__init__([record for record, _ in table_images(read_images(store))])

    @property
    def has_files(self) -> bool:
        """See `AuditImages.has_files`."""
        return True

    def read(self, image_ids: Iterable[str]) -> dict[str, bytes]:
        """See `AuditImages.read`."""
        wanted = list(image_ids)
        result: dict[str, bytes] = {}
        for name in self.store.names("images", ".parquet"):
            table = self.store.read_table(name, ["image_id", "bytes"], [("image_id", "in", wanted)])
            result.update(zip(table["image_id"].to_pylist(), table["bytes"].to_pylist(), strict=True))
        return result


def state_images(labels: LabelSet) -> AuditImages:
    """Return the images that a data set states the sizes of, without pictures.

    Raises DataError where it states none.
    """
    records = []
    for entry in labels.entries:
        if entry.size is not None and (name := next(iter(entry.names), entry.image_id)):
            image_id = entry.image_id or hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
            records.append(ImageRecord(image_id, *entry.size, SOURCE, name, "not stated", None, "train"))
    if not records:
        raise DataError(f"{labels.where} does not state the sizes of its images: --images with their folder is needed")
    return AuditImages(list({record.image_id: record for record in records}.values()))


# ---------------------------------------------------------------- labels


@dataclass(frozen=True)
class LabelFile:
    """A data set that was opened: its address, the name of its format, the format, its files and labels."""

    uri: str
    format: str
    form: Format
    files: Files
    labels: LabelSet


def open_labels(uri: str, format: str = "") -> LabelFile:
    """Open a data set. Without ``format``, it is guessed from its files.

    Raises SettingsError where it cannot be guessed, StoreError and DataError where it cannot be read.
    """
    name = format or guess_format(uri)
    form = FORMATS.get(name)()
    if OBJECTS not in form.annotation_types:
        raise SettingsError(f"{uri}: the format {name} has no objects, and objects are audited")
    files = form.files(uri)
    return LabelFile(uri, name, form, files, form.open(files))


def guess_format(uri: str) -> str:
    """Return the format of a data set by its files. Raises SettingsError where that does not tell."""
    files = Files(uri, lambda name: True, "file")
    endings = {Path(name).name.lower().removesuffix(".gz").rpartition(".")[2] for name in files.names}
    names = {Path(name).name.lower() for name in files.names}
    if "snapshot.json" in names:
        return "snapshot"
    if endings & {"jsonl", "ndjson"}:
        return "jsonl"
    if "xml" in endings and not names & {"config.xml"}:
        return "voc"
    if endings & {"yaml", "yml"} or names & {"classes.txt", "obj.names"}:
        return "yolo"
    if found := [
        n for n in files.names if n.lower().removesuffix(".gz").endswith(".json") and not n.endswith(EXPORT_NOTE)
    ]:
        return "coco" if _looks_like_coco(files.text(found[0])) else "labelstudio"
    if "txt" in endings:
        return "yolo"
    raise SettingsError(f"{uri}: the format cannot be told from the files; --format is one of {', '.join(_known())}")


def _known() -> list[str]:
    return [name for name in FORMATS.names() if OBJECTS in FORMATS.get(name).annotation_types]


def _looks_like_coco(text: str) -> bool:
    """Return whether a text of JSON is COCO's, or a list of its results, without reading all of it."""
    start = text.lstrip()[:4096]
    if start.startswith("["):
        return '"image_id"' in start and '"data"' not in start
    return '"images"' in text


def is_results(document: Any) -> bool:
    """Return whether a document of JSON is a list of COCO's results."""
    return isinstance(document, list) and bool(document) and isinstance(document[0], dict) and "image_id" in document[0]


@dataclass(frozen=True)
class ReadLabels:
    """The given labels of the images, and what of the data set is not used.

    ``claims``: by image id. ``read``: how they were matched.
    """

    given: GivenLabels
    claims: dict[str, tuple[Claim, ...]]
    read: ReadResult
    losses: tuple[LossCount, ...] = ()


def read_given(file: LabelFile, images: AuditImages) -> ReadLabels:
    """Return the given labels about ``images``. Raises DataError where there is none, with what would match more."""
    read = read_label_set(file.labels, images.records)
    losses = count_problems([*map(describe_error, read.errors.values()), *read.problems])
    if not read.claims:
        theirs = ", ".join(read.unmatched[:2]) or "none"
        ours = ", ".join(record.name for record in images.records[:2]) or "none"
        raise DataError(
            f"{file.uri}: none of its {len(file.labels.entries)} images is here: they are called {theirs}, the "
            f"pictures {ours}; --images is the folder that the data set's paths start at"
            + (f"; {losses[0].reason}: {losses[0].examples[0]}" if losses else "")
        )
    claims = {image_id: found.claims for image_id, found in read.claims.items()}
    looked_at = [
        record.image_id in read.claims
        and ((looks := read.claims[record.image_id].looked_at) is None or OBJECTS in looks)
        for record in images.records
    ]
    rows = [
        (k, index, claim.regions[0].bounds, claim.text)
        for k, record in enumerate(images.records)
        for index, claim in enumerate(claims.get(record.image_id, ()))
        if claim.task == OBJECTS and claim.regions
    ]
    given = GivenLabels(
        np.asarray([image for image, _, _, _ in rows], np.int64),
        np.asarray([index for _, index, _, _ in rows], np.int64),
        np.asarray([box for _, _, box, _ in rows], float).reshape(-1, 4),
        tuple(name for _, _, _, name in rows),
        np.asarray(looked_at, bool),
        np.asarray([(record.width, record.height) for record in images.records], float).reshape(-1, 2),
    )
    return ReadLabels(given, claims, read, losses)


def _list_objects(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    return tuple(claim for claim in claims if claim.task == OBJECTS and claim.regions)


def make_annotator_claims(claims: Mapping[AnnotatorProfile, Mapping[str, Sequence[Claim]]]) -> AnnotatorClaims:
    """Return the claims of annotators by image id as tables; each looked at the images that it has claims of."""
    rows: list[Annotation] = []
    coverage: list[dict[str, Any]] = []
    for profile, by_image in claims.items():
        for image_id, found in by_image.items():
            rows += annotate(image_id, found, profile.name, VERSION)
            one = {"image_id": image_id, "annotator": profile.name, "version": VERSION, "claims": len(found)}
            coverage.append({**one, "error": ""})
    return AnnotatorClaims(annotations_table(rows), pa.Table.from_pylist(coverage, schema=COVERAGE), tuple(claims))


# ---------------------------------------------------------------- claims in files


def read_claim_files(
    files: Sequence[str], families: Sequence[str], given: LabelFile, images: AuditImages
) -> AnnotatorClaims:
    """Return the claims in ``files``, each ``NAME=PATH`` or a path whose stem is the annotator's name.

    ``families``: each names, with commas between, annotators that share training data or method. Raises SettingsError
    for a name that is taken or unknown, DataError for a file that is about none of the images.
    """
    named: dict[str, str] = {}
    for text in files:
        name, _, uri = text.partition("=")
        if not uri or "/" in name:
            name, uri = Path(text).name.partition(".")[0], text
        if name in named or name in (HUMAN, STUDENT):
            raise SettingsError(f"--claims {text}: the name {name!r} is taken; --claims NAME=FILE gives another one")
        named[name] = uri
    family = _read_families(families, named)
    result = {}
    for name, uri in named.items():
        claims, vocabulary = _read_claim_file(uri, given, images)
        result[AnnotatorProfile(name, "annotator", vocabulary, family.get(name, ""))] = claims
    return make_annotator_claims(result)


def _read_families(families: Sequence[str], named: dict[str, str]) -> dict[str, str]:
    result: dict[str, str] = {}
    for text in families:
        for name in text.split(","):
            if name not in named:
                raise SettingsError(f"--family {text}: {name!r} is none of --claims; these are {', '.join(named)}")
            result[name] = text
    return result


def _read_claim_file(
    uri: str, given: LabelFile, images: AuditImages
) -> tuple[dict[str, tuple[Claim, ...]], tuple[str, ...] | None]:
    """Return objects by image id, and the names that the annotator can claim."""
    format = guess_format(uri)
    if format == "coco" and is_results(document := _read_json(uri)):
        return _read_results(uri, document, given, images)
    file = open_labels(uri, format)
    read = read_label_set(file.labels, images.records)
    claims = {
        image_id: _list_objects(found.claims)
        for image_id, found in read.claims.items()
        if found.looked_at is None or OBJECTS in found.looked_at
    }
    if not claims:
        why = f"; {next(iter(read.problems))}" if read.problems else ""
        raise DataError(f"--claims {uri}: none of its {len(file.labels.entries)} images is one of those audited{why}")
    return claims, file.labels.vocabulary or None


def _read_json(uri: str) -> Any:
    files = Files(uri, lambda name: name.lower().endswith((".json", ".json.gz")), "file that ends in .json")
    return files.json(files.names[0])


def _read_results(
    uri: str, results: list[Any], given: LabelFile, images: AuditImages
) -> tuple[dict[str, tuple[Claim, ...]], tuple[str, ...] | None]:
    """Return the objects of COCO's results, whose ids are those of the given labels' file.

    An image without a result was looked at if most images have one. The names that occur are those it can claim.
    """
    if given.format != "coco" or len(given.files.names) != 1:
        raise DataError(
            f"--claims {uri}: a list of results names neither images nor categories, so it can be read only beside "
            "--labels with the one COCO file whose ids it uses; put it in place of 'annotations' in that file instead"
        )
    document = given.files.json(given.files.names[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        whole = {"images": document["images"], "categories": document.get("categories", []), "annotations": results}
        path.write_text(json.dumps(whole), encoding="utf-8")
        file = open_labels(str(path), "coco")
        read = read_label_set(file.labels, images.records)
    found = {image_id: _list_objects(each.claims) for image_id, each in read.claims.items()}
    with_results = {image_id: claims for image_id, claims in found.items() if claims}
    if not with_results:
        raise DataError(f"--claims {uri}: none of its {len(results)} results is of an image that is audited")
    if len(with_results) < WHOLE_RESULTS * len(found):
        found = with_results
    vocabulary = sorted({claim.text for claims in found.values() for claim in claims})
    return found, tuple(vocabulary)
