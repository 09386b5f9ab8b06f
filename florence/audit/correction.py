"""A corrected copy of a data set, in the same format: each label as it was, but for the issues that are applied.

The files are edited, not written anew: what Florence does not read stays as it is. The input is never written to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from florence.audit._correct_coco import correct_coco
from florence.audit._correct_studio import correct_studio
from florence.audit._correct_voc import correct_voc
from florence.audit._correct_yolo import correct_yolo
from florence.audit.edits import Correction, EditedFiles
from florence.audit.issues import MISSING, SPURIOUS, SWAPPED, LabelIssue
from florence.audit.reading import LabelFile
from florence.errors import SettingsError, StoreError
from florence.export import replace_folder
from florence.formats import OBJECTS
from florence.formats.matching import ReadResult
from florence.images import is_image
from florence.records import Claim, ImageRecord, Region
from florence.store import Store

EDITORS: dict[str, Callable[[LabelFile, Sequence[Correction]], EditedFiles]] = {
    "coco": correct_coco,
    "yolo": correct_yolo,
    "voc": correct_voc,
    "labelstudio": correct_studio,
}


@dataclass(frozen=True)
class CorrectionPlan:
    """What a corrected copy changes: ``applied`` issues, files by name, and what cannot be changed, with the reason."""

    applied: tuple[LabelIssue, ...]
    files: Mapping[str, bytes]
    refused: tuple[tuple[LabelIssue, str], ...]


def plan_correction(
    file: LabelFile,
    read: ReadResult,
    images: Iterable[ImageRecord],
    issues: Iterable[LabelIssue],
    min_confidence: float,
) -> CorrectionPlan:
    """Return what a corrected copy would change: every issue of at least ``min_confidence``, none in doubt.

    Of a label that is spurious nothing else is changed. Raises SettingsError for a format that cannot be edited.
    """
    if (edit := EDITORS.get(file.format)) is None:
        raise SettingsError(
            f"--corrected: data sets of the format {file.format} are not edited, those of {', '.join(EDITORS)} are; "
            "the Label Studio project in --out has the corrections for people to confirm"
        )
    chosen = [issue for issue in issues if issue.probability >= min_confidence]
    removed = {(issue.image_id, issue.index) for issue in chosen if issue.kind == SPURIOUS}
    chosen = [i for i in chosen if i.kind in (SPURIOUS, MISSING) or (i.image_id, i.index) not in removed]
    records = {record.image_id: record for record in images}
    by_image: dict[str, list[LabelIssue]] = {}
    for issue in chosen:
        by_image.setdefault(issue.image_id, []).append(issue)
    corrections = [
        Correction(records[image_id], read.entries[image_id], tuple(found)) for image_id, found in by_image.items()
    ]
    edited = edit(file, corrections)
    refused = {id(issue) for issue, _ in edited.refused}
    return CorrectionPlan(
        tuple(issue for issue in chosen if id(issue) not in refused), edited.files, tuple(edited.refused)
    )


def correct_claims(claims: Sequence[Claim], issues: Sequence[LabelIssue]) -> list[Claim]:
    """Return an image's claims with ``issues`` applied: a box that is corrected replaces any mask."""
    changed: list[Claim | None] = list(claims)
    removed = {issue.index for issue in issues if issue.kind == SPURIOUS}
    for issue in issues:
        if issue.kind == MISSING and issue.right_name is not None:
            changed.append(Claim(OBJECTS, issue.right_name, (Region(issue.right_name, box=issue.right_box),)))
        elif issue.index in removed and issue.index is not None:
            changed[issue.index] = None
        elif issue.index is not None and (claim := changed[issue.index]) is not None:
            region = claim.regions[0]
            if issue.kind == SWAPPED:
                region = replace(region, label=issue.right_name or "")
            else:
                region = Region(region.label, box=issue.right_box)
            changed[issue.index] = replace(claim, text=region.label, regions=(region,))
    return [claim for claim in changed if claim is not None]


def write_corrected(file: LabelFile, plan: CorrectionPlan, out: Path) -> None:
    """Write the corrected copy: a file where the data set is one file, else a folder with all files but pictures.

    Raises StoreError where ``out`` is there already, lies in the data set, or cannot be written.
    """
    out = out.absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise StoreError(f"--corrected {out} is there already; choose another path: nothing is overwritten")
    if file.files.single:
        (name,) = file.files.names
        Store(str(out.parent)).write_bytes(out.name, plan.files.get(name, file.files.read(name)))
        return
    source = file.files.store
    if source.local and out.is_relative_to(Path(source.root).absolute()):
        raise StoreError(f"--corrected {out} lies in {file.uri}, which is not written to; choose a path outside of it")
    with replace_folder(out, force=False) as folder:
        for name in _list_copied(source):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(plan.files[name] if name in plan.files else source.read_bytes(name))
        for name in plan.files.keys() - set(source.names("")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(plan.files[name])


def _list_copied(source: Store) -> Iterator[str]:
    for name in source.names(""):
        if not is_image(name):
            yield name
