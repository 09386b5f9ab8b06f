"""The page of an audit: the likeliest issues of each kind with pictures, and who was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from florence.audit.issues import DESCRIPTIONS, KINDS, MISSING, LabelIssue
from florence.audit.result import LIKELY, Audit
from florence.draw import Colour, draw_regions
from florence.errors import ImageError
from florence.images import decode_image
from florence.records import Claim, Region
from florence.report.gallery import ADDED, REMOVED, SAME, SIDE, DrawnImage, ImageCard, encode_uri, format_css
from florence.report.page import render_page
from florence.report.tables import Cell, Table, format_count, make_head, number_cell

PER_KIND, LEAST_DRAWN = 24, 0.05
"""Issues of each kind that are drawn at most, and their least probability."""
CLOSE_UP, LEAST_CLOSE_UP = 2.5, 60
"""Sides of a close-up, in sides of what it shows; at least so many pixels."""
MOST_NAMES = 15


@dataclass(frozen=True, slots=True)
class IssueSection:
    """The cards of one kind of issue, and what is said where there are none."""

    kind: str
    title: str
    about: str
    cards: tuple[ImageCard, ...]
    none: str


def render_audit(audit: Audit, *, has_project: bool) -> str:
    """Return the page. ``has_project``: whether a Label Studio project lies beside it."""
    chosen = {kind: [i for i in audit.issues if i.kind == kind and i.probability >= LEAST_DRAWN] for kind in KINDS}
    chosen = {kind: issues[:PER_KIND] for kind, issues in chosen.items()}
    pixels = _read_pixels(audit, [issue.image_id for issues in chosen.values() for issue in issues])
    sections = [
        IssueSection(
            kind,
            kind.capitalize(),
            f"{DESCRIPTIONS[kind].capitalize()}: the {len(chosen[kind])} likeliest of "
            f"{sum(issue.kind == kind for issue in audit.issues)}.",
            tuple(_card(audit, issue, pixels[issue.image_id]) for issue in chosen[kind] if issue.image_id in pixels),
            "No pictures are here: --images names their folder." if chosen[kind] else "None is likely.",
        )
        for kind in KINDS
    ]
    return render_page(
        "audit.html",
        labels=audit.file.uri,
        format=audit.file.format,
        sections=sections,
        tiles=_list_tiles(audit),
        kinds=_tabulate_kinds(audit),
        names=_tabulate_names(audit),
        annotators=_tabulate_annotators(audit),
        losses=_tabulate_losses(audit),
        has_project=has_project,
        colours={"given": format_css(REMOVED), "right": format_css(ADDED), "rest": format_css(SAME)},
    )


def _read_pixels(audit: Audit, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the pixels (H, W, 3) of images that have a file that can be decoded."""
    result = {}
    for image_id, data in audit.images.read(dict.fromkeys(image_ids)).items():
        try:
            result[image_id] = decode_image(data, image_id)
        except ImageError:
            continue
    return result


# ---------------------------------------------------------------- pictures


def _card(audit: Audit, issue: LabelIssue, pixels: np.ndarray) -> ImageCard:
    record = next(record for record in audit.images.records if record.image_id == issue.image_id)
    claims = audit.labels.claims.get(issue.image_id, ())
    shown = _list_shown(issue, claims)
    drawn = draw_regions(pixels, [region for region, _ in shown], colours=[c for _, c in shown], side=SIDE)
    named = [(region, colour) for region, colour in shown if colour != SAME]
    left, top, right, bottom = _find_close_up(named, pixels.shape)
    close = [(_move(region, left, top), colour) for region, colour in named]
    crop = np.ascontiguousarray(pixels[top:bottom, left:right])
    zoomed = draw_regions(crop, [region for region, _ in close], colours=[c for _, c in close], side=SIDE)
    about = f"probability {issue.probability:.2f}" + (
        f" · claimed by {', '.join(issue.claimed_by)}" if issue.claimed_by else " · claimed by nobody else"
    )
    return ImageCard(
        record.name,
        f"{_describe(issue)} · {about}",
        (DrawnImage(encode_uri(drawn), issue.kind), DrawnImage(encode_uri(zoomed), "close-up")),
    )


def _describe(issue: LabelIssue) -> str:
    if issue.kind == MISSING:
        return f"{issue.right_name}, which has no label"
    if issue.name != issue.right_name and issue.right_name is not None:
        return f"“{issue.name}”, rather “{issue.right_name}”"
    return f"{issue.name}"


def _list_shown(issue: LabelIssue, claims: Sequence[Claim]) -> list[tuple[Region, Colour]]:
    """Return the regions that are drawn: other given labels without names, then the given one and the right one."""
    shown: list[tuple[Region, Colour]] = [
        (Region("", box=claim.regions[0].bounds), SAME)
        for k, claim in enumerate(claims)
        if k != issue.index and claim.regions
    ]
    if issue.box is not None:
        shown.append((Region(issue.name or "", box=issue.box), REMOVED))
    if issue.right_box is not None:
        shown.append((Region(issue.right_name or "", box=issue.right_box), ADDED))
    return shown


def _find_close_up(shown: Sequence[tuple[Region, Colour]], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the part of the image around some regions, in whole pixels."""
    boxes = np.asarray([region.bounds for region, _ in shown])
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    half = max(float((high - low).max()) * CLOSE_UP, LEAST_CLOSE_UP) / 2
    x, y = (low + high) / 2
    left, top = max(0, int(x - half)), max(0, int(y - half))
    return left, top, max(left + 1, min(shape[1], int(x + half))), max(top + 1, min(shape[0], int(y + half)))


def _move(region: Region, left: int, top: int) -> Region:
    x0, y0, x1, y1 = region.bounds
    return replace(region, box=(x0 - left, y0 - top, x1 - left, y1 - top))


# ---------------------------------------------------------------- tables


def _list_tiles(audit: Audit) -> list[Cell]:
    given = audit.labels.given
    return [
        Cell(format_count(len(given)), "given labels"),
        Cell(format_count(int(given.looked_at.sum())), "images with given labels"),
        Cell(format_count(len(audit.items.annotators)), "other annotators"),
        Cell(f"{sum(map(audit.expect, KINDS)):.0f}", "errors expected"),
    ]


def _tabulate_kinds(audit: Audit) -> Table:
    rows = [
        (
            Cell(kind),
            Cell(DESCRIPTIONS[kind]),
            number_cell(f"{audit.expect(kind):.1f}"),
            number_cell(format_count(audit.count_likely(kind))),
            number_cell(format_count(sum(issue.kind == kind for issue in audit.issues))),
        )
        for kind in KINDS
    ]
    return Table(
        make_head("kind", "what it is", ">expected", f">probability {LIKELY:g} or more", ">listed"), tuple(rows)
    )


def _tabulate_names(audit: Audit) -> Table | None:
    total: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    for issue in audit.issues:
        name = issue.name or issue.right_name or ""
        total[name] += issue.probability  # type: ignore[assignment]
        kinds.setdefault(name, Counter())[issue.kind] += issue.probability  # type: ignore[assignment]
    labels = Counter(audit.labels.given.name)
    rows = [
        (
            Cell(name),
            number_cell(format_count(labels[name])),
            *(number_cell(f"{kinds[name][kind]:.1f}") for kind in KINDS),
            number_cell(f"{expected:.1f}"),
        )
        for name, expected in sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_NAMES]
    ]
    head = make_head("name", ">given labels", *(f">{kind}" for kind in KINDS), ">expected errors")
    return Table(head, tuple(rows)) if rows else None


def _tabulate_annotators(audit: Audit) -> Table:
    items, aligned, given = audit.items, audit.scores.aligned, audit.labels.given
    rows = []
    for number, name in enumerate(items.annotators):
        looked = items.asked[:, number] & given.looked_at
        claims = np.flatnonzero((items.claim_annotator == number) & looked[items.image[items.claim_item]])
        confirmed = aligned.label[items.claim_item[claims]]
        labels = looked[given.image]
        found = np.unique(confirmed[confirmed >= 0])
        rows.append(
            (
                Cell(name),
                number_cell(format_count(int(looked.sum()))),
                number_cell(format_count(len(claims))),
                number_cell(_format_share(int((confirmed >= 0).sum()), len(claims))),
                number_cell(_format_share(len(found), int(labels.sum()))),
            )
        )
    head = make_head("annotator", ">images", ">claims", ">claims confirmed", ">given labels confirmed")
    return Table(head, tuple(rows))


def _format_share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def _tabulate_losses(audit: Audit) -> Table | None:
    rows = [
        (Cell(loss.unit), Cell(loss.reason), number_cell(format_count(loss.count)), Cell("\n".join(loss.examples[:2])))
        for loss in audit.labels.losses
    ]
    unmatched, unknown = audit.labels.read.unmatched, audit.labels.read.unknown
    for what, names in (("labelled images that are not here", unmatched), ("pictures that have no labels", unknown)):
        if names:
            rows.append((Cell("image"), Cell(what), number_cell(format_count(len(names))), Cell("\n".join(names[:2]))))
    for error in audit.images.rejected[:3]:
        rows.append((Cell("file"), Cell("a picture that cannot be read"), number_cell("1"), Cell(str(error))))
    return Table(make_head("what", "why", ">count", "example"), tuple(rows)) if rows else None
