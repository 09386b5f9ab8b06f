"""YOLO data sets as people have them: layouts, settings, lines of every task, and what is not there."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from format_sets import claims_of, image, read_back

from florence.annotators import ImageBatch
from florence.annotators.existing import Existing
from florence.errors import DataError, NotListedError, StoreError
from florence.formats import FORMATS
from florence.formats.matching import ReadResult
from florence.records import Claim, ImageRecord

CAT = "0 0.5 0.5 0.4 0.4\n"
DOG = "1 0.5 0.5 0.4 0.4\n"


def named(name: str, **more) -> ImageRecord:
    """Return an image of 160 × 120 pixels."""
    return image(0, **{"name": name, "width": 160, "height": 120, "image_id": name, **more})


def lay(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files; a picture is an empty one."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def names_of(found: ReadResult, name: str) -> list[str]:
    return [claim.text for claim in found.claims[name].claims]


def read(folder: Path, *names: str, uri: str = "", **settings) -> ReadResult:
    return read_back("yolo", folder / uri, [named(name) for name in names], **settings)


def one(folder: Path, line: str, yaml: str = "names: [cat, dog]", **settings) -> ReadResult:
    """Return what is read of one image's label file."""
    lay(folder, {"data.yaml": yaml, "images/a.jpg": "", "labels/a.txt": line})
    return read(folder, "images/a.jpg", **settings)


# ---------------------------------------------------------------- where label files are


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("images/images/a.jpg", "images/labels/a.txt"),
        ("images/train/deep/er/a.jpg", "labels/train/deep/er/a.txt"),
        ("obj/a.jpg", "obj/a.txt"),
        ("obj_train_data/sub/a.jpg", "obj_train_data/sub/a.txt"),
        ("images/a.jpg", "images/a.txt"),
        ("a.jpg", "a.txt"),
        ("IMG_1.JPG", "IMG_1.TXT"),
        ("Images/a.JPEG", "Labels/a.Txt"),
        ("JPEGImages/a.png", "labels/a.txt"),
        ("train/a.jpg", "train/labels/a.txt"),
        ("train/a.jpg", "labels/train/a.txt"),
        ("images/a.b.c.jpg", "labels/a.b.c.txt"),
        ("images/a.jpg", "labels/a.jpg.txt"),
        ("pictures/train.jpg", "pictures/train.txt"),
    ],
)
def test_label_files_of_every_layout_are_found(tmp_path: Path, picture: str, label: str):
    other = str(Path(picture).with_name("unlabelled.png"))
    lay(tmp_path, {"data.yaml": "names: [cat, dog]", picture: "", label: DOG, other: ""})
    found = read(tmp_path, picture, other)
    assert names_of(found, picture) == ["dog"] and not found.errors and found.unknown == (other,)
    assert not found.problems


def test_a_list_of_pictures_as_fiftyone_writes_it_is_no_label_file(tmp_path: Path):
    files = {"obj.names": "cat\ndog\n", "images.txt": "data/a.jpg\n", "data/a.jpg": "", "data/a.txt": DOG}
    found = read(lay(tmp_path, files), "data/a.jpg")
    assert names_of(found, "data/a.jpg") == ["dog"] and not found.unmatched


def test_a_file_by_ultralytics_rule_counts_before_one_beside_the_picture(tmp_path: Path):
    files = {"data.yaml": "names: [cat, dog]", "images/a.jpg": "", "images/a.txt": "a caption", "labels/a.txt": DOG}
    assert names_of(read(lay(tmp_path, files), "images/a.jpg"), "images/a.jpg") == ["dog"]


def test_darknet_and_cvat_files_are_read(tmp_path: Path):
    files = {
        "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
        "obj.names": "cat\ndog\n",
        "train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\ndata/obj_train_data/gone.jpg\n",
        "obj_train_data/a.jpg": "",
        "obj_train_data/a.txt": DOG,
        "obj_train_data/b.txt": "",
        "obj_train_data/other.jpg": "",
        "obj_train_data/other.txt": CAT,
    }
    for uri in ("", "obj.data"):
        found = read(lay(tmp_path, files), *(f"obj_train_data/{k}.jpg" for k in ("a", "b", "other")), uri=uri)
        assert names_of(found, "obj_train_data/a.jpg") == ["dog"] and names_of(found, "obj_train_data/b.jpg") == []
        assert found.unknown == ("obj_train_data/other.jpg",), "it is of no set"
        assert {(p.reason, p.unit, p.count) for p in found.problems} == {
            ("a listed picture is not there", "image", 1),
            ("label files outside the sets of the YAML file", "image", 1),
        }


@pytest.mark.parametrize("at", ["classes.txt", "labels/classes.txt", "train/_darknet.labels", "coco.names"])
def test_a_list_of_names_is_enough(tmp_path: Path, at: str):
    lay(tmp_path, {at: "cat\r\n\r\n007\r\n", "images/a.jpg": "", "labels/a.txt": CAT + "2 0.2 0.2 0.1 0.1\n"})
    for uri in ("", at) if "/" not in at else ("",):
        assert names_of(read(tmp_path, "images/a.jpg", uri=uri), "images/a.jpg") == ["cat", "007"]
    (tmp_path / "labels/a.txt").write_text(DOG + CAT)
    found = read(tmp_path, "images/a.jpg")
    assert [p.reason for p in found.problems] == ["not a class of the data set"], "a blank line has a number, no name"


def test_lists_of_names_that_differ_are_not_guessed(tmp_path: Path):
    lay(
        tmp_path,
        {"train/classes.txt": "cat\ndog", "valid/classes.txt": "dog\ncat", "train/a.jpg": "", "train/a.txt": CAT},
    )
    with pytest.raises(DataError, match="train/classes.txt, valid/classes.txt differ; write a data.yaml"):
        read(tmp_path, "train/a.jpg")
    lay(tmp_path, {"data.yaml": "names: [cat, dog]"})
    found = read(tmp_path, "train/a.jpg")
    assert names_of(found, "train/a.jpg") == ["cat"]
    assert [(p.reason, p.unit) for p in found.problems] == [("two lists of names that differ", "part")]


# ---------------------------------------------------------------- three states


def test_what_was_not_read_is_not_empty(tmp_path: Path):
    lay(tmp_path, {"data.yaml": "names: [cat]", "images/full.jpg": "", "labels/full.txt": CAT})
    lay(tmp_path, {"images/empty.jpg": "", "labels/empty.txt": " \n", "images/none.jpg": ""})
    lay(tmp_path, {"images/text.jpg": "", "images/text.txt": "a cat on a mat"})
    lay(tmp_path, {"images/zero.jpg": "", "labels/zero.txt": b"\0" * 40})
    names = [f"images/{name}.jpg" for name in ("full", "empty", "none", "text", "zero")]
    found = read(tmp_path, *names)
    assert names_of(found, names[0]) == ["cat"] and names_of(found, names[1]) == []
    assert found.unknown == (names[2],) and set(found.errors) == {names[3], names[4]}
    form = FORMATS.get("yolo")()
    with pytest.raises(
        NotListedError, match="no label file of it; if that means that nothing is there, set unlabelled"
    ):
        form.open(form.files(str(tmp_path))).read_claims(
            next(e for e in form.open(form.files(str(tmp_path))).entries if names[2] in e.names), named(names[2])
        )
    found = read(tmp_path, *names, unlabelled_is_empty=True)
    assert names_of(found, names[2]) == [] and set(found.errors) == {names[3], names[4]}


def test_no_picture_is_taken_for_empty_where_no_label_file_fits(tmp_path: Path):
    lay(tmp_path, {"data.yaml": "names: [cat]", "pictures/a.jpg": "", "texts/a.txt": CAT})
    with pytest.raises(DataError, match="no label file belongs to a picture"):
        read(tmp_path, "pictures/a.jpg", unlabelled_is_empty=True)
    form = FORMATS.get("yolo")()
    labels = form.open(form.files(str(tmp_path)))
    assert [entry.raw for entry in labels.entries] == ["texts/a.txt"], "file names alone may match it, if asked for"
    lay(tmp_path, {"data.yaml": "train: pictures\nnames: [cat]"})
    assert names_of(read(tmp_path, "pictures/a.jpg"), "pictures/a.jpg") == ["cat"]
    (tmp_path / "texts/a.txt").unlink()
    with pytest.raises(DataError, match="found no label file"):
        read(tmp_path, "pictures/a.jpg")


def test_the_annotator_of_a_set_tells_the_three_states_apart(tmp_path: Path):
    lay(tmp_path, {"data.yaml": "names: [cat]", **{f"{name}.jpg": "" for name in ("full", "empty", "none")}})
    lay(tmp_path, {"full.txt": CAT, "empty.txt": ""})
    options = {"format": "yolo", "uri": str(tmp_path), "human": True}
    annotator = Existing(name="people", **options)
    annotator.load()
    full, empty, none = annotator.annotate(ImageBatch(tuple(named(f"{k}.jpg") for k in ("full", "empty", "none"))))
    assert [claim.text for claim in full] == ["cat"] and empty == [] and isinstance(none, NotListedError)
    assert annotator.ingredients()["reader"] == "2", "what an earlier reader took for empty is read again"
    trained = Existing(name="people", **options, settings={"unlabelled_is_empty": True})
    trained.load()
    assert trained.annotate(ImageBatch((named("none.jpg"),))) == [[]] and trained.version != annotator.version


# ---------------------------------------------------------------- settings


def test_names_are_texts_as_they_are_written(tmp_path: Path):
    names = ["yes", "No", "on", "null", "007", "1.50", "~", "0x1F", "1e3", "2024-01-01", "true", "12:30:45", ".5", "🙂"]
    lines = "".join(f"{k} 0.5 0.5 0.1 0.1\n" for k in range(len(names)))
    yamls = (
        f"nc: {len(names)}\nnames: [{', '.join(names)}]",
        "names:\n" + "".join(f"  {k}: {n}\n" for k, n in enumerate(names)),
    )
    for yaml in yamls:
        assert names_of(one(tmp_path, lines, yaml), "images/a.jpg") == names


def test_white_space_in_names_is_one_and_merging_is_told(tmp_path: Path):
    found = one(tmp_path, CAT + DOG, "names: ['traffic  light ', traffic light]")
    assert names_of(found, "images/a.jpg") == ["traffic light"] * 2
    assert [(p.reason, p.unit) for p in found.problems] == [("classes of one name are one class", "part")]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("nc: 3\nnames: [cat, dog]", "nc: 3, but 2 names"),
        ("nc: one\nnames: [cat]", "nc: one, but 1 names"),
        ("names: {0: cat, 0: dog}", "the key '0' is there twice"),
        ("names: {0: cat, 00: dog}", "a number twice among 2 names"),
        ("names: {-1: cat}", "found a mapping"),
        ("names: [cat, [dog, cow]]", "found a list; a list of names"),
        ("names: " + "[" * 5000, "is not YAML"),
        ("a: &a [x,x]\nb: &b [*a,*a]\nnames: [*b, *b]", "found a list; a list of names"),
        ("names: !!python/object/apply:os.system ['true']\nnc: 2", "nc: 2, but 1 names"),
        ("- cat\n- dog", "found no mapping"),
        ("names: [cat]\nkpt_shape: [4]", "kpt_shape: the number of key points, and 2 or 3"),
        ("names: [cat]\nkpt_shape: [4, 5]", "kpt_shape"),
        ("names: [cat]\nflip_idx: [0, 1]", "found flip_idx, but no kpt_shape"),
        ("names: [cat]\ntask: pose", "task: pose, but no kpt_shape"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(tmp_path: Path, yaml: str, message: str):
    with pytest.raises(DataError, match="data.yaml") as found:
        one(tmp_path, CAT, yaml)
    assert message in str(found.value)


def test_the_yaml_file_that_is_named_is_read(tmp_path: Path):
    files = {"images/a.jpg": "", "labels/a.txt": CAT, "data.yaml": "names: [old]", "new.yaml": "names: [new]"}
    lay(tmp_path, {**files, "third.yml": "names: [third]", "broken.yaml": "["})
    for uri, name in (("", "old"), ("data.yaml", "old"), ("new.yaml", "new"), ("third.yml", "third")):
        assert names_of(read(tmp_path, "images/a.jpg", uri=uri), "images/a.jpg") == [name]
    with pytest.raises(StoreError, match="gone.yaml does not exist"):
        read(tmp_path, "images/a.jpg", uri="gone.yaml")
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"new.yaml, third.yml all have names of objects; name one of them in uri"):
        read(tmp_path, "images/a.jpg")


def test_only_the_sets_of_the_named_file_have_its_names(tmp_path: Path):
    lay(
        tmp_path,
        {
            f"{kind}/{part}/a.{end}": text
            for part in ("old", "new")
            for kind, end, text in (("images", "jpg", ""), ("labels", "txt", CAT))
        },
    )
    lay(tmp_path, {"data.yaml": "train: images/old\nnames: [cat]", "new.yaml": "train: images/new\nnames: [dog]"})
    found = read(tmp_path, "images/old/a.jpg", "images/new/a.jpg", uri="new.yaml")
    assert names_of(found, "images/new/a.jpg") == ["dog"] and found.unknown == ("images/old/a.jpg",)
    assert [(p.reason, p.count) for p in found.problems] == [("label files outside the sets of the YAML file", 1)]


@pytest.mark.parametrize(
    ("uri", "settings"),
    [
        ("cfg/mine.yaml", "path: ../set\ntrain: images/train"),
        ("cfg", "path: ../set/\ntrain: images/train\nval: images/train\ntest:"),
        ("cfg/mine.yaml", "path: {root}/set\ntrain: images/train\ntest: null"),
        ("cfg/mine.yaml", "train: ../set/images/train"),
        ("cfg/mine.yaml", "path: ..\ntrain: [set/images/train]"),
        ("cfg/mine.yaml", "path: ../set\ntrain: train.txt"),
        ("cfg/mine.yaml", "path: ../set\ntrain: {root}/set/images/train"),
        ("cfg/mine.yaml", "path: ../set\ntrain: /elsewhere/set/images/train"),
        ("cfg/mine.yaml", "path: ../set\ntrain: ../images/train"),
        ("cfg/mine.yaml", "path: ../set\ntrain: D:\\data\\images\\train"),
        ("cfg/mine.yaml", "path: ../set"),
    ],
)
def test_a_path_leads_to_the_set(tmp_path: Path, uri: str, settings: str):
    lay(
        tmp_path,
        {"set/images/train/a.jpg": "", "set/labels/train/a.txt": CAT, "set/train.txt": "./images/train/a.jpg\n"},
    )
    lay(tmp_path, {"cfg/mine.yaml": "names: [cat]\n" + settings.format(root=tmp_path), "other/a.png": ""})
    for name in (
        ("images/train/a.jpg", "a.jpg")
        if "train.txt" not in settings and "train:" in settings
        else ("images/train/a.jpg",)
    ):
        if settings.startswith(("train", "path: ..\n")) and name != "a.jpg":
            continue
        found = read(tmp_path, name, uri=uri)
        assert names_of(found, name) == ["cat"] and not found.problems


def test_a_path_that_leads_nowhere_is_told(tmp_path: Path):
    found = one(tmp_path, CAT, "path: /content/drive/set\ntrain: images\nval: /content/val\nnames: [cat]")
    assert names_of(found, "images/a.jpg") == ["cat"]
    assert [(p.reason, p.unit) for p in found.problems] == [
        ("path leads nowhere", "part"),
        ("a set that leads nowhere", "file"),
    ]


def test_a_set_in_a_bucket_stays_there(tmp_path: Path):
    memory = fsspec.filesystem("memory")
    lay(tmp_path, {"images/a.jpg": "", "labels/a.txt": CAT})
    for name, text in {
        "cfg/d.yaml": "path: ../set\nnames: [cat]\ntrain: images",
        "cfg/out.yaml": f"path: {tmp_path}\nnames: [cat]",
        "set/images/a.jpg": "",
        "set/labels/a.txt": CAT,
    }.items():
        memory.pipe_file(f"/pail/{name}", text.encode())
    form = FORMATS.get("yolo")()
    files = form.files("memory://pail/cfg/d.yaml")
    assert [
        c.text for c in form.open(files).read_claims(form.open(files).entries[0], named("images/a.jpg")).claims
    ] == ["cat"]
    assert files.digest() == form.files("memory://pail/cfg/d.yaml").digest() and files.stamp()
    with pytest.raises(DataError, match="no label file"):
        form.open(form.files("memory://pail/cfg/out.yaml"))


# ---------------------------------------------------------------- lines


def only_claim(found: ReadResult) -> Claim:
    (claim,) = found.claims["images/a.jpg"].claims
    return claim


def reasons(found: ReadResult) -> list[tuple[str, str]]:
    return [(problem.reason, problem.unit) for problem in found.problems]


@pytest.mark.parametrize(
    ("shape", "points"),
    [
        ("[4, 3]", "0.4 0.3 1 0.6 0.3 1 0 0 0 0.6 0.7 2"),
        ("[4, 2]", "0.4 0.3 0.6 0.3 0.4 0.7 0.6 0.7"),
        ("[1, 2]", "0.9 0.9"),
    ],
)
def test_key_points_are_no_polygon(tmp_path: Path, shape: str, points: str):
    yaml = f"names: [person]\nkpt_shape: {shape}"
    for end, score in (("", None), (" 0.75", 0.75)):
        found = one(tmp_path, f"0 0.5 0.5 0.4 0.6 {points}{end}\n", yaml)
        assert (only_claim(found).regions[0].box, only_claim(found).score) == (pytest.approx((48, 24, 112, 96)), score)
        assert only_claim(found).regions[0].polygons == () and reasons(found) == [("key points are not read", "part")]
    found = one(tmp_path, f"0 0.5 0.5 0.4 0.6 {points} 1 1 1\n0 0.5 0.5 0.4 0.6\n", yaml)
    assert reasons(found) == [("another number of columns than kpt_shape says", "label")] and only_claim(found)


def test_key_points_that_the_settings_do_not_tell_are_refused(tmp_path: Path):
    line = "0 0.5 0.5 0.4 0.6 0.4 0.3 1 0.6 0.3 1 0.4 0.7 0 0.6 0.7 1\n"
    with pytest.raises(
        DataError, match=r"kpt_shape: \[4, 3\] into the YAML file, or, if they are polygons, set task: seg"
    ):
        one(tmp_path, line)
    assert len(only_claim(one(tmp_path, line, task="segment")).regions[0].polygons) == 1


def test_a_turned_box_is_a_polygon_of_four_corners(tmp_path: Path):
    corners = cv2.boxPoints(((80.0, 60.0), (60.0, 20.0), 30.0)) / [160, 120]
    line = "0 " + " ".join(f"{v:.6f}" for v in corners.reshape(-1)) + "\n"
    for settings in ({}, {"task": "obb"}, {"task": "segment"}):
        (polygon,) = only_claim(one(tmp_path, line, **settings)).regions[0].polygons
        assert np.abs(np.reshape(polygon, (-1, 2)) - corners * [160, 120]).max() < 0.01
    found = one(tmp_path, line, task="detect")
    low, high = (corners * [160, 120]).min(axis=0), (corners * [160, 120]).max(axis=0)
    assert only_claim(found).regions[0].box == pytest.approx((*low, *high), abs=0.01)
    assert only_claim(found).regions[0].polygons == () and reasons(found) == [("polygon replaced by its box", "part")]


def test_a_box_and_a_polygon_in_one_file_are_each_what_they_are(tmp_path: Path):
    found = one(tmp_path, CAT + "1 0.1 0.1 0.5 0.1 0.5 0.5\n")
    assert [len(c.regions[0].polygons) for c in found.claims["images/a.jpg"].claims] == [0, 1] and not found.problems


@pytest.mark.parametrize("polygon", ["0.1 0.1 0.5 0.1 0.5 0.5", "0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.6"])
def test_scores_and_numbers_of_tracking_are_told_from_coordinates(tmp_path: Path, polygon: str):
    box = "0.5 0.5 0.4 0.4"
    for shape in (box, polygon):
        found = one(tmp_path, "".join(f"0 {shape} 0.{k}\n" for k in (7, 8)))
        assert [c.score for c in claims_of(found, named("images/a.jpg"))] == [0.7, 0.8]
        found = one(tmp_path, "".join(f"0 {shape} 0.9 {k}\n" for k in (1, 2)))
        assert [(c.score, len(c.regions[0].polygons)) for c in found.claims["images/a.jpg"].claims] == [
            (0.9, int(shape != box))
        ] * 2
        assert reasons(found) == [("numbers of tracking are not read", "part")] * 2
        found = one(tmp_path, "".join(f"0 {shape} {k}\n" for k in (1, 2, 3)))
        assert [c.score for c in found.claims["images/a.jpg"].claims] == [None] * 3


def test_a_polygon_that_is_cut_off_is_not_another_one(tmp_path: Path):
    whole = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.2 0.6\n"
    for cut in ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.2", "0 0.1 0.1 0.5 0.1 0.5"):
        found = one(tmp_path, whole * 3 + cut)
        assert (
            reasons(found) == [("another number of columns", "label")] and len(found.claims["images/a.jpg"].claims) == 3
        )


def test_angles_are_no_scores(tmp_path: Path):
    found = one(tmp_path, "0 0.5 0.5 0.4 0.4 0.5\n0 0.5 0.5 0.4 0.4 1.57\n0 0.5 0.5 0.4 0.4 -0.7\n")
    assert set(found.errors) == {"images/a.jpg"}


@pytest.mark.parametrize(
    "data",
    [
        CAT.replace(" ", "\t").encode(),
        codecs.BOM_UTF8 + CAT.encode(),
        CAT.encode("utf-16"),
        CAT.encode("utf-16-le"),
        CAT.replace("\n", "\r\n").encode(),
        CAT.replace("\n", "\r").encode(),
        b"# caf\xe9\n\n  " + CAT.strip().encode() + b"   # a cat \xe9\n",
        CAT.replace("0 ", "0.0 ", 1).encode(),
        CAT.replace("0.5", "5e-1").encode(),
    ],
)
def test_lines_of_every_encoding_and_spacing(tmp_path: Path, data: bytes):
    lay(tmp_path, {"data.yaml": "names: [cat, dog]", "images/a.jpg": "", "labels/a.txt": data})
    found = read(tmp_path, "images/a.jpg")
    assert [c.regions[0].box for c in claims_of(found, named("images/a.jpg"))] == [pytest.approx((48, 36, 112, 84))]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 80 60 40 40", "pixels instead of shares"),
        ("0 0.5 0.5 1.2 0.4", "shares beyond 0 to 1"),
        ("0 -0.2 0.5 0.4 0.4", "shares beyond 0 to 1"),
        ("0 0,5 0,5 0,4 0,4", "not a number"),
        ("0,0.5,0.5,0.4,0.4", "not a number"),
        ("0 0.5 0.5 0.4 0.4 cat", "not a number"),
        ("0 0_5 0.5 0.4 0.4", "not a number"),
        ("7 0.5 0.5 0.4 0.4", "not a class of the data set"),
        ("-1 0.5 0.5 0.4 0.4", "not a class of the data set"),
        ("0 0.5 0.5", "another number of columns"),
        ("0 0.5 0.5 0.4 -0.4", "shares beyond 0 to 1"),
        ("0 0.1 0.1 0.1 0.1 0.1 0.1", "no pixel of the image"),
    ],
)
def test_every_lost_label_has_a_reason_and_is_counted(tmp_path: Path, line: str, reason: str):
    found = one(tmp_path, f"{CAT}{line}\n")
    assert reasons(found) == [(reason, "label")] and names_of(found, "images/a.jpg") == ["cat"]
    assert set(one(tmp_path, line).errors) == {"images/a.jpg"}, "without another label, the image is not understood"


def test_shares_a_little_beyond_are_clipped(tmp_path: Path):
    assert only_claim(one(tmp_path, "0 0.5 0.5 1.005 1.0\n")).regions[0].box == (0, 0, 160, 120)
    found = one(tmp_path, "0 0.9 0.5 0.4 0.5\n")
    assert only_claim(found).regions[0].box == pytest.approx((112, 30, 160, 90))
    assert reasons(found) == [("a box that reaches out of the image", "part")]
