"""What the path for labels that only few images have is worth: detailed texts for a tenth of the images, on drawn scenes whose truth is known.

Two models from the same weights, with the same number of steps: one learns all other kinds on all images and the detailed texts last (configs/sparse.yaml), one
learns the detailed texts of that tenth from the start, and nothing else. Both describe held-out images; CIDEr is against the truth. The first then describes all
images as the student, and the labels of the next round are measured on the gold images that the describer was not asked about.

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


def sparse(params: dict[str, Any]) -> None:
    """The demo's three say everything but detailed texts; a describer with the errors of the best of them is asked for those, about a tenth of the images."""
    from florence.records import BASE_TYPES

    rest = [kind for kind in BASE_TYPES if kind not in DETAILED]
    careful = params["annotators"]["careful"]
    for section in params["annotators"].values():
        section["tasks"] = rest
    params["annotators"]["describer"] = {**careful, "tasks": list(DETAILED), "images": SHARE}
    overlay = yaml.safe_load(OVERLAY.read_text(encoding="utf-8"))
    params["engine"] = {**params.get("engine", {}), **overlay["engine"]}
    params["train"].update(overlay["train"])
    params["validation"].update(overlay["validation"])
    # all other kinds have as many steps as in the demo
    params["train"]["steps"] = round(params["train"]["steps"] / (1 - overlay["train"]["sparse_share"]))


def alone(folder: Path, of: Path) -> None:
    """A copy of the workspace ``of`` whose model learns the detailed texts from the start, and nothing else."""
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


def scores(folder: Path) -> dict[str, dict[str, float]]:
    """Kind → held-out image → CIDEr of what the workspace's model says, against the truth."""
    from florence.store import Store

    rows = Store(str(folder)).read_table("scores/scores.parquet").to_pylist()
    return {
        kind: {row["image_id"]: row["value"] for row in rows if row["task"] == kind and row["reference"] == "truth"}
        for kind in DETAILED
    }


def told(folder: Path) -> dict[str, tuple[float, int]]:
    """Kind → CIDEr of the labels of round 1, and on how many images: gold ones that the describer was not asked about."""
    from florence.config import EvaluateSettings
    from florence.evaluate import measure_quality
    from florence.records import ANNOTATIONS
    from florence.store import Store

    store = Store(str(folder / "data"))
    snapshot = store.read_json("snapshot.json")
    asked = store.read_tables(f"claims/describer@{snapshot['annotators']['describer']}", ANNOTATIONS)[
        "image_id"
    ].to_pylist()
    truth, ids = read_gold(folder)
    rest = set(ids) - set(asked)
    found = {
        m.task: m.interval(EvaluateSettings())
        for m in measure_quality(read_labels(folder, 1), truth, rest)
        if m.task in DETAILED
    }
    return {kind: (value.mean, value.n) for kind, value in found.items() if value}


def compared(home: Path, seed: int, scale: float) -> dict[str, Any]:
    """Kind → figures of one seed. Raises SystemExit where the model is rejected."""
    from florence.metrics.bootstrap import bootstrap_difference

    path, other = home / f"sparse-{seed}", home / f"alone-{seed}"
    make_scenes(path, seed, scale, sparse)
    florence(path, "loop", "--rounds", "1")
    (done,) = json.loads((path / "build" / "loop.json").read_text(encoding="utf-8"))["rounds"][:1]
    if done["decision"] != "accepted":
        raise SystemExit(f"seed {seed}: the model was rejected: {done['reason']}")
    alone(other, path)
    for command in ("annotate", "publish"):
        florence(path, command, "--round", "1", "--student", "champion")
    ours, theirs, labelled = scores(path), scores(other), told(path)
    result = {}
    for kind in DETAILED:
        gain = bootstrap_difference(ours[kind], theirs[kind])
        means = [sum(side[kind].values()) / len(side[kind]) for side in (ours, theirs)]
        result[kind] = (
            {
                "ours": means[0],
                "alone": means[1],
                "gain": [gain.mean, gain.low, gain.high],
                "images": gain.n,
                "labels": labelled.get(kind),
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
        "--keep", type=Path, metavar="DIR", help="keep the workspaces here, and go on with those that are here"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = (options.keep or Path(folder)).resolve()
        found = {seed: compared(home, seed, options.scale) for seed in options.seeds}
    rows: list[list[Any]] = [
        [
            "kind",
            "seed",
            "learnt last, after all else",
            "learnt alone",
            "gain [95%]",
            "held-out images",
            "labels of the next round (gold images)",
        ]
    ]
    for seed, kinds in found.items():
        for kind, of in kinds.items():
            gain, low, high = of["gain"]
            value, count = of["labels"] or (float("nan"), 0)
            rows.append(
                [
                    kind,
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
