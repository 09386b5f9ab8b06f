"""Registered models in an MLflow store, and which of them is the champion."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from florence.errors import FlorenceError
from florence.folders import temporary_folder
from flows.adapters.alias_log import AliasMove, list_champions, read_moves
from flows.adapters.mlflow_errors import translate_errors
from flows.adapters.mlflow_locations import local_path
from flows.adapters.mlflow_store import MlflowStore, hold_lock, use_tracking_uri
from flows.adapters.mlflow_values import as_tags
from flows.adapters.model_package import check_model_folder, package_model

APPROVAL = "approval"
"""Tag of a version that a person decides about: waiting, approved or refused; beside it .since, .who, .time."""
CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A registered model.

    ``version``: its number; ``run_id``: the run that made it; ``tags``: its lineage; ``aliases``: champion,
    challenger; ``created``: seconds since 1970.
    """

    version: str
    run_id: str | None
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    created: float = field(default=0.0, compare=False)


class ModelRegistry:
    """The registered models of an MLflow store.

    Every method raises FlorenceError, naming the store and the remedy, where the store fails.
    """

    def __init__(self, store: MlflowStore) -> None:
        self.store = store
        self.name = store.settings.model

    @property
    def uri(self) -> str:
        """The store's URI."""
        return self.store.uri

    @translate_errors("register the model")
    def register(self, run_id: str, model_dir: Path | str, tags: Mapping[str, Any], beside: Iterable[Path] = ()) -> str:
        """Register the model in ``model_dir`` as made by ``run_id``, and make it the challenger.

        ``tags``: its lineage; ``beside``: files that are kept beside its weights.
        Returns the version's number; of a run that has registered one already, that one's. Raises ModelError where
        there are no weights.
        """
        version = next((v.version for v in self.versions() if v.run_id == run_id), None)
        if version is None:
            version = self._create_version(run_id, Path(model_dir).absolute(), as_tags(tags), tuple(beside))
        self.store.client.set_registered_model_alias(self.name, CHALLENGER, version)
        return version

    def _create_version(self, run_id: str, model_dir: Path, tags: dict[str, str], beside: tuple[Path, ...]) -> str:
        from mlflow.exceptions import MlflowException

        model_id = self._log_model(run_id, model_dir, tags, beside)
        try:
            self.store.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        with self.store.lock, use_tracking_uri(self.uri):
            return str(
                self.store.client.create_model_version(
                    self.name, f"models:/{model_id}", run_id, tags=tags, model_id=model_id
                ).version
            )

    def _log_model(self, run_id: str, model_dir: Path, tags: dict[str, str], beside: tuple[Path, ...]) -> str:
        """Log the model as code, with the weights and the florence package; return MLflow's id of it."""
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        check_model_folder(model_dir)
        # MLflow takes no slash, dot or colon here; a registered model of Databricks is catalog.schema.model.
        name = re.sub(r"[/:.%\"']", "_", self.name)
        model = self.store.client.create_logged_model(self.store.experiment_id, name, source_run_id=run_id, tags=tags)
        status = "FAILED"
        try:
            self.store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
            record = Model(
                artifact_path=model.artifact_location, run_id=run_id, model_uuid=model.model_id, model_id=model.model_id
            )
            with package_model(model_dir, beside, record) as folder:
                self.store.client.log_model_artifacts(model.model_id, str(folder))
            status = "READY"
        finally:
            self.store.client.finalize_logged_model(model.model_id, status)
        return model.model_id

    @translate_errors("list models")
    def versions(self) -> tuple[ModelVersion, ...]:
        """Return every registered version, the newest first."""
        aliases = self._read_aliases()
        found, token = [], None
        while True:
            page = self.store.client.search_model_versions(f"name = '{self.name}'", max_results=200, page_token=token)
            found += list(page)
            token = page.token
            if not token:
                break
        return tuple(sorted((_model_version(v, aliases) for v in found), key=lambda v: -int(v.version)))

    @translate_errors("look for the champion")
    def champion(self) -> ModelVersion | None:
        """Return the version in use, None where none has been promoted."""
        return self._find_alias(CHAMPION)

    @translate_errors("look for the challenger")
    def challenger(self) -> ModelVersion | None:
        """Return the version registered last, None where there is none."""
        return self._find_alias(CHALLENGER)

    @translate_errors("look for the model")
    def find(self, ref: str | int) -> ModelVersion:
        """Return the version that a number or alias names. Raises FlorenceError, listing what is registered."""
        return self._get(self._find_number(str(ref)))

    @translate_errors("tag the model")
    def tag_version(self, version: str, tags: Mapping[str, Any]) -> None:
        """Set tags of a registered version."""
        for name, value in as_tags(tags).items():
            self.store.client.set_model_version_tag(self.name, version, name, value)

    @translate_errors("promote the model")
    def promote(self, version: str | int | None = None, reason: str = "", force: bool = False) -> ModelVersion:
        """Make ``version``, by default the challenger, the champion; `moves` has who did it and why.

        Raises FlorenceError where the promotion rule has rejected it, unless ``force``.
        """
        if version is None:
            if (challenger := self.challenger()) is None:
                raise FlorenceError(f"no challenger of {self.name!r} to promote; `florence register` makes one")
            version = challenger.version
        wanted = self.find(version)
        if wanted.tags.get(APPROVAL) == "waiting":
            return self.decide(wanted.version, True, reason)
        rejected = wanted.tags.get("decision") == "rejected"
        if rejected and not force:
            raise FlorenceError(
                f"version {wanted.version} of {self.name!r} was rejected: {wanted.tags.get('reason', '')}; "
                f"`florence promote {wanted.version} --force --reason TEXT` makes it the champion all the same"
            )
        before = self.champion()
        if before is None or before.version != wanted.version:
            known = before.version if before else None
            self._log_move(AliasMove.now("promote", known, wanted.version, reason, rejected))
        self.store.client.set_registered_model_alias(self.name, CHAMPION, wanted.version)
        return self._get(wanted.version)

    @translate_errors("decide about the model")
    def decide(self, version: str | None, is_approved: bool, reason: str = "", who: str = "") -> ModelVersion:
        """Approve or refuse a version that waits, by default the challenger; an approved one becomes champion.

        A refused one counts as rejected. ``who``: by default this user. Raises FlorenceError where it does not wait: of
        two decisions on this machine the first one counts.
        """
        with hold_lock(self.store.root / "build/approval.lock"):
            found = self.challenger() if version is None else self.find(version)
            if found is None:
                raise FlorenceError(f"no version of {self.name!r} waits for approval")
            if found.tags.get(APPROVAL) != "waiting":
                raise FlorenceError(f"version {found.version} of {self.name!r} {_describe_approval(found)}")
            before = self.champion()
            known = before.version if before else None
            move = AliasMove.now("approve" if is_approved else "refuse", known, found.version, reason, who=who)
            if not is_approved or known != found.version:
                self._log_move(move)
            if is_approved:
                self.store.client.set_registered_model_alias(self.name, CHAMPION, found.version)
            tags = {f"{APPROVAL}.who": move.who, f"{APPROVAL}.time": move.time, f"{APPROVAL}.reason": move.reason}
            if not is_approved:
                tags |= {"decision": "rejected", "reason": f"refused by {move.who}: {move.reason}"}
            # the tag that says that it was decided is the last one: a killed decision is made again
            for name, value in {**tags, APPROVAL: "approved" if is_approved else "refused"}.items():
                self.store.client.set_model_version_tag(self.name, found.version, name, value)
            return self._get(found.version)

    @translate_errors("roll back")
    def rollback(self, reason: str = "") -> tuple[str, str]:
        """Make the champion before this one champion again; return (from, to). Can be repeated down to the first."""
        champion = self.champion()
        champions = self._list_champions()
        if champion is None or len(champions) < 2:
            now = f"version {champion.version} is the first champion" if champion else "there is no champion"
            raise FlorenceError(
                f"nothing to roll back to: {now} of {self.name!r}; `florence promote VERSION` names one"
            )
        back = champions[-2]
        self._log_move(AliasMove.now("rollback", champion.version, back, reason))
        self.store.client.set_registered_model_alias(self.name, CHAMPION, back)
        return champion.version, back

    @translate_errors("read the log of champions")
    def moves(self) -> list[AliasMove]:
        """Return every move of the alias champion, the first one first."""
        found = self._registered_model()
        return read_moves(found.tags) if found else []

    def _list_champions(self) -> list[str]:
        champion = self.champion()
        there = [version.version for version in self.versions()]
        return list_champions(self.moves(), champion.version if champion else None, there)

    def _log_move(self, move: AliasMove) -> None:
        self.store.client.set_registered_model_tag(self.name, *move.to_tag())

    @translate_errors("fetch the model")
    def fetch(self, ref: str | int, into: Path | str | None = None) -> Path:
        """The folder, in transformers' layout, of an alias or version number; downloaded once, whole or not at all.

        ``into``: the folder of fetched models, by default .florence/models.
        """
        from mlflow.artifacts import download_artifacts

        version = self._find_number(str(ref))
        found = self.store.client.get_model_version(self.name, version)
        # A number alone is no identity: a store that was deleted and made again starts at 1.
        origin = f"{found.source} {found.run_id} {found.creation_timestamp}"
        folder = Path(into).absolute() if into is not None else self.store.root / ".florence/models"
        target = folder / version
        if _origin(target) == origin:
            return target
        with temporary_folder(folder / ".tmp") as part:
            where = download_artifacts(
                f"{self.artifact_uri(version)}/artifacts/model",
                dst_path=str(part),
                tracking_uri=self.uri,
                registry_uri=self.store.registry_uri,
            )
            Path(where, ".origin").write_text(origin, encoding="utf-8")
            with hold_lock(folder / ".lock"):
                if _origin(target) != origin:
                    shutil.rmtree(target, ignore_errors=True)
                    os.replace(where, target)
        return target

    def artifact_uri(self, version: str) -> str:
        """Return where a version's artifacts are. Unity Catalog gives credentials for them only by the model's name."""
        if self.store.registry_uri.startswith("databricks-uc"):
            return f"models:/{self.name}/{version}"
        return self.store.client.get_model_version_download_uri(self.name, version).rstrip("/")

    @translate_errors("look for aliases")
    def lost_aliases(self) -> dict[str, str]:
        """Return the aliases champion and challenger that name a version which is not registered, with its number."""
        there = {version.version for version in self.versions()}
        aliases = ((alias, version) for version, names in self._read_aliases().items() for alias in names)
        return {
            alias: version for alias, version in aliases if alias in (CHAMPION, CHALLENGER) and version not in there
        }

    @translate_errors("look for the model's files")
    def find_fault(self, version: str) -> str:
        """Return why a registered version cannot be used: its files or its run are gone; "" where nothing is wrong.

        Files that are not on this machine are not looked for.
        """
        from mlflow.exceptions import MlflowException

        found = self.store.client.get_model_version(self.name, version)
        place = local_path(self.artifact_uri(version))
        if place is not None and not any((place / "artifacts/model").glob("*.safetensors")):
            return f"its weights are not in {place}" if place.is_dir() else f"{place} does not exist"
        try:
            run = self.store.client.get_run(found.run_id) if found.run_id else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return f"its run {found.run_id} is gone"
        if run is not None and run.info.lifecycle_stage != "active":
            return f"its run {found.run_id} has been deleted; `mlflow runs restore --run-id {found.run_id}`"
        return ""

    def _registered_model(self) -> Any:
        """Return MLflow's record of the registered model; None where there is none yet."""
        from mlflow.exceptions import MlflowException

        try:
            return self.store.client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _read_aliases(self) -> dict[str, tuple[str, ...]]:
        """Return the aliases of each version that has some."""
        found = self._registered_model()
        pairs = found.aliases.items() if found else ()
        return {str(version): tuple(sorted(a for a, v in pairs if v == version)) for _, version in pairs}

    def _find_alias(self, alias: str) -> ModelVersion | None:
        aliases = self._read_aliases()
        version = next((version for version, names in aliases.items() if alias in names), None)
        if version is None or version not in {known.version for known in self.versions()}:
            return None  # an alias outlives its version in some stores
        return self._get(version)

    def _get(self, version: str) -> ModelVersion:
        return _model_version(self.store.client.get_model_version(self.name, version), self._read_aliases())

    def _find_number(self, ref: str) -> str:
        """Return the number of a registered version or alias. Raises FlorenceError, listing what is registered."""
        versions = self.versions()
        name = ref.removeprefix("@")
        for version in versions:
            if version.version == name or name in version.aliases:
                return version.version
        known = ", ".join(v.version + "".join(f" (@{alias})" for alias in v.aliases) for v in versions)
        raise FlorenceError(
            f"model {self.name!r} has no version or alias {ref!r}; "
            f"registered: {known or 'none, `florence register` makes one'}"
        )


def _describe_approval(version: ModelVersion) -> str:
    tags = version.tags
    if tags.get(APPROVAL) not in ("approved", "refused"):
        return "does not wait for approval"
    return (
        f"was {tags[APPROVAL]} already, by {tags.get(APPROVAL + '.who')} at {tags.get(APPROVAL + '.time', '')[:19]} UTC"
    )


def _model_version(found: Any, aliases: Mapping[str, tuple[str, ...]]) -> ModelVersion:
    version = str(found.version)
    created = (found.creation_timestamp or 0) / 1000
    return ModelVersion(version, found.run_id or None, dict(found.tags), aliases.get(version, ()), created)


def _origin(folder: Path) -> str | None:
    file = folder / ".origin"
    return file.read_text(encoding="utf-8") if file.is_file() else None
