"""Settings of sources, annotators and the split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from florence.config.base import PluginSettings, Section


class SourceSettings(PluginSettings):
    """Where images come from."""


class AnnotatorSettings(PluginSettings):
    """An annotator and the images it annotates."""

    sources: tuple[str, ...] = Field(description="keys of sources it annotates; '*' for all, '!key' to leave one out")
    required: bool = Field(
        True, description="whether the run fails when this annotator fails, its files are missing or it knows no image"
    )
    min_matched: float = Field(
        0.5,
        ge=0,
        le=1,
        description=(
            "of an annotator with a label set: the share of our images, or of the images of the set, whichever is "
            "larger, that has to match; below it each run warns"
        ),
    )
    batch_size: int = Field(16, ge=1, description="images in one call")
    sample_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description=(
            "share of the images it is asked about, chosen to be as different as possible; for expensive annotators. "
            "Another share makes another version"
        ),
    )
    device: str = Field("auto", description="where it computes: auto (a GPU if there is one), cpu, cuda, cuda:1 …")
    depends_on: tuple[str, ...] = Field(
        ("*",),
        description=(
            "annotators whose claims it reads, if it reads claims; '*' for all that come before it, "
            "'!name' to leave one out"
        ),
    )
    family: str | None = Field(
        None,
        description=(
            "annotators with the same word here share training data or method, so share mistakes: together they count "
            "for little more than one. By default the plug-in's (the packaged ImageNet classifier: imagenet), or the "
            'model\'s name on a hub; "" is a family of its own. Changes no claims'
        ),
    )
    complete: bool = Field(
        False,
        description=(
            "of people's labels (`human: true`): whether each image has all objects of all names that the label set "
            "has, so that what they leave out is not there. Changes no claims"
        ),
    )

    def looks_at(self, source: str) -> bool:
        """Return whether this annotator annotates images of ``source``."""
        return f"!{source}" not in self.sources and ("*" in self.sources or source in self.sources)


class SplitSettings(Section):
    """Which images are held out and which are gold; an image's hash decides."""

    held_out: float = Field(0.05, ge=0, le=0.5, description="share held out to score models")
    gold: float = Field(0.05, ge=0, le=0.5, description="share whose truth or human labels measure label quality")
    salt: str = Field("florence", description="another salt draws other images")


class ReviewSettings(Section):
    """Whose labels are the reference of gold and held-out images."""

    exclude: tuple[str, ...] = Field((), description="reviewers whose labels are left out of the reference")
    names: Literal["pseudonym", "given"] = Field(
        "pseudonym",
        description=(
            "what reviewers are called in snapshots: by their number in Label Studio, or by the name or e-mail address "
            "in its file, where there is one"
        ),
    )


class CollectSettings(Section):
    """Which images are accepted."""

    min_side: int = Field(16, ge=1, description="pixels; images with a shorter side are rejected")
    max_pixels: int = Field(100_000_000, ge=1, description="width × height; larger images are rejected undecoded")
    shard: int = Field(512, ge=1, description="images in a shard")
    gone: Literal["keep", "drop"] = Field(
        "keep",
        description=(
            "whether images stay in the next snapshot whose file is gone, is not read any more, or was replaced"
        ),
    )
