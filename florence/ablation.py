"""Ablations on one snapshot: variants of a training (task sets, share of images, frozen parts) scored on all tasks."""

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
from florence.report import ablations
from florence.report.ablations import AblationRow
from florence.store import Store
from florence.tasks import Task, task
from florence.workspace import Workspace
from florence.workspace.evaluate import score_model
from florence.workspace.layout import read_images
from florence.workspace.train import train_model, training_key

TASK_SETS: dict[str, Callable[[Task], bool]] = {
    "image": lambda one: one.annotation_type in CAPTIONS,
    "region": lambda one: one.annotation_type not in CAPTIONS and one.form is not Form.POLYGONS,
    "pixel": lambda one: one.form is Form.POLYGONS,
}
"""The paper's levels: texts about the whole image, regions, masks. Each of the fifteen tasks is in one of them."""
DEFAULT_VALUES: dict[str, tuple[str, ...]] = {"tasks": ("image", "image+region", "image+region+pixel")}
PARTS: tuple[str, ...] = get_args(get_args(TrainSettings.model_fields["freeze"].annotation)[0])
NOTE, TABLE, TEXT, PLOT = "ablation.json", "table.csv", "table.md", "plot.png"


@dataclass(frozen=True, slots=True)
class Variant:
    """One training of an ablation.

    ``name``: the values that vary. ``key``: digest of everything that the result depends on, and name of its folder.
    ``chosen``: every option with its value. ``steps``, ``images``: of the training.
    """

    name: str
    key: str
    settings: Settings
    chosen: Mapping[str, str]
    steps: int
    images: int


def find_task_set(name: str) -> str:
    """Return the set of `TASK_SETS` that a task is in; "fine-tuned" for a task in none."""
    return (
        next((key for key, belongs in TASK_SETS.items() if belongs(task(name))), "") if name in TASKS else "fine-tuned"
    )


# ---------------------------------------------------------------- what is varied


def plan_variants(
    workspace: Workspace, values: Mapping[str, Sequence[str]], progress: Progress = show_nothing
) -> list[Variant]:
    """Return a variant for every combination of ``values``: option → values, each perhaps several with commas.

    Without any, `DEFAULT_VALUES`. An option without values stays as the workspace's settings have it. Nothing is
    trained. Raises SettingsError for a value that is not allowed and for a combination that trains no task, DataError
    where there is no snapshot, no held-out image or no label to train on.
    """
    given = {
        name: tuple(part for value in texts for part in value.split(",")) for name, texts in values.items() if texts
    } or DEFAULT_VALUES
    choices = [
        list({choice.text: choice for choice in map(OPTIONS[name], given[name])}.values())
        for name in OPTIONS
        if name in given
    ]
    named = [
        name for name, found in zip((n for n in OPTIONS if n in given), choices, strict=True) if len(found) > 1
    ] or list(given)
    snapshot = _check_snapshot(workspace.data)
    variants: dict[str, Variant] = {}
    for combination in itertools.product(*choices):
        name = ", ".join(choice.label for choice in combination if choice.option in named)
        one = _make_variant(name, combination, workspace, snapshot, progress)
        variants.setdefault(one.key, one)
    return list(variants.values())


def list_varied_options(variants: Sequence[Variant]) -> tuple[str, ...]:
    """Return the options in which the variants differ."""
    return tuple(name for name in OPTIONS if len({variant.chosen[name] for variant in variants}) > 1)


@dataclass(frozen=True, slots=True)
class _Choice:
    """A value of an option: its text, its part of a variant's name, and what it changes of the section `train`."""

    option: str
    text: str
    label: str
    change: Callable[[TrainSettings], dict[str, Any]]


def _tasks(text: str) -> _Choice:
    found = _read_names("tasks", text, tuple(TASK_SETS))
    trained = {name for name in TASKS if find_task_set(name) in found}
    joined = "+".join(found)

    def change(train: TrainSettings) -> dict[str, Any]:
        return {
            "task_weights": {
                name: train.task_weights.get(name, 1.0) if name in trained else 0.0 for name in (*TASKS, *FINE_TUNED)
            }
        }

    return _Choice("tasks", joined, joined, change)


def _fraction(text: str) -> _Choice:
    value = _read_number(
        "data-fraction", text, float, lambda found: 0 < found <= 1, "numbers above 0 and at most 1, as 0.1"
    )
    return _Choice("data-fraction", f"{value:.10g}", f"data {value:.10g}", lambda train: {"data_fraction": value})


def _freeze(text: str) -> _Choice:
    found = () if text.strip() == "none" else _read_names("freeze", text, PARTS, " (or none)")
    joined = "+".join(found) or "none"
    return _Choice("freeze", joined, f"freeze {joined}", lambda train: {"freeze": found})


def _steps(text: str) -> _Choice:
    value = int(_read_number("steps", text, int, lambda found: found >= 1, "whole numbers from 1"))
    return _Choice("steps", str(value), f"steps {value}", lambda train: {"steps": value})


def _seed(text: str) -> _Choice:
    value = int(_read_number("seed", text, int, lambda found: found >= 0, "whole numbers from 0"))
    return _Choice("seed", str(value), f"seed {value}", lambda train: {"seed": value})


OPTIONS: dict[str, Callable[[str], _Choice]] = {
    "tasks": _tasks,
    "data-fraction": _fraction,
    "freeze": _freeze,
    "steps": _steps,
    "seed": _seed,
}
"""Options that can be varied, each with the function that reads a value."""


def _read_names(option: str, text: str, allowed: Sequence[str], more: str = "") -> tuple[str, ...]:
    """Return the names that ``text`` joins by +, in the order of ``allowed``."""
    found = [part.strip() for part in text.split("+")]
    if bad := [part for part in found if part not in allowed]:
        raise SettingsError(
            f"--{option}: {bad[0]!r} is not known; allowed: {', '.join(allowed)}{more}; "
            f"+ joins several, as {allowed[0]}+{allowed[1]}"
        )
    return tuple(name for name in allowed if name in found)


def _read_number(
    option: str, text: str, number_type: Callable[[str], float], is_legal: Callable[[float], bool], allowed: str
) -> float:
    try:
        value = number_type(text)
    except ValueError:
        value = None
    if value is None or not is_legal(value):
        raise SettingsError(f"--{option}: found {text!r}; allowed: {allowed}")
    return value


def _check_snapshot(data: Store) -> str:
    """Return the id of the snapshot. Raises DataError where there is none, or it has no held-out image."""
    if not data.exists("snapshot.json"):
        raise DataError(
            f"{data.uri} holds no snapshot: `florence loop` makes one, `dvc pull` fetches the one that data.dvc names"
        )
    if "held_out" not in read_images(data)["split"].to_pylist():
        raise DataError(
            f"no image of the snapshot in {data.uri} is held out, so nothing can be scored; "
            "`split.held_out` is their share: make a new workspace, or add images"
        )
    return str(data.read_object("snapshot.json")["id"])


def _make_variant(
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


# ---------------------------------------------------------------- training and scoring


def is_done(variant: Variant, folder: Path) -> bool:
    """Return whether ``variant`` is trained and scored below ``folder``."""
    return (folder / variant.key / "metrics" / "scores.json").exists()


def run_variant(
    variant: Variant, workspace: Workspace, folder: Path, log: Log = log_nothing, progress: Progress = show_nothing
) -> None:
    """Train and score ``variant`` in its own folder below ``folder``, which is laid out as a workspace.

    Finished work is not done again; a training that was killed resumes from its last checkpoint. Raises what
    `florence.workspace.train.train_model` raises.
    """
    if is_done(variant, folder):
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


def read_curve(variant: Variant, folder: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield (step, metrics) of a finished training, with the names under which they were logged."""
    for row in csv.DictReader(io.StringIO(Store(str(folder / variant.key)).read_bytes("plots/train.csv").decode())):
        figures = {
            f"loss/{name.strip('<>')}" if name.startswith("<") else name: float(value)
            for name, value in row.items()
            if value and name != "step"
        }
        yield int(row["step"]), figures


def read_figures(variant: Variant, folder: Path) -> dict[str, Any]:
    """Return the figures of a variant's training, and its scores."""
    store = Store(str(folder / variant.key / "metrics"))
    return {name: store.read_object(f"{name}.json") for name in ("train", "scores")}


# ---------------------------------------------------------------- results


def list_rows(variants: Sequence[Variant], folder: Path) -> list[AblationRow]:
    """Return a row for each variant, scored task and reference; one without a value for a task that has no example."""
    result = []
    for variant in variants:
        scores = read_figures(variant, folder)["scores"]
        chosen, train = variant.chosen, variant.settings.train
        for name in variant.settings.evaluate.tasks:
            for reference, found in scores.get(name, {"": {}}).items():
                result.append(
                    AblationRow(
                        variant=variant.name,
                        tasks=chosen["tasks"],
                        data_fraction=train.data_fraction,
                        freeze=chosen["freeze"],
                        seed=train.seed,
                        steps=variant.steps,
                        images=variant.images,
                        task=name,
                        set=find_task_set(name),
                        trained=name in train.drawn,
                        reference=reference,
                        metric=found.get("metric", ""),
                        value=found.get("value"),
                        low=found.get("low"),
                        high=found.get("high"),
                        n=found.get("n", 0),
                        examples=found.get("examples", 0),
                        invalid=found.get("invalid"),
                        shuffled=found.get("shuffled"),
                    )
                )
    return result


def hash_ablation(variants: Sequence[Variant]) -> str:
    """Return a digest of an ablation's variants and their names."""
    return digest([[variant.name, variant.key] for variant in variants])


def write_tables(variants: Sequence[Variant], folder: Path) -> list[str]:
    """Write table and plot of finished variants into ``folder``; return the names of the files."""
    found, out = list_rows(variants, folder), Store(str(folder))
    out.write_bytes(TABLE, ablations.format_csv(found).encode())
    seeds = "".join(f"\n```\n{text}\n```\n" for text in describe_seed_groups(variants, folder))
    out.write_bytes(TEXT, (ablations.format_markdown(found) + seeds).encode())
    out.write_bytes(PLOT, ablations.draw_plot(found, lines=list_varied_options(variants) == ("data-fraction",)))
    return [TABLE, TEXT, PLOT]


def mark_finished(variants: Sequence[Variant], folder: Path) -> None:
    """Note that the ablation of ``variants`` is finished and that its table and plot are in ``folder``."""
    note = {
        "ablation": hash_ablation(variants),
        "variants": [{"name": variant.name, "folder": variant.key} for variant in variants],
    }
    Store(str(folder)).write_json(NOTE, note)


def is_finished(variants: Sequence[Variant], folder: Path) -> bool:
    """Return whether the ablation of ``variants`` was the last one here and is still complete."""
    store = Store(str(folder))
    whole = all(store.exists(name) for name in (NOTE, TABLE, TEXT, PLOT)) and all(
        is_done(variant, folder) for variant in variants
    )
    return whole and store.read_object(NOTE, "ablation")["ablation"] == hash_ablation(variants)


def summarize(variants: Sequence[Variant], folder: Path) -> str:
    """Return the table of finished variants for the terminal."""
    return "\n\n".join(
        [ablations.format_terminal(list_rows(variants, folder)), *describe_seed_groups(variants, folder)]
    )


def describe_seed_groups(variants: Sequence[Variant], folder: Path) -> list[str]:
    """Return what finished variants tell that differ by their seed alone: a text for each group of two or more."""
    from florence.evaluate import describe_seeds, measure_seeds

    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        others = ", ".join(f"{option} {text}" for option, text in variant.chosen.items() if option != "seed")
        groups.setdefault(others, []).append(variant)
    texts = []
    for name, group in groups.items():
        if len(group) > 1:
            tables = [Store(str(folder / variant.key)).read_table("scores/scores.parquet") for variant in group]
            texts.append(describe_seeds(measure_seeds(tables, group[0].settings.promotion), name))
    return texts


def describe_plan(variants: Sequence[Variant], folder: Path) -> str:
    """Return a line for each variant: its steps, its images and whether it is finished."""
    lines = [
        f"{'done  ' if is_done(variant, folder) else 'to do '}  "
        f"{variant.name}: {variant.steps} steps on {variant.images} images"
        for variant in variants
    ]
    left = sum(not is_done(variant, folder) for variant in variants)
    return "\n".join([*lines, f"{left} of {len(variants)} variants to do" if left else "nothing to do"])
