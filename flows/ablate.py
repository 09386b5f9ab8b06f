"""Ablations as a Prefect flow: a task for each variant, one after the other, tracked as runs below one run of MLflow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from florence import ablation
from florence.ablation import Variant
from flows.parts import Parts, ending, open_parts
from flows.state import locked
from flows.terminal import Shown, say


@flow(name="ablate", persist_result=False)
def ablate(root: str = ".", values: dict[str, list[str]] | None = None) -> str:
    """Train and score every combination of ``values`` (as `florence.ablation.plan` reads them) that is not done yet; write table and plot.

    Returns the folder they are in. Raises WorkspaceLockedError where another run is at work.
    """
    folder = Path(root).resolve()
    os.chdir(folder)  # relative paths in params.yaml are the workspace's
    with locked(folder):
        parts = open_parts(folder)
        with Shown() as progress:
            variants = ablation.plan(parts.settings, parts.data, values or {}, progress)
        with _tracked(parts, variants) as parent:
            for number, variant in enumerate(variants, start=1):
                say(f"variant {number} of {len(variants)}: {_told(parts, variant)}")
                _step(parts, parent, variant)
            names = ablation.write(variants, parts.ablation)
            parts.tracker.log_files(parent, [parts.ablation / name for name in names])
        ablation.close(variants, parts.ablation)
    return str(parts.ablation)


def _step(parts: Parts, parent: str, variant: Variant) -> None:
    """`_made` as a Prefect task, so that the run's page shows the variant with its time."""
    task(name="variant", task_run_name=variant.name, persist_result=False, cache_policy=NO_CACHE)(
        lambda: _made(parts, parent, variant)
    )()


def _told(parts: Parts, variant: Variant) -> str:
    return f"{variant.name}, " + (
        "done already"
        if ablation.done(variant, parts.ablation)
        else f"{variant.steps} steps on {variant.images} images"
    )


def _made(parts: Parts, parent: str, variant: Variant) -> None:
    """Make one variant, or what is left of it, with its run."""
    before = ablation.done(variant, parts.ablation)
    if before and parts.tracker.variant_finished(parent, variant.key):
        return
    settings = variant.settings.model_dump(mode="json", include={"model", "train", "evaluate"})
    run_id = parts.tracker.variant_run(parent, variant.key, variant.name, {**variant.chosen, **settings})
    with ending(partial(parts.tracker.finish, run_id)), Shown() as progress, parts.tracker.live(run_id) as curves:

        def log(step: int, metrics: dict[str, float]) -> None:
            curves(step, metrics)
            progress.note(f"loss {metrics['loss']:.3f}" if "loss" in metrics else "")

        ablation.make(variant, parts.data, parts.ablation, log, progress)
        if before and not parts.tracker.has_metric(run_id, "loss"):  # made for another ablation
            for step, metrics in ablation.curve(variant, parts.ablation):
                curves(step, metrics)
        parts.tracker.log_metrics(run_id, ablation.figures(variant, parts.ablation))


@contextmanager
def _tracked(parts: Parts, variants: list[Variant]) -> Iterator[str]:
    """The ablation's MLflow run while the block runs."""
    options = {name: [variant.chosen[name] for variant in variants] for name in ablation.READ}
    params = {name: ", ".join(dict.fromkeys(found)) for name, found in options.items()}
    parent = parts.tracker.ablation_run(ablation.identity(variants), params)
    with ending(partial(parts.tracker.finish, parent)):
        parts.tracker.log_snapshot(
            parent, parts.root / "data", parts.data.read_json("snapshot.json"), parts.snapshots.data_hash()
        )
        yield parent
