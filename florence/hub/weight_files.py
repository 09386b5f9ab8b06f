"""Files of weights: which ones a checkpoint folder has, what is in them, and whether that is the whole model.

transformers fills whatever it does not find in at random, and goes on. Here a tensor that is missing, unknown, of
another shape or of another kind of number is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence.errors import ModelError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".joblib")
"""Endings of weights that may be pickles, which can run code; none of them is read."""
FLOATS = ("F64", "F32", "F16", "BF16")
SHOWN = 3
"""Tensors that a message names."""


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a file says about a tensor. ``dtype``: as safetensors has it, "F32"."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether its numbers are floating-point numbers that can be computed with as they are."""
        return self.dtype in FLOATS


def find_weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a checkpoint folder: one, or all that its index names.

    Raises ModelError where there are none, where a shard is missing, and for an index that cannot be read.
    """
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if (folder / INDEX).is_file():
        return _find_shards(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if shards := [name for name in names if name.endswith(".safetensors")]:
        raise ModelError(
            f"{folder} has {shards[0]}, but neither {WEIGHTS} nor {INDEX}, which says what the shards hold: "
            "copy the whole checkpoint, or rename the only file of weights"
        )
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        raise ModelError(
            f"{folder} has its weights in {pickles[0]}, which may be a pickle and is not read: get the checkpoint in "
            "safetensors, or, if you trust the file, load it with transformers and write it with save_pretrained"
        )
    raise ModelError(f"{folder} has no weights ({WEIGHTS}): is the checkpoint copied as a whole?")


def _find_shards(folder: Path) -> tuple[Path, ...]:
    path = folder / INDEX
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        names = sorted(set(values["weight_map"].values()))
        if not isinstance(values.get("metadata"), dict):
            raise ValueError("no metadata, which transformers needs")
        if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise ValueError("weight_map does not name files of safetensors beside it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is no index of weights ({error}): copy the checkpoint again") from None
    files = tuple(folder / name for name in names)
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(files)} shards of weights ({_listed(missing)}): copy the whole "
            "checkpoint"
        )
    return files


def read_headers(files: Iterable[Path]) -> dict[str, TensorHeader]:
    """Return the tensors in ``files`` by name, without reading their values.

    Raises ModelError for a file that is cut short or no safetensors file, and for a tensor that is in two files.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, TensorHeader] = {}
    for file in files:
        try:
            with safe_open(file, framework="np") as opened:
                for name in opened.keys():
                    part = opened.get_slice(name)
                    if name in found:
                        raise ModelError(f"{file} has {name}, which another shard has too: copy the checkpoint again")
                    found[name] = TensorHeader(part.get_dtype(), tuple(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read: {_explain(file, str(error))}") from None
    return found


def _explain(file: Path, error: str) -> str:
    """Return why a file is no safetensors file, and the remedy."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(64)
    except OSError as failure:
        return f"{failure.strerror or failure}"
    size = file.stat().st_size
    if head.startswith(b"version https://git-lfs"):
        return "it is Git LFS's pointer to the weights, not the weights; `git lfs pull` fetches them"
    if size < 8 or int.from_bytes(head[:8], "little") <= size * 1024 and b"{" in head[8:10]:
        return f"it ends after {size:,} bytes, before its tensors do; copy it again"
    return f"no safetensors file ({error}); copy it again"


def check_tensors(
    where: str, expected: Mapping[str, TensorHeader], found: Mapping[str, TensorHeader], ties: Sequence[frozenset[str]]
) -> None:
    """Raise ModelError where ``found`` are not exactly the tensors ``expected``, by name, shape and kind of number.

    ``ties``: sets of names that are one tensor; one of them is enough.
    """
    present = {name for tie in ties if tie & found.keys() for name in tie}
    missing = sorted(expected.keys() - found.keys() - present)
    unknown = sorted(found.keys() - expected.keys())
    shared = sorted(found.keys() & expected.keys())
    shapes = [
        f"{name} {found[name].shape} for {expected[name].shape}"
        for name in shared
        if found[name].shape != expected[name].shape
    ]
    kinds = [f"{name} {found[name].dtype}" for name in shared if found[name].is_float != expected[name].is_float]
    faults = [
        f"{len(names)} of {len(expected)} {text} ({_listed(names)})"
        for names, text in ((missing, "are missing"), (shapes, "have another shape"), (kinds, "are no floats"))
        if names
    ]
    if unknown:
        faults.append(f"{len(unknown)} more are no part of it ({_listed(unknown)})")
    if faults:
        raise ModelError(
            f"{where}: these weights are not those of the model that its config.json describes: {'; '.join(faults)}. "
            "Nothing is filled in at random: " + _remedy(missing, shapes, kinds, unknown)
        )


def _remedy(missing: list[str], shapes: list[str], kinds: list[str], unknown: list[str]) -> str:
    if kinds:
        return "save the model in float32, float16 or bfloat16, not quantised"
    if unknown and missing and len(missing) >= len(unknown) / 2:
        return "is it a checkpoint of another class, or under another library's names? Save it with transformers"
    return "copy the whole checkpoint, with the config.json that was saved with it"


def check_finite(where: str, tensors: Iterable[tuple[str, Any]]) -> None:
    """Raise ModelError where one of the named torch ``tensors`` holds a NaN or an infinity."""
    import torch

    bad = [
        name
        for name, tensor in tensors
        if tensor.is_floating_point() and not tensor.is_meta and not bool(torch.isfinite(tensor).all())
    ]
    if bad:
        raise ModelError(
            f"{where}: {len(bad)} weights hold NaN or infinity ({_listed(bad)}): the training that wrote them "
            "diverged, or they overflowed in half precision; name an earlier checkpoint"
        )


def check_report(where: str, auto: str, network: Any, report: Mapping[str, Any]) -> None:
    """Raise ModelError where transformers' loading report of ``network`` shows that its weights are not a checkpoint's.

    Weights of modules that ``network`` does not have are allowed: a checkpoint may serve several classes. A layer more
    than ``network`` has of its own layers is not.
    """
    # That counter is used in training alone.
    missing = sorted(name for name in report["missing_keys"] if not name.endswith("num_batches_tracked"))
    shapes = [f"{name} {tuple(found)} for {tuple(own)}" for name, found, own in sorted(report["mismatched_keys"])]
    surplus = sorted(name for name in report["unexpected_keys"] if _is_surplus_layer(network, name))
    errors = [str(error) for error in report.get("error_msgs", ())]
    faults = [
        f"{len(names)} weights {text} ({_listed(names)})"
        for names, text in (
            (missing, "are missing"),
            (shapes, "have another shape"),
            (surplus, "are of layers that its config.json does not have"),
            (errors, "cannot be read"),
        )
        if names
    ]
    if faults:
        raise ModelError(
            f"{where} is no whole checkpoint for {auto}: {'; '.join(faults)}. Nothing is filled in at random: name a "
            "model that was trained for this task, and copy it as a whole"
        )
    check_finite(where, network.named_parameters())


def _is_surplus_layer(network: Any, name: str) -> bool:
    """Return whether a weight is of a layer beyond the last one in one of ``network``'s lists of layers."""
    import torch

    parts = name.split(".")
    for at, part in enumerate(parts):
        if part.isdigit():
            try:
                layers = network.get_submodule(".".join(parts[:at]))
            except AttributeError:
                return False
            if isinstance(layers, torch.nn.ModuleList) and int(part) >= len(layers):
                return True
    return False


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
