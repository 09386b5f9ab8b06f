"""Training: image-task pairs a second of our step against the plain loop over transformers' model.

Our step encodes each image once.

The plain loop passes once over the model for every task, with every image of the step, as is usual: pixel_values,
input_ids, labels; then one step of AdamW. Same model, same examples, same loss (checked), same optimiser, dropout 0.
Eight tasks an image, one example of each.

    python benchmarks/train.py --model base --images 2 --repeats 3
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import load_model, parse_options, print_table, time_in_turn, write_figures
from tqdm import tqdm

from florence.config import TrainSettings, settings_from
from florence.records import ANNOTATIONS, TASKS
from florence.rounds import name_labels
from florence.store import Store
from florence.training.batches import collate
from florence.training.dataset import read_dataset
from florence.training.trainable import TrainableModel
from florence.workspace import Workspace
from florence.workspace.collect import collect_images

EIGHT = (
    "<CAPTION>",
    "<DETAILED_CAPTION>",
    "<OD>",
    "<DENSE_REGION_CAPTION>",
    "<REGION_PROPOSAL>",
    "<REGION_TO_CATEGORY>",
    "<REGION_TO_DESCRIPTION>",
    "<OPEN_VOCABULARY_DETECTION>",
)
IMAGES = {"base": 2, "nano": 16}


def main() -> None:
    """Measure and print."""
    options = parse_options(__doc__ or "", repeats=3)
    torch.set_num_threads(options.threads)
    rows: list[list[Any]] = [
        [
            "model",
            "pixels",
            "images × tasks",
            "plain loop, pairs/s",
            "ours, pairs/s",
            "ratio",
            "loss, plain",
            "loss, ours",
        ]
    ]
    figures = {}
    for name in ("nano", "base") if options.model == "both" else (options.model,):
        figures[name] = found = measure(name, options.images or IMAGES[name], options.repeats)
        rows.append(
            [
                name,
                found["pixels"],
                f"{found['images']} × {len(EIGHT)}",
                f"{found['plain']:.2f}",
                f"{found['ours']:.2f}",
                f"{found['ratio']:.2f}",
                *(f"{v:.5f}" for v in found["losses"]),
            ]
        )
    print_table(f"Training, {options.threads} threads", rows)
    write_figures(options.json, "train", options.threads, figures)


def measure(name: str, images: int, repeats: int) -> dict[str, Any]:
    """Measure both sides of one model. Exit if their losses differ."""
    checkpoint = load_model(name)
    examples, batch = _read_batch(checkpoint, images)
    pairs = len(batch.tasks)
    plain_model = copy.deepcopy(checkpoint.model).train()
    learner = TrainableModel(checkpoint).train()
    steps = _passes(checkpoint, examples)
    optimisers = {
        side: torch.optim.AdamW(part.parameters(), lr=1e-6, fused=True)
        for side, part in (("plain", plain_model), ("ours", checkpoint.model))
    }
    losses: dict[str, list[float]] = {"plain": [], "ours": []}
    bar = tqdm(total=2 * (repeats + 1), desc=name, file=sys.stderr)

    def plain() -> None:
        total, tokens = 0.0, sum(int((step["labels"] != -100).sum()) for step in steps)
        for step in steps:
            share = int((step["labels"] != -100).sum()) / tokens
            loss = plain_model(**step).loss * share
            loss.backward()
            total += float(loss.detach())
        finish("plain", total)

    def ours() -> None:
        total, each = learner(batch)
        loss = total / len(each)
        loss.backward()
        finish("ours", float(loss.detach()))

    def finish(side: str, loss: float) -> None:
        optimisers[side].step()
        optimisers[side].zero_grad(set_to_none=True)
        losses[side].append(loss)
        bar.update()

    seconds = time_in_turn({"plain": plain, "ours": ours}, repeats)
    bar.close()
    if not np.allclose(losses["plain"], losses["ours"], rtol=1e-4):
        sys.exit(f"{name}: the two sides do not learn the same: losses {losses}")
    return {
        "pixels": checkpoint.image_size,
        "images": images,
        "pairs": pairs,
        "plain": pairs / seconds["plain"],
        "ours": pairs / seconds["ours"],
        "ratio": seconds["plain"] / seconds["ours"],
        "losses": (losses["plain"][0], losses["ours"][0]),
    }


def _read_batch(checkpoint: Any, images: int) -> tuple[list[tuple[Any, list[Any]]], Any]:
    """Return examples of ``images`` scenes, and the batch of them."""
    with tempfile.TemporaryDirectory() as folder:
        examples = _examples(checkpoint, Store(folder), images)
    text = checkpoint.model.config.text_config
    return examples, collate(examples, checkpoint.image_size, text.pad_token_id, text.decoder_start_token_id)


def _examples(checkpoint: Any, store: Store, images: int) -> list[tuple[Any, list[Any]]]:
    """Return scenes that have an example of all eight tasks, with the first of each."""
    source = {"use": "scenes", "count": images * 4, "size": max(checkpoint.image_size, 128)}
    chosen = {"sources": {"scenes": source}, "annotators": {}, "split": {"held_out": 0.0, "gold": 0.0}}
    collect_images(Workspace(Path(store.root), settings_from(chosen), store, store))
    store.write_table(name_labels(0), store.read_tables("truth", ANNOTATIONS))
    settings = TrainSettings(task_weights={**dict.fromkeys(TASKS, 0.0), **dict.fromkeys(EIGHT, 1.0)})
    dataset = read_dataset(checkpoint, settings, store)
    result = []
    for position in dataset.order.positions(0, len(dataset)):
        image = dataset.read_buffer(position.shards).read_image(position.image, checkpoint.image_size)
        if set(EIGHT) <= set(image.examples):
            result.append((image, [image.examples[task][0] for task in EIGHT]))
    return result[:images]


def _passes(checkpoint: Any, examples: list[tuple[Any, list[Any]]]) -> list[dict[str, torch.Tensor]]:
    """Return the inputs of the plain loop: one task of every image at a time."""
    from florence.model.checkpoint import image_tokens

    config = checkpoint.model.config
    pad, image_ids = config.text_config.pad_token_id, [config.image_token_id] * image_tokens(checkpoint)
    pixels = checkpoint.normalise(np.stack([image.pixels for image, _ in examples]))
    result = []
    for number in range(len(EIGHT)):
        prompts = [torch.tensor(image_ids + drawn[number].prompt.tolist()) for _, drawn in examples]
        labels = [torch.tensor(drawn[number].target.tolist()) for _, drawn in examples]
        ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_value=pad)
        result.append(
            {
                "pixel_values": pixels,
                "input_ids": ids,
                "attention_mask": (ids != pad).long(),
                "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
            }
        )
    return result


if __name__ == "__main__":
    main()
