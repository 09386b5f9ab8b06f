"""The images of a VOC data set and the objects of each.

An XML file lies in a folder ``Annotations`` beside one of pictures, as in the VOC devkit, or beside its picture, as
labelling tools and Roboflow write it. Its picture has its name: so the devkit's readers find it. ``filename`` counts
where there is no such picture, as of files that were renamed or were exported without pictures.

A rotated box of roLabelImg (``robndbox``: centre, sides, angle in radians, clockwise on screen; counted from 0) is a
polygon of four corners.
"""

from __future__ import annotations

import codecs
import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from florence.errors import DataError
from florence.formats import (
    OBJECTS,
    ImageClaims,
    LabelProblem,
    LabelSet,
    LabelSetEntry,
    UnusableLabelError,
    describe_problem,
)
from florence.formats._checks import check_number, check_polygon, explain_overhang, make_region
from florence.formats._files import Files
from florence.formats._names import check_name, explain_spellings, list_usable_names
from florence.geometry import Box, polygon_box
from florence.records import Claim, ImageRecord, Region
from florence.text_files import decode_text

SIDES = ("xmin", "ymin", "xmax", "ymax")
ROTATED = ("cx", "cy", "w", "h", "angle")
SHAPES = frozenset({"bndbox", "robndbox", "polygon", "object", "box", "rotated_bndbox"})
"""Elements of an object; where one is elsewhere in a file without objects, the file is not understood."""
PARTS = frozenset({"train", "val", "valid", "validation", "test"})
"""Folders of a set that may be a source of their own."""
MOST_BYTES = 64_000_000
"""Most bytes of a file: more than a million objects."""
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_DECLARATION = re.compile(r"^\s*<\?xml.*?\?>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _VocObject:
    """An object of a file: the texts of its elements; ``boxes``, ``parts``, ``polygons``: how many it has.

    ``rotated``: whether its box is one of roLabelImg. ``tilted``: whether CVAT says that its box is to be rotated.
    """

    name: str
    difficult: bool
    boxes: int
    rotated: bool
    tilted: bool
    values: tuple[str | None, ...]
    parts: int
    polygons: int

    @classmethod
    def of(cls, item: ElementTree.Element) -> _VocObject:
        """Return what is read of an element."""
        boxes = [child for child in item if child.tag in ("bndbox", "robndbox")]
        rotated = bool(boxes) and boxes[0].tag == "robndbox"
        return cls(
            _element_text(item, "name"),
            _element_text(item, "difficult").lower() in ("1", "true"),
            len(boxes),
            rotated,
            any(map(_is_turn, item.findall("attributes/attribute"))),
            tuple(boxes[0].findtext(part) for part in (ROTATED if rotated else SIDES)) if boxes else (),
            len(item.findall("part")),
            len(item.findall("polygon")),
        )


@dataclass(frozen=True, slots=True)
class _VocFile:
    """A file: its path, ``filename``, size, and objects, or why it cannot be read."""

    path: str
    picture: str = ""
    size: tuple[int, int] | None = None
    objects: tuple[_VocObject, ...] = ()
    error: UnusableLabelError | None = None


class VocSet(LabelSet):
    """The opened labels of a VOC data set.

    ``difficult``: whether objects marked as difficult are read. ``corners``: what the numbers of a box are, "pixels" or
    "edges".
    """

    def __init__(self, files: Files, difficult: bool, corners: str) -> None:
        self.files, self.difficult, self.corners = files, difficult, corners
        found = [_read_file(files, name) for name in files.names]
        problems = [describe_problem(file.error) for file in found if file.error]
        entries = list(_make_entries(found, files.others))
        if masks := [name for name in files.others if _is_mask(name)]:
            detail = f"{files.where(masks[0])}: the masks of VOC are not read, objects have their boxes alone"
            problems.append(LabelProblem("masks are not read", detail, "part", len(masks)))
        if corners == "pixels":
            problems += _explain_edges(files, found)
        names = sorted({item.name for file in found for item in file.objects})
        problems += explain_spellings(names, files.uri)
        super().__init__(files.uri, entries, list_usable_names(names), problems)

    def read_claims(self, entry: LabelSetEntry, record: ImageRecord) -> ImageClaims:
        """Return the objects of an image, in the order of its file. Raises UnusableLabelError if it is unreadable."""
        file: _VocFile = entry.raw
        if file.error:
            raise UnusableLabelError(file.error.reason, file.error.detail, "image")
        claims: list[Claim] = []
        problems: list[LabelProblem] = []
        for k, item in enumerate(file.objects):
            try:
                claim, parts = self.read_object(item, f"{self.files.where(file.path)}: object[{k}]", record)
            except DataError as error:
                problems.append(describe_problem(error))
            else:
                claims.append(claim)
                problems += parts
        return ImageClaims(tuple(claims), tuple(problems))

    def read_object(self, item: _VocObject, where: str, record: ImageRecord) -> tuple[Claim, list[LabelProblem]]:
        """Return an object's claim, and what of it is not read."""
        label = check_name(item.name, f"{where}/name")
        if item.difficult and not self.difficult:
            detail = f"{where}/difficult: {label} is left out, as difficult is off"
            raise UnusableLabelError("marked as difficult", detail)
        if item.boxes != 1:
            found = f"{item.boxes} boxes" if item.boxes else "a polygon alone" if item.polygons else "none"
            raise UnusableLabelError("not one box", f"{where}/bndbox: found {found}; one box is expected")
        parts: list[LabelProblem] = []
        if item.rotated:
            region = _read_rotated_box(item, label, f"{where}/robndbox", record)
        else:
            if item.tilted:
                detail = f"{where}: a rotation in its attributes; rotated boxes have to be exported as polygons"
                raise UnusableLabelError("a rotated box", detail)
            box = _read_box(item, f"{where}/bndbox", self.corners)
            region = make_region(label, box, (), None, f"{where}/bndbox", record)
            parts += explain_overhang(box, f"{where}/bndbox", record)
        if item.parts:
            detail = f"{where}/part: the object is read without"
            parts.append(LabelProblem("parts are not read", detail, "part", item.parts))
        if item.polygons:
            detail = f"{where}/polygon: the object has its box alone"
            parts.append(LabelProblem("polygon replaced by its box", detail, "part"))
        return Claim(OBJECTS, label, (region,)), parts


def _is_turn(attribute: ElementTree.Element) -> bool:
    """Return whether an attribute of CVAT's is a rotation by other than 0 degrees."""
    try:
        return _element_text(attribute, "name") == "rotation" and float(_element_text(attribute, "value")) % 360 != 0
    except ValueError:
        return False


def _explain_edges(files: Files, found: list[_VocFile]) -> Iterator[LabelProblem]:
    """Yield that boxes cannot be numbers of pixels from 1, if there are any: all may be a pixel too large."""
    count, example = 0, ""
    for file in found:
        for k, item in enumerate(file.objects):
            if not item.rotated and _has_edges(item.values):
                count, example = count + 1, example or f"{files.where(file.path)}: object[{k}]/bndbox"
    if count:
        detail = (
            f"{example}: found a 0 or a fraction, and pixels are numbered from 1; if the tool writes distances from "
            "the image's corner, set corners: edges in the settings, else every box begins a pixel too early"
        )
        yield LabelProblem("a box whose numbers are not those of pixels", detail, "part", count)


def _has_edges(values: tuple[str | None, ...]) -> bool:
    """Return whether some numbers of a box are 0 or no whole ones; shares of the image's sides are none of these."""
    try:
        numbers = [float(value or "") for value in values]
    except ValueError:
        return False
    return max(numbers, default=0.0) > 1 and any(number == 0 or number % 1 != 0 for number in numbers)


def _read_box(item: _VocObject, where: str, corners: str) -> Box:
    """Return the edges of a box; as one of pixels includes its last ones, xmin - 1, ymin - 1, xmax and ymax."""
    xmin, ymin, xmax, ymax = values = tuple(
        check_number(value, f"{where}/{side}") for side, value in zip(SIDES, item.values, strict=True)
    )
    found = ", ".join(f"{value:g}" for value in values)
    if xmin > xmax or ymin > ymax:
        detail = f"{where}: found {found}; xmin, ymin, xmax and ymax in this order are expected"
        raise UnusableLabelError("corners in another order", detail)
    if max(values) <= 1 and not all(value.is_integer() for value in values):
        detail = f"{where}: found {found}; pixels are expected, these may be shares of the image's sides"
        raise UnusableLabelError("shares instead of pixels", detail)
    return (xmin, ymin, xmax, ymax) if corners == "edges" else (xmin - 1, ymin - 1, xmax, ymax)


def _read_rotated_box(item: _VocObject, label: str, where: str, record: ImageRecord) -> Region:
    """Return the region of a rotated box: its corners (±w/2, ±h/2), turned by the angle, about its centre."""
    cx, cy, w, h, angle = (
        check_number(value, f"{where}/{part}") for part, value in zip(ROTATED, item.values, strict=True)
    )
    if not (w > 0 and h > 0):
        raise UnusableLabelError("a box without an inside", f"{where}: found {w:g} × {h:g}; two sides are expected")
    if not (0 <= cx <= record.width and 0 <= cy <= record.height):
        raise UnusableLabelError("no pixel of the image", f"{where}: its centre {cx:g}, {cy:g} is outside the image")
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = [(x * w / 2, y * h / 2) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    points = [v for x, y in corners for v in (cx + x * cosine - y * sine, cy + x * sine + y * cosine)]
    polygon = check_polygon(points, where, record)
    return make_region(label, polygon_box(polygon), (polygon,), None, where, record)


def _element_text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


# ---------------------------------------------------------------- files


def _read_file(files: Files, name: str) -> _VocFile:
    where = files.where(name)
    try:
        root = read_root(files, name)
    except UnusableLabelError as error:
        return _VocFile(name, error=error)
    objects = tuple(map(_VocObject.of, root.findall("object")))
    if len(objects) < sum(1 for _ in root.iter("object")) or not objects and _has_shape(root):
        detail = f"{where}: its objects are not where they are expected, in <object> below <annotation>"
        return _VocFile(name, error=UnusableLabelError("not the layout of VOC", detail, "file"))
    return _VocFile(name, _element_text(root, "filename"), _read_size(root), objects)


def _has_shape(root: ElementTree.Element) -> bool:
    return any(isinstance(e.tag, str) and e.tag.rpartition("}")[2].lower() in SHAPES for e in root.iter())


def read_root(files: Files, name: str) -> ElementTree.Element:
    """Return the element of a file. Raises UnusableLabelError if it is no VOC file, or defines entities.

    Entities could fill the memory, or read other files. The text is decoded here, so that none hides in an encoding.
    """
    where, data = files.where(name), files.read(name)
    if len(data) > MOST_BYTES:
        detail = f"{where}: found {len(data):,} bytes; at most {MOST_BYTES:,} are expected"
        raise UnusableLabelError("a file that is too large", detail, "file")
    text = _decode(data, where)
    if re.search(r"<!\s*ENTITY", text, re.IGNORECASE):
        detail = f"{where}: it defines entities, which VOC files do not use and which could fill the memory"
        raise UnusableLabelError("entities in XML", detail, "file")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError, UnicodeError) as error:
        raise UnusableLabelError("not XML", f"{where} is not XML: {error}", "file") from None
    if root.tag != "annotation":
        hint = "; CVAT's own XML is not read: export it as COCO or Pascal VOC" if root.tag == "annotations" else ""
        detail = f"{where}: found <{root.tag:.60}>; <annotation> is expected{hint}"
        raise UnusableLabelError("not the layout of VOC", detail, "file")
    return root


def _decode(data: bytes, where: str) -> str:
    """Return the text of an XML file, in the encoding of its mark or declaration, else UTF-8, without declaration.

    Windows programs declare UTF-16 in files that they then write as UTF-8: such a file is read as UTF-8.
    """
    found = _DECLARED.match(data)
    declared = found.group(1).decode("ascii") if found else ""
    try:
        if declared and codecs.lookup(declared).name.startswith(("utf-16", "utf-32")):
            declared = ""  # the declaration was read as single bytes, so it is not true
        text = decode_text(data, declared)
    except (DataError, LookupError) as error:
        hint = "" if declared else "; declare the encoding, or save the file as UTF-8"
        raise UnusableLabelError("not in its encoding", f"{where} is not XML: {error}{hint}", "file") from None
    return _DECLARATION.sub("", text, count=1)


def _read_size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Return width and height; None if they are missing or 0, as some tools write."""
    try:
        width, height = (check_number(root.findtext(f"size/{side}"), side) for side in ("width", "height"))
    except DataError:
        return None
    return (int(width), int(height)) if width >= 1 and height >= 1 else None


# ---------------------------------------------------------------- pictures


def _make_entries(found: list[_VocFile], others: tuple[str, ...]) -> Iterator[LabelSetEntry]:
    """Yield the image of each file: the picture of its name, or of its ``filename``, or else by both names."""
    pictures: dict[str, str] = {}
    for name in others:
        if not _is_mask(name):
            pictures.setdefault(posixpath.splitext(name)[0], name)
    places = [_Place.of(file) for file in found]
    given = Counter((place.folder, place.named) for place in places)
    for file, place in zip(found, places, strict=True):
        is_own = bool(place.named) and given[place.folder, place.named] == 1  # else it comes from a template
        stems = [place.stem, *([posixpath.splitext(place.named)[0]] if is_own else [])]
        there = [pictures[path] for stem in stems for path in place.list_pictures(stem) if path in pictures]
        name = place.named if is_own else place.stem
        names = [_shorten(there[0], place.folder)] if there else [[name], place.list_pictures(name)]
        yield LabelSetEntry(tuple(dict.fromkeys(path for paths in names for path in paths)), None, file.size, file)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a file is: ``folder`` of the data set or of a part of it, empty or with a slash at its end.

    ``stem``: its path below the folder, without ending. ``named``: its ``filename``, in the same folder.
    """

    folder: str
    stem: str
    named: str

    @classmethod
    def of(cls, file: _VocFile) -> _Place:
        """Return the place of a file."""
        before, annotations, after = f"/{file.path}".rpartition("/Annotations/")
        folder, path = (f"{before}/"[1:], after) if annotations else ("", file.path)
        if not annotations and (first := path.partition("/"))[0].lower() in PARTS and first[2]:
            folder, path = f"{first[0]}/", first[2]
        stem = posixpath.splitext(path)[0]
        named = file.picture.replace("\\", "/").removeprefix("./")
        if named.startswith("/") or ":" in named or not annotations:
            named = posixpath.basename(named)  # a path of another computer
        if named and "/" not in named:
            named = posixpath.join(posixpath.dirname(stem), named)
        return cls(folder, stem, named)

    def list_pictures(self, name: str) -> list[str]:
        """Return where the picture of a name may be, below the data set and below its folder of pictures."""
        return [f"{self.folder}{below}{name}" for below in ("JPEGImages/", "images/", "")] + [f"JPEGImages/{name}"]


def _shorten(picture: str, folder: str) -> list[str]:
    """Return the paths by which a picture is known: below the data set, its part, and the folder of pictures."""
    below = picture.removeprefix(folder)
    return [picture, below, *(below.removeprefix(name) for name in ("JPEGImages/", "images/"))]


def _is_mask(name: str) -> bool:
    return any(part.startswith("Segmentation") for part in name.split("/")[:-1])
