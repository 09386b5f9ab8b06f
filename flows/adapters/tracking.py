"""Runs and curves in an MLflow store, and the snapshot that each run was made of."""

from __future__ import annotations

import getpass
import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from florence.errors import FlorenceError
from florence.folders import temporary_folder
from flows.adapters.curves import Curves
from flows.adapters.environment import redact_text, redact_values
from flows.adapters.mlflow_errors import translate_errors
from flows.adapters.mlflow_store import MlflowStore
from flows.adapters.mlflow_values import LONGEST_PARAM, as_tags, as_text, flatten, is_number, legal_key, shorten

TEMPORARY = ".florence/tmp"
"""The folder of files on their way from a store, below the workspace's."""
LOOP, ROUND = "florence.loop", "florence.round"
ABLATION, VARIANT = "florence.ablation", "florence.variant"


class Tracker:
    """Runs in an MLflow store.

    Every method raises FlorenceError, naming the store and the remedy, where the store fails.
    """

    def __init__(self, store: MlflowStore) -> None:
        self.store = store
        self.root = store.root

    @property
    def uri(self) -> str:
        """The store's URI."""
        return self.store.uri

    # ---------------------------------------------------------------- the runs

    @translate_errors("start the loop's run")
    def loop_run(self, loop_id: str, params: Mapping[str, Any]) -> str:
        """Return the run of a loop, made, or found again by ``loop_id``. Params that it has already are not changed."""
        run_id = self._find_or_create(f"loop {loop_id}", {LOOP: loop_id})
        self.log_params(run_id, params)
        return run_id

    @translate_errors("start the round's run")
    def round_run(self, parent: str, round: int, tags: Mapping[str, Any] | None = None) -> str:
        """Return the run of a round below the loop's run ``parent``, made or found again."""
        run_id = self._find_or_create(f"round {round}", {"mlflow.parentRunId": parent, ROUND: str(round)})
        self.set_tags(run_id, tags or {})
        return run_id

    @translate_errors("start the ablation's run")
    def ablation_run(self, identity: str, params: Mapping[str, Any]) -> str:
        """Return the run of an ablation, made, or found again by ``identity``."""
        run_id = self._find_or_create("ablation", {ABLATION: identity})
        self.log_params(run_id, params)
        return run_id

    @translate_errors("start the variant's run")
    def variant_run(self, parent: str, key: str, name: str, params: Mapping[str, Any]) -> str:
        """Return the run of a variant below the ablation's run ``parent``, made, or found again by ``key``."""
        run_id = self._find_or_create(name, {"mlflow.parentRunId": parent, VARIANT: key})
        self.log_params(run_id, params)
        return run_id

    @translate_errors("look for the variant's run")
    def variant_finished(self, parent: str, key: str) -> bool:
        """Return whether a variant has a run below ``parent`` that finished."""
        wanted = (
            f"tags.`mlflow.parentRunId` = '{parent}' and tags.`{VARIANT}` = '{key}' and attributes.status = 'FINISHED'"
        )
        return bool(self.store.client.search_runs([self.store.experiment_id], wanted, max_results=1))

    @translate_errors("start a run")
    def stage_run(self, env: Mapping[str, str], key: str = "", name: str = "repro") -> str:
        """The run that a stage logs to: MLFLOW_RUN_ID's where ``env`` has it (the flow sets it), else one of our own.

        Our own is remembered in build/run.json, so that the stages of one ``dvc repro`` share it. ``key``: what the
        stages have in common, for instance a hash of snapshot and settings; another key is another run, and the one
        before, if still open, is ended.
        """
        if given := env.get("MLFLOW_RUN_ID"):
            return self._reopen(given, "MLFLOW_RUN_ID names a run that is not there; unset it, or name another one")
        file = self.root / "build/run.json"
        ours = {"uri": redact_text(self.uri), "experiment": self.store.settings.experiment, "key": key}
        before = self._read_run_file(file, ours)
        if before is not None and before.pop("key") == key:
            return self._reopen(before["run_id"], f"delete {file}")
        if before is not None and self.store.client.get_run(before["run_id"]).info.status == "RUNNING":
            self.store.client.set_terminated(before["run_id"], "KILLED")
        run_id = self.store.client.create_run(
            self.store.experiment_id, tags=self._source_tags(), run_name=name
        ).info.run_id
        _write_json(file, {"run_id": run_id, **ours})
        return run_id

    def _read_run_file(self, file: Path, ours: Mapping[str, str]) -> dict[str, str] | None:
        """Return what build/run.json holds, if it is about a run that this store still has."""
        from mlflow.exceptions import MlflowException

        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            here = all(found[name] == ours[name] for name in ("uri", "experiment"))
            return (
                found if here and self.store.client.get_run(found["run_id"]).info.lifecycle_stage == "active" else None
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _find_or_create(self, name: str, tags: dict[str, str]) -> str:
        """Return the run with ``tags``, made where there is none, and set running again where it had ended."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.store.client.search_runs(
            [self.store.experiment_id], wanted, max_results=1, order_by=["attributes.start_time ASC"]
        )
        if found:
            return self._reopen(found[0].info.run_id)
        return self.store.client.create_run(
            self.store.experiment_id, tags={**self._source_tags(), **tags}, run_name=name
        ).info.run_id

    def _reopen(self, run_id: str, otherwise: str = "") -> str:
        """Return ``run_id``, set running again. ``otherwise``: what to do where there is no such run."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.store.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" and otherwise:
                raise FlorenceError(f"MLflow at {redact_text(self.uri)} has no run {run_id}: {otherwise}") from None
            raise
        if run.info.status != "RUNNING":
            self.store.client.update_run(run_id, status="RUNNING")
        return run_id

    def _source_tags(self) -> dict[str, str]:
        """Return the tags that MLflow's page shows as a run's user and source."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container may run as a number that has no name
            user = "unknown"
        return {"mlflow.user": user, "mlflow.source.name": "florence", "mlflow.source.type": "LOCAL"}

    @translate_errors("log settings")
    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log nested settings, redacted, as params a.b.c; params that the run has already stay, long values are cut."""
        from mlflow.entities import Param

        have = self.store.client.get_run(run_id).data.params
        texts = {
            legal_key(key): shorten(as_text(value), LONGEST_PARAM) for key, value in flatten(redact_values(params))
        }
        new = [Param(key, text) for key, text in texts.items() if key not in have]
        for start in range(0, len(new), 100):
            self.store.client.log_batch(run_id, params=new[start : start + 100])

    @translate_errors("log metrics")
    def log_metrics(self, run_id: str, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Log the numbers in a nested mapping as metrics a.b.c, all at once; other values are left out."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [
            Metric(legal_key(key), float(value), now, step) for key, value in flatten(metrics) if is_number(value)
        ]
        for start in range(0, len(points), 1000):
            self.store.client.log_batch(run_id, metrics=points[start : start + 1000])

    @translate_errors("set tags")
    def set_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Set tags; None values are left out."""
        from mlflow.entities import RunTag

        new = [RunTag(key, value) for key, value in as_tags(tags).items()]
        for start in range(0, len(new), 100):
            self.store.client.log_batch(run_id, tags=new[start : start + 100])

    def open_curves(self, run_id: str, period: float = 5.0) -> Curves:
        """Return live curves of a run: call them as (step, metrics), close them at the end."""
        return Curves(lambda: self.store.client, run_id, redact_text(self.uri), period)

    @translate_errors("log the snapshot")
    def log_snapshot(self, run_id: str, data: Path | str, snapshot: Mapping[str, Any], dvc_hash: str | None) -> None:
        """Log the snapshot as the run's dataset "FLD", its DVC hash as digest (without one, the snapshot's id).

        ``data``: the folder, or the URI of a remote; ``snapshot``: snapshot.json, whose counts are kept as the
        dataset's profile.
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
            source=json.dumps({"uri": redact_text(uri)}),
            profile=json.dumps(profile, ensure_ascii=False),
        )
        self.store.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    @translate_errors("log the report")
    def log_report(self, run_id: str, folder: Path | str) -> None:
        """Keep a copy of the report's folder as the run's artifact ``report``."""
        if not Path(folder).is_dir():
            raise FlorenceError(f"there is no report in {folder}; `florence report` makes one")
        self.store.client.log_artifacts(run_id, str(folder), "report")

    @translate_errors("log files")
    def log_files(self, run_id: str, files: Iterable[Path | str], folder: str | None = None) -> None:
        """Keep copies of files as artifacts of the run, in ``folder`` of the run's artifacts."""
        for file in files:
            self.store.client.log_artifact(run_id, str(file), folder)

    @translate_errors("fetch a file of the run")
    def read_file(self, run_id: str, name: str) -> bytes | None:
        """Return the content of the run's artifact ``name`` (as folder/file); None where there is no such artifact."""
        client, folder = self.store.client, name.rpartition("/")[0]
        if name not in {file.path for file in client.list_artifacts(run_id, folder or None)}:
            return None
        with temporary_folder(self.root / TEMPORARY) as target:
            return Path(client.download_artifacts(run_id, name, str(target))).read_bytes()

    @translate_errors("read the curves")
    def has_metric(self, run_id: str, name: str) -> bool:
        """Return whether the run has any value of the metric ``name``."""
        return name in self.store.client.get_run(run_id).data.metrics

    def run_page(self, run_id: str) -> str | None:
        """Return the address of the run's page; None where the store is no server."""
        if not self.uri.startswith("http"):
            return None
        return f"{self.uri.rstrip('/')}/#/experiments/{self.store.experiment_id}/runs/{run_id}"

    @translate_errors("end the run")
    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self.store.client.set_terminated(run_id, status)


def _write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(part, file)
