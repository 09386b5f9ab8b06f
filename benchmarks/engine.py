"""The data engine: what orchestration and storage add to the annotators, and how much memory annotating takes.

`flow`: the annotate flow, from pending work to claims on disk, against the same annotators in a plain loop that decodes
each image once and keeps their claims. Same annotators (those of params.yaml that need no truth, loaded before), same
batches, same images: packaged photos, cropped and scaled. A Prefect server runs beside both; its start is not counted,
the flow's requests to it are (the server's own processor time is not). Both sides make the same claims (checked).

`memory`: the largest resident set of a process that annotates scenes with the three simulated annotators of
params.yaml, for two numbers of scenes.

    python benchmarks/engine.py
    python benchmarks/engine.py flow --images 24 --repeats 1
    python benchmarks/engine.py memory --scenes 200 2000
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _common import print_table, write_figures
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
SIDES = (256, 384, 512, 640, 800, 1024)
"""Pixels of the longer side of the photos, in turn."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts",
        nargs="*",
        choices=[*PARTS, []],
        metavar="PART",
        help=f"what is measured: {', '.join(PARTS)} (default all)",
    )
    parser.add_argument("--images", type=int, default=200, help="photos of `flow` (default 200)")
    parser.add_argument(
        "--repeats", type=int, default=2, help="timed runs of each side of `flow`, taken in turn (default 2)"
    )
    parser.add_argument(
        "--scenes",
        type=int,
        nargs=2,
        default=(1000, 10000),
        help="the two numbers of scenes of `memory` (default 1000 10000)",
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    figures = {name: PARTS[name](options) for name in options.parts or PARTS}
    write_figures(options.json, "engine", options.threads, figures)


# ---------------------------------------------------------------- flow


def flow(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the annotate flow against the bare annotators. Exit if the two do not claim the same."""
    import torch

    from flows.adapters.prefect_server import prefect_api

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        photos(root / "photos", options.images)
        workspace(
            root,
            {"photos": {"use": "folder", "uri": str(root / "photos")}},
            lambda section: section["use"] != "simulated",
        )
        with prefect_api(root):
            seconds, claims = _flow_sides(root, options.repeats)
    rows: list[list[Any]] = [["photos", "annotators", "claims", "seconds of", "bare", "flow", "ratio"]]
    for what, found in seconds.items():
        rows.append(
            [
                options.images,
                claims["annotators"],
                claims["claims"],
                what,
                f"{found['bare']:.2f}",
                f"{found['flow']:.2f}",
                f"{found['flow'] / found['bare']:.3f}",
            ]
        )
    print_table(f"Orchestration and storage, {options.threads} threads", rows)
    return {
        **claims,
        "images": options.images,
        "seconds": seconds,
        "ratio": seconds["wall"]["flow"] / seconds["wall"]["bare"],
    }


def _flow_sides(root: Path, repeats: int) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Return the median seconds of each side, of the clock and of the processor, and the number of claims."""
    from florence.config import read_settings
    from florence.records import table_annotations
    from florence.workspace import bind_workspace
    from florence.workspace.annotate import list_annotators
    from florence.workspace.collect import collect_images
    from flows.annotate import annotate, task_runner

    settings = read_settings(root / "params.yaml")
    workspace = bind_workspace(root, settings)
    store = workspace.store
    collect_images(workspace)
    annotators, files = list_annotators(settings), sorted((root / "photos").iterdir())
    claims: dict[str, set[tuple[str, str, str]]] = {}

    def bare() -> None:
        claims["bare"] = {(row.annotation_id, row.text, str(row.regions)) for row in plain(settings, files, annotators)}

    def ours() -> None:
        for folder in ("claims", "coverage"):
            store.delete(folder)
        annotate.with_options(task_runner=task_runner(settings))(str(root))

    list(plain(settings, files[:2], annotators))  # models load, libraries warm up
    wall: dict[str, list[float]] = {"bare": [], "flow": []}
    cpu: dict[str, list[float]] = {"bare": [], "flow": []}
    for _ in tqdm(range(repeats), desc="flow", file=sys.stderr):
        for side, run in (("bare", bare), ("flow", ours)):
            began, used = time.perf_counter(), time.process_time()
            run()
            wall[side].append(time.perf_counter() - began)
            cpu[side].append(time.process_time() - used)
    claims["flow"] = {
        (row.annotation_id, row.text, str(row.regions))
        for name in store.names("claims")
        for row in table_annotations(store.read_table(name))
    }
    if claims["bare"] != claims["flow"]:
        sys.exit(f"the two sides do not claim the same: {len(claims['bare'] ^ claims['flow'])} claims differ")
    seconds = {
        what: {side: statistics.median(values) for side, values in times.items()}
        for what, times in (("wall", wall), ("processor", cpu))
    }
    return seconds, {"annotators": len(annotators), "claims": len(claims["flow"])}


def plain(settings: Any, files: list[Path], annotators: list[Any]) -> Iterator[Any]:
    """Yield the claims of ``annotators`` about the images in ``files``, without store, flow or threads."""
    import hashlib

    from florence.annotators import ImageBatch
    from florence.images import decode_image
    from florence.records import ImageRecord, annotate
    from florence.workspace.annotate import make_annotator

    batch = max(settings.annotators[annotator.name].batch_size for annotator in annotators)
    for annotator in annotators:
        make_annotator(settings, annotator.name)[0].load()
    for start in range(0, len(files), batch):
        records, pixels = [], []
        for file in files[start : start + batch]:
            data = file.read_bytes()
            pixels.append(decode_image(data, file.name))
            height, width = pixels[-1].shape[:2]
            records.append(
                ImageRecord(hashlib.sha256(data).hexdigest(), width, height, "photos", file.name, "", None, "train")
            )
        claims_of: dict[str, list[tuple]] = {}
        for annotator in annotators:
            instance = make_annotator(settings, annotator.name)[0]
            size, claims_of[annotator.name] = settings.annotators[annotator.name].batch_size, []
            for first in range(0, len(records), size):
                part = slice(first, first + size)
                earlier = [
                    tuple(row for name in annotator.depends_on for row in claims_of[name][index])
                    for index in range(first, min(first + size, len(records)))
                ]
                given = ImageBatch(
                    tuple(records[part]),
                    tuple(pixels[part]) if "pixels" in instance.needs else (),
                    tuple(earlier),
                    ((),) * len(earlier),
                )
                answers = zip(records[part], instance.annotate(given), strict=True)
                claims_of[annotator.name] += [
                    annotate(record.image_id, claims, annotator.name, annotator.version) for record, claims in answers
                ]
        yield from (row for rows in claims_of.values() for image in rows for row in image)


def photos(folder: Path, count: int) -> None:
    """Write ``count`` different JPEG files of many sizes, cut out of the photos of installed packages."""
    from PIL import Image

    from florence.images import decode_image
    from florence.sources import SOURCES, SourceImage

    folder.mkdir()
    rng = np.random.default_rng(0)
    whole = [
        Image.fromarray(decode_image(found.data, found.name))
        for found in SOURCES.get("samples")().images(frozenset())
        if isinstance(found, SourceImage)
    ]
    for number in range(count):
        image = whole[number % len(whole)]
        width, height = (int(side * rng.uniform(0.6, 1)) for side in image.size)
        left, top = (
            int(rng.integers(0, side - part + 1)) for side, part in zip(image.size, (width, height), strict=True)
        )
        part = image.crop((left, top, left + width, top + height))
        scale = SIDES[number % len(SIDES)] / max(part.size)
        sink = io.BytesIO()
        part.resize((max(16, round(width * scale)), max(16, round(height * scale)))).save(sink, "JPEG", quality=90)
        (folder / f"{number:04d}.jpg").write_bytes(sink.getvalue())


def workspace(root: Path, sources: dict[str, Any], wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Write a params.yaml of ``sources`` and the ``wanted`` annotators of the repository's."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    chosen = {name: section for name, section in values["annotators"].items() if wanted(section)}
    (root / "params.yaml").write_text(
        yaml.safe_dump({"sources": sources, "annotators": chosen}, sort_keys=False), encoding="utf-8"
    )


# ---------------------------------------------------------------- memory

ANNOTATE = """
import json, resource, sys
from pathlib import Path
from flows.adapters.prefect_server import prefect_api
root = Path(sys.argv[1])
with prefect_api(root):
    from flows.annotate import annotate, task_runner
    from florence.config import read_settings
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = annotate.with_options(task_runner=task_runner(read_settings(root / "params.yaml")))(str(root))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"began": began / 1024, "peak": peak / 1024, "images": done.images}))
"""


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the peak memory of annotating few and many collected scenes, each in a process of its own."""
    found = {}
    for count in tqdm(sorted(options.scenes), desc="memory", file=sys.stderr):
        with tempfile.TemporaryDirectory() as name:
            workspace(
                Path(name), {"scenes": {"use": "scenes", "count": count}}, lambda section: section["use"] == "simulated"
            )
            _run(Path(name), "-m", "flows.cli", "collect")
            found[count] = json.loads(_run(Path(name), "-c", ANNOTATE, name).splitlines()[-1])
    few, many = (found[count]["peak"] for count in sorted(found))
    rows = [["scenes", "images × annotators", "before, MB", "peak, MB", "ratio"]]
    rows += [
        [count, one["images"], f"{one['began']:.0f}", f"{one['peak']:.0f}", f"{one['peak'] / few:.3f}"]
        for count, one in found.items()
    ]
    print_table("Peak memory of annotating", rows)
    return {"scenes": found, "ratio": many / few}


def _run(root: Path, *arguments: str) -> str:
    """Return the output of a Python process of this checkout, in ``root``."""
    # what `flow` has set of Prefect is of its own workspace
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT")}
    environment = {**kept, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments[:3])} failed:\n{done.stderr}")
    return done.stdout


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"flow": flow, "memory": memory}
"""By name: a function that prints its table and returns its figures."""


if __name__ == "__main__":
    main()
