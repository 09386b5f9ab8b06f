"""A folder in which all is mixed that people's folders have, and what was put there, counted while it is made."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

SIZE = (64, 48)
BOX = {"category_id": 1, "bbox": [4, 5, 20, 21]}
PICTURES = ("a.jpg", "b.png", "c.png", "sub/d.jpg", "e.jfif", "f.webp", "turned.jpg")
"""The pictures that can be used; all differ."""


@dataclass
class MixedFolder:
    """The folder and its truth.

    ``files``: outcome → names of the files below photos/. ``labels``: label set → (labels in it, labels that can be
    used). ``images``: label set → (labelled, looked at and empty, neither) of our images.
    """

    root: Path
    files: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, tuple[int, int]] = field(default_factory=dict)
    images: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    annotators: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def photos(self) -> Path:
        """The folder of pictures, and of everything else."""
        return self.root / "photos"

    def put(self, outcome: str, name: str, data: bytes) -> None:
        """Write a file and note what becomes of it."""
        path = self.photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.files.setdefault(outcome, []).append(name)

    def add_set(self, name: str, section: dict[str, Any], labels: tuple[int, int], images: tuple[int, int]) -> None:
        """Note a label set; ``images``: labelled, and looked at and empty."""
        self.annotators[name] = {"use": "existing", "sources": ["photos"], **section}
        self.labels[name], self.images[name] = labels, (*images, len(PICTURES) - sum(images))

    @property
    def outcomes(self) -> Counter[str]:
        """Return how many files have each outcome."""
        return Counter({outcome: len(names) for outcome, names in self.files.items()})


def make_mixed_folder(root: Path) -> MixedFolder:
    """Make the folder."""
    mixed = MixedFolder(root)
    _put_pictures(mixed)
    _put_others(mixed)
    (root / "labels").mkdir()
    for write in (_write_coco, _write_voc, _write_yolo, _write_studio, _write_lines, _write_texts):
        write(mixed, root / "labels")
    mixed.annotators["gone"] = {
        "use": "existing",
        "format": "coco",
        "uri": str(root / "labels/nowhere.json"),
        "sources": ["photos"],
        "required": False,
    }
    return mixed


# ---------------------------------------------------------------- files


def _encode(number: int, format: str, size: tuple[int, int] = SIZE, **more: Any) -> bytes:
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 255, (6, 8, 3), np.uint8).repeat(size[1] // 6 or 1, 0).repeat(size[0] // 8 or 1, 1)
    out = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(out, format, **more)
    return out.getvalue()


def _put_pictures(mixed: MixedFolder) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 2_000_000)
    turned = Image.Exif()
    turned[0x0112] = 6
    for number, (name, format) in enumerate(
        zip(PICTURES, ("JPEG", "PNG", "PNG", "JPEG", "JPEG", "WEBP", "JPEG"), strict=True)
    ):
        more = {"b.png": {"pnginfo": text}, "turned.jpg": {"exif": turned}}.get(name, {})
        mixed.put("images", name, _encode(number, format, **more))
    mixed.put("duplicate", "copy of a.jpg", (mixed.photos / "a.jpg").read_bytes())
    mixed.put("rejected", "cut.jpg", _encode(50, "JPEG", (640, 480))[:900])
    mixed.put("rejected", "dot.png", _encode(51, "PNG", (8, 6)))
    mixed.put("rejected", "words.jpg", b"this is no picture\n")


def _put_others(mixed: MixedFolder) -> None:
    for name in ("film.mp4", "paper.pdf", "raw.cr2", "more.cr2", "letter.docx", "README"):
        mixed.put("unused", name, b"\x00\x01" + name.encode() * 40)
    for name in ("@eaDir/a.jpg", ".thumbnails/x.png", "._a.jpg"):
        mixed.put("unused", name, _encode(60, "PNG"))
    archive = shutil.make_archive(str(mixed.root / "old"), "zip", mixed.photos / "sub")
    mixed.put("unused", "old.zip", Path(archive).read_bytes())
    Path(archive).unlink()
    mixed.put("texts", "c.txt", b"a chequered wall in many colours\n")
    mixed.put("unused", "a.txt", b"0 0.5 0.5 0.4 0.6\n")


# ---------------------------------------------------------------- labels


def _write_coco(mixed: MixedFolder, folder: Path) -> None:
    images = {
        "a.jpg": [BOX, {**BOX, "category_id": 2}, {**BOX, "category_id": 9}],
        "b.png": [],
        "c.png": [{**BOX, "bbox": [5, 5, 0, 0]}],
        "sub/d.jpg": [BOX, BOX],
        "elsewhere.jpg": [BOX, BOX, BOX],
    }
    numbers = {name: number for number, name in enumerate(images, start=1)}
    sizes = {name: (320, 240) if name == "sub/d.jpg" else SIZE for name in images}
    rows = [{"image_id": numbers[name], **row} for name, found in images.items() for row in found]
    document = {
        "images": [
            {"id": n, "file_name": name, "width": sizes[name][0], "height": sizes[name][1]}
            for name, n in numbers.items()
        ],
        "annotations": [{"id": number, **row} for number, row in enumerate(rows, start=1)],
        "categories": [{"id": 1, "name": "person "}, {"id": 2, "name": "🙂"}],
    }
    (folder / "people.json").write_text(json.dumps(document))
    section = {"format": "coco", "uri": str(folder / "people.json"), "human": True}
    mixed.add_set("people", section, (len(rows), 2), (1, 1))


def _write_voc(mixed: MixedFolder, folder: Path) -> None:
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
    thing = f"<object><name>cat</name>{box}</object>"
    there = folder / "voc/Annotations"
    there.mkdir(parents=True)
    found = {"a.jpg": thing + thing + "<object><name>cat</name></object>", "b.png": "", "z.jpg": thing}
    for name, objects in found.items():
        text = f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"
        (there / name).with_suffix(".xml").write_text(text)
    (there / "f.xml").write_text("<annotation><object>")
    mixed.add_set("boxes", {"format": "voc", "uri": str(folder / "voc")}, (4, 2), (1, 1))


def _write_yolo(mixed: MixedFolder, folder: Path) -> None:
    labels = folder / "yolo/labels"
    labels.mkdir(parents=True)
    (folder / "yolo/data.yaml").write_text("names: [yes, no]\n")
    (labels / "a.txt").write_text("0 0.5 0.5 0.4 0.6\n9 0.5 0.5 0.4 0.6\nwhat is this\n")
    (labels / "c.txt").write_text("")
    (labels / "nowhere.txt").write_text("1 0.5 0.5 0.4 0.6\n")
    mixed.add_set("yolo", {"format": "yolo", "uri": str(folder / "yolo")}, (4, 1), (1, 1))


def _write_studio(mixed: MixedFolder, folder: Path) -> None:
    def result(kind: str, value: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": kind,
            "from_name": "label",
            "to_name": "image",
            "original_width": SIZE[0],
            "original_height": SIZE[1],
            "image_rotation": 0,
            "value": {kind: ["cat"], **value},
        }

    box = result("rectanglelabels", {"x": 10, "y": 10, "width": 30, "height": 40, "rotation": 0})
    ellipse = result("ellipselabels", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 0})
    tasks = [
        {"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"id": 1, "result": [box, ellipse]}]},
        {"id": 2, "data": {"image": "f.webp"}, "annotations": [{"id": 2, "result": []}]},
        {"id": 3, "data": {"image": "gone.jpg"}, "annotations": [{"id": 3, "result": [box]}]},
    ]
    (folder / "studio.json").write_text(json.dumps(tasks))
    mixed.add_set("studio", {"format": "labelstudio", "uri": str(folder / "studio.json")}, (3, 1), (1, 1))


def _write_lines(mixed: MixedFolder, folder: Path) -> None:
    label = {"task": "<OD>", "text": "cat", "regions": [{"box": [3, 4, 30, 40]}]}
    rows = [
        {"image": {"name": "c.png"}, "annotations": [label, {**label, "regions": [{"box": [3, 4]}]}]},
        {"image": {"name": "sub/d.jpg"}, "annotations": []},
        {"image": {"name": "never.png"}, "annotations": [label]},
    ]
    (folder / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{torn\n")
    mixed.add_set("lines", {"format": "jsonl", "uri": str(folder / "lines.jsonl")}, (3, 1), (1, 1))


def _write_texts(mixed: MixedFolder, folder: Path) -> None:
    (folder / "texts.csv").write_text("file_name,text\na.jpg,a wall of tiles\nb.png,\nnowhere.jpg,nobody\n,lost\n")
    mixed.add_set("texts", {"format": "alttext", "uri": str(folder / "texts.csv")}, (3, 1), (1, 1))
