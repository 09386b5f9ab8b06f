"""Six simulated annotators of drawn scenes: the project's own simulator.

The demo's three, one with many wrong labels and false positives, and two that share most claims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _samples import Declared, Found, Picture, Sample

SIZE = 128
KIND = "<OD>"


def annotators() -> dict[str, dict[str, Any]]:
    """Return the options of the simulated annotators, by name."""
    from florence.config import read_settings

    settings = read_settings(Path(__file__).parents[1] / "params.yaml")
    declared = {
        name: dict(section.options) for name, section in settings.annotators.items() if section.use == "simulated"
    }
    twin = {**declared["hasty"], "mislabelled": 0.25, "invented": 0.2, "twin": "vendor", "shared": 0.8}
    bad = {**declared["crude"], "missed": 0.3, "mislabelled": 0.5, "invented": 0.5}
    return {**declared, "bad": bad, "twin_a": twin, "twin_b": twin}


def draw_scenes(count: int, seed: int) -> Sample:
    """Draw scenes, and return them with the claims of all annotators; nobody says that two depend on each other."""
    from florence.annotators import ImageBatch
    from florence.annotators.simulated import Simulated
    from florence.records import ImageRecord, annotate
    from florence.sources.scenes import ScenesSource

    simulated = {
        name: Simulated(name=name, **{**options, "seed": seed, "tasks": (KIND,)})
        for name, options in annotators().items()
    }
    pictures = []
    for number, found in enumerate(ScenesSource(count=count, seed=seed, size=SIZE, scale=1.12).images(frozenset())):
        record = ImageRecord(f"{number:064x}", SIZE, SIZE, "scenes", found.name, "", None, "train")
        known = annotate(record.image_id, found.truth, "truth", "1")
        claims: Mapping[str, Sequence[Found]] = {
            name: [
                Found(claim.text, claim.regions[0].box, claim.score)
                for claim in annotator.annotate(ImageBatch(records=(record,), truth=(known,)))[0]
            ]
            for name, annotator in simulated.items()
        }
        truth = [Found(row.text, row.regions[0].box) for row in known if row.task == KIND]
        pictures.append(Picture(SIZE, SIZE, "scenes", truth, claims))
    return Sample(pictures, {name: Declared() for name in simulated})
