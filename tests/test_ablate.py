"""`florence ablate` as it is called: variants are trainings like any other, resumed, tabulated and tracked."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from flow_workspaces import write_params
from mlflow_stores import empty_store
from PIL import Image
from trainings import scenes
from typer.testing import CliRunner
from workspaces import workspace_of

from florence import ablation
from florence.config import Settings, read_settings
from florence.errors import DataError, SettingsError
from florence.records import TASKS
from florence.report import ablations
from florence.report.ablations import AblationRow
from florence.store import Store
from florence.training import loop
from florence.workspace.evaluate import score_model
from florence.workspace.train import train_model
from flows.cli import app
from flows.lock import lock_workspace
from flows.tracked import open_workspace

SCORED = ["<CAPTION>", "<OD>", "<REGION_TO_CATEGORY>", "<REGION_TO_SEGMENTATION>"]
SMALL = {
    "model": {"init": "nano-scratch", "image_size": 32},
    "train": {
        "steps": 9,
        "batch_size": 4,
        "tasks_per_image": 2,
        "save_steps": 2,
        "task_weights": {"<CAPTION>": 3.0, "<OD>": 2.0},
    },
    "evaluate": {"tasks": SCORED, "max_images": 4, "threads": 1, "max_examples": 1},
}
OPTIONS = ("--tasks", "image", "--tasks", "pixel+region", "--steps", "4")
NAMES = ["image", "region+pixel"]


def split(store: Store, splits: list[str]) -> None:
    """Put images into ``splits``, in turn."""
    for name in store.names("images"):
        images = store.read_table(name)
        found = [splits[number % len(splits)] for number in range(len(images))]
        store.write_table(name, images.set_column(images.schema.get_field_index("split"), "split", pa.array(found)))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory) -> Store:
    """A snapshot of drawn scenes whose labels are their truth."""
    store = scenes(tmp_path_factory.mktemp("data"), 24, 12)
    split(store, ["train", "train", "train", "held_out"])
    store.write_json(
        "snapshot.json", {"format": 3, "id": "snap-1", "parent": None, "round": 0, "counts": {"images": 24}}
    )
    return store


@pytest.fixture(scope="module")
def served(prefect):
    """The tests' own Prefect server, for commands."""
    from prefect.settings import PREFECT_API_URL

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
        yield


def make(folder: Path, snapshot: Store, **overlay) -> Path:
    """A workspace around a copy of the snapshot."""
    write_params(folder, **{**SMALL, **overlay})
    shutil.copytree(snapshot.root, folder / "data")
    return folder


def tracked(folder: Path) -> Path:
    """The workspace with an MLflow store."""
    (folder / "build").mkdir(exist_ok=True)
    shutil.copy(empty_store(), folder / "build/mlflow.db")
    return folder


@pytest.fixture
def workspace(tmp_path: Path, snapshot: Store, monkeypatch) -> Path:
    monkeypatch.chdir(make(tmp_path / "w", snapshot))
    return tmp_path / "w"


def call(*arguments: str, code: int = 0) -> str:
    """The output of `florence ablate` in the current folder."""
    done = CliRunner().invoke(app, ["ablate", *arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def plan(folder: Path, **values: list[str]) -> list[ablation.Variant]:
    return ablation.plan_variants(
        workspace_of(read_settings(folder / "params.yaml"), data=Store(str(folder / "data")), root=folder),
        {name.replace("_", "-"): found for name, found in values.items()},
    )


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "build/ablation/table.csv").read_text())))


def results(folder: Path) -> dict[str, bytes]:
    """What an ablation comes to."""
    root = folder / "build/ablation"
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------- what is varied


def test_every_task_is_in_one_set():
    assert {
        name: [key for key, belongs in ablation.TASK_SETS.items() if belongs(ablation.task(name))] for name in TASKS
    } == {name: [ablation.find_task_set(name)] for name in TASKS}
    found = {key: {name for name in TASKS if ablation.find_task_set(name) == key} for key in ablation.TASK_SETS}
    assert found["image"] == {"<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>"}
    assert found["pixel"] == {"<REFERRING_EXPRESSION_SEGMENTATION>", "<REGION_TO_SEGMENTATION>"}
    assert (
        len(found["region"]) == 10
        and {"<OD>", "<OCR>", "<REGION_TO_OCR>", "<CAPTION_TO_PHRASE_GROUNDING>"} <= found["region"]
    )
    assert ablation.find_task_set("<VQA>") == "fine-tuned"


def test_variants_are_all_combinations_and_the_rest_stays(workspace: Path):
    found = plan(
        workspace, tasks=["image", "pixel + image,image+pixel"], data_fraction=["0.5", "1"], freeze=["vision+projector"]
    )
    assert [v.name for v in found] == [
        "image, data 0.5",
        "image, data 1",
        "image+pixel, data 0.5",
        "image+pixel, data 1",
    ]
    assert len({v.key for v in found}) == 4
    own = read_settings(workspace / "params.yaml").train
    for variant in found:
        train = variant.settings.train
        assert train.freeze == ("vision", "projector") and train.steps == own.steps and train.lr == own.lr
        assert {name: train.weight(name) for name in TASKS if ablation.find_task_set(name) == "image"} == {
            "<CAPTION>": 3,
            "<DETAILED_CAPTION>": 1,
            "<MORE_DETAILED_CAPTION>": 1,
        }
        assert not any(train.weight(name) for name in TASKS if ablation.find_task_set(name) == "region")
    assert found[0].images < found[1].images
    assert [v.name for v in plan(workspace)] == ["image", "image+region", "image+region+pixel"]
    (only,) = plan(workspace, data_fraction=["0.5"])
    assert only.name == "data 0.5" and only.settings.train.task_weights == own.task_weights


def test_a_variant_is_known_by_all_that_its_result_depends_on(workspace: Path, snapshot: Store):
    settings, data = read_settings(workspace / "params.yaml"), Store(str(workspace / "data"))

    def key(settings: Settings, **values: list[str]) -> str:
        return ablation.plan_variants(workspace_of(settings, data=data), {"tasks": ["image"], **values})[0].key

    def other(**sections) -> Settings:
        return Settings.model_validate(
            {
                **settings.model_dump(),
                **{name: {**getattr(settings, name).model_dump(), **more} for name, more in sections.items()},
            }
        )

    keys = [
        key(settings),
        key(settings, seed=["1"]),
        key(other(evaluate={"seed": 1})),
        key(other(model={"image_size": 64})),
        key(other(train={"lr": 0.5})),
    ]
    data.write_json("snapshot.json", {**data.read_json("snapshot.json"), "id": "snap-2"})
    assert len({*keys, key(settings)}) == 6
    assert key(other(flow={"rounds": 7})) == key(settings)


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["--tasks", "images"], "--tasks: 'images' is not known; allowed: image, region, pixel"),
        (["--tasks", "image+"], "--tasks: '' is not known"),
        (["--data-fraction", "0"], "--data-fraction: found '0'; allowed: numbers above 0"),
        (["--data-fraction", "all"], "found 'all'"),
        (["--freeze", "eyes"], "--freeze: 'eyes' is not known; allowed: vision, projector"),
        (["--steps", "1.5"], "--steps: found '1.5'; allowed: whole numbers from 1"),
        (["--data-fraction", "0.00001"], "data 1e-05: labels/round-00000.parquet keeps no label to train on"),
    ],
)
def test_what_is_not_allowed_is_refused_with_what_is(workspace: Path, arguments: list[str], output: str):
    assert output in call(*arguments, code=1)
    assert not (workspace / "build/ablation").exists()


def test_a_set_without_any_weight_is_refused(workspace: Path, snapshot: Store):
    write_params(
        workspace,
        **{
            **SMALL,
            "train": {
                "task_weights": dict.fromkeys(("<REGION_TO_SEGMENTATION>", "<REFERRING_EXPRESSION_SEGMENTATION>"), 0)
            },
        },
    )
    with pytest.raises(SettingsError, match="pixel: .*every task has weight 0"):
        plan(workspace, tasks=["pixel"])


def test_where_nothing_can_be_scored_it_says_so_first(workspace: Path):
    split(Store(str(workspace / "data")), ["train"])
    with pytest.raises(DataError, match="is held out"):
        plan(workspace)
    shutil.rmtree(workspace / "data")
    assert "florence loop" in (output := call(code=1)) and "dvc pull" in output


def test_it_is_refused_while_another_run_is_at_work(workspace: Path):
    with lock_workspace(workspace, "florence loop"):
        assert "is at work" in call(code=1)


def test_a_dry_run_lists_the_variants_and_writes_nothing(workspace: Path):
    files = {p: p.read_bytes() for p in workspace.rglob("*") if p.is_file()}
    output = call("--tasks", "image,region", "--data-fraction", "0.5", "--freeze", "none", "--dry-run")
    assert "to do   image: 9 steps on " in output and "2 of 2 variants to do" in output
    assert files == {p: p.read_bytes() for p in workspace.rglob("*") if p.is_file() and p.name != "code.json"}


# ---------------------------------------------------------------- a whole one


@pytest.fixture(scope="module")
def ablated(tmp_path_factory, snapshot: Store, served) -> tuple[Path, str]:
    """A workspace after an ablation, and what it said."""
    folder = tracked(make(tmp_path_factory.mktemp("ablated") / "w", snapshot))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, call(*OPTIONS)


def variants_of(folder: Path) -> list[ablation.Variant]:
    return plan(folder, tasks=[OPTIONS[1], OPTIONS[3]], steps=[OPTIONS[5]])


def test_the_table_has_every_variant_and_task_with_its_interval(ablated: tuple[Path, str]):
    folder, output = ablated
    rows = table(folder)
    assert [(row["variant"], row["task"]) for row in rows] == [(name, task) for name in NAMES for task in SCORED]
    assert [row["trained"] for row in rows] == ["yes", "no", "no", "no", "no", "yes", "yes", "yes"]
    scores = json.loads((folder / "build/ablation" / variants_of(folder)[1].key / "metrics/scores.json").read_text())
    for row in rows:
        assert row["reference"] == "truth" and int(row["n"]) > 1 and row["steps"] == "4" and row["seed"] == "0"
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    assert [float(row["value"]) for row in rows[4:]] == [scores[task]["truth"]["value"] for task in SCORED]
    assert (
        f"{float(rows[0]['value']):.3f}" in output
        and "  1  image\n" in output
        and "*  the variant was not trained on" in output
        and str(folder / "build/ablation/plot.png") in output
    )
    text = (folder / "build/ablation/table.md").read_text()
    assert text.splitlines()[0] == "| task | image | region+pixel |" and "* [" in text
    assert Image.open(folder / "build/ablation/plot.png").width > 600


def test_a_variant_is_a_training_like_any_other(ablated: tuple[Path, str], tmp_path: Path):
    folder, _ = ablated
    for variant in variants_of(folder):
        train_model(workspace_of(variant.settings, data=Store(str(folder / "data")), root=tmp_path / variant.key))
        for name in ("model/model.safetensors", "plots/train.csv", "metrics/train.json"):
            assert (tmp_path / variant.key / name).read_bytes() == (
                folder / "build/ablation" / variant.key / name
            ).read_bytes(), name
    curves = [
        (folder / "build/ablation" / variant.key / "plots/train.csv").read_text().splitlines()[0].split(",")
        for variant in variants_of(folder)
    ]
    assert (
        set(curves[0][3:]) == {"<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>"}
        and "<OD>" in curves[1]
        and not set(curves[0][3:]) & set(curves[1])
    )


def test_the_runs_stand_below_one_run(ablated: tuple[Path, str]):
    folder, _ = ablated
    tracker = open_workspace(folder).tracker
    runs = tracker.store.client.search_runs([tracker.store.experiment_id])
    (parent,) = [run for run in runs if run.info.run_name == "ablation"]
    children = {run.info.run_name: run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert set(children) == set(NAMES) and len(runs) == 3 and {run.info.status for run in runs} == {"FINISHED"}
    assert (
        parent.data.params["tasks"] == "image, region+pixel" and parent.inputs.dataset_inputs[0].dataset.name == "FLD"
    )
    assert {f.path for f in tracker.store.client.list_artifacts(parent.info.run_id)} == {
        "table.csv",
        "table.md",
        "plot.png",
    }
    for row in table(folder):
        run = children[row["variant"]]
        assert run.data.params["tasks"] == row["tasks"] and run.data.params["train.steps"] == "4"
        assert run.data.metrics[f"scores/{row['task'].strip('<>').lower()}/truth"] == float(row["value"])
    assert [m.step for m in tracker.store.client.get_metric_history(children["image"].info.run_id, "loss")] == [4]
    assert "loss/CAPTION" in children["image"].data.metrics and "loss/OD" not in children["image"].data.metrics


def test_a_second_time_it_does_nothing(ablated: tuple[Path, str], monkeypatch):
    folder, output = ablated
    monkeypatch.chdir(folder)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "lock"}
    again = call(*OPTIONS)
    assert (
        again.startswith("nothing new: all 2 variants are done")
        and again.split("held-out")[1] == output.split("held-out")[1]
    )
    assert "done    image: 4 steps" in (dry := call(*OPTIONS, "--dry-run")) and "nothing to do" in dry
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


def test_another_ablation_takes_what_is_done(ablated: tuple[Path, str], workspace: Path, monkeypatch):
    shutil.copytree(ablated[0] / "build/ablation", tracked(workspace) / "build/ablation")
    monkeypatch.setattr(ablation, "train_model", None)
    monkeypatch.setattr(ablation, "score_model", None)
    assert "variant 1 of 1: image, steps 4, done already" in call("--tasks", "image", "--steps", "4")
    assert {row["variant"] for row in table(workspace)} == {"image, steps 4"}
    tracker = open_workspace(workspace).tracker
    (run,) = tracker.store.client.search_runs([tracker.store.experiment_id], "tags.mlflow.runName = 'image, steps 4'")
    ((step, curve),) = ablation.read_curve(variants_of(workspace)[0], workspace / "build/ablation")
    assert step == 4 and {name: run.data.metrics[name] for name in curve} == curve


def test_killed_and_started_again_it_ends_as_an_undisturbed_one(
    ablated: tuple[Path, str], workspace: Path, monkeypatch
):
    tracked(workspace)
    learn, score, calls, scored = loop._accumulate_gradients, score_model, [], []

    def failing_score(*args):
        scored.append(args)
        if len(scored) == 1:
            raise KeyboardInterrupt
        return score(*args)

    def failing_learn(*args):
        calls.append(args)
        if len(calls) == 4 + 4:
            raise KeyboardInterrupt
        return learn(*args)

    monkeypatch.setattr(ablation, "score_model", failing_score)
    monkeypatch.setattr(loop, "_accumulate_gradients", failing_learn)
    call(*OPTIONS, code=130)  # the first variant is trained, not scored
    first, second = variants_of(workspace)
    assert not ablation.is_done(first, workspace / "build/ablation") and len(calls) == 4
    call(*OPTIONS, code=130)  # the second variant is in its last step
    assert ablation.is_done(first, workspace / "build/ablation") and "1 of 2 variants to do" in call(
        *OPTIONS, "--dry-run"
    )
    assert list((workspace / "build/ablation" / second.key / ".florence/checkpoints").rglob("*.safetensors"))
    assert not (workspace / "build/ablation/table.csv").exists()
    tracker = open_workspace(workspace).tracker
    assert sorted(run.info.status for run in tracker.store.client.search_runs([tracker.store.experiment_id])) == [
        "FINISHED",
        "KILLED",
        "KILLED",
    ]
    assert "variant 1 of 2: image, done already" in call(*OPTIONS)
    assert len(calls) == 4 + 4 + 2, "from the checkpoint of step 2 on"
    assert results(workspace) == results(ablated[0])
    runs = tracker.store.client.search_runs([tracker.store.experiment_id])
    assert len(runs) == 3 and {run.info.status for run in runs} == {"FINISHED"}


# ---------------------------------------------------------------- table and plot


def row(variant: str, task: str, value: float | None, **more) -> AblationRow:
    known = dict(
        tasks="own",
        data_fraction=1.0,
        freeze="none",
        seed=0,
        steps=1,
        images=2,
        set=ablation.find_task_set(task),
        trained=True,
        reference="truth",
        metric="f1",
        low=None if value is None else value * 0.9,
        high=None if value is None else value * 1.1,
        n=3,
        examples=4,
        invalid=0.0,
        shuffled=None,
    )
    return AblationRow(**{**known, **more, "variant": variant, "task": task, "value": value})


def test_a_task_without_a_value_has_a_row_all_the_same():
    rows = [row("a", "<OD>", 0.5), row("a", "<OCR>", None, reference="", metric="", n=0)]
    assert ablations.format_csv(rows).splitlines()[2].split(",")[7] == "<OCR>"
    assert "| `<OCR> (no example)` | – |" in ablations.format_markdown(rows)
    assert [line.split()[-1] for line in ablations.format_terminal(rows).splitlines()[1:3]] == ["0.500", "–"]
    assert Image.open(io.BytesIO(ablations.draw_plot(rows))).size[0] > 600


def test_many_variants_stand_in_several_blocks_of_columns():
    rows = [row(f"data {n}", task, n / 10) for n in range(10) for task in ("<OD>", "<CAPTION>")]
    lines = ablations.format_terminal(rows).splitlines()
    assert max(map(len, lines)) <= 110 and lines[0].split()[-1] == "7" and lines[4].split()[-3:] == ["8", "9", "10"]
    assert lines[-1] == " 10  data 9"


def test_where_only_the_share_of_images_differs_the_plot_has_lines(monkeypatch):
    drawn = []
    monkeypatch.setattr(ablations, "_lines", lambda *args: drawn.append(args))
    rows = [row(f"data {n}", task, n, data_fraction=n) for n in (0.1, 1.0) for task in ("<OD>", "<CAPTION>")]
    ablations.draw_plot(rows)
    assert not drawn
    ablations.draw_plot(rows, lines=True)
    assert len(drawn) == 2
    monkeypatch.undo()
    assert ablations.draw_plot(rows, lines=True) == ablations.draw_plot(rows, lines=True) != ablations.draw_plot(rows)
