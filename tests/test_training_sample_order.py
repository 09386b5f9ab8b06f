"""The images and tasks of a step: functions of seed and step, whatever is in memory and however the step is split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainings import scenes, small

from florence.errors import DataError, SettingsError
from florence.model.checkpoint import build
from florence.store import Store
from florence.training import dataset as datasets
from florence.training import read_dataset
from florence.training.batches import BatchLoader, TrainingBatch, draw_examples, load_batch, split_by_length
from florence.training.loop import train
from florence.training.sample_order import SampleOrder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Store:
    """Write sixty scenes in six shards."""
    return scenes(tmp_path_factory.mktemp("data"), 60)


@pytest.fixture(scope="module")
def nano():
    return build("nano", image_size=32)


def pairs(parts: list[TrainingBatch]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return (image, task, prompt) of every row."""
    found = []
    for part in parts:
        rows = [
            (image, ids) for group in part.prompts for image, ids in zip(group.images, group.input_ids, strict=True)
        ]
        found += [
            (part.image_ids[image], name, tuple(int(i) for i in ids if i != 1))
            for (image, ids), name in zip(rows, part.tasks, strict=True)
        ]
    return sorted(found)


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(sum),
    buffer_size=st.integers(1, 14),
    seed=st.integers(0, 3),
    step=st.integers(1, 7),
)
def test_an_epoch_has_every_image_once_and_steps_follow_each_other(sizes, buffer_size, seed, step):
    order = SampleOrder(np.asarray(sizes), buffer_size, seed)
    n = order.images
    for epoch in range(2):
        positions = order.positions(epoch * n, n)
        assert {position.epoch for position in positions} == {epoch}
        drawn_images = []
        for position in positions:
            bounds = np.cumsum([0, *(sizes[s] for s in position.shards)])
            shard = int(np.searchsorted(bounds, position.image, side="right")) - 1
            drawn_images.append((position.shards[shard], position.image - int(bounds[shard])))
        assert sorted(drawn_images) == [(shard, image) for shard, size in enumerate(sizes) for image in range(size)]
        assert all(len(position.shards) <= buffer_size for position in positions), "no more shards are held at a time"
    again = SampleOrder(np.asarray(sizes), buffer_size, seed)
    assert [position for at in range(0, 2 * n, step) for position in again.positions(at, step)][
        : 2 * n
    ] == order.positions(0, 2 * n)


def test_one_buffer_is_one_full_shuffle_and_more_are_shuffled_within():
    sizes = np.full(8, 50)
    whole, narrow = SampleOrder(sizes, 8, 0), SampleOrder(sizes, 2, 0)
    first = [position.image // 50 for position in whole.positions(0, 100)]
    assert np.bincount(first, minlength=8).min() >= 5, "every shard is in the first quarter"
    shards = [[p.shards[p.image // 50] for p in narrow.positions(at, 100)] for at in (0, 100)]
    assert all(len(set(found)) == 2 and 20 <= np.bincount(found[:50]).max() <= 40 for found in shards)
    assert narrow.buffers(0) != narrow.buffers(1) and narrow.positions(0, 400) != SampleOrder(sizes, 2, 1).positions(
        0, 400
    )


@pytest.mark.parametrize("buffer_size", [1, 2, 99])
def test_micro_batches_and_processes_do_not_change_the_examples_of_a_step(data, nano, buffer_size):
    chosen = small(batch_size=8, tasks_per_image=3, shuffle_buffer=buffer_size)
    dataset = read_dataset(nano, chosen, data)
    for step in (0, 6):
        whole = pairs(BatchLoader(dataset, chosen).load_step(step))
        halves = [
            BatchLoader(dataset, chosen.model_copy(update={"gradient_accumulation_steps": 2}), rank, 2).load_step(step)
            for rank in (0, 1)
        ]
        assert [len(found) for found in halves] == [2, 2]
        assert pairs([*halves[0], *halves[1]]) == whole


def test_memory_holds_two_buffers(data, nano, monkeypatch):
    chosen = small(batch_size=4, shuffle_buffer=2, steps=40)
    dataset = read_dataset(nano, chosen, data)
    loader, reads, buffer_counts = BatchLoader(dataset, chosen), [], []
    real = datasets.TrainingDataset.read_buffer
    monkeypatch.setattr(
        datasets.TrainingDataset, "read_buffer", lambda self, shards: reads.append(shards) or real(self, shards)
    )
    ids = []
    for step, parts in loader.iterate_from(0):
        buffer_counts.append(len(loader._buffers))
        if step * 4 < len(dataset):
            ids += parts[0].image_ids
    assert max(buffer_counts) == 2 and all(len(shards) == 2 for shards in reads)
    assert len(set(ids)) == len(dataset)


def test_steps_from_the_middle_equal_those_of_the_whole(data, nano):
    chosen = small(batch_size=5, shuffle_buffer=2, steps=15)
    dataset = read_dataset(nano, chosen, data)
    whole = dict(BatchLoader(dataset, chosen).iterate_from(0))
    for step, parts in BatchLoader(dataset, chosen).iterate_from(11):
        assert pairs(parts) == pairs(whole[step]) and np.array_equal(parts[0].pixel_values, whole[step][0].pixel_values)


def test_a_store_that_changes_is_an_error(data, nano, tmp_path):
    import shutil

    shutil.copytree(data.root, tmp_path / "data")
    store = Store(str(tmp_path / "data"))
    dataset = read_dataset(nano, small(), store)
    labels = store.read_table("labels/round-00000.parquet")
    store.write_table("labels/round-00000.parquet", labels.slice(len(labels) // 2))
    with pytest.raises(DataError, match="changed during the training"):
        BatchLoader(dataset, small()).load_step(0)


def test_smaller_fractions_are_part_of_larger_ones(data, nano):
    sets = []
    for fraction in (0.2, 0.5, 0.9, 1.0):
        chosen = small(batch_size=1000, data_fraction=fraction)
        dataset = read_dataset(nano, chosen, data)
        sets.append(set(load_batch(dataset, chosen, 0).image_ids))
        assert len(sets[-1]) == len(dataset)
    assert all(a < b for a, b in zip(sets, sets[1:], strict=False))
    assert [len(s) / len(sets[-1]) for s in sets] == pytest.approx([0.2, 0.5, 0.9, 1.0], abs=0.15)
    with pytest.raises(DataError, match="data_fraction 1e-06"):
        read_dataset(nano, small(data_fraction=1e-6), data)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tasks_are_drawn_by_weight_and_temperature(data, nano, temperature):
    """One task an image: shares are weight^(1/temperature) over their sum; a task of weight 0, or one not named that is
    fine-tuned, is never drawn.
    """
    weights = {**dict.fromkeys(small().drawn, 0.0), "<OD>": 1.0, "<CAPTION>": 2.0, "<REGION_PROPOSAL>": 5.0}
    chosen = small(task_weights=weights, temperature=temperature, tasks_per_image=1)
    dataset = read_dataset(nano, chosen, data)
    image = dataset.read_buffer(dataset.order.buffers(0)[0]).read_image(0, 32)
    assert set(image.examples) == {"<OD>", "<CAPTION>", "<REGION_PROPOSAL>"}
    n = 3000
    drawn = [draw_examples(image, chosen, np.random.default_rng([0, 1, step, 0]))[0].task for step in range(n)]
    powers = {name: weight ** (1 / temperature) for name, weight in weights.items() if weight}
    for name, power in powers.items():
        share = power / sum(powers.values())
        assert drawn.count(name) / n == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / n))
    assert "<VQA>" not in chosen.drawn and chosen.weight("<VQA>") == 0


FEW = ("<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")


@pytest.fixture(scope="module")
def sparse(data, tmp_path_factory) -> tuple[Store, set[str]]:
    """Return the same scenes with detailed texts for every fifth, and the ids of these."""
    import shutil

    import pyarrow as pa
    import pyarrow.compute as pc

    folder = tmp_path_factory.mktemp("sparse") / "data"
    shutil.copytree(data.root, folder)
    store = Store(str(folder))
    labels = store.read_table("labels/round-00000.parquet")
    few = set(sorted(set(labels["image_id"].to_pylist()))[::5])
    detailed = pc.is_in(labels["task"], pa.array(FEW))
    store.write_table(
        "labels/round-00000.parquet",
        labels.filter(pc.or_(pc.invert(detailed), pc.is_in(labels["image_id"], pa.array(sorted(few))))),
    )
    return store, few


@pytest.mark.parametrize("buffer_size", [2, 99])
def test_sparse_tasks_are_trained_last_on_the_images_that_have_them(sparse, nano, buffer_size):
    store, few = sparse
    chosen = small(batch_size=4, steps=10, sparse=FEW, sparse_share=0.4, shuffle_buffer=buffer_size, tasks_per_image=3)
    dataset = read_dataset(nano, chosen, store)
    ids = set()
    for step, (part,) in BatchLoader(dataset, chosen).iterate_from(0):
        rows = pairs([part])
        if step < 6:
            assert not {name for _, name, _ in rows} & set(FEW)
        else:
            ids |= {image for image, _, _ in rows}
            for image in set(part.image_ids):
                own = [name for of, name, _ in rows if of == image]
                assert set(FEW) <= set(own) and len(set(own)) == 3, "both of them, and one other"
    assert ids <= few and len(ids) > 4
    whole = dict(BatchLoader(dataset, chosen).iterate_from(0))
    for step, parts in BatchLoader(dataset, chosen).iterate_from(7):
        assert pairs(parts) == pairs(whole[step]), "a killed training goes on with the same"
    halves = [
        BatchLoader(dataset, chosen.model_copy(update={"gradient_accumulation_steps": 2}), rank, 2).load_step(8)
        for rank in (0, 1)
    ]
    assert pairs([*halves[0], *halves[1]]) == pairs(whole[8])


def test_sparse_tasks_have_a_learning_rate_schedule_of_their_own(sparse, tmp_path):
    """After the decay of the first part the rate rises again: a fine-tuning that begins where the rate has ended learns
    next to nothing.
    """
    store, _ = sparse
    chosen = small(batch_size=2, steps=80, warmup=4, sparse=FEW, sparse_share=0.5, tasks_per_image=1, save_steps=100)
    checkpoint = build("nano", image_size=32)
    rates = {
        row["step"]: row["lr"] / chosen.lr
        for row in train(checkpoint, read_dataset(checkpoint, chosen, store), chosen, tmp_path, "key").curve
    }
    assert rates[40] == pytest.approx(rates[80]) and rates[80] < 0.02
    assert rates[20] == pytest.approx(rates[60]) and rates[60] > 0.4


def test_without_sparse_labels_the_other_tasks_are_trained_throughout(sparse, nano, caplog):
    store, _ = sparse
    chosen = small(batch_size=4, steps=10, sparse=("<VQA>",), task_weights={**small().task_weights, "<VQA>": 1.0})
    dataset = read_dataset(nano, chosen, store)
    assert dataset.sparse is None and "<VQA>" in caplog.text
    assert len(list(BatchLoader(dataset, chosen).iterate_from(0))) == 10


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60))
def test_rows_are_split_with_the_least_padding(lengths):
    lengths = np.sort(np.asarray(lengths))
    pieces = split_by_length(lengths)
    assert [first for first, _ in pieces] == [0, *(end for _, end in pieces[:-1])] and pieces[-1][1] == len(lengths)

    def cost(cuts):
        from florence.training.batches import PASS_OVERHEAD

        return sum(PASS_OVERHEAD + (end - first) * int(lengths[end - 1]) for first, end in cuts)

    best = cost(pieces)
    assert best <= cost([(0, len(lengths))])
    for at in range(1, len(lengths)):
        assert best <= cost([(0, at), (at, len(lengths))])


def test_invalid_settings_are_refused(data):
    for bad, message in (
        ({"resolutions": [{"image_size": 32, "share": 0.5}]}, "add up to 0.5"),
        ({"resolutions": [{"image_size": 64, "share": 1.0}]}, "model.image_size, 32"),
        ({"batch_size": 3, "gradient_accumulation_steps": 2, "processes": 2}, "4 micro-batches"),
        ({"task_weights": dict.fromkeys(small().drawn, 0.0)}, "every task has weight 0"),
        ({"task_weights": {"<OD>": -1.0}}, "<OD>"),
        ({"freeze": ["head"]}, "'vision'"),
        ({"sparse": ["<VQA>"]}, "<VQA> is not trained at all"),
        ({"sparse": list(small().drawn)}, "every trained task is sparse"),
    ):
        with pytest.raises(SettingsError, match=message):
            small(**bad)
