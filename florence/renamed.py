"""Settings that were renamed: the old name is refused, and the error names the new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

RENAMED: dict[str, str] = {
    "specialists": "annotators",
    "annotators.*.batch": "batch_size",
    "annotators.*.images": "sample_fraction",
    "annotators.*.reads": "depends_on",
    "annotators.*.fidelity": "min_polygon_iou",
    "engine.quorum": "min_confidence",
    "engine.caption_quorum": "min_caption_confidence",
    "engine.alike": "min_caption_overlap",
    "engine.kinds": "hypernyms",
    "engine.fidelity": "min_polygon_iou",
    "engine.student.batch": "batch_size",
    "train.images": "batch_size",
    "train.accumulate": "gradient_accumulation_steps",
    "train.regions": "regions_per_image",
    "train.clip": "max_grad_norm",
    "train.window": "shuffle_buffer",
    "train.checkpoint_every": "save_steps",
    "evaluate.batch": "batch_size",
    "evaluate.control": "shuffled_image_tasks",
    "promotion.level": "alpha",
    "promotion.primary": "primary_task",
}
"""Path of an old key in params.yaml (``*``: any key) → the new name of its last part."""

REPLACED: dict[str, str] = {
    "snapshots.commit": "each registered version is recorded in git now (`snapshots.record`); remove the key",
}
"""Path of a key that is gone → what there is instead."""

FIRST_OPTION_NAMES: dict[str, str] = {"min_polygon_iou": "fidelity"}
"""New name of an annotator's option → the name in its version digest, so that no claim has to be made again."""
FIRST_INGREDIENT_NAMES: dict[str, str] = {"annotator": "author"}
"""New name of an annotator's ingredient → the name in its version digest."""


def renamed_keys(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error message for each key of ``values`` (params.yaml as a mapping) that was renamed."""
    for pattern, new in RENAMED.items():
        *front, last = pattern.split(".")
        for path, section in _sections(values, front):
            if last in section:
                old = ".".join([*path, last])
                yield f"{old}: this setting is now called {'.'.join([*path, new])}; rename the key, its value stays"


def replaced_keys(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error message for each key of ``values`` (params.yaml as a mapping) that is gone."""
    for pattern, instead in REPLACED.items():
        *front, last = pattern.split(".")
        for path, section in _sections(values, front):
            if last in section:
                yield f"{'.'.join([*path, last])}: {instead}"


def _sections(values: Any, pattern: list[str]) -> Iterator[tuple[list[str], Mapping[str, Any]]]:
    """Yield the path and the content of every mapping that ``pattern`` matches."""
    if not isinstance(values, Mapping):
        return
    if not pattern:
        yield [], values
        return
    for key in list(values) if pattern[0] == "*" else [pattern[0]]:
        if key in values:
            for path, section in _sections(values[key], pattern[1:]):
                yield [str(key), *path], section
