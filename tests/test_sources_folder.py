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
