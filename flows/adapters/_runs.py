"""Runs and curves in an MLflow store, and the snapshot that each was made of."""

from __future__ import annotations

import functools
import getpass
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from florence import config
from florence.errors import FlorenceError
from flows.adapters._curves import Curves
from flows.adapters._mlflow import bare, is_database, knock, locked, quiet, sqlite_file, store_uri, told
from flows.adapters._values import LONGEST_PARAM, as_tags, cut, flat, is_number, legal, text

Method = TypeVar("Method", bound=Callable[..., Any])
LOOP, ROUND = "florence.loop", "florence.round"
ABLATION, VARIANT = "florence.ablation", "florence.variant"


def telling(doing: str) -> Callable[[Method], Method]:
    """For methods of `Runs`, whatever they use of MLflow: it is quiet, and its errors become FlorenceErrors that say what could not be done."""

    def wrap(method: Method) -> Method:
        @functools.wraps(method)
        def inner(self: Runs, *args: Any, **kwargs: Any) -> Any:
            quiet()  # before anything of MLflow is imported
            with told(self.uri, doing):
                return method(self, *args, **kwargs)

        return cast(Method, inner)

    return wrap


class Runs:
    """Runs in the MLflow store that ``settings`` name, for the workspace ``root``.

    Nothing is imported or opened before it is used. Every method raises FlorenceError, naming the store and the remedy, where the
    store cannot be reached, read or written. Global state of MLflow is neither used nor changed.
    """

    def __init__(self, settings: config.Tracking, root: Path | str) -> None:
        self.settings, self.root = settings, Path(root).absolute()
        self.uri = store_uri(settings.uri, self.root)
        # As MLflow resolves it: Databricks keeps its models in Unity Catalog.
        registry = self.uri.replace("databricks", "databricks-uc", 1) if self.uri.startswith("databricks") else self.uri
        self.registry_uri = os.environ.get("MLFLOW_REGISTRY_URI") or registry
        self._guard = threading.RLock()
        self._client: Any = None
        self._experiment: str | None = None

    @property
    @telling("open the store")
    def client(self) -> Any:
        """The MlflowClient; the first use opens the store, and makes it where there is none."""
        with self._guard:
            if self._client is None:
                self._client = self._open()
            return self._client

    def _open(self) -> Any:
        if not is_database(self.uri):
            if self.uri.startswith("http"):
                knock(self.uri)
            return self._new_client()
        if (file := sqlite_file(self.uri)) is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that make the tables at once destroy each other's work.
        with locked(self.root / "build/mlflow.lock"):
            return self._new_client()

    def _new_client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.registry_uri)

    @property
    @telling("open the experiment")
    def experiment_id(self) -> str:
        """The experiment's id; it is made where there is none."""
        with self._guard:
            if self._experiment is None:
                self._experiment = self._find_experiment() or self._make_experiment()
            return self._experiment

    def _find_experiment(self) -> str | None:
        name = self.settings.experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return None
        if found.lifecycle_stage != "active":
            raise FlorenceError(
                f"MLflow at {bare(self.uri)}: experiment {name!r} has been deleted; `mlflow experiments restore -x {found.experiment_id}`, "
                "or name another one in tracking.experiment"
            )
        return found.experiment_id

    def _make_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.create_experiment(self.settings.experiment, artifact_location=self._artifacts())
        except MlflowException as error:
            if error.error_code == "RESOURCE_ALREADY_EXISTS" and (found := self._find_experiment()):
                return found
            raise

    def _artifacts(self) -> str | None:
        """Where a new experiment keeps its artifacts; None leaves it to a server, which knows better."""
        where = self.settings.artifacts
        if where is None:
            return (self.root / "build/mlartifacts").as_uri() if is_database(self.uri) else None
        return where if "://" in where else (self.root / where).as_uri()

    # ---------------------------------------------------------------- the runs

    @telling("start the loop's run")
    def loop_run(self, loop_id: str, params: Mapping[str, Any]) -> str:
        """The run of a loop, made, or found again by ``loop_id``. Params that it has already stay as they are."""
        run_id = self._run(f"loop {loop_id}", {LOOP: loop_id})
        self.log_params(run_id, params)
        return run_id

    @telling("start the round's run")
    def round_run(self, parent: str, round: int, tags: Mapping[str, Any] | None = None) -> str:
        """The run of a round below the loop's run ``parent``, made, or found again."""
        run_id = self._run(f"round {round}", {"mlflow.parentRunId": parent, ROUND: str(round)})
        self.set_tags(run_id, tags or {})
        return run_id

    @telling("start the ablation's run")
    def ablation_run(self, identity: str, params: Mapping[str, Any]) -> str:
        """The run of an ablation, made, or found again by ``identity``."""
        run_id = self._run("ablation", {ABLATION: identity})
        self.log_params(run_id, params)
        return run_id

    @telling("start the variant's run")
    def variant_run(self, parent: str, key: str, name: str, params: Mapping[str, Any]) -> str:
        """The run of a variant below the ablation's run ``parent``, made, or found again by ``key``."""
        run_id = self._run(name, {"mlflow.parentRunId": parent, VARIANT: key})
        self.log_params(run_id, params)
        return run_id

    @telling("look for the variant's run")
    def variant_finished(self, parent: str, key: str) -> bool:
        """Whether a variant has a run below ``parent`` that has ended well."""
        wanted = (
            f"tags.`mlflow.parentRunId` = '{parent}' and tags.`{VARIANT}` = '{key}' and attributes.status = 'FINISHED'"
        )
        return bool(self.client.search_runs([self.experiment_id], wanted, max_results=1))

    @telling("start a run")
    def run_for(self, env: Mapping[str, str], key: str = "", name: str = "repro") -> str:
        """The run that a stage logs to: MLFLOW_RUN_ID's where ``env`` has it (the flow sets it), else one of our own.

        Our own is remembered in build/run.json, so that the stages of one ``dvc repro`` share it. ``key``: what the stages have in
        common, for instance a hash of snapshot and settings; another key is another run, and the one before, if still open, is ended.
        """
        if given := env.get("MLFLOW_RUN_ID"):
            return self._reopened(given, "MLFLOW_RUN_ID names a run that is not there; unset it, or name another one")
        file = self.root / "build/run.json"
        ours = {"uri": bare(self.uri), "experiment": self.settings.experiment, "key": key}
        before = self._remembered(file, ours)
        if before is not None and before.pop("key") == key:
            return self._reopened(before["run_id"], f"delete {file}")
        if before is not None and self.client.get_run(before["run_id"]).info.status == "RUNNING":
            self.client.set_terminated(before["run_id"], "KILLED")
        run_id = self.client.create_run(self.experiment_id, tags=self._source(), run_name=name).info.run_id
        _write_json(file, {"run_id": run_id, **ours})
        return run_id

    def _remembered(self, file: Path, ours: Mapping[str, str]) -> dict[str, str] | None:
        """What build/run.json says, if it speaks of a run that this store still has."""
        from mlflow.exceptions import MlflowException

        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            here = all(found[name] == ours[name] for name in ("uri", "experiment"))
            return found if here and self.client.get_run(found["run_id"]).info.lifecycle_stage == "active" else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _run(self, name: str, tags: dict[str, str]) -> str:
        """The run that carries ``tags``, made where there is none, and running (again)."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs(
            [self.experiment_id], wanted, max_results=1, order_by=["attributes.start_time ASC"]
        )
        if found:
            return self._reopened(found[0].info.run_id)
        return self.client.create_run(self.experiment_id, tags={**self._source(), **tags}, run_name=name).info.run_id

    def _reopened(self, run_id: str, otherwise: str = "") -> str:
        """``run_id``, set running where it was ended."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" and otherwise:
                raise FlorenceError(f"MLflow at {bare(self.uri)} has no run {run_id}: {otherwise}") from None
            raise
        if run.info.status != "RUNNING":
            self.client.update_run(run_id, status="RUNNING")
        return run_id

    def _source(self) -> dict[str, str]:
        """What MLflow's page shows as a run's user and source."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container may run as a number that has no name
            user = "unknown"
        return {"mlflow.user": user, "mlflow.source.name": "florence", "mlflow.source.type": "LOCAL"}

    @telling("log settings")
    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log nested settings as params a.b.c; those that the run has already are left alone, long values are cut."""
        from mlflow.entities import Param

        have = self.client.get_run(run_id).data.params
        texts = {legal(key): cut(bare(text(value)), LONGEST_PARAM) for key, value in flat(params)}
        new = [Param(key, text) for key, text in texts.items() if key not in have]
        for start in range(0, len(new), 100):
            self.client.log_batch(run_id, params=new[start : start + 100])

    @telling("log metrics")
    def log_metrics(self, run_id: str, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Log the numbers in a nested mapping as metrics a.b.c, all at once; what is no number is left out."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(legal(key), float(value), now, step) for key, value in flat(metrics) if is_number(value)]
        for start in range(0, len(points), 1000):
            self.client.log_batch(run_id, metrics=points[start : start + 1000])

    @telling("set tags")
    def set_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Set tags; None values are left out."""
        from mlflow.entities import RunTag

        new = [RunTag(key, value) for key, value in as_tags(tags).items()]
        for start in range(0, len(new), 100):
            self.client.log_batch(run_id, tags=new[start : start + 100])

    def live(self, run_id: str, period: float = 5.0) -> Curves:
        """Live curves of a run: call it as (step, metrics), `close` it at the end. Never raises for what MLflow does."""
        return Curves(lambda: self.client, run_id, bare(self.uri), legal, period)

    @telling("log the snapshot")
    def log_snapshot(self, run_id: str, data: Path | str, snapshot: Mapping[str, Any], dvc_hash: str | None) -> None:
        """Log the snapshot as the run's dataset "FLD", its DVC hash as digest (without one, the snapshot's id).

        ``data``: the folder, or the URI of a remote; ``snapshot``: snapshot.json, whose counts are kept as the dataset's profile.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        where = str(data)
        remote = "://" in where
        uri = where if remote else str((self.root / where).absolute())
        profile = {
            name: snapshot[name]
            for name in ("id", "parent", "round", "counts", "drops", "annotators")
            if name in snapshot
        }
        dataset = Dataset(
            name="FLD",
            digest=(dvc_hash or str(snapshot["id"]))[:36],
            source_type="s3" if where.startswith("s3://") else "local",
            source=json.dumps({"uri": bare(uri)}),
            profile=json.dumps(profile, ensure_ascii=False),
        )
        self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    @telling("log the report")
    def log_report(self, run_id: str, folder: Path | str) -> None:
        """Keep a copy of the report's folder as the run's artifact ``report``."""
        if not Path(folder).is_dir():
            raise FlorenceError(f"there is no report in {folder}; `florence report` makes one")
        self.client.log_artifacts(run_id, str(folder), "report")

    @telling("log files")
    def log_files(self, run_id: str, files: Iterable[Path | str]) -> None:
        """Keep copies of files as artifacts of the run."""
        for file in files:
            self.client.log_artifact(run_id, str(file))

    @telling("look at the curves")
    def has_metric(self, run_id: str, name: str) -> bool:
        """Whether anything was logged under ``name``."""
        return name in self.client.get_run(run_id).data.metrics

    @telling("end the run")
    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)


def _write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(part, file)
