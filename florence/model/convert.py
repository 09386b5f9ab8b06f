"""Write a checkpoint in the other layout: the one in which Florence-2 was first published, or transformers' own."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence.errors import FlorenceError, ModelError
from florence.hub.weight_files import WEIGHTS, read_headers
from florence.model import checkpoint as checkpoints
from florence.model import older_layout
from florence.model.folders import open_folder

if TYPE_CHECKING:
    import torch


def write_native(source: str, out: Path) -> None:
    """Write the checkpoint ``source`` in transformers' layout to ``out``; weights keep values and precision.

    Raises ModelError for a source that is no whole checkpoint, or an ``out`` that is not empty.
    """
    from transformers import GenerationConfig

    opened = open_folder(source)
    _check_empty(out)
    tensors = opened.read_tensors()
    config = opened.config
    config.text_config.vocab_size = max(
        len(tensor) for name, tensor in tensors.items() if name.endswith(("shared.weight", "lm_head.weight"))
    )
    config.architectures = ["Florence2ForConditionalGeneration"]
    config.dtype = next(iter(tensors.values())).dtype
    config.save_pretrained(out)
    if opened.generation:
        GenerationConfig.from_dict(dict(opened.generation)).save_pretrained(out)
    _write_weights(tensors, out)
    checkpoints.read_processor(opened).save_pretrained(out)


def write_older(source: str, out: Path) -> None:
    """Write the checkpoint ``source`` in the older layout to ``out``, for programs that know that one alone.

    The code that such programs run is not written: they have it, or fetch it with ``microsoft/Florence-2-base``.
    Raises ModelError as `write_native` does.
    """
    opened = open_folder(source)
    _check_empty(out)
    words = opened.tokenizer
    image_token = int(opened.config.image_token_id)
    tokens = image_token if image_token == len(words) - 1 else len(words)
    tensors = older_layout.convert_tensors_back(opened.read_tensors(), tokens)
    rows = max(len(tensor) for name, tensor in tensors.items() if name.endswith(("shared.weight", "lm_head.weight")))
    values = older_layout.convert_config_back(opened.config.to_dict(), rows, source)
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / "config.json", values)
    if opened.generation:
        _write_json(out / "generation_config.json", opened.generation)
    _write_weights(tensors, out)
    processor = checkpoints.read_processor(opened)
    processor.tokenizer.save_pretrained(out)
    images = processor.image_processor.to_dict()
    images |= {"image_processor_type": "CLIPImageProcessor", "processor_class": "Florence2Processor"}
    images["auto_map"] = {"AutoProcessor": "processing_florence2.Florence2Processor"}
    _write_json(out / "preprocessor_config.json", images)


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out} is there already: name a folder that is new or empty")
    out.mkdir(parents=True, exist_ok=True)


def _write_weights(tensors: Mapping[str, torch.Tensor], out: Path) -> None:
    """Write one file of weights, and read its header again."""
    from safetensors.torch import save_file

    part = out / f".{WEIGHTS}.part"
    save_file(dict(tensors), part, metadata={"format": "pt"})
    read_headers([part])
    part.rename(out / WEIGHTS)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Convert a checkpoint; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m florence.model.convert", description=__doc__)
    parser.add_argument("source", help="a checkpoint folder, or a name on the hub")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--back", action="store_true", help="write the older layout")
    chosen = parser.parse_args(arguments)
    was_there = chosen.out.exists()
    try:
        (write_older if chosen.back else write_native)(chosen.source, chosen.out)
    except (FlorenceError, OSError) as error:
        if not was_there:
            shutil.rmtree(chosen.out, ignore_errors=True)
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
