"""params.yaml → frozen settings.

Each setting has its default and its meaning here, once; docs/settings.md is made of them.
"""

from florence.config.base import PluginSettings, Section
from florence.config.data import AnnotatorSettings, CollectSettings, ReviewSettings, SourceSettings, SplitSettings
from florence.config.document import settings_markdown
from florence.config.engine import BLACKLIST, PRONOUNS, EngineSettings, StudentSettings, ValidationSettings
from florence.config.flow import FlowSettings, SnapshotSettings, TrackingSettings
from florence.config.overlay import lay_over, merged
from florence.config.settings import Settings, read_settings, settings_from
from florence.config.training import (
    EvaluateSettings,
    LoraSettings,
    ModelSettings,
    PromotionSettings,
    ResolutionSettings,
    TrainSettings,
)
from florence.config.yaml_file import read_mapping

__all__ = [
    "BLACKLIST",
    "PRONOUNS",
    "AnnotatorSettings",
    "CollectSettings",
    "EngineSettings",
    "EvaluateSettings",
    "FlowSettings",
    "LoraSettings",
    "ModelSettings",
    "PluginSettings",
    "PromotionSettings",
    "ResolutionSettings",
    "ReviewSettings",
    "Section",
    "Settings",
    "SnapshotSettings",
    "SourceSettings",
    "SplitSettings",
    "StudentSettings",
    "TrackingSettings",
    "TrainSettings",
    "ValidationSettings",
    "lay_over",
    "merged",
    "read_mapping",
    "read_settings",
    "settings_from",
    "settings_markdown",
]
