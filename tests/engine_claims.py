"""Claims, coverage and images for tests of the engine: written by hand, or by simulated annotators of drawn scenes."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from florence.config import EngineSettings
from florence.engine import fuse
from florence.records import (
    BASE_TYPES,
    IMAGES,
    Annotation,
    AnnotatorProfile,
    Claim,
    ImageRecord,
    Region,
    annotate,
    annotations_table,
    table_annotations,
)

COVERAGE = pa.schema(
    [
        ("image_id", pa.string()),
        ("annotator", pa.string()),
        ("version", pa.string()),
        ("claims", pa.int32()),
        ("error", pa.string()),
    ]
)
NOISE = {"careful": (0.2, 0.15, 0.1, 0.1), "hasty": (0.3, 0.2, 0.15, 0.12), "crude": (0.35, 0.25, 0.2, 0.15)}
STUDENT = (0.55, 0.3, 0.3, 0.12)


def box(label: str, x0: float, y0: float, x1: float, y1: float, score: float | None = 0.9, task: str = "<OD>") -> Claim:
    """Return a claim about one box."""
    return Claim(task, label, (Region(label, box=(x0, y0, x1, y1), score=score),), score)


def line(text: str, x0: float, y0: float, x1: float, y1: float, score: float = 0.9) -> Claim:
    """Return a claim about a line of text."""
    return Claim("<OCR_WITH_REGION>", text, (Region(text, quad=(x0, y0, x1, y0, x1, y1, x0, y1), score=score),), score)


def phrase(caption: str, words: str, corners: tuple[float, float, float, float], score: float = 0.9) -> Claim:
    """Return a claim about the first occurrence of ``words`` in a caption."""
    start = caption.index(words)
    return Claim(
        "<CAPTION_TO_PHRASE_GROUNDING>",
        caption,
        (Region(words, box=corners, score=score, span=(start, start + len(words))),),
        score,
    )


def image(name: str = "a", width: int = 100, height: int = 80) -> ImageRecord:
    """Return an image's record."""
    return ImageRecord((name * 64)[:64], width, height, "test", f"{name}.png", "CC0", None, "train")


def tables(
    claimed: Mapping[str, Mapping[str, Sequence[Claim]]],
    images: Sequence[ImageRecord],
    errors: Mapping[tuple[str, str], str] | None = None,
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Return (claims, images, coverage) of annotator → image id → claims; coverage has the images of each annotator."""
    rows: list[Annotation] = []
    coverage = []
    for annotator, by_image in claimed.items():
        for image_id, claims in by_image.items():
            found = annotate(image_id, claims, annotator, "v1")
            rows += found
            coverage.append(
                dict(
                    image_id=image_id,
                    annotator=annotator,
                    version="v1",
                    claims=len(found),
                    error=(errors or {}).get((annotator, image_id), ""),
                )
            )
    columns = [name for name in IMAGES.names if name != "bytes"]
    records = pa.Table.from_pylist(
        [{name: getattr(i, name) for name in columns} for i in images],
        schema=pa.schema([IMAGES.field(n) for n in columns]),
    )
    return annotations_table(rows), records, pa.Table.from_pylist(coverage, schema=COVERAGE)


def fuse_claims(
    claims, images=None, settings: EngineSettings | None = None, profiles: Sequence[AnnotatorProfile] = (), **more
) -> list[Annotation]:
    """Return the engine's labels for claims about one or more images."""
    images = images or [image()]
    return table_annotations(fuse(*tables(claims, images, **more), settings or EngineSettings(), 0, profiles))


def one_image(**claimed: Sequence[Claim]) -> dict[str, dict[str, Sequence[Claim]]]:
    """Return claims about the image "a", given as annotator=claims."""
    return {annotator: {image().image_id: claims} for annotator, claims in claimed.items()}


def crowd(count: int = 60) -> tuple[dict, list]:
    """Return claims of a, b and c that agree on ``count`` images (their reliability is known then), and the images."""
    images = [image(f"{k:03d}") for k in range(count)]
    claims = {
        annotator: {i.image_id: [box(f"thing {k % 20}", 10, 10, 50, 50, None)] for k, i in enumerate(images)}
        for annotator in ("a", "b", "c")
    }
    return claims, images


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def shuffle_rows(table: pa.Table, seed: int) -> pa.Table:
    """Return the rows of a table in another order."""
    return table.take(np.random.default_rng(seed).permutation(len(table)))


class Scenes:
    """Scenes with their truth, and the claims of simulated annotators about them."""

    def __init__(self, count: int, **source) -> None:
        from florence.sources.scenes import ScenesSource

        self.truth: dict[str, tuple[Annotation, ...]] = {}
        self.images: list[ImageRecord] = []
        for number, found in enumerate(ScenesSource(count=count, **source).images(frozenset())):
            record = ImageRecord(f"{number:064x}", 128, 128, "scenes", found.name, "CC0", None, "train")
            self.images.append(record)
            self.truth[record.image_id] = annotate(record.image_id, found.truth, "truth", "1")

    def says(self, name: str, noise: tuple[float, float, float, float], **options) -> dict[str, Sequence[Claim]]:
        """Return image id → claims, with ``noise`` as shares of missed, mislabelled, invented and shifted objects."""
        from florence.annotators import ImageBatch
        from florence.annotators.simulated import Simulated

        annotator = Simulated(
            name=name, **dict(zip(("missed", "mislabelled", "invented", "shifted"), noise, strict=True)), **options
        )
        return {
            i.image_id: annotator.annotate(ImageBatch(records=(i,), truth=(self.truth[i.image_id],)))[0]
            for i in self.images
        }

    def quality(self, labels: pa.Table) -> dict[tuple[str, str], float]:
        """Return (task, metric) → its mean over the images, against the truth."""
        from florence.evaluate.quality import measure_quality
        from florence.evaluate.references import References

        known = References(
            {
                (i, annotation_type): ("truth", tuple(r for r in rows if r.task == annotation_type))
                for i, rows in self.truth.items()
                for annotation_type in BASE_TYPES
            }
        )
        found = measure_quality(labels, known, [i.image_id for i in self.images], masks=False)
        values = {(m.task, m.metric): [v for v in m.per_image.values() if not math.isnan(v)] for m in found}
        return {key: sum(v) / len(v) for key, v in values.items() if v}
