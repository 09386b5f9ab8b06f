"""All settings as one object, read from params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from florence.config.base import Section
from florence.config.data import AnnotatorSettings, CollectSettings, ReviewSettings, SourceSettings, SplitSettings
from florence.config.engine import EngineSettings, ValidationSettings
from florence.config.flow import FlowSettings, SnapshotSettings, TrackingSettings
from florence.config.training import EvaluateSettings, ModelSettings, PromotionSettings, TrainSettings
from florence.config.yaml_file import read_mapping
from florence.errors import SettingsError
from florence.records import ANNOTATION_TYPES, BASE_TYPES, CAPTIONS, FINE_TUNED, TASKS
from florence.renamed import renamed_keys, replaced_keys


class Settings(Section):
    """Everything in params.yaml."""

    workspace: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$",
        description="id of the workspace: default of `tracking.experiment` and `tracking.model`, a tag of its models",
    )
    store: str = Field(".florence/store", description="working store of the annotation: a folder or s3://bucket/prefix")
    sources: dict[str, SourceSettings]
    annotators: dict[str, AnnotatorSettings]
    split: SplitSettings = SplitSettings()
    collect: CollectSettings = CollectSettings()
    review: ReviewSettings = ReviewSettings()
    engine: EngineSettings = EngineSettings()
    validation: ValidationSettings = ValidationSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    promotion: PromotionSettings = PromotionSettings()
    tracking: TrackingSettings = TrackingSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    flow: FlowSettings = FlowSettings()

    @model_validator(mode="before")
    @classmethod
    def _name_by_workspace(cls, values: Any) -> Any:
        """Name experiment and model after the workspace, where nothing else is said."""
        if not isinstance(values, dict) or not isinstance(name := values.get("workspace"), str):
            return values
        tracking = values.get("tracking", {})
        if not isinstance(tracking, dict):
            return values
        return {**values, "tracking": {"experiment": name, "model": name, **tracking}}

    @model_validator(mode="after")
    def _check(self) -> Settings:
        tasks = {
            **self.train.task_weights,
            **dict.fromkeys((*self.evaluate.tasks, *self.evaluate.shuffled_image_tasks)),
            **dict.fromkeys((*self.promotion.task_margins, *self.promotion.seed_deviations)),
        }
        known = (*TASKS, *FINE_TUNED)
        if bad := sorted(set(tasks) - set(known)):
            raise ValueError(f"unknown task {bad[0]}; known: {', '.join(known)}")
        self._check_engine_keys()
        if bad := sorted({*self.engine.student.tasks, *self.engine.student.alone} - set(BASE_TYPES)):
            raise ValueError(f"engine.student: {bad[0]} is not annotated; known: {', '.join(BASE_TYPES)}")
        if self.promotion.primary_task not in known:
            raise ValueError(
                f"promotion.primary_task: unknown task {self.promotion.primary_task}; known: {', '.join(known)}"
            )
        if self.train.resolutions and self.train.resolutions[-1].image_size != self.model.image_size:
            raise ValueError(
                f"train.resolutions: the last stage has {self.train.resolutions[-1].image_size} pixels; "
                f"it has to be model.image_size, {self.model.image_size}"
            )
        if self.promotion.primary_task not in self.evaluate.tasks:
            raise ValueError(
                f"promotion.primary_task: {self.promotion.primary_task} is not scored; add it to evaluate.tasks"
            )
        return self

    def _check_engine_keys(self) -> None:
        """Raise ValueError if a threshold names an unknown annotator or annotation type: it would have no effect."""
        annotators = ("*", *self.annotators, "student", "human")
        pairs = [f"{annotator} {name}" for annotator in annotators[1:] for name in ANNOTATION_TYPES]
        allowed = {
            "min_score": (*annotators, *ANNOTATION_TYPES, *pairs),
            "min_phrase_score": annotators,
            "min_words": ("*", *CAPTIONS),
            "max_words": ("*", *CAPTIONS),
        }
        for name, known in allowed.items():
            if bad := sorted(set(getattr(self.engine, name)) - set(known)):
                raise ValueError(
                    f"engine.{name}: {bad[0]!r} is neither an annotator nor an annotation type; "
                    f"known: {', '.join(key for key in known if ' ' not in key)}"
                )


def settings_from(values: dict[str, Any], where: str = "params.yaml") -> Settings:
    """Return the settings in a plain mapping.

    Raises SettingsError naming the key, what was found and what is allowed; for an old key, the new one.
    """
    if renamed := [*renamed_keys(values), *replaced_keys(values)]:
        raise SettingsError(f"{where}:\n  " + "\n  ".join(renamed))
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"]) or "params"
            found = "" if item["type"] in ("missing", "value_error") else f"; found {item['input']!r}"
            lines.append(f"{key}: {item['msg']}{found}{_hint(item['type'], item['input'])}")
        raise SettingsError(f"{where}:\n  " + "\n  ".join(lines)) from None


def _hint(fault: str, found: Any) -> str:
    """Return what to do about a fault that pydantic found, "" where its message says enough."""
    if fault == "extra_forbidden":
        return " (no such setting; docs/settings.md lists all)"
    if fault == "string_type" and found is not None and not isinstance(found, dict | list):
        return " (write it in quotes: without them YAML takes it for no text)"
    return ""


def read_settings(path: Path | str = "params.yaml") -> Settings:
    """Return the settings in a YAML file. Raises SettingsError if it is missing or wrong."""
    path = Path(path)
    if not path.exists():
        raise SettingsError(
            f"{path.absolute()} does not exist: this folder is no workspace. `florence init DIR` makes one."
        )
    return settings_from(read_mapping(path), str(path))
