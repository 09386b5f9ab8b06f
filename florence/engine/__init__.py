"""The data engine: what annotators claim goes in, labels with a verdict each come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from florence.config import EngineSettings
    from florence.records import AnnotatorProfile

CONSENSUS = "consensus"


def fuse(
    claims: pa.Table,
    images: pa.Table,
    coverage: pa.Table,
    settings: EngineSettings,
    round: int,
    profiles: Sequence[AnnotatorProfile] = (),
    workers: int = 1,
    done: Callable[[int, int], object] = lambda done, of: None,
) -> pa.Table:
    """Everything that the claims about ``images`` come to, kept or dropped with a reason: a table of schema `ANNOTATIONS` by annotator "consensus".

    ``coverage``: who looked at which image, with what error. ``speakers``: what is known of annotators; one that is not among them is an annotator of
    any vocabulary, or, if its name is "human", a person. The same rows give the same bytes in whatever order they come, and however many ``workers``
    (threads) share the work where there is much; ``done`` is then told how many parts of how many are finished. What a refinement round adds is the claims of the
    annotator "student", no other state. Raises DataError where a claim is not of an annotated kind or its place is none.
    """
    from florence.engine.consensus.blocks import fuse_blocks

    return fuse_blocks(claims, images, coverage, settings, round, profiles, workers, done)
