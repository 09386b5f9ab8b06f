"""MLflow: runs and curves, the snapshot each was made of, registered models and which of them is the champion."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence.errors import FlorenceError
from flows.adapters._mlflow import addressed, locked
from flows.adapters._packed import check, packed
from flows.adapters._runs import Runs, telling
from flows.adapters._values import as_tags

CHAMPION, CHALLENGER, HISTORY = "champion", "challenger", "florence.champions"


@dataclass(frozen=True, slots=True)
class Version:
    """A registered model. ``version``: its number; ``run_id``: the run that made it; ``tags``: its lineage; ``aliases``: champion, challenger."""

    version: str
    run_id: str | None
    tags: Mapping[str, str]
    aliases: tuple[str, ...]


class Tracker(Runs):
    """Runs and models in an MLflow store; see `Runs`."""

    @telling("register the model")
    def register(self, run_id: str, model_dir: Path | str, tags: Mapping[str, Any], beside: Iterable[Path] = ()) -> str:
        """Register the model in ``model_dir`` as made by ``run_id``, with ``tags`` as its lineage and the files ``beside`` its weights, and call it challenger.

        Returns the version's number; of a run that has registered one already, that one's. Raises ModelError where there are no weights.
        """
        version = next((v.version for v in self.versions() if v.run_id == run_id), None)
        if version is None:
            version = self._registered(run_id, Path(model_dir).absolute(), as_tags(tags), tuple(beside))
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
            return str(
                self.client.create_model_version(
                    self.settings.model, f"models:/{model_id}", run_id, tags=tags, model_id=model_id
                ).version
            )

    def _logged(self, run_id: str, model_dir: Path, tags: dict[str, str], beside: tuple[Path, ...]) -> str:
        """Log the model as code, the weights and the florence package beside it; returns MLflow's id of it."""
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        check(model_dir)
        # MLflow takes no slash, dot or colon here; a registered model of Databricks is catalog.schema.model.
        name = re.sub(r"[/:.%\"']", "_", self.settings.model)
        model = self.client.create_logged_model(self.experiment_id, name, source_run_id=run_id, tags=tags)
        status = "FAILED"
        try:
            self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
            record = Model(
                artifact_path=model.artifact_location, run_id=run_id, model_uuid=model.model_id, model_id=model.model_id
            )
            with packed(model_dir, beside, record) as folder:
                self.client.log_model_artifacts(model.model_id, str(folder))
            status = "READY"
        finally:
            self.client.finalize_logged_model(model.model_id, status)
        return model.model_id

    @telling("list models")
    def versions(self) -> tuple[Version, ...]:
        """Every registered version, the newest first."""
        aliases = self._aliases()
        found, token = [], None
        while True:
            page = self.client.search_model_versions(
                f"name = '{self.settings.model}'", max_results=200, page_token=token
            )
            found += list(page)
            token = page.token
            if not token:
                break
        return tuple(sorted((_version(v, aliases) for v in found), key=lambda v: -int(v.version)))

    @telling("look for the champion")
    def champion(self) -> Version | None:
        """The version in use, None where none has been promoted."""
        return self._by_alias(CHAMPION)

    @telling("look for the challenger")
    def challenger(self) -> Version | None:
        """The version registered last, None where there is none."""
        return self._by_alias(CHALLENGER)

    @telling("promote the model")
    def promote(self, version: str | int | None = None) -> Version:
        """Make ``version``, by default the challenger, the champion; the one before is remembered for `rollback`."""
        if version is None:
            if (challenger := self.challenger()) is None:
                raise FlorenceError(
                    f"no challenger of {self.settings.model!r} to promote; `florence register` makes one"
                )
            version = challenger.version
        wanted = self._numbered(str(version))
        before = self.champion()
        if before is not None and before.version != wanted:
            # Written before the alias moves: a kill in between leaves an entry that rollback skips, not a gap.
            self._remember([*self._history(), before.version])
        self.client.set_registered_model_alias(self.settings.model, CHAMPION, wanted)
        return self._get(wanted)

    @telling("roll back")
    def rollback(self) -> tuple[str, str]:
        """Make the champion before this one champion again; returns (from, to). Can be repeated, down to the first one."""
        champion = self.champion()
        history = self._history()
        there = {v.version for v in self.versions()}
        while history and (history[-1] not in there or (champion is not None and history[-1] == champion.version)):
            history.pop()
        if champion is None or not history:
            now = f"version {champion.version} is the first champion" if champion else "there is no champion"
            raise FlorenceError(
                f"nothing to roll back to: {now} of {self.settings.model!r}; `florence promote VERSION` names one"
            )
        back = history.pop()
        self.client.set_registered_model_alias(self.settings.model, CHAMPION, back)
        self._remember(history)
        return champion.version, back

    @telling("fetch the model")
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
            where = download_artifacts(
                f"{self._place(version)}/artifacts/model",
                dst_path=str(part),
                tracking_uri=self.uri,
                registry_uri=self.registry_uri,
            )
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
        raise FlorenceError(
            f"model {self.settings.model!r} has no version or alias {ref!r}; registered: {known or 'none, `florence register` makes one'}"
        )

    def _history(self) -> list[str]:
        """The champions before this one, the last one last."""
        found = self._registered_model()
        return [str(version) for version in json.loads(found.tags.get(HISTORY, "[]"))] if found else []

    def _remember(self, history: list[str]) -> None:
        self.client.set_registered_model_tag(self.settings.model, HISTORY, json.dumps(history[-200:]))


def _version(found: Any, aliases: Mapping[str, tuple[str, ...]]) -> Version:
    version = str(found.version)
    return Version(version, found.run_id or None, dict(found.tags), aliases.get(version, ()))


def _origin(folder: Path) -> str | None:
    file = folder / ".origin"
    return file.read_text(encoding="utf-8") if file.is_file() else None
