"""Mutated YOLO and VOC sets: no traceback, no label that the file does not have, every loss counted.

The truth is read from the mutated file by other means: a line's numbers by a regular expression, an XML file's objects
by minidom.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.dom import minidom

import pytest
from format_sets import image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence.errors import FlorenceError
from florence.formats import FORMATS
from florence.formats.matching import ReadResult, read_label_set
from florence.records import ImageRecord

WIDTH, HEIGHT = 160, 120
RECORDS = [image(0, name=f"images/{k}.jpg", image_id=str(k), width=WIDTH, height=HEIGHT) for k in range(3)]
NAMES = ("cat", "dog", "traffic light")
EXAMPLES = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TOKENS = st.sampled_from(
    [
        "",
        " ",
        "\t",
        "\n",
        "\r\n",
        "0",
        "1",
        "7",
        "-1",
        "0.5",
        "1.01",
        "320",
        "nan",
        "inf",
        "1e400",
        "1_0",
        "#",
        ",",
        "cat",
        "0,5",
        "\0",
        "\ufeff",
        "\u0664",
        "é",
        "猫",
    ]
)


@st.composite
def mutated(draw, text: str, tokens: st.SearchStrategy[str]) -> bytes:
    """Return a text after some cuts, doublings and insertions, in one of several encodings, perhaps cut off."""
    for _ in range(draw(st.integers(0, 4))):
        parts = re.split(r"(\s+|[<>])", text)
        k = draw(st.integers(0, len(parts) - 1))
        kind = draw(st.sampled_from(["replace", "remove", "double", "swap"]))
        if kind == "replace":
            parts[k] = draw(tokens)
        elif kind == "remove":
            parts[k] = ""
        elif kind == "double":
            parts[k] *= 2
        else:
            other = draw(st.integers(0, len(parts) - 1))
            parts[k], parts[other] = parts[other], parts[k]
        text = "".join(parts)
    data = text.encode(
        draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])), "replace"
    )
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 5)) == 5 else data


def read(form_name: str, folder: Path) -> ReadResult | None:
    """Return what is read of a set; None if it is refused as a whole. Anything but FlorenceError is a fault."""
    form = FORMATS.get(form_name)()
    try:
        return read_label_set(form.open(form.files(str(folder))), RECORDS)
    except FlorenceError as error:
        assert str(folder.parent) in str(error), "an error names its place, which a path may have changed"
        return None


def check_states(found: ReadResult, record: ImageRecord, labels: int, where: str) -> None:
    """Assert that an image is labelled, empty or not looked at, and that its claims and losses add up to its labels."""
    lost = sum(p.count for p in found.problems if p.unit == "label" and where in p.detail)
    if record.image_id in found.claims:
        claims = found.claims[record.image_id].claims
        assert len(claims) + lost == labels and (claims or not labels)
    else:
        assert record.image_id in found.errors or record.name in found.unknown


# ---------------------------------------------------------------- YOLO

SHAPES = {
    "box": st.tuples(*[st.floats(0.3, 0.7)] * 2, *[st.floats(0.1, 0.5)] * 2),
    "polygon": st.lists(st.floats(0, 1), min_size=6, max_size=12).filter(lambda v: len(v) % 2 == 0),
}


@EXAMPLES
@given(st.data())
def test_mutated_yolo_sets(tmp_path_factory: pytest.TempPathFactory, data):
    folder = tmp_path_factory.mktemp("yolo")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    settings_text = f"path: .\ntrain: images\nnc: 3\nnames: [{', '.join(NAMES)}]\n"
    if data.draw(st.integers(0, 3)) == 0:
        (folder / "data.yaml").write_bytes(
            data.draw(mutated(settings_text, TOKENS | st.sampled_from(["[", "}", "&a", "*a", "null", "names:"])))
        )
    else:
        (folder / "data.yaml").write_text(settings_text)
    is_plain = (folder / "data.yaml").read_bytes() == settings_text.encode()
    texts = {}
    for record in RECORDS:
        (folder / record.name).write_bytes(b"")
        lines = [
            (data.draw(st.integers(0, 2)), data.draw(data.draw(st.sampled_from(list(SHAPES.values())))))
            for _ in range(data.draw(st.integers(0, 4)))
        ]
        text = "".join(f"{number} {' '.join(f'{v:.6f}' for v in values)}\n" for number, values in lines)
        texts[record.image_id] = data.draw(mutated(text, TOKENS)) if data.draw(st.booleans()) else text.encode()
        (folder / "labels" / f"{record.image_id}.txt").write_bytes(texts[record.image_id])
    found = read("yolo", folder)
    if found is None:
        return
    for record in RECORDS:
        rows = list(rows_of(texts[record.image_id]))
        where = f"labels/{record.image_id}.txt: line"
        check_states(found, record, len(rows), where)
        if is_plain and record.image_id in found.claims:
            for claim in found.claims[record.image_id].claims:
                box, polygons = claim.regions[0].box, claim.regions[0].polygons
                assert any(
                    NAMES[k] == claim.text and is_near(values, box, bool(polygons)) for k, values in rows if 0 <= k <= 2
                )


def rows_of(data: bytes):
    """Yield class and numbers of each line of a label file, decoded as its bytes say; -1 for what is no class."""
    text = decode(data)
    for line in re.split(r"\r\n|\n|\r", text):
        fields = line.split("#")[0].split()
        if fields:
            number = re.fullmatch(r"\+?(\d+)(\.0*)?(e[+-]?0+)?", fields[0])
            try:
                values = [float(v) for v in fields[1:]]
            except ValueError:
                values = []
            yield int(number.group(1)) if number else -1, values


def decode(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-32" if data[2:4] == b"\0\0" else "utf-16"
    else:
        encoding = "utf-16-le" if data[1:2] == b"\0" and data[3:4] in (b"\0", b"") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return data.decode("latin-1")


def is_near(values: list[float], box: tuple[float, ...], is_polygon: bool) -> bool:
    """Return whether numbers of a line are a box, or a polygon of the bounds ``box``, perhaps with other columns."""
    if is_polygon:
        values = values[: len(values) // 2 * 2]
        bounds = (
            [f(values[side::2]) * size for f in (min, max) for side, size in ((0, WIDTH), (1, HEIGHT))]
            if values
            else []
        )
    else:
        x, y, w, h = values[:4] if len(values) >= 4 else (9, 9, 9, 9)
        bounds = [(x - w / 2) * WIDTH, (y - h / 2) * HEIGHT, (x + w / 2) * WIDTH, (y + h / 2) * HEIGHT]
    clipped = [min(max(v, 0), size) for v, size in zip(bounds, (WIDTH, HEIGHT) * 2, strict=False)]
    return len(clipped) == 4 and all(abs(a - b) < 1e-3 for a, b in zip(clipped, box, strict=True))


# ---------------------------------------------------------------- VOC

XML_TOKENS = TOKENS | st.sampled_from(
    [
        "<",
        ">",
        "&lt;",
        "&x;",
        "&#0;",
        "]]>",
        "<object>",
        "</object>",
        "<bndbox>",
        "</annotation>",
        "<!--",
        "xmin",
        "name",
        '<!DOCTYPE a [<!ENTITY x "y">]>',
    ]
)


@EXAMPLES
@given(st.data())
def test_mutated_voc_sets(tmp_path_factory: pytest.TempPathFactory, data):
    folder = tmp_path_factory.mktemp("voc")
    (folder / "images").mkdir()
    files = {}
    for record in RECORDS:
        (folder / record.name).write_bytes(b"")
        objects = ""
        for _ in range(data.draw(st.integers(0, 3))):
            x0, y0 = data.draw(st.integers(1, 80)), data.draw(st.integers(1, 60))
            x1, y1 = data.draw(st.integers(x0, WIDTH)), data.draw(st.integers(y0, HEIGHT))
            corners = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
            objects += f"<object><name>{data.draw(st.sampled_from(NAMES))}</name><bndbox>{corners}</bndbox></object>"
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        text = f"<annotation><filename>{record.image_id}.jpg</filename>{size}{objects}</annotation>"
        files[record.image_id] = data.draw(mutated(text, XML_TOKENS)) if data.draw(st.booleans()) else text.encode()
        (folder / "images" / f"{record.image_id}.xml").write_bytes(files[record.image_id])
    found = read("voc", folder)
    assert found is not None, "a file that is none loses only itself"
    for record in RECORDS:
        truth = objects_of(files[record.image_id])
        if truth is None:
            assert record.image_id not in found.claims
            continue
        check_states(found, record, len(truth), f"images/{record.image_id}.xml: object")
        if record.image_id in found.claims:
            for claim in found.claims[record.image_id].claims:
                x0, y0, x1, y1 = claim.regions[0].box
                assert any(
                    name == claim.text
                    and x0 == max(box[0] - 1, 0)
                    and y0 == max(box[1] - 1, 0)
                    and x1 == min(box[2], WIDTH)
                    and y1 == min(box[3], HEIGHT)
                    for name, box in truth
                    if len(box) == 4
                )


def objects_of(data: bytes) -> list[tuple[str, tuple[float, ...]]] | None:
    """Return name and corners of the objects of a VOC file, read by minidom; None if it is none."""
    try:
        root = minidom.parseString(decode(data).lstrip("\ufeff")).documentElement
    except Exception:
        return None
    if root.tagName != "annotation":
        return None
    result = []
    for item in (child for child in root.childNodes if getattr(child, "tagName", "") == "object"):
        texts = []
        for tag in ("xmin", "ymin", "xmax", "ymax"):
            texts += [text_of(node) for node in item.getElementsByTagName(tag)[:1]]
        try:
            box = tuple(float(text) for text in texts)
        except ValueError:
            box = ()
        names = [child for child in item.childNodes if getattr(child, "tagName", "") == "name"]
        result.append((" ".join(text_of(names[0]).split()) if names else "", box))
    return result


def text_of(node: minidom.Element) -> str:
    return node.firstChild.data if node.firstChild is not None and hasattr(node.firstChild, "data") else ""
