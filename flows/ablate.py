"""Ablations as a Prefect flow: a task for each variant, tracked as runs below one run of MLflow."""

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
from flows.lock import lock_workspace
from flows.terminal import ProgressBars, say
from flows.tracked import TrackedWorkspace, open_workspace, report_end


@flow(name="ablate", persist_result=False)
def ablate(root: str = ".", values: dict[str, list[str]] | None = None) -> str:
    """Train and score every combination of ``values`` (see `florence.ablation.plan_variants`) that is not done yet.

    Writes table and plot, and returns the folder they are in. Raises WorkspaceLockedError where another run is at work.
    """
    folder = Path(root).resolve()
    os.chdir(folder)  # relative paths in params.yaml are the workspace's
    with lock_workspace(folder, "florence ablate"):
        workspace = open_workspace(folder)
        with ProgressBars() as progress:
            variants = ablation.plan_variants(workspace, values or {}, progress)
        with _track_ablation(workspace, variants) as parent:
            for number, variant in enumerate(variants, start=1):
                say(f"variant {number} of {len(variants)}: {_describe(workspace, variant)}")
                _run_task(workspace, parent, variant)
            names = ablation.write_tables(variants, workspace.ablation)
            workspace.tracker.log_files(parent, [workspace.ablation / name for name in names])
        ablation.mark_finished(variants, workspace.ablation)
    return str(workspace.ablation)


def _run_task(workspace: TrackedWorkspace, parent: str, variant: Variant) -> None:
    """Run `_make_variant` as a Prefect task, so that the run's page shows the variant with its time."""
    task(name="variant", task_run_name=variant.name, persist_result=False, cache_policy=NO_CACHE)(
        lambda: _make_variant(workspace, parent, variant)
    )()


def _describe(workspace: TrackedWorkspace, variant: Variant) -> str:
    return f"{variant.name}, " + (
        "done already"
        if ablation.is_done(variant, workspace.ablation)
        else f"{variant.steps} steps on {variant.images} images"
    )


def _make_variant(workspace: TrackedWorkspace, parent: str, variant: Variant) -> None:
    """Train and score one variant, or do what is left of it, tracked in its run."""
    before = ablation.is_done(variant, workspace.ablation)
    if before and workspace.tracker.variant_finished(parent, variant.key):
        return
    settings = variant.settings.model_dump(mode="json", include={"model", "train", "evaluate"})
    run_id = workspace.tracker.variant_run(parent, variant.key, variant.name, {**variant.chosen, **settings})
    with (
        report_end(partial(workspace.tracker.finish, run_id)),
        ProgressBars() as progress,
        workspace.tracker.open_curves(run_id) as curves,
    ):

        def log(step: int, metrics: dict[str, float]) -> None:
            curves(step, metrics)
            progress.note(f"loss {metrics['loss']:.3f}" if "loss" in metrics else "")

        ablation.run_variant(variant, workspace, workspace.ablation, log, progress)
        if before and not workspace.tracker.has_metric(run_id, "loss"):  # made for another ablation
            for step, metrics in ablation.read_curve(variant, workspace.ablation):
                curves(step, metrics)
        workspace.tracker.log_metrics(run_id, ablation.read_figures(variant, workspace.ablation))


@contextmanager
def _track_ablation(workspace: TrackedWorkspace, variants: list[Variant]) -> Iterator[str]:
    """Yield the id of the ablation's MLflow run, which ends as the block does."""
    options = {name: [variant.chosen[name] for variant in variants] for name in ablation.OPTIONS}
    params = {name: ", ".join(dict.fromkeys(found)) for name, found in options.items()}
    parent = workspace.tracker.ablation_run(ablation.hash_ablation(variants), params)
    with report_end(partial(workspace.tracker.finish, parent)):
        workspace.tracker.log_snapshot(
            parent,
            workspace.root / "data",
            workspace.data.read_object("snapshot.json"),
            workspace.snapshots.data_hash(),
        )
        yield parent
