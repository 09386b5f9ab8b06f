"""Gain of the stage of training for labels that few images have: detailed texts of a tenth of the drawn scenes.

Two models start from the same weights and train for the same number of steps. One learns all other annotation types
on all images and the detailed texts last (configs/sparse.yaml). The other learns the detailed texts of that tenth
from the start, and nothing else. Both describe held-out images; CIDEr is against the truth. The first then describes
all images as the student, and the labels of the next round are measured on the gold images that the describer was
not asked about.

    python benchmarks/sparse.py --seeds 0
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from _common import print_table
from _workspaces import florence, make_scenes, read_gold, read_labels

DETAILED = ("<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
SHARE = 0.1
OVERLAY = Path(__file__).parents[1] / "configs" / "sparse.yaml"


def write_sparse_settings(params: dict[str, Any]) -> None:
    """Let the demo's three annotators claim all but detailed texts, and a describer those, of a tenth of the images.

    The describer has the errors of the best of the three.
    """
    from florence.records import BASE_TYPES

    rest = [annotation_type for annotation_type in BASE_TYPES if annotation_type not in DETAILED]
    careful = params["annotators"]["careful"]
    for section in params["annotators"].values():
        section["tasks"] = rest
    params["annotators"]["describer"] = {**careful, "tasks": list(DETAILED), "sample_fraction": SHARE}
    overlay = yaml.safe_load(OVERLAY.read_text(encoding="utf-8"))
    params["engine"] = {**params.get("engine", {}), **overlay["engine"]}
    params["train"].update(overlay["train"])
    params["validation"].update(overlay["validation"])
    # all other annotation types have as many steps as in the demo
    params["train"]["steps"] = round(params["train"]["steps"] / (1 - overlay["train"]["sparse_share"]))


def train_alone(folder: Path, of: Path) -> None:
    """Copy the workspace ``of``, and train its model on the detailed texts from the start, and on nothing else."""
    from florence.records import TASKS

    if (folder / "metrics" / "scores.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        of, folder, ignore=shutil.ignore_patterns("build", "model", "scores", "students", "loop.json", "accepted")
    )
    (folder / "metrics" / "scores.json").unlink()
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["train"].pop("sparse")
    params["train"].pop("sparse_share")
    params["train"]["task_weights"] = {task: float(task in DETAILED) for task in TASKS}
    params["evaluate"].update(tasks=["<OD>", *DETAILED], shuffled_image_tasks=[])
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    for command in ("train", "evaluate"):
        florence(folder, command)


def read_scores(folder: Path) -> dict[str, dict[str, float]]:
    """Return the CIDEr of the model's texts against the truth, by annotation type and held-out image."""
    from florence.store import Store

    rows = Store(str(folder)).read_table("scores/scores.parquet").to_pylist()
    return {
        annotation_type: {
            row["image_id"]: row["value"]
            for row in rows
            if row["task"] == annotation_type and row["reference"] == "truth"
        }
        for annotation_type in DETAILED
    }


def measure_next_labels(folder: Path) -> dict[str, tuple[float, int]]:
    """Return, by annotation type, the CIDEr of the labels of round 1 and the number of images it is measured on.

    These are the gold images that the describer was not asked about.
    """
    from florence.config import EvaluateSettings
    from florence.evaluate import measure_quality
    from florence.records import ANNOTATIONS
    from florence.store import Store

    store = Store(str(folder / "data"))
    snapshot = store.read_json("snapshot.json")
    described = store.read_tables(f"claims/describer@{snapshot['annotators']['describer']}", ANNOTATIONS)[
        "image_id"
    ].to_pylist()
    truth, ids = read_gold(folder)
    rest = set(ids) - set(described)
    found = {
        m.task: m.interval(EvaluateSettings())
        for m in measure_quality(read_labels(folder, 1), truth, rest)
        if m.task in DETAILED
    }
    return {annotation_type: (value.mean, value.n) for annotation_type, value in found.items() if value}


def compare(home: Path, seed: int, scale: float) -> dict[str, Any]:
    """Return the figures of one seed by annotation type. Raises SystemExit if the model is rejected."""
    from florence.metrics.bootstrap import bootstrap_difference

    path, other = home / f"sparse-{seed}", home / f"alone-{seed}"
    make_scenes(path, seed, scale, write_sparse_settings)
    florence(path, "loop", "--rounds", "1")
    (done,) = json.loads((path / "build" / "loop.json").read_text(encoding="utf-8"))["rounds"][:1]
    if done["decision"] != "accepted":
        raise SystemExit(f"seed {seed}: the model was rejected: {done['reason']}")
    train_alone(other, path)
    for command in ("annotate", "publish"):
        florence(path, command, "--round", "1", "--student", "champion")
    ours, theirs, labelled = read_scores(path), read_scores(other), measure_next_labels(path)
    result = {}
    for annotation_type in DETAILED:
        gain = bootstrap_difference(ours[annotation_type], theirs[annotation_type])
        means = [sum(side[annotation_type].values()) / len(side[annotation_type]) for side in (ours, theirs)]
        result[annotation_type] = (
            {
                "ours": means[0],
                "alone": means[1],
                "gain": [gain.mean, gain.low, gain.high],
                "images": gain.n,
                "labels": labelled.get(annotation_type),
            }
            if gain
            else {}
        )
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="of scenes, annotators and training (default 0)"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the demo's number of scenes and training steps (default 1)"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the workspaces here, and resume those that are here"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = (options.keep or Path(folder)).resolve()
        found = {seed: compare(home, seed, options.scale) for seed in options.seeds}
    rows: list[list[Any]] = [
        [
            "annotation type",
            "seed",
            "learned last",
            "learned alone",
            "gain [95%]",
            "held-out images",
            "labels of the next round (gold images)",
        ]
    ]
    for seed, by_type in found.items():
        for annotation_type, of in by_type.items():
            gain, low, high = of["gain"]
            value, count = of["labels"] or (float("nan"), 0)
            rows.append(
                [
                    annotation_type,
                    seed,
                    f"{of['ours']:.3f}",
                    f"{of['alone']:.3f}",
                    f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]",
                    of["images"],
                    f"{value:.3f} ({count})",
                ]
            )
    print_table("CIDEr of detailed texts against the truth", rows)
    if options.json:
        options.json.write_text(
            json.dumps({"benchmark": "sparse", "scale": options.scale, "seeds": found}, indent=2) + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
