"""Generation of eight tasks an image, against transformers' processor and `generate`.

Theirs is measured (a) one prompt at a time and (b) batched by task.

Every answer has a fixed number of tokens, the same for all sides, after Tables 2 and 3 of the paper (tokens a text;
regions an image times their tokens); every side decodes greedily without blocking n-grams. Same weights, same pictures.
Ours is `florence.model.generate.generate`; beside it, without a ratio, `predict`, whose answers are constrained to the
grammar and end where they end.

    python benchmarks/generate.py --model base --images 2 --repeats 2
"""

from __future__ import annotations

import io
import sys
import tempfile
from functools import partial
from typing import Any

import numpy as np
import torch
from _common import load_model, parse_options, print_table, time_in_turn, write_figures
from PIL import Image
from tqdm import tqdm

from florence.model.generate import Prompt, Query, generate, predict
from florence.sources import SOURCES
from florence.tasks import task

LENGTHS = {
    "<CAPTION>": 8,
    "<DETAILED_CAPTION>": 32,
    "<MORE_DETAILED_CAPTION>": 71,
    "<OD>": 28,
    "<DENSE_REGION_CAPTION>": 35,
    "<REGION_PROPOSAL>": 22,
    "<CAPTION_TO_PHRASE_GROUNDING>": 25,
    "<OCR_WITH_REGION>": 20,
}
"""Tokens of an answer. The paper does not give those of written text: 20 are two strings with their quads."""
INPUTS = {"<CAPTION_TO_PHRASE_GROUNDING>": "a red car next to a green tree"}
IMAGES = {"base": 4, "nano": 16}


def main() -> None:
    """Measure and print."""
    options = parse_options(__doc__ or "", repeats=2)
    torch.set_num_threads(options.threads)
    rows: list[list[Any]] = [
        [
            "model",
            "pixels",
            "images × tasks",
            "(a) one by one, s",
            "(b) by task, s",
            "ours, s",
            "over (a)",
            "over (b)",
            "tokens",
            "constrained, s",
        ]
    ]
    figures = {}
    for name in ("nano", "base") if options.model == "both" else (options.model,):
        figures[name] = found = measure(name, options.images or IMAGES[name], options.repeats)
        seconds = found["seconds"]
        rows.append(
            [
                name,
                found["pixels"],
                f"{found['images']} × {len(LENGTHS)}",
                *(f"{seconds[side]:.2f}" for side in ("one", "task", "ours")),
                f"{found['over_one']:.2f}",
                f"{found['over_task']:.2f}",
                found["tokens"],
                f"{seconds['constrained']:.2f}",
            ]
        )
    lengths = ", ".join(f"{name} {length}" for name, length in LENGTHS.items())
    print_table(
        f"Generation, {options.threads} threads; tokens an answer: {lengths}",
        rows,
    )
    write_figures(options.json, "generate", options.threads, figures)


def measure(name: str, images: int, repeats: int) -> dict[str, Any]:
    """Measure all sides of one model. Exit if one of them writes another number of tokens."""
    checkpoint = load_model(name)
    net, side = checkpoint.model.eval(), checkpoint.image_size
    scenes = SOURCES.get("scenes")(count=images, size=max(side, 128))
    pictures = [np.asarray(Image.open(io.BytesIO(found.data)).convert("RGB")) for found in scenes.images(frozenset())]
    theirs = partial(_generate_with_transformers, net, _processor(checkpoint))
    queries = [(image, task_name) for image in range(images) for task_name in LENGTHS]
    count = images * sum(LENGTHS.values())
    bar = tqdm(total=4 * (repeats + 1), desc=name, file=sys.stderr)

    def checked(tokens: int) -> None:
        bar.update()
        if tokens != count:
            sys.exit(f"{name}: {tokens} tokens were written where {count} are expected")

    prompts = [Prompt(image, task(task_name).prompt(INPUTS.get(task_name, ""))) for image, task_name in queries]
    limits = [LENGTHS[task_name] for _, task_name in queries]
    sides = {
        "one": lambda: checked(sum(theirs([pictures[image]], task_name) for image, task_name in queries)),
        "task": lambda: checked(sum(theirs(pictures, task_name) for task_name in LENGTHS)),
        "ours": lambda: checked(
            sum(len(one) for one in generate(checkpoint, pictures, prompts, max_tokens=limits, has_fixed_length=True))
        ),
        "constrained": lambda: (
            predict(
                checkpoint,
                pictures,
                [Query(image, task_name, INPUTS.get(task_name, "")) for image, task_name in queries],
                max_tokens=limits,
            ),
            bar.update(),
        ),
    }
    seconds = time_in_turn(sides, repeats)
    bar.close()
    return {
        "pixels": side,
        "images": images,
        "tokens": count,
        "seconds": seconds,
        "over_one": seconds["one"] / seconds["ours"],
        "over_task": seconds["task"] / seconds["ours"],
    }


def _generate_with_transformers(model: Any, processor: Any, pictures: list[Any], task_name: str) -> int:
    """Let transformers answer one task of all pictures in a batch; return the number of tokens."""
    texts = [task_name + INPUTS.get(task_name, "")] * len(pictures)
    inputs = processor(
        images=[Image.fromarray(picture) for picture in pictures], text=texts, return_tensors="pt", padding=True
    )
    length = LENGTHS[task_name]
    with torch.inference_mode():
        found = model.generate(
            **inputs,
            min_new_tokens=length,
            max_new_tokens=length,
            num_beams=1,
            do_sample=False,
            no_repeat_ngram_size=0,
        )
    return int(found.shape[0] * (found.shape[1] - 1))


def _processor(checkpoint: Any) -> Any:
    """Return transformers' own processor, read from a saved checkpoint."""
    from transformers import AutoProcessor

    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(folder)
        return AutoProcessor.from_pretrained(folder)


if __name__ == "__main__":
    main()
