"""Collection on real stores: resumed, repeated and damaged."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from workspaces import workspace_of

from florence.config import settings_from
from florence.store import Store
from florence.workspace.annotate import annotate_shard, list_annotators
from florence.workspace.collect import choose_split, collect_images
from florence.workspace.fuse import fuse_round
from florence.workspace.layout import list_shards, read_images


def settings(count: int = 10, shard: int = 4, **more):
    return settings_from(
        {
            "sources": {"scenes": {"use": "scenes", "count": count}},
            "annotators": {},
            "collect": {"shard": shard},
            **more,
        }
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_collection_is_repeatable_and_a_second_one_takes_nothing(tmp_path: Path):
    first = collect_images(workspace_of(settings(), Store(str(tmp_path / "a"))))
    assert (first.new, first.total) == (10, 10)
    collect_images(workspace_of(settings(), Store(str(tmp_path / "b"))))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    again = collect_images(workspace_of(settings(), Store(str(tmp_path / "a"))))
    assert (again.new, again.total) == (0, 10)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_lost_shard_is_collected_again(tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    collect_images(workspace_of(settings(), Store(str(whole))))
    collect_images(workspace_of(settings(), Store(str(broken))))
    (broken / "images" / "scenes-00001.parquet").unlink()
    collect_images(workspace_of(settings(), Store(str(broken))))
    ids = [set(read_images(Store(str(store)))["image_id"].to_pylist()) for store in (whole, broken)]
    assert ids[0] == ids[1] and contents(broken)["files.parquet"] == contents(whole)["files.parquet"]


def test_damaged_files_are_rejected_files_and_the_rest_goes_on(tmp_path: Path):
    photos = tmp_path / "photos é"
    photos.mkdir()
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(buffer, "JPEG")
    good = buffer.getvalue()
    (photos / "good one.jpg").write_bytes(good)
    (photos / "twin.jpg").write_bytes(good)
    (photos / "cut.jpg").write_bytes(good[: len(good) // 2])
    (photos / "nothing.jpg").write_bytes(b"")
    (photos / "words.jpg").write_text("no picture")
    chosen = settings_from({"sources": {"mine": {"use": "folder", "uri": str(photos)}}, "annotators": {}})
    done = collect_images(workspace_of(chosen, Store(str(tmp_path / "store"))))
    assert done.new == 1
    reasons = {name: reason for _, name, reason, _ in done.rejected_files}
    assert reasons["cut.jpg"] == "truncated" and reasons["nothing.jpg"] == "empty"
    assert reasons["words.jpg"] == "unreadable" and reasons["twin.jpg"] == "duplicate"


def test_the_split_follows_the_hash_alone(tmp_path: Path):
    chosen = settings(split={"held_out": 0.2, "gold": 0.1})
    splits = [choose_split(f"{i:064x}", chosen) for i in range(4000)]
    assert abs(splits.count("held_out") / 4000 - 0.2) < 0.03 and abs(splits.count("gold") / 4000 - 0.1) < 0.02
    assert splits == [
        choose_split(f"{i:064x}", settings(count=3, split={"held_out": 0.2, "gold": 0.1})) for i in range(4000)
    ]


def test_a_collected_image_has_its_hash_and_older_shards_are_read_without(tmp_path: Path):
    from florence.images import decode_image, perceptual_hash
    from florence.records import RECORD_COLUMNS, table_images

    store, chosen = Store(str(tmp_path)), settings(annotators={"careful": {"use": "simulated", "sources": ["*"]}})
    collect_images(workspace_of(chosen, store))
    for record, content in table_images(store.read_table("images/scenes-00000.parquet")):
        assert record.phash == perceptual_hash(decode_image(content, record.name)) and len(record.phash) == 64
    name = "images/scenes-00001.parquet"
    store.write_table(name, store.read_table(name).drop_columns(["phash"]))
    table = read_images(store)
    assert table["phash"].null_count == 4 and table.column_names == RECORD_COLUMNS
    assert collect_images(workspace_of(chosen, store)).new == 0, "what was there stays there"
    annotators = list_annotators(chosen)
    for shard in list_shards(store):
        assert sum(outcome.images for outcome in annotate_shard(workspace_of(chosen, store), annotators, shard)) > 0
    assert set(fuse_round(workspace_of(chosen, store), annotators, 0)["image_id"].to_pylist()) == set(
        table["image_id"].to_pylist()
    )
