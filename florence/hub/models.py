"""Load models of the transformers library by name: a folder, or a name on a hub at a revision.

Weights are read from safetensors files alone (nothing is unpickled), and no code of a model's own is run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from florence.errors import FlorenceError, ModelError
from florence.hub import weight_files
from florence.records import ImageRecord
from florence.versions import files_version

T = TypeVar("T")

MAX_LAYERS = 1_000
"""Layers of a model whose weights are not here yet, at most."""
LAYER_KEYS = frozenset(("depths", "layers", "n_layer", "n_layers", "num_layers"))
"""Keys of a configuration that number layers, beside those that end in ``_layers``."""
REPUBLISHED = {
    f"microsoft/Florence-2-{size}": f"florence-community/Florence-2-{size}"
    for size in ("base", "large", "base-ft", "large-ft")
}
"""Florence-2 on the hub in the layout in which it was first published, and the same weights in transformers'."""


def weights_version(model: str, revision: str | None) -> str:
    """Return a hash of a folder's weights and settings, or the name on the hub with its revision. Loads nothing.

    Raises ModelError for a folder without a config.json or without weights in safetensors files.
    """
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{revision or 'main'}"
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in (".safetensors", ".json", ".txt", ".model") and path.is_file()
    )
    if not (folder / "config.json").is_file() or not any(path.suffix == ".safetensors" for path in files):
        found = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise ModelError(f"{model}: a checkpoint has a config.json and weights in .safetensors files; found {found}")
    return files_version(files)


def torch_device(device: str) -> Any:
    """Return the torch device of that name; "auto" takes a GPU if there is one.

    Raises ModelError for a device that this machine does not have.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} cannot be used ({str(error).splitlines()[0]}): use auto or cpu") from None
    return chosen


def load_model(auto: str, model: str, revision: str | None, device: str, **options: Any) -> Any:
    """Load a model on ``device``, in evaluation mode. On a CPU it computes in single precision.

    ``auto``: name of its class in transformers, as "AutoModelForObjectDetection". Raises ModelError, which names the
    model and says what to do, if it cannot be loaded, is of another class, or if some of its weights are missing, of
    another shape or no numbers: transformers would fill them in at random. It is raised too where the configuration
    names more layers than there are tensors: building them would take hours and all memory.
    """
    chosen, most = torch_device(device), MAX_LAYERS
    if Path(model).is_dir():
        most = len(weight_files.read_headers(weight_files.find_weight_files(Path(model))))
    _check_layers(model, revision, most)
    precision = {"dtype": "float32"} if chosen.type == "cpu" else {}
    checked = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    network, report = _from_pretrained(auto, model, revision, {**precision, **options, **checked})
    weight_files.check_report(model, auto, network, report)
    return network.eval().to(chosen)


def load_processor(auto: str, model: str, revision: str | None, **options: Any) -> Any:
    """Load a model's processor ("AutoImageProcessor", "AutoProcessor", "AutoTokenizer").

    Raises ModelError if it cannot be loaded.
    """
    return _from_pretrained(auto, model, revision, options)


def load_config(model: str, revision: str | None) -> Any:
    """Load a model's configuration, without its weights. Raises ModelError if it cannot be loaded."""
    return _from_pretrained("AutoConfig", model, revision, {})


def explain_older(model: str) -> str:
    """Return what to do about the model ``model`` in the layout in which Florence-2 was first published."""
    remedy = (
        f"{REPUBLISHED[model]} has the same weights in transformers' layout"
        if model in REPUBLISHED
        else "`python -m florence.model.convert FOLDER OUT` writes it in transformers' layout"
    )
    return f"it is in the layout in which Florence-2 was first published, which needs code of its own; {remedy}"


def answer_or_error(record: ImageRecord, function: Callable[..., T], *arguments: Any) -> T | FlorenceError:
    """Call ``function`` for one image and return its answer, or the error that it met there.

    Raises torch.OutOfMemoryError: a machine without memory left is not the image's fault.
    """
    import torch

    try:
        return function(*arguments)
    except FlorenceError as error:
        return error
    except torch.OutOfMemoryError:
        raise
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        message = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        return ModelError(
            f"{record.name} ({record.width} × {record.height} pixels): the model failed on it ({message}). "
            "Other images are not affected"
        )


def _check_layers(model: str, revision: str | None, most: int) -> None:
    """Raise ModelError where a model's configuration names more than ``most`` layers.

    A configuration that cannot be read is left to the loading of the model, which says so.
    """
    from transformers import PretrainedConfig

    local = Path(model).is_dir()
    try:
        values, _ = PretrainedConfig.get_config_dict(
            model, revision=None if local else revision, local_files_only=local
        )
    except Exception:  # transformers raises whatever a damaged or foreign file makes it trip over
        return
    if (layers := _count_layers(values)) > most:
        found = f"there are {most:,} tensors" if local else f"{most:,} at most are loaded"
        raise ModelError(
            f"{model}: its config.json describes no model that can be built: {layers:,} layers, and {found}; "
            "copy the config.json that was saved with the weights"
        )


def _count_layers(values: Any) -> int:
    """Return how many layers a configuration names at most under one key, in itself or in one of its parts."""
    parts = values.items() if isinstance(values, dict) else ()
    counts = [0]
    for key, value in parts:
        if isinstance(value, dict):
            counts.append(_count_layers(value))
        elif key in LAYER_KEYS or key.endswith("_layers"):
            numbers = value if isinstance(value, list) else [value]
            counts.append(sum(n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and n > 0))
    return max(counts)


def _from_pretrained(auto: str, model: str, revision: str | None, options: dict[str, Any]) -> Any:
    """Call ``from_pretrained`` of a class of transformers. Raises ModelError for whatever can go wrong in it."""
    import transformers

    local = Path(model).is_dir()
    try:
        return getattr(transformers, auto).from_pretrained(
            model, revision=None if local else revision, local_files_only=local, trust_remote_code=False, **options
        )
    except Exception as error:  # transformers raises whatever a damaged or foreign file makes it trip over
        if "florence2_language" in str(error) or model in REPUBLISHED:
            raise ModelError(f"{model} cannot be loaded by {auto}: {explain_older(model)}") from None
        remedy = (
            "is the folder a whole checkpoint of this class?"
            if local
            else "is the name right, is the hub reached, and has HF_TOKEN the right to read it?"
        )
        raise ModelError(f"{model} cannot be loaded by {auto} ({weight_files.first_line(error)}): {remedy}") from None
