"""Which file has had which content, collection by collection: replaced, gone, back, moved, doubled, killed."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from workspaces import workspace_of

from florence.config import settings_from
from florence.errors import DataError
from florence.image_files import FILES, ImageFiles, find_dropped_images, list_rows, read_files
from florence.store import Store
from florence.workspace.collect import CollectResult, collect_images
from florence.workspace.collected import describe_collected, read_collected


def photo(seed: int, form: str = "PNG", **options) -> bytes:
    """Return a picture of noise, another for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, form, **options)
    return sink.getvalue()


def put(folder: Path, **seeds: int) -> Path:
    """Write pictures; a name's number is its seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in seeds.items():
        (folder / f"{name}.png").write_bytes(photo(seed))
    return folder


def collect(
    store: Path, root: Path = Path("no-such-folder"), gone: str = "keep", **sources: str | dict
) -> CollectResult:
    """Collect folders, by the keys of their sources."""
    sections = {
        key: {"use": "folder", **(value if isinstance(value, dict) else {"uri": str(value)})}
        for key, value in sources.items()
    }
    chosen = settings_from({"sources": sections, "annotators": {}, "collect": {"shard": 2, "gone": gone}})
    result = collect_images(workspace_of(chosen, Store(str(store)), root=root))
    for one in result.files:
        parts = one.images + one.duplicates + one.texts + sum(one.rejected.values())
        assert one.listed == parts + sum(group.count for group in one.unused), one
    return result


def rows(store: Path) -> list[tuple[str, int, int | None, str]]:
    """Return name, since, until and status of each row."""
    return [(r.name, r.since, r.until, r.status) for r in list_rows(read_files(Store(str(store))))]


def test_a_replaced_photo_ends_one_row_and_begins_another(tmp_path: Path):
    photos, store = put(tmp_path / "photos", a=1, b=2), tmp_path / "store"
    collect(store, mine=photos)
    assert rows(store) == [("a.png", 1, None, "present"), ("b.png", 1, None, "present")]
    put(photos, a=3)
    done = collect(store, mine=photos)
    assert (done.new, done.total, done.files[0].replaced) == (1, 3, 1)
    assert rows(store) == [
        ("a.png", 1, 2, "replaced"),
        ("b.png", 1, None, "present"),
        ("a.png", 2, None, "present"),
    ]
    assert "1 file is replaced by another picture" in describe_collected(done.files)[0]
    put(photos, a=1)
    assert collect(store, mine=photos).new == 0, "the first picture is known"
    assert [row[1:] for row in rows(store) if row[0] == "a.png"] == [
        (1, 2, "replaced"),
        (2, 3, "replaced"),
        (3, None, "present"),
    ]
    assert len(find_dropped_images(Store(str(store)))) == 1


def test_a_file_that_is_gone_is_told_once_and_may_come_back(tmp_path: Path):
    photos, store = put(tmp_path / "photos", a=1, b=2), tmp_path / "store"
    collect(store, mine=photos)
    (photos / "a.png").unlink()
    done = collect(store, mine=photos)
    assert (done.files[0].newly_gone, done.files[0].gone, done.total) == (1, 1, 2)
    assert any("1 file is gone (a.png)" in line for line in describe_collected(done.files))
    assert rows(store)[0] == ("a.png", 1, 2, "gone") and len(find_dropped_images(Store(str(store)))) == 1
    again = collect(store, mine=photos)
    assert (again.files[0].newly_gone, again.files[0].gone) == (0, 1) and describe_collected(again.files) == []
    put(photos, a=1)
    back = collect(store, mine=photos)
    assert (back.new, back.files[0].returned, back.files[0].gone) == (0, 1, 0)
    assert rows(store)[0] == ("a.png", 1, None, "present") and not find_dropped_images(Store(str(store)))


def test_a_file_that_is_damaged_now_has_lost_its_picture(tmp_path: Path):
    photos, store = put(tmp_path / "photos", a=1, b=2), tmp_path / "store"
    collect(store, mine=photos)
    (photos / "a.png").write_bytes(photo(1)[:200])
    done = collect(store, mine=photos)
    assert done.files[0].rejected == {"truncated": 1} and rows(store)[0] == ("a.png", 1, 2, "replaced")
    put(photos, a=1)
    assert collect(store, mine=photos).rejected_files == ()
    (photos / "a.png").unlink()
    (photos / "c.png").write_bytes(b"")
    collect(store, mine=photos)
    (photos / "c.png").unlink()
    assert collect(store, mine=photos).rejected_files == (), "a damaged file that is gone is rejected no more"


def test_nothing_is_gone_from_a_folder_that_was_not_listed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import os

    photos, store = tmp_path / "photos", tmp_path / "store"
    put(photos, a=1)
    put(photos / "sub", b=2)
    collect(store, mine=photos)
    real = os.scandir

    def guarded(path="."):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    done = collect(store, mine=photos)
    assert done.files[0].rejected == {"unreadable": 1} and done.files[0].newly_gone == 0


def test_another_folder_with_the_same_names_is_refused_before_anything_is_added(tmp_path: Path):
    january, february = put(tmp_path / "jan", p0=1, p1=2), put(tmp_path / "feb", p0=3, p1=2, p9=4)
    store = tmp_path / "store"
    collect(store, photos=january)
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    with pytest.raises(DataError, match=r"sources\.photos\.uri was .*jan and is .*feb, where 1 file has .*\(p0\.png\)"):
        collect(store, other=put(tmp_path / "new", z=9), photos=february)
    assert {p: p.read_bytes() for p in store.rglob("*") if p.is_file()} == before
    both = collect(store, photos=january, feb=february)
    assert both.new == 2 and [one.duplicates for one in both.files] == [0, 1]
    assert collect(tmp_path / "other", photos=january).new == 2
    moved = collect(tmp_path / "other", photos={"uri": str(february), "moved_from": f"{january}/"})
    assert moved.files[0].replaced == 1, "the user says that it is the same folder"


def test_a_folder_that_has_moved_is_accepted_and_told(tmp_path: Path):
    store = tmp_path / "store"
    collect(store, photos=put(tmp_path / "jan", a=1, b=2, c=3))
    shutil.move(tmp_path / "jan", tmp_path / "archive")
    (tmp_path / "archive" / "c.png").unlink()
    put(tmp_path / "archive", d=4)
    done = collect(store, photos=tmp_path / "archive")
    assert done.new == 1 and done.files[0].moved_from == str(tmp_path / "jan") and done.files[0].newly_gone == 1
    assert "has moved from" in describe_collected(done.files)[0]
    assert collect(store, photos=tmp_path / "archive").files[0].moved_from == ""


def test_a_folder_of_other_names_leaves_the_files_of_the_first(tmp_path: Path):
    store = tmp_path / "store"
    collect(store, photos=put(tmp_path / "jan", a=1, b=2, c=3))
    done = collect(store, photos=put(tmp_path / "feb", d=4, e=5))
    assert (done.new, done.total, done.files[0].newly_gone) == (2, 5, 0)
    with pytest.raises(DataError, match="other contents"):
        collect(store, photos=put(tmp_path / "feb", a=6))


def test_images_of_a_folder_or_source_that_is_not_read_any_more_are_told(tmp_path: Path):
    january, february = put(tmp_path / "jan", a=1, b=2), put(tmp_path / "feb", c=3)
    store = tmp_path / "store"
    collect(store, mine=january, other=february)
    done = collect(store, mine=put(tmp_path / "march", d=4))
    told = {one.source: (one.left, one.left_uri, one.left_examples) for one in done.files}
    assert told == {"mine": (2, str(january), ("a.png", "b.png")), "other": (1, str(february), ("c.png",))}
    lines = [line for line in describe_collected(done.files) if "is not read any more" in line or "are in" in line]
    assert len(lines) == 2 and "2 images are in" in lines[0] and "below `sources`" in lines[0]
    assert read_collected(Store(str(store))) == tuple(replace(one, new=0) for one in done.files)
    assert not find_dropped_images(Store(str(store)))
    back = collect(store, mine=january, third=february, march=tmp_path / "march")
    assert [one.left for one in back.files] == [0, 0, 0], "the same pictures under another key are read"


def test_images_that_are_not_read_any_more_leave_if_images_without_a_file_do(tmp_path: Path):
    january, store = put(tmp_path / "jan", a=1, b=2), tmp_path / "store"
    collect(store, mine=january)
    copy = put(tmp_path / "feb", c=3, d=2)
    done = collect(store, gone="drop", mine=copy)
    assert done.files[0].left == 1 and len(find_dropped_images(Store(str(store)))) == 1
    assert collect(store, gone="drop", mine=copy).files[0].left == 0
    back = collect(store, gone="drop", mine=copy, jan=january)
    assert back.new == 0 and not find_dropped_images(Store(str(store)))


@pytest.mark.parametrize("spelling", ["{}/", "file://{}", "{}/../photos", "link"])
def test_another_spelling_of_the_same_folder_is_no_other_folder(spelling: str, tmp_path: Path):
    photos, store = put(tmp_path / "photos", a=1, b=2, c=5), tmp_path / "store"
    (tmp_path / "link").symlink_to(photos, target_is_directory=True)
    collect(store, mine=photos)
    put(photos, a=3)
    (photos / "c.png").unlink()
    found = str(tmp_path / "link") if spelling == "link" else spelling.format(photos)
    (one,) = collect(store, mine=found).files
    assert (one.replaced, one.newly_gone, one.left, one.moved_from) == (1, 1, 0, "")


def test_a_store_from_before_the_table_gets_it(tmp_path: Path):
    photos, store = put(tmp_path / "photos", a=1, b=1, c=2), tmp_path / "store"
    collect(store, mine=photos)
    expected = rows(store)
    (store / "files.parquet").unlink()
    put(photos, d=3)
    collect(store, mine=photos)
    assert sorted(rows(store)) == sorted([*expected, ("d.png", 1, None, "present")])
    assert read_files(Store(str(store))).schema.equals(FILES)


class Killed(Exception):
    """Stands for the end of a process."""


class FragileStore(Store):
    """A store on which the writing of one file never ends."""

    def __init__(self, uri: str, fatal: str) -> None:
        super().__init__(uri)
        self.fatal = fatal

    def write_bytes(self, name: str, data: bytes) -> None:
        if name == self.fatal:
            raise Killed(name)
        super().write_bytes(name, data)


FATAL = ("images/mine-00000.parquet", "images/mine-00001.parquet", "rejected_files.parquet", "files.parquet")


@pytest.mark.parametrize("fatal", [*FATAL, "collected.json"])
def test_a_killed_collection_ends_as_an_undisturbed_one(fatal: str, tmp_path: Path):
    photos = put(tmp_path / "photos", a=1, b=1, c=2, d=3, e=3)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    collect(whole, mine=photos)
    chosen = settings_from(
        {"sources": {"mine": {"use": "folder", "uri": str(photos)}}, "annotators": {}, "collect": {"shard": 2}}
    )
    with pytest.raises(Killed):
        collect_images(workspace_of(chosen, FragileStore(str(broken), fatal)))
    collect(broken, mine=photos)
    assert {p.relative_to(broken): p.read_bytes() for p in broken.rglob("*") if p.is_file()} == {
        p.relative_to(whole): p.read_bytes() for p in whole.rglob("*") if p.is_file()
    }


def test_what_is_unambiguous_takes_no_memory_and_the_rest_is_answered(tmp_path: Path):
    store = tmp_path / "store"
    put(tmp_path / "jan", a=1, b=2, c=3)
    collect(store, jan=tmp_path / "jan", feb=put(tmp_path / "feb", a=4, twin=2))
    files = ImageFiles(Store(str(store)))
    by_name = {row.name: row.image_id for row in list_rows(read_files(Store(str(store))))}
    assert [(r.source, r.since) for r in files.list_contents("a")] == [("jan", 1), ("feb", 1)]
    assert files.list_contents("c") == [] and files.list_files(by_name["c.png"]) == []
    assert [(r.source, r.name) for r in files.list_files(by_name["b.png"])] == [("jan", "b.png"), ("feb", "twin.png")]
    assert ImageFiles(Store(str(store)), lambda source: source == "jan").list_contents("a")[0].source == "jan"
    assert files.refresh() and files.collection == 1
    put(tmp_path / "jan", c=9)
    collect(store, jan=tmp_path / "jan", feb=tmp_path / "feb")
    files.refresh()
    assert [r.status for r in files.list_contents("c")] == ["replaced", "present"] and files.collection == 2


def test_names_of_a_table_are_compared_as_one_name_is():
    import posixpath

    import pyarrow as pa

    from florence.image_files import cut_suffix, list_keys, normalise_path

    names = [
        "a.JPG",
        "./x//a.jpg",
        "/y\\b.png",
        "cafe\u0301.webp",
        "a.b.jpeg",
        "z/.jpg",
        "no",
        "n.txt",
        "././q/r.tif",
        "a\nb.gif",
    ]
    keys = list_keys(pa.chunked_array([names]), by_base=False).to_pylist()
    assert keys == [cut_suffix(normalise_path(name)) for name in names]
    bases = list_keys(pa.chunked_array([names]), by_base=True).to_pylist()
    assert bases == [cut_suffix(posixpath.basename(normalise_path(name))) for name in names]


def test_many_files_are_held_by_what_is_ambiguous_of_them(tmp_path: Path):
    import tracemalloc

    import pyarrow as pa

    count = 50_000
    names = [f"{k // 1000}/{k % 1000:04d}.jpg" for k in range(count)]
    ids = [f"{k:064x}" for k in range(count)]
    names[7] = names[8]
    columns = [["mine"] * count, ["x"] * count, names, ids, [1] * count, [None] * count, ["present"] * count]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, FILES, strict=True)], schema=FILES)
    store = Store(str(tmp_path))
    store.write_table("files.parquet", table)
    del names, ids, columns, table
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    files = ImageFiles(store)
    assert len(files.list_contents("0/0008")) == 2 and not files.list_contents("0/0009")
    held = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before
    tracemalloc.stop()
    assert held < 100_000, held


def test_what_was_there_is_in_the_store_and_the_same_again_changes_nothing(tmp_path: Path):
    photos, store = put(tmp_path / "photos", a=1, b=1), tmp_path / "store"
    (photos / "note.pdf").write_bytes(b"%PDF-1.4")
    collect(store, mine=photos)
    (one,) = read_collected(Store(str(store)))
    assert (one.listed, one.images, one.duplicates, one.new) == (3, 1, 1, 0)
    assert one.unused[0].ending == ".pdf" and one.unused[0].examples == ("note.pdf",)
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    collect(store, mine=photos)
    assert {p: p.read_bytes() for p in store.rglob("*") if p.is_file()} == before


def test_a_workspace_in_its_own_source_collects_nothing_that_it_wrote(tmp_path: Path):
    put(tmp_path, a=1)
    put(tmp_path / "build" / "data_docs", logo=2)
    put(tmp_path / "artifacts" / "run", plot=3)
    for name in ("params.yaml", "data/snapshot.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    chosen = settings_from(
        {
            "sources": {"mine": {"use": "folder", "uri": str(tmp_path)}},
            "annotators": {},
            "tracking": {"artifacts": "artifacts"},
        }
    )
    opened = workspace_of(chosen, Store(str(tmp_path / "kept here")), root=tmp_path)
    first, again = collect_images(opened), collect_images(opened)
    assert (first.new, again.new, again.total) == (1, 0, 1)
    assert again.files[0].rejected == {} and again.files[0].images == 1


def test_counts_of_a_mixed_folder_add_up_to_what_was_there(tmp_path: Path):
    photos = put(tmp_path / "photos", a=1, twin=1, b=2)
    put(photos / "@eaDir", thumb=3)
    put(photos / ".hidden", h=4)
    (photos / "cut.png").write_bytes(photo(5)[:300])
    (photos / "zero.jpg").write_bytes(b"")
    (photos / "words.gif").write_text("no picture")
    (photos / "b.txt").write_text("a red cat")
    (photos / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    (photos / "lost.jpg").symlink_to(photos / "nowhere.jpg")
    for name in ("x.pdf", "y.mov", "z.zip", "README"):
        (photos / name).write_text("-")
    done = collect(tmp_path / "store", mine=photos)
    (one,) = done.files
    assert one.listed == sum(len(list(files)) for _, _, files in os.walk(photos)) == 15
    assert (one.images, one.duplicates, one.texts) == (2, 1, 1)
    assert one.rejected == {"empty": 1, "truncated": 1, "unreadable": 2}
    lines = describe_collected(done.files)
    assert lines == [
        "mine: not read: 1 .mov (save frames as pictures), 1 .pdf (save its pages as pictures), "
        "1 .txt (no alt text: numbers alone, as labels are), 1 .zip (unpack it), 1 no ending",
        "mine: left out: hidden files (1), thumbnails and files of the system (1)",
    ]


def test_a_snapshot_leaves_out_images_without_a_file_if_settings_say_so(tmp_path: Path):
    from florence.records import ANNOTATIONS, Claim, annotate, annotations_table
    from florence.rounds import name_labels
    from florence.workspace.layout import read_images
    from florence.workspace.publish import list_left_out, publish_snapshot, restore_store

    photos, store = put(tmp_path / "photos", a=1, b=2, c=3), Store(str(tmp_path / "store"))
    collect(tmp_path / "store", mine=photos)
    ids = dict(zip(*(read_images(store)[name].to_pylist() for name in ("name", "image_id")), strict=True))
    (photos / "a.png").unlink()
    put(photos, b=4)
    collect(tmp_path / "store", mine=photos)
    rows = [row for i in ids.values() for row in annotate(i, [Claim("<CAPTION>", "cat")], "consensus", "1", 0)]
    store.write_table(name_labels(0), annotations_table(rows).cast(ANNOTATIONS))
    settings = {"sources": {}, "annotators": {}}
    opened = workspace_of(settings_from(settings), store, Store(str(tmp_path / "data")))
    assert publish_snapshot(opened, [], 0)["counts"]["images"] == 4 and not list_left_out(opened)
    dropping = settings_from({**settings, "collect": {"gone": "drop"}})
    opened = workspace_of(dropping, store, Store(str(tmp_path / "data")))
    assert list_left_out(opened) == {ids["a.png"], ids["b.png"]}
    counts = publish_snapshot(opened, [], 0)["counts"]
    assert (counts["images"], counts["labels"]) == (2, 1)
    assert set(read_images(opened.data)["name"].to_pylist()) == {"b.png", "c.png"}
    clone = workspace_of(dropping, Store(str(tmp_path / "clone")), opened.data)
    restore_store(clone)
    assert read_files(clone.store).equals(read_files(store))
    put(photos, a=1)
    collect(tmp_path / "store", mine=photos)
    assert publish_snapshot(opened, [], 0)["counts"]["images"] == 3, "it is back"
