"""The paper's ablations on one snapshot: the same model trained on other sets of tasks, shares of the images or parts, each scored on all tasks."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from florence.codec.grammar import Form
from florence.config import Settings, TrainSettings
from florence.errors import DataError, SettingsError
from florence.progress import Log, Progress, log_nothing, show_nothing
from florence.records import CAPTIONS, FINE_TUNED, TASKS, digest
from florence.report.ablations import Row
from florence.store import Store
from florence.tasks import Task, task
from florence.workspace import Workspace
from florence.workspace.evaluate import score_model
from florence.workspace.layout import read_images
from florence.workspace.train import train_model, training_key

SETS: dict[str, Callable[[Task], bool]] = {
    "image": lambda one: one.annotation_type in CAPTIONS,
    "region": lambda one: one.annotation_type not in CAPTIONS and one.form is not Form.POLYGONS,
    "pixel": lambda one: one.form is Form.POLYGONS,
}
"""The paper's levels: texts about the whole image, what names or finds places, outlines. Each of the fifteen tasks is in one of them."""
DEFAULT: dict[str, tuple[str, ...]] = {"tasks": ("image", "image+region", "image+region+pixel")}
PARTS: tuple[str, ...] = get_args(get_args(TrainSettings.model_fields["freeze"].annotation)[0])
NOTE, TABLE, TEXT, PLOT = "ablation.json", "table.csv", "table.md", "plot.png"


@dataclass(frozen=True, slots=True)
class Variant:
    """One training. ``name``: says what is varied; ``key``: a digest of everything that its result depends on, the name of its folder;
    ``chosen``: option → its value here, of all options; ``steps``, ``images``: of the training."""

    name: str
    key: str
    settings: Settings
    chosen: Mapping[str, str]
    steps: int
    images: int


def set_of(name: str) -> str:
    """The set of `SETS` that a task is in; "fine-tuned" for tasks that are in none."""
    return next((key for key, belongs in SETS.items() if belongs(task(name))), "") if name in TASKS else "fine-tuned"


# ---------------------------------------------------------------- what is varied


def plan(workspace: Workspace, values: Mapping[str, Sequence[str]], progress: Progress = show_nothing) -> list[Variant]:
    """The variants: every combination of ``values`` (option → values, each perhaps several with commas); `DEFAULT` where there are none.

    An option without values stays as ``settings`` have it. Raises SettingsError for a value that is not allowed and for a combination that leaves nothing
    to learn, DataError where there is no snapshot, no held-out image to score on, or no label to learn from: all before anything is trained.
    """
    given = {
        name: tuple(part for value in texts for part in value.split(",")) for name, texts in values.items() if texts
    } or DEFAULT
    choices = [
        list({choice.text: choice for choice in map(READ[name], given[name])}.values())
        for name in READ
        if name in given
    ]
    named = [
        name for name, found in zip((n for n in READ if n in given), choices, strict=True) if len(found) > 1
    ] or list(given)
    snapshot = _snapshot(workspace.data)
    variants: dict[str, Variant] = {}
    for combination in itertools.product(*choices):
        name = ", ".join(choice.said for choice in combination if choice.option in named)
        one = _variant(name, combination, workspace, snapshot, progress)
        variants.setdefault(one.key, one)
    return list(variants.values())


def varied(variants: Sequence[Variant]) -> tuple[str, ...]:
    """The options in which variants differ."""
    return tuple(name for name in READ if len({variant.chosen[name] for variant in variants}) > 1)


@dataclass(frozen=True, slots=True)
class _Choice:
    """A value of an option: as it is written, as a variant's name has it, and what it changes of `train` as it stands."""

    option: str
    text: str
    said: str
    change: Callable[[TrainSettings], dict[str, Any]]


def _tasks(text: str) -> _Choice:
    found = _joined("tasks", text, tuple(SETS))
    taught = {name for name in TASKS if set_of(name) in found}
    joined = "+".join(found)

    def change(train: TrainSettings) -> dict[str, Any]:
        return {
            "task_weights": {
                name: train.task_weights.get(name, 1.0) if name in taught else 0.0 for name in (*TASKS, *FINE_TUNED)
            }
        }

    return _Choice("tasks", joined, joined, change)


def _fraction(text: str) -> _Choice:
    value = _number("data-fraction", text, float, lambda found: 0 < found <= 1, "numbers above 0 and at most 1, as 0.1")
    return _Choice("data-fraction", f"{value:.10g}", f"data {value:.10g}", lambda train: {"data_fraction": value})


def _freeze(text: str) -> _Choice:
    found = () if text.strip() == "none" else _joined("freeze", text, PARTS, " (or none)")
    joined = "+".join(found) or "none"
    return _Choice("freeze", joined, f"freeze {joined}", lambda train: {"freeze": found})


def _steps(text: str) -> _Choice:
    value = int(_number("steps", text, int, lambda found: found >= 1, "whole numbers from 1"))
    return _Choice("steps", str(value), f"steps {value}", lambda train: {"steps": value})


def _seed(text: str) -> _Choice:
    value = int(_number("seed", text, int, lambda found: found >= 0, "whole numbers from 0"))
    return _Choice("seed", str(value), f"seed {value}", lambda train: {"seed": value})


READ: dict[str, Callable[[str], _Choice]] = {
    "tasks": _tasks,
    "data-fraction": _fraction,
    "freeze": _freeze,
    "steps": _steps,
    "seed": _seed,
}
"""What can be varied, and how its values are read."""


def _joined(option: str, text: str, allowed: Sequence[str], more: str = "") -> tuple[str, ...]:
    """Names joined by +, in the order of ``allowed``."""
    found = [part.strip() for part in text.split("+")]
    if bad := [part for part in found if part not in allowed]:
        raise SettingsError(
            f"--{option}: {bad[0]!r} is not known; allowed: {', '.join(allowed)}{more}; + joins several, as {allowed[0]}+{allowed[1]}"
        )
    return tuple(name for name in allowed if name in found)


def _number(
    option: str, text: str, kind: Callable[[str], float], legal: Callable[[float], bool], allowed: str
) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not legal(value):
        raise SettingsError(f"--{option}: found {text!r}; allowed: {allowed}")
    return value


def _snapshot(data: Store) -> str:
    """The id of the snapshot. Raises DataError where there is none, or it has no image to score on."""
    if not data.exists("snapshot.json"):
        raise DataError(
            f"{data.uri} holds no snapshot: `florence loop` makes one, `dvc pull` fetches the one that data.dvc names"
        )
    if "held_out" not in read_images(data)["split"].to_pylist():
        raise DataError(
            f"no image of the snapshot in {data.uri} is held out, so that nothing can be scored: `split.held_out` is the share; it needs a new workspace, or more images"
        )
    return str(data.read_json("snapshot.json")["id"])


def _variant(
    name: str, combination: Sequence[_Choice], workspace: Workspace, snapshot: str, progress: Progress
) -> Variant:
    from florence.training.dataset import count_images
    from florence.training.sample_order import count_steps

    settings, data = workspace.settings, workspace.data
    changes: dict[str, Any] = {}
    for choice in combination:
        changes |= choice.change(settings.train)
    try:
        train = TrainSettings.model_validate({**settings.train.model_dump(), **changes})
    except ValidationError as error:
        raise SettingsError(f"{name}: {'; '.join(item['msg'] for item in error.errors())}") from None
    changed = settings.model_copy(update={"train": train})
    try:
        images = int(count_images(train, data, progress)[2].sum())
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    key = digest(
        [
            training_key(replace(workspace, settings=changed)),
            snapshot,
            data.names("truth", ".parquet"),
            settings.evaluate.digest(),
            settings.collect.max_pixels,
        ]
    )
    own = {
        "tasks": "own",
        "data-fraction": f"{train.data_fraction:.10g}",
        "freeze": "+".join(train.freeze) or "none",
        "steps": str(train.steps),
        "seed": str(train.seed),
    }
    return Variant(
        name,
        key,
        changed,
        own | {choice.option: choice.text for choice in combination},
        count_steps(train, images),
        images,
    )


# ---------------------------------------------------------------- what is done


def done(variant: Variant, folder: Path) -> bool:
    """Whether ``variant`` is trained and scored below ``folder``."""
    return (folder / variant.key / "metrics" / "scores.json").exists()


def make(
    variant: Variant, workspace: Workspace, folder: Path, log: Log = log_nothing, progress: Progress = show_nothing
) -> None:
    """Train and score ``variant`` in a folder of its own below ``folder``, laid out as a workspace: what is done there already is not done again, and
    a training that was killed goes on from its last checkpoint. Raises what `florence.workspace.train.train_model` raises."""
    if done(variant, folder):
        return
    own = folder / variant.key
    bound = replace(workspace, root=own, settings=variant.settings)
    chosen = {
        "chosen": dict(variant.chosen),
        **variant.settings.model_dump(mode="json", include={"model", "train", "evaluate"}),
    }
    Store(str(own)).write_json("variant.json", chosen)
    if not (own / "plots" / "train.csv").exists():  # a training writes it last
        train_model(bound, log, progress)
    score_model(bound, log, progress)


def curve(variant: Variant, folder: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """The points of a training that is done, named as when they were logged."""
    for row in csv.DictReader(io.StringIO(Store(str(folder / variant.key)).read_bytes("plots/train.csv").decode())):
        figures = {
            f"loss/{name.strip('<>')}" if name.startswith("<") else name: float(value)
            for name, value in row.items()
            if value and name != "step"
        }
        yield int(row["step"]), figures


def figures(variant: Variant, folder: Path) -> dict[str, Any]:
    """What a variant came to: the figures of its training, and its scores."""
    store = Store(str(folder / variant.key / "metrics"))
    return {name: store.read_json(f"{name}.json") for name in ("train", "scores")}


# ---------------------------------------------------------------- what is told


def rows(variants: Sequence[Variant], folder: Path) -> list[Row]:
    """A row for each variant, task that is scored, and reference; a task that no held-out image asks for has one without a value."""
    result = []
    for variant in variants:
        scores = figures(variant, folder)["scores"]
        chosen, train = variant.chosen, variant.settings.train
        for name in variant.settings.evaluate.tasks:
            for reference, found in scores.get(name, {"": {}}).items():
                result.append(
                    Row(
                        variant=variant.name,
                        tasks=chosen["tasks"],
                        data_fraction=train.data_fraction,
                        freeze=chosen["freeze"],
                        seed=train.seed,
                        steps=variant.steps,
                        images=variant.images,
                        task=name,
                        set=set_of(name),
                        taught=name in train.drawn,
                        reference=reference,
                        metric=found.get("metric", ""),
                        value=found.get("value"),
                        low=found.get("low"),
                        high=found.get("high"),
                        n=found.get("n", 0),
                        examples=found.get("examples", 0),
                        invalid=found.get("invalid"),
                        shuffled=found.get("control"),
                    )
                )
    return result


def identity(variants: Sequence[Variant]) -> str:
    """What an ablation is: its variants and their names."""
    return digest([[variant.name, variant.key] for variant in variants])


def write(variants: Sequence[Variant], folder: Path) -> list[str]:
    """Write table and plot of variants that are done into ``folder``; returns the names of the files."""
    from florence.report import ablations

    found, out = rows(variants, folder), Store(str(folder))
    out.write_bytes(TABLE, ablations.comma_separated(found).encode())
    out.write_bytes(TEXT, ablations.markdown(found).encode())
    out.write_bytes(PLOT, ablations.plot(found, lines=varied(variants) == ("data-fraction",)))
    return [TABLE, TEXT, PLOT]


def close(variants: Sequence[Variant], folder: Path) -> None:
    """Note that the ablation of ``variants`` is finished, and its table and plot are those in ``folder``."""
    note = {
        "ablation": identity(variants),
        "variants": [{"name": variant.name, "folder": variant.key} for variant in variants],
    }
    Store(str(folder)).write_json(NOTE, note)


def finished(variants: Sequence[Variant], folder: Path) -> bool:
    """Whether the ablation of ``variants`` was the last one here, and everything of it is still there."""
    store = Store(str(folder))
    whole = all(store.exists(name) for name in (NOTE, TABLE, TEXT, PLOT)) and all(
        done(variant, folder) for variant in variants
    )
    return whole and store.read_json(NOTE)["ablation"] == identity(variants)


def summary(variants: Sequence[Variant], folder: Path) -> str:
    """The table of variants that are done, for the terminal."""
    from florence.report import ablations

    return ablations.terminal(rows(variants, folder))


def outlook(variants: Sequence[Variant], folder: Path) -> str:
    """The variants, their steps and which are done, in words."""
    lines = [
        f"{'done  ' if done(variant, folder) else 'to do '}  {variant.name}: {variant.steps} steps on {variant.images} images"
        for variant in variants
    ]
    left = sum(not done(variant, folder) for variant in variants)
    return "\n".join([*lines, f"{left} of {len(variants)} variants to do" if left else "nothing to do"])
