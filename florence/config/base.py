"""What every section of the settings is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from florence.records import digest


class Section(BaseModel):
    """A frozen section of the settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """Return a hash of the settings in this section."""
        return digest(self.model_dump(mode="json"))


class PluginSettings(BaseModel):
    """A plug-in: ``use`` names it, every other key goes to its constructor."""

    model_config = ConfigDict(frozen=True, extra="allow")
    use: str = Field(description="name of the plug-in")

    @property
    def options(self) -> dict[str, Any]:
        """The plug-in's own settings."""
        return dict(self.model_extra or {})
