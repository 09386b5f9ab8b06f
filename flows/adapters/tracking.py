"""MLflow: runs and curves, the snapshot each was made of, registered models and which of them is the champion."""

from __future__ import annotations

import functools
import getpass
import json
import numbers
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from florence import config
from florence.errors import FlorenceError, ModelError
from flows.adapters._curves import Curves
from flows.adapters._mlflow import addressed, bare, is_database, knock, locked, quiet, sqlite_file, store_uri, told

Method = TypeVar("Method", bound=Callable[..., Any])
CHAMPION, CHALLENGER = "champion", "challenger"
LOOP, ROUND, HISTORY = "florence.loop", "florence.round", "florence.champions"
ABLATION, VARIANT = "florence.ablation", "florence.variant"
REQUIREMENTS = (
    "mlflow", "numpy", "opencv-python-headless", "pandas", "pillow", "pyarrow", "pydantic", "pyyaml", "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip
"""What the served model imports; told to MLflow, which would take a quarter of a minute to find out."""
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".ckpt", ".msgpack", ".h5")
LONGEST_PARAM, LONGEST_TAG, LONGEST_KEY = 6000, 5000, 250


@dataclass(frozen=True, slots=True)
class Version:
    """A registered model. ``version``: its number; ``run_id``: the run that made it; ``tags``: its lineage; ``aliases``: champion, challenger."""

    version: str
    run_id: str | None
    tags: Mapping[str, str]
    aliases: tuple[str, ...]


def _told(doing: str) -> Callable[[Method], Method]:
    """For methods of `Tracker`, whatever they use of MLflow: it is quiet, and its errors become FlorenceErrors that say what could not be done."""

    def wrap(method: Method) -> Method:
        @functools.wraps(method)
        def inner(self: Tracker, *args: Any, **kwargs: Any) -> Any:
            quiet()  # before anything of MLflow is imported
            with told(self.uri, doing):
                return method(self, *args, **kwargs)

        return cast(Method, inner)

    return wrap


class Tracker:
    """Runs and models in the MLflow store that ``settings`` name, for the workspace ``root``.

    Nothing is imported or opened before it is used. Every method raises FlorenceError, naming the store and the remedy, where the
    store can not be reached, read or written. Global state of MLflow is neither used nor changed.
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

    # ---------------------------------------------------------------- the store

    @property
    @_told("open the store")
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
    @_told("open the experiment")
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

    # ---------------------------------------------------------------- runs

    @_told("start the loop's run")
    def loop_run(self, loop_id: str, params: Mapping[str, Any]) -> str:
        """The run of a loop, made, or found again by ``loop_id``. Params that it has already stay as they are."""
        run_id = self._run(f"loop {loop_id}", {LOOP: loop_id})
        self.log_params(run_id, params)
        return run_id

    @_told("start the round's run")
    def round_run(self, parent: str, round: int, tags: Mapping[str, Any] | None = None) -> str:
        """The run of a round below the loop's run ``parent``, made, or found again."""
        run_id = self._run(f"round {round}", {"mlflow.parentRunId": parent, ROUND: str(round)})
        self.set_tags(run_id, tags or {})
        return run_id

    @_told("start the ablation's run")
    def ablation_run(self, identity: str, params: Mapping[str, Any]) -> str:
        """The run of an ablation, made, or found again by ``identity``."""
        run_id = self._run("ablation", {ABLATION: identity})
        self.log_params(run_id, params)
        return run_id

    @_told("start the variant's run")
    def variant_run(self, parent: str, key: str, name: str, params: Mapping[str, Any]) -> str:
        """The run of a variant below the ablation's run ``parent``, made, or found again by ``key``."""
        run_id = self._run(name, {"mlflow.parentRunId": parent, VARIANT: key})
        self.log_params(run_id, params)
        return run_id

    @_told("look for the variant's run")
    def variant_finished(self, parent: str, key: str) -> bool:
        """Whether a variant has a run below ``parent`` that has ended well."""
        wanted = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`{VARIANT}` = '{key}' and attributes.status = 'FINISHED'"
        return bool(self.client.search_runs([self.experiment_id], wanted, max_results=1))

    @_told("start a run")
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
        found = self.client.search_runs([self.experiment_id], wanted, max_results=1, order_by=["attributes.start_time ASC"])
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

    @_told("log settings")
    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log nested settings as params a.b.c; those that the run has already are left alone, long values are cut."""
        from mlflow.entities import Param

        have = self.client.get_run(run_id).data.params
        texts = {legal(key): _cut(bare(_text(value)), LONGEST_PARAM) for key, value in flat(params)}
        new = [Param(key, text) for key, text in texts.items() if key not in have]
        for start in range(0, len(new), 100):
            self.client.log_batch(run_id, params=new[start : start + 100])

    @_told("log metrics")
    def log_metrics(self, run_id: str, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Log the numbers in a nested mapping as metrics a.b.c, all at once; what is no number is left out."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(legal(key), float(value), now, step) for key, value in flat(metrics) if _is_number(value)]
        for start in range(0, len(points), 1000):
            self.client.log_batch(run_id, metrics=points[start : start + 1000])

    @_told("set tags")
    def set_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Set tags; None values are left out."""
        from mlflow.entities import RunTag

        new = [RunTag(key, value) for key, value in _tags(tags).items()]
        for start in range(0, len(new), 100):
            self.client.log_batch(run_id, tags=new[start : start + 100])

    def live(self, run_id: str, period: float = 5.0) -> Curves:
        """Live curves of a run: call it as (step, metrics), `close` it at the end. Never raises for what MLflow does."""
        return Curves(lambda: self.client, run_id, bare(self.uri), legal, period)

    @_told("log the snapshot")
    def log_snapshot(self, run_id: str, data: Path | str, snapshot: Mapping[str, Any], dvc_hash: str | None) -> None:
        """Log the snapshot as the run's dataset "FLD", its DVC hash as digest (without one, the snapshot's id).

        ``data``: the folder, or the URI of a remote; ``snapshot``: snapshot.json, whose counts are kept as the dataset's profile.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        where = str(data)
        remote = "://" in where
        uri = where if remote else str((self.root / where).absolute())
        profile = {name: snapshot[name] for name in ("id", "parent", "round", "counts", "drops", "authors") if name in snapshot}
        dataset = Dataset(
            name="FLD", digest=(dvc_hash or str(snapshot["id"]))[:36], source_type="s3" if where.startswith("s3://") else "local",
            source=json.dumps({"uri": bare(uri)}), profile=json.dumps(profile, ensure_ascii=False),
        )  # fmt: skip
        self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    @_told("log the report")
    def log_report(self, run_id: str, folder: Path | str) -> None:
        """Keep a copy of the report's folder as the run's artifact ``report``."""
        if not Path(folder).is_dir():
            raise FlorenceError(f"there is no report in {folder}; `florence report` makes one")
        self.client.log_artifacts(run_id, str(folder), "report")

    @_told("log files")
    def log_files(self, run_id: str, files: Iterable[Path | str]) -> None:
        """Keep copies of files as artifacts of the run."""
        for file in files:
            self.client.log_artifact(run_id, str(file))

    @_told("look at the curves")
    def has_metric(self, run_id: str, name: str) -> bool:
        """Whether anything was logged under ``name``."""
        return name in self.client.get_run(run_id).data.metrics

    @_told("end the run")
    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

    # ---------------------------------------------------------------- the registry

    @_told("register the model")
    def register(self, run_id: str, model_dir: Path | str, tags: Mapping[str, Any], beside: Iterable[Path] = ()) -> str:
        """Register the model in ``model_dir`` as made by ``run_id``, with ``tags`` as its lineage and the files ``beside`` its weights, and call it challenger.

        Returns the version's number; of a run that has registered one already, that one's. Raises ModelError where there are no weights.
        """
        version = next((v.version for v in self.versions() if v.run_id == run_id), None)
        if version is None:
            version = self._registered(run_id, Path(model_dir).absolute(), _tags(tags), tuple(beside))
        self.client.set_registered_model_alias(self.settings.model, CHALLENGER, version)
        return version

    def _registered(self, run_id: str, model_dir: Path, tags: dict[str, str], beside: tuple[Path, ...]) -> str:
        from mlflow.exceptions import MlflowException

        model_id = self._logged(run_id, model_dir, tags, beside)
        try:
            self.client.create_registered_model(self.settings.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        with self._guard, addressed(self.uri):
            return str(self.client.create_model_version(self.settings.model, f"models:/{model_id}", run_id, tags=tags, model_id=model_id).version)

    def _logged(self, run_id: str, model_dir: Path, tags: dict[str, str], beside: tuple[Path, ...]) -> str:
        """Log the model as code, the weights and the florence package beside it; returns MLflow's id of it."""
        import mlflow.pyfunc
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        _check(model_dir)
        # MLflow takes no slash, dot or colon here; a registered model of Databricks is catalog.schema.model.
        name = re.sub(r"[/:.%\"']", "_", self.settings.model)
        model = self.client.create_logged_model(self.experiment_id, name, source_run_id=run_id, tags=tags)
        status = "FAILED"
        try:
            self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
            with tempfile.TemporaryDirectory() as folder:
                source, packed, weights, served = (Path(folder, name) for name in ("code/florence", "packed", "model", "served.py"))
                copy_library(source)
                # Copies: DVC may have made links of the weights, which MLflow does not take, and it notes the path of the code.
                shutil.copytree(model_dir, weights, ignore=shutil.ignore_patterns(".*"))
                for file in beside:
                    shutil.copy(file, weights)
                shutil.copy(Path(__file__).with_name("served.py"), served)
                record = Model(artifact_path=model.artifact_location, run_id=run_id, model_uuid=model.model_id, model_id=model.model_id)
                with warnings.catch_warnings(action="ignore"):  # it would like an example of the input
                    mlflow.pyfunc.save_model(
                        str(packed), mlflow_model=record, python_model=str(served), artifacts={"model": str(weights)},
                        code_paths=[str(source)], pip_requirements=requirements(), signature=signature(),
                    )  # fmt: skip
                for cache in packed.rglob("__pycache__"):
                    shutil.rmtree(cache)
                self.client.log_model_artifacts(model.model_id, str(packed))
            status = "READY"
        finally:
            self.client.finalize_logged_model(model.model_id, status)
        return model.model_id

    @_told("list models")
    def versions(self) -> tuple[Version, ...]:
        """Every registered version, the newest first."""
        aliases = self._aliases()
        found, token = [], None
        while True:
            page = self.client.search_model_versions(f"name = '{self.settings.model}'", max_results=200, page_token=token)
            found += list(page)
            token = page.token
            if not token:
                break
        return tuple(sorted((_version(v, aliases) for v in found), key=lambda v: -int(v.version)))

    @_told("look for the champion")
    def champion(self) -> Version | None:
        """The version in use, None where none has been promoted."""
        return self._by_alias(CHAMPION)

    @_told("look for the challenger")
    def challenger(self) -> Version | None:
        """The version registered last, None where there is none."""
        return self._by_alias(CHALLENGER)

    @_told("promote the model")
    def promote(self, version: str | int | None = None) -> Version:
        """Make ``version``, by default the challenger, the champion; the one before is remembered for `rollback`."""
        if version is None:
            if (challenger := self.challenger()) is None:
                raise FlorenceError(f"no challenger of {self.settings.model!r} to promote; `florence register` makes one")
            version = challenger.version
        wanted = self._numbered(str(version))
        before = self.champion()
        if before is not None and before.version != wanted:
            # Written before the alias moves: a kill in between leaves an entry that rollback skips, not a gap.
            self._remember([*self._history(), before.version])
        self.client.set_registered_model_alias(self.settings.model, CHAMPION, wanted)
        return self._get(wanted)

    @_told("roll back")
    def rollback(self) -> tuple[str, str]:
        """Make the champion before this one champion again; returns (from, to). Can be repeated, down to the first one."""
        champion = self.champion()
        history = self._history()
        there = {v.version for v in self.versions()}
        while history and (history[-1] not in there or (champion is not None and history[-1] == champion.version)):
            history.pop()
        if champion is None or not history:
            now = f"version {champion.version} is the first champion" if champion else "there is no champion"
            raise FlorenceError(f"nothing to roll back to: {now} of {self.settings.model!r}; `florence promote VERSION` names one")
        back = history.pop()
        self.client.set_registered_model_alias(self.settings.model, CHAMPION, back)
        self._remember(history)
        return champion.version, back

    @_told("fetch the model")
    def fetch(self, ref: str | int, into: Path | str | None = None) -> Path:
        """The folder, in transformers' layout, of an alias or version number; downloaded once, whole or not at all.

        ``into``: the folder of fetched models, by default .florence/models.
        """
        from mlflow.artifacts import download_artifacts

        version = self._numbered(str(ref))
        found = self.client.get_model_version(self.settings.model, version)
        # A number alone is no identity: a store that was deleted and made again starts at 1.
        origin = f"{found.source} {found.run_id} {found.creation_timestamp}"
        folder = Path(into).absolute() if into is not None else self.root / ".florence/models"
        target = folder / version
        if _origin(target) == origin:
            return target
        part = folder / f".{version}.{uuid.uuid4().hex}.part"
        try:
            where = download_artifacts(f"{self._place(version)}/artifacts/model", dst_path=str(part), tracking_uri=self.uri, registry_uri=self.registry_uri)
            Path(where, ".origin").write_text(origin, encoding="utf-8")
            with locked(folder / ".lock"):
                if _origin(target) != origin:
                    shutil.rmtree(target, ignore_errors=True)
                    os.replace(where, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return target

    def _place(self, version: str) -> str:
        """Where a version's artifacts are. Unity Catalog gives the credentials for its own only by the model's name."""
        if self.registry_uri.startswith("databricks-uc"):
            return f"models:/{self.settings.model}/{version}"
        return self.client.get_model_version_download_uri(self.settings.model, version).rstrip("/")

    def _registered_model(self) -> Any:
        """MLflow's record of the registered model; None where there is none yet."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(self.settings.model)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _aliases(self) -> dict[str, tuple[str, ...]]:
        """Version → its aliases."""
        found = self._registered_model()
        pairs = found.aliases.items() if found else ()
        return {str(version): tuple(sorted(a for a, v in pairs if v == version)) for _, version in pairs}

    def _by_alias(self, alias: str) -> Version | None:
        aliases = self._aliases()
        version = next((version for version, names in aliases.items() if alias in names), None)
        return self._get(version) if version is not None else None

    def _get(self, version: str) -> Version:
        return _version(self.client.get_model_version(self.settings.model, version), self._aliases())

    def _numbered(self, ref: str) -> str:
        """The number of a version or alias that is registered. Raises FlorenceError, listing what is."""
        versions = self.versions()
        name = ref.removeprefix("@")
        for version in versions:
            if version.version == name or name in version.aliases:
                return version.version
        known = ", ".join(v.version + "".join(f" (@{alias})" for alias in v.aliases) for v in versions)
        raise FlorenceError(f"model {self.settings.model!r} has no version or alias {ref!r}; registered: {known or 'none, `florence register` makes one'}")

    def _history(self) -> list[str]:
        """The champions before this one, the last one last."""
        found = self._registered_model()
        return [str(version) for version in json.loads(found.tags.get(HISTORY, "[]"))] if found else []

    def _remember(self, history: list[str]) -> None:
        self.client.set_registered_model_tag(self.settings.model, HISTORY, json.dumps(history[-200:]))


# ---------------------------------------------------------------- values as MLflow takes them


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings with their keys a.b.c; an empty mapping is a leaf."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def legal(key: str) -> str:
    """A name as MLflow allows it: "loss/<OD>" is "loss/OD"."""
    key = re.sub(r"[^\w.\- :/]", "_", re.sub(r"[<>]", "", key))
    return "/".join(part for part in key.split("/") if part not in ("", ".", ".."))[:LONGEST_KEY] or "_"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _tags(tags: Mapping[str, Any]) -> dict[str, str]:
    return {legal(key): _cut(bare(_text(value)), LONGEST_TAG) for key, value in tags.items() if value is not None}


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real)


def _version(found: Any, aliases: Mapping[str, tuple[str, ...]]) -> Version:
    version = str(found.version)
    return Version(version, found.run_id or None, dict(found.tags), aliases.get(version, ()))


def _origin(folder: Path) -> str | None:
    file = folder / ".origin"
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(part, file)


# ---------------------------------------------------------------- what is packed with a model


def _check(model_dir: Path) -> None:
    """Raise ModelError where ``model_dir`` is no whole model, or holds a file that may be a pickle."""
    if not (model_dir / "config.json").is_file() or not any(model_dir.glob("*.safetensors")):
        raise ModelError(f"{model_dir} holds no model (config.json and *.safetensors): `florence train` makes one")
    if bad := sorted(p.name for p in model_dir.rglob("*") if p.suffix in PICKLES):
        raise ModelError(f"{model_dir} holds {bad[0]}, which may be a pickle: only *.safetensors are registered; remove it")


def copy_library(target: Path) -> None:
    """A copy of the florence package's source: what a registered model is run with, wherever it is loaded."""
    import florence

    # The weights that come with the package would only double those that are registered.
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "tests", "*.safetensors")
    shutil.copytree(Path(florence.__file__).parent, target, ignore=ignored)


def requirements() -> list[str]:
    """The served model's requirements, at the versions installed here."""
    from importlib.metadata import version

    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def signature() -> Any:
    """Rows of image, task and input; of each a text, regions, a score, a confidence and an error. An image may be a path, bytes or base64."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, Schema
    from mlflow.types import ParamSpec as Param
    from mlflow.types.schema import AnyType

    return ModelSignature(
        Schema([ColSpec(AnyType(), "image"), ColSpec("string", "task"), ColSpec("string", "input", required=False)]),
        Schema([ColSpec("string", "text"), ColSpec(AnyType(), "regions"), ColSpec("double", "score", required=False), ColSpec("double", "confidence", required=False), ColSpec("string", "error")]),
        ParamSchema([Param("max_tokens", DataType.long, 160)]),
    )
