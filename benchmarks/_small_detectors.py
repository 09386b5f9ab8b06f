"""Detectors small enough to be trained in a minute or two: one point of a grid of 8 pixels predicts a name and a box.

As FCOS (arXiv 1904.01355) without its centre-ness: points near the middle of an object learn its name by focal loss,
and the distances to its four sides by generalised IoU. The features are those of EfficientNet-Lite, left as they are,
or those of a small network from random weights. The files hold scores as they are, the sigmoids of the last layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _cutouts import Composite
from torch import nn
from torch.nn import functional

STRIDE = 8
GREY = 114


@dataclass(frozen=True)
class Recipe:
    """How a detector is trained.

    ``features``: "lite0", or the width of a network from random weights. ``names``: what it can claim. ``side``: pixels
    a side of its input, a multiple of 32.
    """

    names: tuple[str, ...]
    features: str | int = "lite0"
    side: int = 224
    steps: int = 400
    seed: int = 0
    batch: int = 16
    rate: float = 0.002


def letterbox(pixels: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a picture (side, side, 3) with grey around it, and the scale and shift (4,) of its boxes."""
    import cv2

    height, width = pixels.shape[:2]
    inner = round(width * side / max(height, width)), round(height * side / max(height, width))
    left, top = (side - inner[0]) // 2, (side - inner[1]) // 2
    canvas = np.full((side, side, 3), GREY, np.uint8)
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(pixels, inner, interpolation=cv2.INTER_LINEAR)
    return canvas, np.tile([inner[0] / width, inner[1] / height], 2), np.tile([left, top], 2).astype(float)


def _targets(
    boxes: np.ndarray, labels: Sequence[int], count: int, points: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return names (count, g, g), distances (4, g, g), and which points (g, g) learn boxes, small objects first."""
    ys, xs = np.mgrid[:points, :points] * STRIDE + STRIDE / 2
    names, sides = np.zeros((count, points, points), np.float32), np.zeros((4, points, points), np.float32)
    taken = np.zeros((points, points), bool)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for k in np.argsort(areas, kind="stable"):
        x0, y0, x1, y1 = boxes[k]
        near = (abs(xs - (x0 + x1) / 2) <= max(0.22 * (x1 - x0), 5.7)) & (
            abs(ys - (y0 + y1) / 2) <= max(0.22 * (y1 - y0), 5.7)
        )
        own = near & (xs > x0) & (xs < x1) & (ys > y0) & (ys < y1) & ~taken
        names[labels[k], own] = 1
        taken |= own
        for side, values in zip(sides, (xs - x0, ys - y0, x1 - xs, y1 - ys), strict=True):
            side[own] = values[own]
    return names, sides, taken


class _LiteFeatures(nn.Module):
    """Features of EfficientNet-Lite at 8, 16 and 32 pixels; its weights are not trained."""

    def __init__(self) -> None:
        super().__init__()
        from florence.packaged_models import imagenet

        self.network = imagenet.load_network("lite0").requires_grad_(False)
        self.widths = tuple(part.shape[1] for part in self(torch.zeros(1, 3, 64, 64)))

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        net, ends = self.network, []
        x = net._swish(net._bn0(net._conv_stem((pixels * 255 - 127) / 128)))
        for block in net._blocks:
            y = block(x)
            if y.shape[-1] != x.shape[-1]:
                ends.append(x)
            x = y
        return [*ends, x][-3:]


class _OwnFeatures(nn.Module):
    """Features of a small network from random weights at 8, 16 and 32 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widths = 2 * width, 3 * width, 4 * width
        self.stem = nn.Sequential(_layer(3, width // 2, 2), _layer(width // 2, width, 2), _layer(width, 2 * width, 2))
        self.middle = nn.Sequential(_layer(2 * width, 3 * width, 2), _layer(3 * width, 3 * width))
        self.last = nn.Sequential(_layer(3 * width, 4 * width, 2), _layer(4 * width, 4 * width))

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        fine = self.stem(pixels - 0.45)
        middle = self.middle(fine)
        return [fine, middle, self.last(middle)]


def _layer(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


class _Head(nn.Module):
    """Names and distances at each point, from features of three sizes."""

    def __init__(self, widths: Sequence[int], names: int, width: int = 40) -> None:
        super().__init__()
        self.ways = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)) for before in widths
        )
        self.middle = _layer(width, width)
        self.trunk = nn.Sequential(_layer(width, width), _layer(width, width))
        self.names, self.sides = nn.Conv2d(width, names, 1), nn.Conv2d(width, 4, 1)
        nn.init.constant_(self.names.bias, -4.6)  # type: ignore[arg-type]
        nn.init.constant_(self.sides.bias, 3.0)  # type: ignore[arg-type]

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        fine, middle, coarse = (way(part) for way, part in zip(self.ways, features, strict=True))
        middle = self.middle(middle + functional.interpolate(coarse, scale_factor=2.0))
        x = self.trunk(functional.relu(fine + functional.interpolate(middle, scale_factor=2.0)))
        return self.names(x), self.sides(x).clamp(max=6).exp()


class SmallDetector(nn.Module):
    """Pictures (1, 3, side, side) of 0…1 → rows of YOLO (1, 4 + names, points): middles, sizes, scores."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.side = recipe.side
        self.trains_features = recipe.features != "lite0"
        self.features: Any = _OwnFeatures(int(recipe.features)) if self.trains_features else _LiteFeatures().eval()
        self.head = _Head(self.features.widths, len(recipe.names))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        names, sides = self.head(self.features(pixels))
        points = names.shape[-1]
        xs = (torch.arange(points) * float(STRIDE) + STRIDE / 2).view(1, 1, 1, points).expand(1, 1, points, points)
        left, top, right, bottom = (sides[:, k : k + 1] for k in range(4))
        boxes = [xs + (right - left) / 2, xs.transpose(2, 3) + (bottom - top) / 2, left + right, top + bottom]
        return torch.cat([*boxes, torch.sigmoid(names)], 1).flatten(2)


def _loss(
    names: torch.Tensor, sides: torch.Tensor, true: torch.Tensor, true_sides: torch.Tensor, taken: torch.Tensor
) -> torch.Tensor:
    """Return focal loss of names, per point that learns a box, and generalised IoU loss of these points' boxes."""
    share = torch.sigmoid(names)
    weight = torch.where(true > 0, 0.35 * (1 - share) ** 2, 0.65 * share**2)
    focal = (weight * functional.binary_cross_entropy_with_logits(names, true, reduction="none")).sum()
    focal = focal / taken.sum().clamp(min=1)
    if not taken.any():
        return 4 * focal
    ours, theirs = (part.permute(0, 2, 3, 1)[taken] for part in (sides, true_sides))
    least, most = torch.minimum(ours, theirs), torch.maximum(ours, theirs)
    area = [(box[:, 0] + box[:, 2]) * (box[:, 1] + box[:, 3]) for box in (ours, theirs, least, most)]
    union = area[0] + area[1] - area[2]
    return 4 * focal + (1 - area[2] / union + (area[3] - union) / area[3]).mean()


def train_detector(recipe: Recipe, pictures: Sequence[Composite]) -> SmallDetector:
    """Return a detector that is trained on pictures; objects whose names it does not know are background to it."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    detector = SmallDetector(recipe)
    inputs, targets = [], []
    for picture in pictures:
        canvas, scale, shift = letterbox(picture.pixels, recipe.side)
        known = [item for item in picture.objects if item.name in recipe.names]
        boxes = np.asarray([item.box for item in known]).reshape(-1, 4) * scale + shift
        labels = [recipe.names.index(item.name) for item in known]
        targets.append(_targets(boxes, labels, len(recipe.names), recipe.side // STRIDE))
        inputs.append(canvas)
    pixels = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)
    true = [torch.from_numpy(np.stack(part)) for part in zip(*targets, strict=True)]
    if detector.trains_features:
        parts, trained = [pixels], detector.train()
    else:
        parts, trained = _computed(detector.features, pixels), detector.head.train()
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, recipe.rate, weight_decay=0.001)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.1)
    for _ in range(recipe.steps):
        chosen = torch.from_numpy(rng.integers(len(pixels), size=recipe.batch))
        batch = [part[chosen].float() for part in parts]
        features = detector.features(batch[0] / 255) if detector.trains_features else batch
        loss = _loss(*detector.head(features), *(part[chosen] for part in true))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        schedule.step()
    return detector.eval()


def _computed(features: nn.Module, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Return the features of all pictures, in half precision."""
    with torch.inference_mode():
        found = [[part.half() for part in features(batch.float() / 255)] for batch in pixels.split(16)]
    return [torch.cat(parts).clone() for parts in zip(*found, strict=True)]


def save_detector(detector: SmallDetector, path: Path) -> Path:
    """Write a detector as an ONNX file that the annotator `onnx_detector` reads with the layout yolo."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are constants: it is one size that a file takes
        torch.onnx.export(
            detector,
            (torch.zeros(1, 3, detector.side, detector.side),),
            str(path),
            input_names=["images"],
            output_names=["rows"],
            opset_version=17,
            dynamo=False,
        )
    return path
