"""Folders as they occur: odd names, broken files, links, missing permissions."""

from __future__ import annotations

import os

import fsspec
import pytest
from PIL import Image

from florence.errors import ImageError, SettingsError, StoreError
from florence.sources import SOURCES, SourceImage


def folder(**options):
    return SOURCES.get("folder")(**options)


def put(path, colour=(200, 30, 30), size=(20, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def tree(tmp_path):
    put(tmp_path / "b.png")
    put(tmp_path / "a b" / "grün und 花.jpeg")
    put(tmp_path / "a b" / "UPPER.JPG")
    put(tmp_path / ".hidden.png")
    put(tmp_path / ".cache" / "x.png")
    (tmp_path / "b.txt").write_text("\ufeff A  red\nsquare ", encoding="utf-8")
    (tmp_path / "readme.md").write_text("no image")
    (tmp_path / "text.jpg").write_text("no image either")
    (tmp_path / "zero.gif").write_bytes(b"")
    return tmp_path


def test_takes_images_in_order_of_names(tree):
    source = folder(uri=str(tree), licence="CC0")
    found = list(source.images(frozenset()))
    assert [item.name for item in found] == ["a b/UPPER.JPG", "a b/grün und 花.jpeg", "b.png", "text.jpg", "zero.gif"]
    assert source.count() == 5
    assert found[2] == SourceImage("b.png", (tree / "b.png").read_bytes(), "CC0", "A red square", ())
    assert found[0].alt_text is None
    assert isinstance(found[4], ImageError) and found[4].reason == "empty"
    again = list(folder(uri=str(tree), licence="CC0").images(frozenset({"b.png"})))
    assert [item.name for item in again] == [item.name for item in found], (
        "known names are read again: the hash decides"
    )


def test_symbolic_links(tree):
    (tree / "a b" / "up").symlink_to(tree, target_is_directory=True)
    (tree / "a b" / "gone.png").symlink_to(tree / "nothing.png")
    (tree / "c").symlink_to(tree / "c", target_is_directory=True)
    outside = put(tree.parent / f"{tree.name}-outside" / "o.png").parent
    (tree / "linked").symlink_to(outside, target_is_directory=True)
    found = {item.name: item for item in folder(uri=str(tree)).images(frozenset())}
    assert "linked/o.png" in found and isinstance(found["a b/gone.png"], ImageError)
    assert sum(name.endswith("b.png") for name in found) == 1, "the link upwards is not walked"


def test_a_name_that_is_no_unicode(tree):
    os.link(os.fsencode(tree / "b.png"), os.fsencode(tree) + b"/caf\xe9.png")
    names = [item.name for item in folder(uri=str(tree)).images(frozenset()) if isinstance(item, SourceImage)]
    assert "caf\\xe9.png" in names
    "".join(names).encode("utf-8")


def test_missing_file_and_empty_folders(tmp_path):
    with pytest.raises(StoreError, match="no such folder"):
        list(folder(uri=str(tmp_path / "none")).images(frozenset()))
    with pytest.raises(StoreError, match="is a file"):
        list(folder(uri=str(put(tmp_path / "x.png"))).images(frozenset()))
    (tmp_path / "empty").mkdir()
    assert list(folder(uri=str(tmp_path / "empty")).images(frozenset())) == []


def test_a_file_without_permission_is_reported(tree, monkeypatch):
    """Root may read all files, so opening and listing are made to fail as the system would."""
    import builtins

    real_open, real_scan = builtins.open, os.scandir

    def guarded_open(file, *args, **kwargs):
        if str(file).endswith("UPPER.JPG"):
            raise PermissionError(13, "Permission denied", str(file))
        return real_open(file, *args, **kwargs)

    def guarded_scan(path="."):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_scan(path)

    (tree / "closed").mkdir()
    monkeypatch.setattr(builtins, "open", guarded_open)
    monkeypatch.setattr(os, "scandir", guarded_scan)
    found = {item.name: item for item in folder(uri=str(tree)).images(frozenset())}
    assert found["a b/UPPER.JPG"].reason == "unreadable" and "Permission" in found["a b/UPPER.JPG"].detail
    assert found["closed"].reason == "unreadable"
    assert isinstance(found["b.png"], SourceImage)
    with pytest.raises(StoreError, match="Permission denied"):
        list(folder(uri=str(tree / "closed")).images(frozenset()))


def test_any_file_system(tree):
    memory = fsspec.filesystem("memory")
    memory.pipe("/photos/x y/b.png", (tree / "b.png").read_bytes())
    memory.pipe("/photos/x y/b.txt", b"words")
    memory.pipe("/photos/.hidden/c.png", b"x")
    try:
        found = list(folder(uri="memory://photos").images(frozenset()))
        assert [(item.name, item.alt_text) for item in found] == [("x y/b.png", "words")]
        with pytest.raises(StoreError, match="nothing is there"):
            list(folder(uri="memory://other").images(frozenset()))
    finally:
        memory.rm("/photos", recursive=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "uri"),
        ({"uri": 3}, "uri"),
        ({"uri": " "}, "uri"),
        ({"uri": "x", "licence": 5}, "licence"),
        ({"uri": "x", "url": "y"}, "'url'"),
        ({"uri": "nope://x"}, "nope"),
    ],
)
def test_wrong_options_are_named(options, named):
    with pytest.raises(SettingsError, match=named):
        folder(**options)


def test_alt_text_beside_the_full_name(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "a.png.txt").write_text("seen")
    assert [item.alt_text for item in folder(uri=str(tmp_path)).images(frozenset())] == ["seen"]


# ---------------------------------------------------------------- what is not read


def listing(path, **options):
    """Return the names that are yielded and what is left out: (reason or ending) → count, remedy."""
    source = folder(uri=str(path), **options)
    names = [item.name for item in source.images(frozenset())]
    assert source.listing is not None
    found = source.listing
    return names, {group.ending or group.reason: (group.count, group.remedy) for group in found.unused}, found


def put_bytes(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_files_of_other_endings_are_counted_with_what_would_have_them_read(tmp_path):
    put(tmp_path / "a.png")
    for name in ("b.pdf", "c.mp4", "c2.MP4", "d.CR2", "e.svg", "f.zip", "g.xyz", "LICENSE", "h.xml", "train.txt"):
        put_bytes(tmp_path / name, b"plain words")
    names, unused, found = listing(tmp_path)
    assert names == ["a.png"] and found.texts == 0 and found.is_whole
    assert unused == {
        ".mp4": (2, "save frames as pictures"),
        ".pdf": (1, "save its pages as pictures"),
        ".cr2": (1, "develop to JPEG"),
        ".svg": (1, "save as PNG or JPEG"),
        ".zip": (1, "unpack it"),
        ".xyz": (1, ""),
        ".xml": (1, ""),
        ".txt": (1, ""),
        "no ending": (1, ""),
    }


def test_endings_of_pictures_in_every_spelling_are_read(tmp_path):
    data = put(tmp_path / "a.jpg").read_bytes()
    for ending in ("jfif", "jpe", "JPEG", "Jfif"):
        put_bytes(tmp_path / f"b{ending}.{ending}", data)
    for form in ("avif", "jp2", "ppm", "pgm"):
        Image.new("L" if form == "pgm" else "RGB", (20, 20), 90).save(tmp_path / f"c.{form}")
    names, unused, _ = listing(tmp_path)
    assert len(names) == 9 and not unused


def test_a_picture_without_an_ending_is_read_by_its_content(tmp_path):
    data = put(tmp_path / "a.png").read_bytes()
    put_bytes(tmp_path / "5ce68a39", data)
    put_bytes(tmp_path / "Makefile", b"all:\n")
    put_bytes(tmp_path / "b.jpg_large", data)
    put_bytes(tmp_path / "c.png~", data)
    names, unused, _ = listing(tmp_path)
    assert names == ["5ce68a39", "a.png"]
    assert unused["no ending"] == (1, "")
    assert unused[".jpg_large"] == unused[".png~"] == (1, "by content PNG: rename to .png")


def test_heic_is_read_with_its_extra_and_named_without(tmp_path, monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    Image.new("RGB", (20, 20), (9, 9, 9)).save(tmp_path / "a.HEIC", "HEIF")
    put_bytes(tmp_path / "b.heic", put(tmp_path / "c.jpg").read_bytes())
    assert listing(tmp_path)[0] == ["a.HEIC", "b.heic", "c.jpg"]
    monkeypatch.setattr("florence.sources.folder.can_open_heic", lambda: False)
    names, unused, _ = listing(tmp_path)
    assert names == ["b.heic", "c.jpg"] and unused == {".heic": (1, "pip install 'florence[heic]'")}


def test_thumbnails_of_cameras_and_servers_are_counted(tmp_path):
    put(tmp_path / "a.jpg")
    for name in (
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
        ".thumbnails/a.jpg",
        ".@__thumb/a.jpg",
        "__MACOSX/._a.jpg",
        "sub/.AppleDouble/a.jpg",
        "#recycle/old.jpg",
    ):
        put(tmp_path / name)
    put_bytes(tmp_path / "._a.jpg")
    put_bytes(tmp_path / "Thumbs.db")
    put_bytes(tmp_path / "sub/.DS_Store")
    put_bytes(tmp_path / "b.THM", (tmp_path / "a.jpg").read_bytes())
    put(tmp_path / ".secret/a.jpg")
    put(tmp_path / ".b.jpg")
    names, unused, _ = listing(tmp_path)
    assert names == ["a.jpg"]
    assert unused == {"thumbnails and files of the system": (10, ""), "hidden files": (2, "")}


def test_a_bucket_leaves_out_the_same(tmp_path):
    memory = fsspec.filesystem("memory")
    data = put(tmp_path / "b.png").read_bytes()
    for name in ("b.png", "@eaDir/b.png", ".x/c.png", "x.pdf", "out/images/a.png", "out/florence-export.json", "noend"):
        memory.pipe(f"/mixed/{name}", data)
    memory.pipe("/single/photos.zip", b"PK\x03\x04" + bytes(100))
    try:
        names, unused, _ = listing("memory://mixed")
        assert names == ["b.png", "noend"]
        assert {key: count for key, (count, _) in unused.items()} == {
            ".pdf": 1,
            "thumbnails and files of the system": 1,
            "hidden files": 1,
            "an export of Florence": 2,
        }
        with pytest.raises(StoreError, match="is an archive"):
            listing("memory://single/photos.zip")
    finally:
        memory.rm("/mixed", recursive=True)
        memory.rm("/single", recursive=True)


@pytest.mark.parametrize(("name", "form"), [("p.zip", "ZIP"), ("p.tar", "TAR"), ("p.tgz", "GZIP"), ("photos", "ZIP")])
def test_an_archive_in_place_of_a_folder_is_named(tmp_path, name, form):
    import tarfile
    import zipfile

    picture, path = put(tmp_path / "a.png"), tmp_path / name
    if form == "ZIP":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(picture, "a.png")
    else:
        with tarfile.open(path, "w:gz" if form == "GZIP" else "w") as archive:
            archive.add(picture, "a.png")
    with pytest.raises(StoreError, match=rf"is an archive \({form}\): unpack it"):
        listing(path)


def test_what_florence_writes_is_not_read(tmp_path):
    for name in (
        "params.yaml",
        "dvc.yaml",
        "data.dvc",
        ".florence/lock",
        "build/data_docs/static/logo.png",
        "build/report/a.jpg",
        "mlruns/0/artifacts/plot.png",
        "plots/train.png",
        "model/config.json",
        "data/images/mine-00000.parquet",
        "data/snapshot.json",
        "yolo/florence-export.json",
        "yolo/images/train/a.png",
        "venv/pyvenv.cfg",
        "venv/lib/site-packages/x/logo.png",
        ".git/objects/ab",
    ):
        put_bytes(tmp_path / name, put(tmp_path / "photos/a.png").read_bytes())
    put(tmp_path / "data/mine.png")
    put(tmp_path / "photos/build/house.png")
    names, unused, _ = listing(tmp_path)
    assert names == ["data/mine.png", "photos/a.png", "photos/build/house.png"]
    assert unused == {
        "of a workspace of Florence": (12, ""),
        "an export of Florence": (2, ""),
        "of installed programs": (2, ""),
    }
    assert listing(tmp_path / "yolo")[0] == ["images/train/a.png"], "an export that is named itself is read"


def test_a_workspace_below_the_source_is_left_out_too(tmp_path):
    put(tmp_path / "a.png")
    put_bytes(tmp_path / "work/params.yaml")
    put_bytes(tmp_path / "work/dvc.yaml", b"stages:\n  train:\n    cmd: florence train\n")
    put(tmp_path / "work/build/data_docs/logo.png")
    put(tmp_path / "work/photos/b.png")
    (tmp_path / "link").symlink_to(tmp_path / "work", target_is_directory=True)
    names, unused, _ = listing(tmp_path)
    assert [name.split("/")[-1] for name in names] == ["a.png", "b.png"]
    assert unused == {"of a workspace of Florence": (3, "")}


def test_a_project_of_somebody_else_is_read(tmp_path):
    put_bytes(tmp_path / "params.yaml")
    put_bytes(tmp_path / "dvc.yaml", b"stages: {}")
    put(tmp_path / "data/a.png")
    put(tmp_path / "build/b.png")
    assert listing(tmp_path)[0] == ["build/b.png", "data/a.png"]


def test_labels_beside_a_picture_are_no_alt_text(tmp_path):
    for name, text in (
        ("a", "0 0.5 0.5 0.2 0.2\n"),
        ("b", "a cat on a mat"),
        ("c", "12 4 9 9"),
        ("classes", "cat\ndog\n"),
        ("d", ""),
    ):
        put(tmp_path / f"{name}.png", size=(20 + ord(name[0]), 20))
        put_bytes(tmp_path / f"{name}.txt", text.encode())
    source = folder(uri=str(tmp_path))
    assert {item.name: item.alt_text for item in source.images(frozenset())} == {
        "a.png": None,
        "b.png": "a cat on a mat",
        "c.png": None,
        "classes.png": None,
        "d.png": None,
    }
    assert source.listing.texts == 1 and sum(group.count for group in source.listing.unused) == 4
    assert all(group.remedy.startswith("no alt text: ") for group in source.listing.unused)


def test_every_file_is_counted_also_what_is_no_file(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "dead").symlink_to(tmp_path / "nothing")
    (tmp_path / "dead.txt").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    os.mkfifo(tmp_path / "pipe.png")
    put_bytes(tmp_path / ".IMG_1.HEIC.icloud")
    put_bytes(tmp_path / "b.jpg.crdownload", put(tmp_path / "a.png").read_bytes()[:99])
    found, unused, _ = listing(tmp_path)
    assert sorted(found) == ["a.png", "self.png"]
    assert unused == {
        "symbolic links to nothing": (3, ""),
        "pipes, sockets and devices": (1, ""),
        "that are in iCloud alone (have them downloaded)": (1, ""),
        ".crdownload": (1, "finish the download"),
    }
    assert len(found) + sum(count for count, _ in unused.values()) == len(os.listdir(tmp_path))


def test_files_of_a_folder_that_may_not_be_entered_are_told(tree, monkeypatch):
    """Root may enter all folders, so asking for a file's status is made to fail as the system would."""
    real = os.stat

    def guarded(path, *args, **kwargs):
        if str(path).endswith(("UPPER.JPG", "notes.csv")):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    put_bytes(tree / "a b/notes.csv")
    monkeypatch.setattr(os, "stat", guarded)
    source = folder(uri=str(tree))
    found = {item.name: item for item in source.images(frozenset())}
    assert found["a b/UPPER.JPG"].reason == "unreadable" and "Permission" in found["a b/UPPER.JPG"].detail
    assert ("that this user may not read", 1) in [(group.reason, group.count) for group in source.listing.unused]


def test_a_folder_is_met_in_its_own_place_not_as_a_link_to_it(tmp_path):
    put(tmp_path / "photos/2020/a.png")
    put(tmp_path / "photos/b.png", (1, 2, 3))
    (tmp_path / "album").symlink_to(tmp_path / "photos/2020", target_is_directory=True)
    (tmp_path / "photos/again").symlink_to(tmp_path / "photos", target_is_directory=True)
    assert listing(tmp_path)[0] == ["photos/2020/a.png", "photos/b.png"]


def test_a_text_beside_a_picture_may_have_a_large_ending_and_be_unreadable(tmp_path, monkeypatch):
    put(tmp_path / "a.JPG")
    put_bytes(tmp_path / "a.TXT", b"a wall")
    put(tmp_path / "b.jpg", (1, 2, 3))
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.TXT")
    real = open

    def guarded(file, *args, **kwargs):
        if str(file).endswith("b.txt"):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", guarded)
    source = folder(uri=str(tmp_path))
    assert {item.name: item.alt_text for item in source.images(frozenset())} == {"a.JPG": "a wall", "b.jpg": None}
    assert [(group.count, group.remedy) for group in source.listing.unused] == [(1, "no alt text: Permission denied")]


@pytest.mark.parametrize(("ending", "form"), [("mpo", "MPO"), ("apng", "PNG"), ("pjpeg", "JPEG"), ("JIF", "JPEG")])
def test_rare_endings_of_formats_that_are_read(tmp_path, ending, form):
    Image.new("RGB", (20, 20), (9, 9, 9)).save(tmp_path / f"a.{ending}", form)
    assert listing(tmp_path)[0] == [f"a.{ending}"]
