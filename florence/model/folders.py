"""A checkpoint as it lies on disk or on the hub: found, checked tensor by tensor, and read into transformers' model.

Whichever layout it was written in, what is read is transformers' own (`florence.model.older_layout`).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence.errors import ModelError
from florence.hub import weight_files
from florence.hub.models import REPUBLISHED
from florence.hub.weight_files import TensorHeader, first_line
from florence.model import older_layout

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

PATTERNS = ("*.json", "*.safetensors", "*.txt")
"""Files of a checkpoint on the hub that are fetched: no pickles, no code."""
ADAPTER = "adapter_config.json"
"""What peft calls the settings of an adapter; florence's own are merged into the weights when a training ends."""
_TOKEN_IDS = ("decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id")
BASE = "model."
"""What transformers puts before the names of a model saved without its head."""


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint whose files were found and whose tensors were checked; their values are not read yet.

    ``name``: as it was asked for; ``config``: transformers' configuration; ``generation``: the values of
    generation_config.json; ``is_older``: whether its configuration is in the older layout; ``rename``: the name of a
    tensor in the files → its name in transformers' model, None where they are the same.
    """

    name: str
    path: Path
    config: Any
    generation: Mapping[str, Any]
    tokenizer: Any
    files: tuple[Path, ...]
    is_older: bool
    rename: Callable[[str], str] | None = field(default=None, compare=False)

    def read_tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors under transformers' names, in the precision of the files."""
        from safetensors.torch import load_file

        tensors = {name: tensor for file in self.files for name, tensor in load_file(file).items()}
        if self.rename:
            tensors = older_layout.convert_tensors(tensors, self.rename, self.name)
        return older_layout.fill_up(tensors, len(self.tokenizer)) if self.is_older else tensors

    def load_model(self) -> Any:
        """Return transformers' model in single precision. Raises ModelError for weights that are no numbers."""
        import torch
        from transformers import Florence2ForConditionalGeneration, GenerationConfig
        from transformers.utils import logging as their_logging

        their_logging.disable_progress_bar()
        loaded: Any
        options: dict[str, Any] = {"config": self.config, "dtype": torch.float32, "output_loading_info": True}
        if self.is_older or self.rename:
            state = self.read_tensors()
            options["config"].text_config.vocab_size = max(
                len(tensor) for name, tensor in state.items() if name.endswith(("shared.weight", "lm_head.weight"))
            )
            loaded = Florence2ForConditionalGeneration.from_pretrained(None, state_dict=state, **options)
            if self.generation:
                loaded[0].generation_config = GenerationConfig.from_dict(dict(self.generation))
        else:
            loaded = Florence2ForConditionalGeneration.from_pretrained(
                self.path, use_safetensors=True, local_files_only=True, **options
            )
        model, report = loaded
        weight_files.check_report(self.name, "Florence2ForConditionalGeneration", model, report)
        weight_files.check_finite(self.name, model.named_buffers())
        return model.eval()


def open_folder(name: str) -> CheckpointFolder:
    """Find the checkpoint ``name``, a folder or a name on the hub, and check that its weights are those of its model.

    Raises ModelError, which names what is wrong and what to do.
    """
    path = _locate(name)
    values = older_layout.read_json(path / "config.json")
    is_older = older_layout.is_older_config(values)
    if not values:
        raise ModelError(f"model {name!r}: {path} has no config.json: is it a checkpoint, copied as a whole?")
    if values.get("model_type") != "florence2":
        raise ModelError(f"model {name!r} is a {values.get('model_type')!r} model, no Florence-2")
    if values.get("quantization_config"):
        raise ModelError(f"model {name!r} is quantised: name the checkpoint in float32, float16 or bfloat16")
    if (path / ADAPTER).exists():  # transformers would put the adapter into the model
        raise ModelError(
            f"model {name!r}: {path} has an adapter too ({ADAPTER}): merge it into the weights with peft's "
            "merge_and_unload and save the model, or move its files away to use the weights without it"
        )
    if is_older and (other := REPUBLISHED.get(name)):
        logger.warning("%s is read in its older layout; the same weights are published as %s", name, other)
    files = weight_files.find_weight_files(path)
    headers = weight_files.read_headers(files)
    has_older_names = older_layout.has_older_names(headers)
    config = _make_config(name, path, values, is_older)
    rename = older_layout.new_name if has_older_names else _find_prefix(headers)
    _check(name, config, files, headers, older_layout.older_name if has_older_names else _undo(rename))
    tokenizer = _load_tokenizer(name, path, config, is_older)
    generation = older_layout.read_json(path / "generation_config.json")
    if is_older:
        generation = older_layout.generation_values(values, generation)
        config.image_token_id = tokenizer.image_token_id
    return CheckpointFolder(name, path, config, generation, tokenizer, files, is_older, rename)


def _locate(name: str) -> Path:
    """Return the folder of a checkpoint; files of a name on the hub are fetched into the hub's cache."""
    if os.path.isdir(name):
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=list(PATTERNS)))
    except (OSError, ValueError, RuntimeError, HfHubHTTPError) as error:
        other = REPUBLISHED.get(name)
        hint = f" The same weights are published as {other}." if other else ""
        raise ModelError(
            f"model {name!r} cannot be fetched: {first_line(error)}; is the hub reachable, and the name right?{hint}"
        ) from None


def _load_tokenizer(name: str, path: Path, config: Any, is_older: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        if not any((path / file).is_file() for file in ("tokenizer.json", "vocab.json")):
            raise OSError("neither tokenizer.json nor vocab.json")  # transformers would make one without a vocabulary
        if is_older:
            return older_layout.load_older_tokenizer(path)
        return AutoTokenizer.from_pretrained(path, config=config)
    except Exception as error:  # transformers raises whatever a damaged file makes it trip over
        raise ModelError(
            f"model {name!r}: no tokenizer can be read in {path} ({first_line(error)}): copy the whole "
            "checkpoint, with its tokenizer.json"
        ) from None


def _make_config(name: str, path: Path, values: Mapping[str, Any], is_older: bool) -> Any:
    from transformers import Florence2Config

    try:
        if is_older:
            return Florence2Config(**older_layout.convert_config(values, f"model {name!r}"))
        return Florence2Config.from_pretrained(path)
    except ModelError:
        raise
    except Exception as error:  # as above
        raise ModelError(
            f"model {name!r}: {path / 'config.json'} is no configuration of Florence-2 ({first_line(error)})"
        ) from None


def _find_prefix(headers: Mapping[str, TensorHeader]) -> Callable[[str], str] | None:
    """Return how tensors of a model saved without its head are renamed; None where they need not be."""
    if any(name.startswith(BASE) for name in headers):
        return None
    if any(name.startswith(("language_model.", "vision_tower.")) for name in headers):
        return lambda name: name if name.startswith("lm_head.") else BASE + name
    return None


def _undo(rename: Callable[[str], str] | None) -> Callable[[str], str]:
    return (lambda name: name.removeprefix(BASE)) if rename else (lambda name: name)


def _check(
    name: str,
    config: Any,
    files: tuple[Path, ...],
    headers: Mapping[str, TensorHeader],
    file_name: Callable[[str], str],
) -> None:
    """Check the tensors in ``files`` against those of the model of ``config``, under the names of the files."""
    where = f"model {name!r}"
    model = _build_without_values(where, config, len(headers))
    expected = {}
    for own, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        if file_name is older_layout.older_name and older_layout.is_transposed(own):
            shape = shape[::-1]
        expected[file_name(own)] = TensorHeader("F32" if tensor.is_floating_point() else "I64", shape)
    found = {key: header for key, header in headers.items() if not older_layout.is_optional(key)}
    groups: dict[str, set[str]] = {}
    for target, source in model.all_tied_weights_keys.items():
        groups.setdefault(file_name(source), {file_name(source)}).add(file_name(target))
    ties = [frozenset(group) for group in groups.values()]
    weight_files.check_tensors(where, expected, found, ties)
    for tie in ties:
        _check_equal(where, files, sorted(tie & found.keys()))


def _build_without_values(where: str, config: Any, tensors: int) -> Any:
    """Return the model of ``config`` on the meta device, after a run of its vision tower.

    Raises ModelError for a configuration whose model cannot be built or run, or has more layers than ``tensors``:
    a million of them would take all memory, even without values.
    """
    import torch
    from transformers import Florence2ForConditionalGeneration

    fault = f"{where}: its config.json describes no model that can be built"
    text, vision = config.text_config, config.vision_config
    try:
        layers = text.encoder_layers + text.decoder_layers + sum(vision.depths)
        if layers > tensors:
            raise ModelError(f"{fault}: {layers:,} layers, and there are {tensors:,} tensors")
        with torch.device("meta"), torch.no_grad():
            model = Florence2ForConditionalGeneration(config)
            side = 2 * math.prod(vision.patch_stride)
            model.get_image_features(torch.empty(1, vision.in_channels, side, side))
    except ModelError:
        raise
    except Exception as error:  # whatever values that fit together badly make transformers trip over
        raise ModelError(f"{fault} ({first_line(error)})") from None
    ids = {name: getattr(text, name) for name in _TOKEN_IDS}
    if ids["decoder_start_token_id"] is None or any(
        value is not None and not 0 <= value < text.vocab_size for value in ids.values()
    ):
        raise ModelError(f"{fault}: of {ids} some are no token; there are {text.vocab_size:,}")
    return model


def _check_equal(where: str, files: tuple[Path, ...], names: list[str]) -> None:
    """Raise ModelError where tensors that are one tensor in the model differ in the files."""
    import torch
    from safetensors import safe_open

    if len(names) < 2:
        return
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in names if name in opened.keys()}
    for name in names[1:]:
        if not torch.equal(tensors[names[0]], tensors[name]):
            raise ModelError(
                f"{where}: {names[0]} and {name} differ, though its config.json ties them (tie_word_embeddings): "
                "set that to false, or save the model again"
            )
