"""Models: built from a preset, loaded from a folder or the hub, saved in transformers' own layout."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from florence.errors import ModelError
from florence.hub.weight_files import first_line
from florence.model import vocabulary
from florence.model.folders import CheckpointFolder, open_folder
from florence.model.older_layout import read_json
from florence.model.presets import IMAGE_SIZES, PRESETS, initialise, make_config

if TYPE_CHECKING:
    import torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, as in the published model: pixels are normalised by them."""
PACKAGED = "nano"
IMAGE_SETTINGS = ("preprocessor_config.json", "processor_config.json")
"""Files of which a checkpoint has one: how images are resized and normalised."""
SCRATCH = "-scratch"
"""``nano-scratch``: the preset without the weights that come with it."""


MAX_TOKENS = 160
"""Most tokens of an answer of a model that does not say how long it was trained to answer."""


@dataclass(frozen=True)
class Checkpoint:
    """A model, its tokenizer and the side of its square input, in pixels.

    ``post_processing``: the configuration of transformers' post-processor.
    """

    model: Any
    tokenizer: Any
    image_size: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    post_processing: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @cached_property
    def lexicon(self) -> vocabulary.Lexicon:
        """The class and the bytes of each token."""
        return vocabulary.make_lexicon(self.tokenizer, self.model.config.text_config.vocab_size)

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Resize an image (height, width, 3) uint8 to the model's square (side, side, 3) uint8.

        Bicubic, each axis on its own, as in the published processor.
        """
        side = self.image_size
        if image.shape[:2] == (side, side):
            return image
        return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))

    def normalise(self, pixels: np.ndarray) -> torch.Tensor:
        """Squares (n, side, side, 3) uint8 as the model's input (n, 3, side, side) float32, normalised."""
        import torch

        values = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return values.sub_(mean).div_(std).contiguous()

    @property
    def max_tokens(self) -> int:
        """Most tokens of an answer without its end: as many as a target had in training, where that is known."""
        return int(getattr(self.model.generation_config, "max_new_tokens", None) or MAX_TOKENS)

    def save(self, folder: Path | str) -> None:
        """Write ``folder`` so that transformers' ``from_pretrained`` and ``AutoProcessor`` read it."""
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        processor = _make_processor(
            self.tokenizer, self.image_size, self.mean, self.std, image_tokens(self), self.post_processing
        )
        processor.save_pretrained(folder)


def load(init: str, *, image_size: int | None = None, seed: int = 0) -> Checkpoint:
    """Load the model ``init``: a preset, a checkpoint folder, or a name on the hub.

    ``image_size``: the side of its input; by default the checkpoint's own. ``seed``: of a preset's random weights.
    Raises ModelError where there is no such model, or it is not a Florence-2 model.
    """
    name = init.removesuffix(SCRATCH)
    if name in PRESETS:
        if init == PACKAGED and (packaged := _packaged()) is not None:
            return _read(packaged, image_size)
        return build(name, image_size=image_size or IMAGE_SIZES[name], seed=seed)
    return _read(init, image_size)


def build(preset: str, *, image_size: int, seed: int = 0) -> Checkpoint:
    """Build a preset with random weights, a function of ``seed``."""
    import torch
    from transformers import Florence2ForConditionalGeneration

    tokenizer = vocabulary.load_tokenizer()
    settings = make_config(preset, len(tokenizer), tokenizer.convert_tokens_to_ids("<image>"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Florence2ForConditionalGeneration(settings)
    checkpoint = Checkpoint(model, tokenizer, image_size)
    initialise(model, checkpoint.lexicon.locations, seed)
    checkpoint.model.eval()
    return checkpoint


def weights_hash(folder: Path | str) -> str:
    """First 16 hex digits of the SHA-256 over the weights, vocabulary and settings in a checkpoint folder.

    Raises ModelError without weights.
    """
    found = sorted(p for p in Path(folder).glob("*") if p.suffix in (".safetensors", ".json") and p.is_file())
    if not any(p.suffix == ".safetensors" for p in found):
        raise ModelError(f"{folder} holds no weights (*.safetensors): train a model, or name another folder")
    total = hashlib.sha256()
    for path in found:
        total.update(path.name.encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def _packaged() -> str | None:
    folder = resources.files("florence.model").joinpath(PACKAGED)
    return str(folder) if folder.joinpath("model.safetensors").is_file() else None


def _read(init: str, image_size: int | None) -> Checkpoint:
    if not os.path.isdir(init) and (init.startswith((".", "/", "~")) or init.count("/") != 1):
        raise ModelError(
            f"model {init!r}: neither a preset ({', '.join(PRESETS)}) nor a folder, and no name on the hub (owner/name)"
        )
    opened = open_folder(init)
    side, mean, std = _read_image_settings(opened)
    return Checkpoint(
        opened.load_model(), opened.tokenizer, image_size or side, mean, std, _read_post_processing(opened)
    )


def _read_image_settings(opened: CheckpointFolder) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Read side, mean and standard deviation from a checkpoint's processor."""
    from transformers import AutoImageProcessor

    try:
        if not any((opened.path / name).is_file() for name in IMAGE_SETTINGS):
            raise OSError(f"neither {' nor '.join(IMAGE_SETTINGS)}")
        found = AutoImageProcessor.from_pretrained(opened.path)
        side = int(found.size["height"])
        mean, std = (tuple(float(value) for value in values) for values in (found.image_mean, found.image_std))
        if side < 1 or len(mean) != 3 or len(std) != 3 or not np.isfinite([*mean, *std]).all() or min(std) <= 0:
            raise ValueError(f"size {side}, image_mean {list(mean)}, image_std {list(std)}")
        return side, mean, std
    except Exception as error:  # transformers raises whatever a damaged file makes it trip over
        raise ModelError(
            f"model {opened.name!r}: no image processor beside the weights ({first_line(error)}); copy "
            "preprocessor_config.json or processor_config.json too"
        ) from None


def _read_post_processing(opened: CheckpointFolder) -> Mapping[str, Any]:
    return read_json(opened.path / "processor_config.json").get("post_processor_config") or {}


def read_processor(opened: CheckpointFolder) -> Any:
    """Return transformers' processor of a checkpoint, as `Checkpoint.save` writes it. Raises ModelError."""
    side, mean, std = _read_image_settings(opened)
    seen = count_image_tokens(opened.config.vision_config, side)
    return _make_processor(opened.tokenizer, side, mean, std, seen, _read_post_processing(opened))


def _make_processor(
    tokenizer: Any,
    side: int,
    mean: Sequence[float],
    std: Sequence[float],
    seen: int,
    post_processing: Mapping[str, Any],
) -> Any:
    """Return a processor. ``seen``: tokens of an image."""
    from transformers import CLIPImageProcessorPil, Florence2Processor

    images: Any = CLIPImageProcessorPil(
        size={"height": side, "width": side},
        do_center_crop=False,
        image_mean=list(mean),
        image_std=list(std),
        resample=3,
    )
    images.image_seq_length = seen
    return Florence2Processor(
        image_processor=images,
        tokenizer=tokenizer,
        post_processor_config={**_post_processing(), **post_processing},
    )


def image_tokens(checkpoint: Checkpoint) -> int:
    """Return the number of tokens of an image: one for each cell of the last stage, and one for their mean."""
    return count_image_tokens(checkpoint.model.config.vision_config, checkpoint.image_size)


def count_image_tokens(vision: Any, side: int) -> int:
    """Return the number of tokens of an image of ``side`` × ``side`` pixels. ``vision``: the tower's configuration."""
    for size, stride, padding in zip(vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True):
        side = (side + 2 * padding - size) // stride + 1
    return side * side + 1


def _post_processing() -> dict[str, Any]:
    """Return the configuration that transformers' post-processor requires: every form, with its defaults."""
    names = (
        "ocr",
        "phrase_grounding",
        "pure_text",
        "description_with_bboxes",
        "description_with_polygons",
        "polygons",
        "bboxes",
        "description_with_bboxes_or_polygons",
    )
    return {
        name: {"pattern": r"(.+?)" + r"<loc_(\d+)>" * 8, "area_threshold": 0.0} if name == "ocr" else {}
        for name in names
    }


def resize_images(checkpoint: Checkpoint, images: Sequence[np.ndarray]) -> np.ndarray:
    """Resize n images of any size to (n, side, side, 3) uint8."""
    if not images:
        return np.zeros((0, checkpoint.image_size, checkpoint.image_size, 3), np.uint8)
    return np.stack([checkpoint.resize(image) for image in images])
