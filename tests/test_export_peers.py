"""Exports read by other people's rules: peers' libraries, and readers written by hand after those that are not here."""

from __future__ import annotations

import contextlib
import io
import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import datasets
import pytest
import yaml
from format_sets import read_back
from PIL import Image
from pycocotools.coco import COCO
from test_export import make, picture, record, thing

from florence.export import ExportChoice, ExportResult, export
from florence.formats import list_writable_formats
from florence.formats._file_names import FileNames
from florence.records import Claim, ImageRecord, Region, table_images
from florence.store import Store

ULTRALYTICS = {"avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"}
"""Endings of the images that ultralytics.data.utils looks for."""
FILES = {
    "scene-0-000032-5ce68a39": ("JPEG", "scene-0-000032-5ce68a39.jpg"),
    "a.jpg": ("PNG", "a.jpg.png"),
    "b.JPG": ("JPEG", "b.JPG"),
    "c.jpeg": ("JPEG", "c.jpeg"),
    "d.jfif": ("JPEG", "d.jfif.jpg"),
    "IMG.2024.01.02": ("JPEG", "IMG.2024.01.02.jpg"),
    "holiday.photo": ("PNG", "holiday.photo.png"),
    ".hidden.png": ("PNG", "_hidden.png"),
    "# 1 .png": ("PNG", "_ 1_.png"),
    "images/deep.tiff": ("TIFF", "images/deep.tiff"),
    "old.gif": ("GIF", "old.gif.png"),
    "raw.ppm": ("PPM", "raw.ppm.png"),
    "e.webp": ("WEBP", "e.webp"),
    "f.bmp": ("BMP", "f.bmp"),
}
"""Names in a source → format of the content, and name in an export."""
RENAMED = sum(own != file for own, (_, file) in FILES.items())
NAMES = (
    "yes",
    "no",
    "on",
    "null",
    "~",
    "007",
    "1.50",
    "1e3",
    "0o7",
    "12:30",
    "#tag",
    "a: b",
    "[x]",
    "ünï 🙂",
    "'q' \"",
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Store:
    """A snapshot with a file of each sort; every image has one object, named as the file, in the same place."""
    found = []
    for k, (name, (file_format, _)) in enumerate(FILES.items()):
        data = picture(40 + k, 30, file_format)
        split = ("train", "held_out")[k % 2]
        found.append((record(data, name, 40 + k, 30, split=split), data, [thing(name, (10, 6, 30, 24))]))
    return make(tmp_path_factory.mktemp("mixed"), found)


def write(data: Store, out: Path, name: str, **choice: Any) -> ExportResult:
    return export(data, out, ExportChoice(name, **choice))


# ---------------------------------------------------------------- names of files


@pytest.mark.parametrize("name", list_writable_formats())
def test_every_picture_ends_as_its_content_and_labels_name_the_file(mixed: Store, tmp_path: Path, name: str):
    result = write(mixed, tmp_path / "out", name)
    pictures = {}
    for path in (tmp_path / "out").rglob("*"):
        with contextlib.suppress(OSError), Image.open(path) as opened:
            pictures[path.relative_to(tmp_path / "out").as_posix()] = opened.format
    allowed = {"JPEG": (".jpg", ".jpeg"), "TIFF": (".tif", ".tiff")}
    for path, found in pictures.items():
        assert posixpath.splitext(path)[1].lower() in allowed.get(found, (f".{found.lower()}",)), path
    assert result.renamed == RENAMED and result.converted == 2 and result.images == len(FILES)
    named = {path.split("/", 2 if name == "yolo" else 1)[-1] for path in pictures}
    assert named == {file for _, file in FILES.values()}
    text = "".join(
        path.read_text() for path in (tmp_path / "out").rglob("*") if path.suffix in (".json", ".jsonl", ".xml")
    )
    for file in named if name in ("coco", "jsonl", "voc") else ():
        assert file in text


def test_pictures_get_paths_of_their_own():
    def paths(*names: str, **options: Any) -> list[str]:
        files = FileNames(**{"by_stem": False, "with_source": False, **options})
        records = [ImageRecord(name, 1, 1, "photos", name, "CC0", None, "train") for name in names]
        return [files.assign(one, ()) for one in records]

    names = ("a.png", "sub/a.png", "a.jpg", "../x.png", "/etc/y.png", "new\nline.png", "a-2.jpg", "A.PNG")
    own = ["a.png", "sub/a.png", "a.jpg", "x.png", "etc/y.png", "new_line.png", "a-2.jpg", "A-2.PNG"]
    assert paths(*names) == own, "a disk may not tell capitals from small letters"
    stems = ["a.png", "sub/a.png", "a-2.jpg", "x.png", "etc/y.png", "new_line.png", "a-2-2.jpg", "A-3.PNG"]
    assert paths(*names, by_stem=True) == stems
    long = "deep/" + "ü" * 125
    cut = "deep/" + "ü" * 123
    assert paths(f"{long}.png", f"{long}.PNG") == [f"{cut}.png", f"{cut[:-1]}-2.PNG"], "250 bytes are enough for a name"
    assert paths("a.png", with_source=True) == ["photos/a.png"]
    assert paths("a/b.png", "a-b.png", flat=True, with_source=True) == ["photos-a-b.png", "photos-a-b-2.png"]


@pytest.mark.parametrize("name", list_writable_formats())
def test_what_was_written_is_found_again_by_its_name(mixed: Store, tmp_path: Path, name: str):
    write(mixed, tmp_path / "out", name)
    records = [one for one, _ in table_images(mixed.read_table("images/photos-00000.parquet"))]
    options = {"predictions": True} if name == "labelstudio" else {}
    found = read_back(name, tmp_path / "out", records, **options)
    # A hidden file, and one that lists would take for a comment, need other names: only an id finds these.
    lost = {".hidden.png", "# 1 .png"} if name in ("voc", "yolo") else set()
    assert set(found.unknown) == lost
    for one in records:
        if one.name not in lost:
            assert [claim.text for claim in found.claims[one.image_id].claims] == [one.name]


def test_a_picture_of_a_format_that_few_programs_open_becomes_a_png(mixed: Store, tmp_path: Path):
    write(mixed, tmp_path / "out", "coco")
    source = Image.open(io.BytesIO(picture(40 + list(FILES).index("raw.ppm"), 30, "PPM")))
    with Image.open(tmp_path / "out/images/raw.ppm.png") as written:
        assert written.format == "PNG" and written.tobytes() == source.tobytes()


def test_a_dry_run_tells_what_happens_to_files(mixed: Store, tmp_path: Path):
    for name in list_writable_formats():
        dry = export(mixed, tmp_path / name, ExportChoice(name), dry_run=True)
        assert dry == write(mixed, tmp_path / name, name) and dry.renamed == RENAMED


# ---------------------------------------------------------------- ultralytics, supervision


def ultralytics_labels(out: Path) -> dict[str, list[list[float]]]:
    """Return each picture's lines: pictures by ending in any subfolder, labels where the last /images/ is /labels/."""
    values = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    found = {}
    for part in ("train", "val", "test"):
        for path in sorted((out / values[part]).rglob("*.*")) if part in values else ():
            if path.suffix[1:].lower() in ULTRALYTICS:
                label = "/labels/".join(str(path).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"
                lines = Path(label).read_text().splitlines() if Path(label).is_file() else []
                found[str(path)] = [[float(v) for v in line.split()] for line in lines]
    return found


def test_yolo_by_ultralytics_rules(mixed: Store, tmp_path: Path):
    write(mixed, tmp_path / "out", "yolo")
    names = yaml.safe_load((tmp_path / "out/data.yaml").read_text())["names"]
    found = ultralytics_labels(tmp_path / "out")
    assert len(found) == len(FILES)
    for path, lines in found.items():
        with Image.open(path) as opened:
            width, height = opened.size
        ((number, x, y, w, h),) = lines
        assert [x * width, y * height, w * width, h * height] == pytest.approx([20, 15, 20, 18])
        source = next(own for own, (_, file) in FILES.items() if path.endswith(f"/{file}"))
        assert names[int(number)] == source


@pytest.mark.parametrize(("name", "pictures", "labels", "ending"), [
    ("yolo", "images/train", "labels/train", ".txt"), ("voc", "JPEGImages", "Annotations", ".xml"),
])  # fmt: skip
def test_flat_is_for_readers_that_do_not_look_into_subfolders(
    mixed: Store, tmp_path: Path, name: str, pictures: str, labels: str, ending: str
):
    """supervision lists the pictures of one folder and looks for labels of the same stem in another."""
    write(mixed, tmp_path / "out", name, flat=True, split="train")
    files = [path for path in (tmp_path / "out" / pictures).iterdir() if path.is_file()]
    assert len(files) == (len(FILES) + 1) // 2
    assert all((tmp_path / "out" / labels / f"{path.stem}{ending}").is_file() for path in files)


def square(name: str, polygons: bool) -> Claim:
    corners = ((10.0, 6.0, 30.0, 6.0, 30.0, 24.0),) if polygons else ()
    return Claim("<OD>", name, (Region(name, box=(10.0, 6.0, 30.0, 24.0), polygons=corners),))


def test_boxes_alone_where_only_boxes_are_wanted(tmp_path: Path):
    data = picture(40, 30)
    claims = [square("cat", True), square("dog", False)]
    store = make(tmp_path / "data", [(record(data, "a.png", 40, 30), data, claims)])
    write(store, tmp_path / "polygons", "yolo")
    assert {len(line) for lines in ultralytics_labels(tmp_path / "polygons").values() for line in lines} == {7, 9}
    result = write(store, tmp_path / "boxes", "yolo", boxes_only=True)
    (lines,) = ultralytics_labels(tmp_path / "boxes").values()
    assert lines == [[k, *(pytest.approx(v) for v in (0.5, 0.5, 0.5, 0.6))] for k in (0, 1)]
    assert result.lost == {"<OD>: the polygons, as only boxes are wanted": 1}
    for name in ("coco", "jsonl", "labelstudio"):
        write(store, tmp_path / name, name, boxes_only=True)
    coco = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert [(one["bbox"], one["segmentation"]) for one in coco["annotations"]] == [([10, 6, 20, 18], [])] * 2
    assert "olygonlabels" not in (tmp_path / "labelstudio/tasks.json").read_text()


# ---------------------------------------------------------------- names of classes


@pytest.fixture(scope="module")
def wild_names(tmp_path_factory) -> Store:
    """A snapshot whose objects have names that readers take for other types, and one name in three spellings."""
    data, other = picture(40, 30), picture(41, 30)
    claims = [thing(name, (0, 0, 9, 9)) for name in NAMES]
    spelt = [thing(name, (0, 0, 9, 9)) for name in ("traffic  light", " traffic light", "traffic\nlight\t", "zebra")]
    found = [
        (record(data, "a.png", 40, 30), data, claims),
        (record(other, "b.png", 41, 30, split="held_out"), other, spelt),
    ]
    store = make(tmp_path_factory.mktemp("names"), found)
    # `annotate` normalises names: labels of an older round are not.
    name = "labels/round-00000.parquet"
    table = store.read_table(name)
    texts = table["text"].to_pylist()
    texts[-4:] = ["traffic  light", " traffic light", "traffic\nlight\t", "zebra"]
    store.write_table(name, table.set_column(table.column_names.index("text"), "text", [texts]))
    return store


def test_names_are_texts_and_one_name_is_one_class(wild_names: Store, tmp_path: Path):
    expected = sorted([*NAMES, "traffic light", "zebra"])
    result = write(wild_names, tmp_path / "yolo", "yolo")
    names = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text(encoding="utf-8"))["names"]
    assert names == dict(enumerate(expected))
    assert result.lost == {"<OD>: white space of the name": 3}
    for line in (tmp_path / "yolo/data.yaml").read_text(encoding="utf-8").partition("names:\n")[2].splitlines():
        key, _, value = line.strip().partition(": ")
        assert value[0] == value[-1] == '"' and int(key) in names, "also for readers of YAML 1.2"
    write(wild_names, tmp_path / "coco", "coco")
    for split in ("train", "held_out"):
        categories = json.loads((tmp_path / f"coco/annotations/instances_{split}.json").read_text())["categories"]
        assert [(one["id"], one["name"]) for one in categories] == list(enumerate(expected, start=1))


@pytest.mark.parametrize("choice", [{"split": "train"}, {"split": "held_out"}, {"min_confidence": 0.9}])
def test_a_part_of_a_round_numbers_the_classes_as_the_whole(wild_names: Store, tmp_path: Path, choice: dict[str, Any]):
    write(wild_names, tmp_path / "all", "yolo")
    write(wild_names, tmp_path / "part", "yolo", **choice)
    names = [yaml.safe_load((tmp_path / part / "data.yaml").read_text())["names"] for part in ("all", "part")]
    assert names[0] == names[1]


def datumaro_label_map(text: str) -> Iterator[str]:
    """Yield the labels of a labelmap.txt as datumaro parses it, and assert what it asserts."""
    for line in map(str.strip, text.splitlines()):
        if line and line[0] != "#":
            name, colour, parts, actions = line.split(":")
            assert len([int(c) for c in colour.split(",")]) == 3 and not parts and not actions
            yield name


def test_voc_lists_its_labels(wild_names: Store, tmp_path: Path):
    write(wild_names, tmp_path / "voc", "voc")
    text = (tmp_path / "voc/labelmap.txt").read_text(encoding="utf-8")
    labels = list(datumaro_label_map(text))
    assert labels == [name for name in sorted([*NAMES, "traffic light", "zebra"]) if ":" not in name and name[0] != "#"]
    assert len({line.split(":")[1] for line in text.splitlines()[1:]}) == len(labels), "a colour for each"
    meta = json.loads((tmp_path / "voc/dataset_meta.json").read_text(encoding="utf-8"))
    assert meta["labels"] == sorted([*NAMES, "traffic light", "zebra"]), "which datumaro prefers, if it is there"
    used = {e.text for p in (tmp_path / "voc/Annotations").glob("*.xml") for e in ElementTree.parse(p).iter("name")}
    assert used - {"12:30", "a: b", "#tag"} == set(labels)


def test_the_first_colours_of_voc_are_the_devkits(wild_names: Store, tmp_path: Path):
    write(wild_names, tmp_path / "voc", "voc")
    colours = {
        line.split(":")[1] for line in (tmp_path / "voc/labelmap.txt").read_text().splitlines()[1:]
    }  # of VOC's classes 3 (bird), 8 (cat), 15 (person)
    assert {"128,128,0", "64,0,0", "192,128,128"} <= colours


# ---------------------------------------------------------------- pycocotools, datasets


def test_coco_by_pycocotools(mixed: Store, tmp_path: Path):
    data = picture(40, 30)
    claims = [square("cat", True), Claim("<CAPTION>", "a cat"), Claim("<DETAILED_CAPTION>", "a cat lies there")]
    store = make(tmp_path / "data", [(record(data, "a", 40, 30), data, claims)])
    write(store, tmp_path / "out", "coco")
    with contextlib.redirect_stdout(io.StringIO()):
        captions = COCO(str(tmp_path / "out/annotations/captions_train.json"))
        objects = COCO(str(tmp_path / "out/annotations/instances_train.json"))
        results = objects.loadRes([{**one, "score": 0.5} for one in objects.anns.values()])
    assert [one["caption"] for one in captions.loadAnns(captions.getAnnIds())] == ["a cat", "a cat lies there"]
    assert "categories" not in captions.dataset and results.getAnnIds() == objects.getAnnIds()
    (image,) = objects.loadImgs(objects.getImgIds())
    assert (tmp_path / "out/images" / image["file_name"]).is_file() and image["file_name"] == "a.png"
    assert objects.annToMask(objects.loadAnns(objects.getAnnIds())[0]).sum() > 150


def test_pictures_by_datasets_imagefolder(mixed: Store, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    write(mixed, tmp_path / "out", "coco")
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out/images"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert sorted(image.size for image in found["image"]) == [(40 + k, 30) for k in range(len(FILES))]
