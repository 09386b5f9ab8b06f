"""Gain of a refinement: the quality of each round's labels in the demo's loop, on gold scenes whose truth is known.

Labels of round 0 are the consensus of three annotators with declared rates of errors; in each later round the
accepted model is one more annotator. Nothing is trained after the last round's labels. A run that was broken off
resumes if ``--keep`` names its folder again.

    python benchmarks/refinement.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from _common import print_table
from _workspaces import florence, make_scenes, read_gold, read_labels

AS_ERROR = ("f1", "f1_boxes", "mask_iou", "spotted")
"""Metrics with a best value of 1: the rest is error. CIDEr has no such bound."""


Key = tuple[str, str]
"""Annotation type and metric."""


def measure_rounds(folder: Path, seed: int, rounds: int, scale: float) -> dict[Key, dict[str, Any]]:
    """Return the quality of the labels of each round, and the gain of the last round over the first, by `Key`.

    ``rounds``: the means; ``change``: mean, low and high of the difference, paired over images. Raises SystemExit if
    a model is rejected: there is no student then.
    """
    from florence.config import EvaluateSettings
    from florence.evaluate import measure_gains, measure_quality

    make_scenes(folder, seed, scale)
    last = rounds - 1
    florence(folder, "loop", "--rounds", str(last))
    done = json.loads((folder / "build" / "loop.json").read_text(encoding="utf-8"))["rounds"]
    if len(done) < last or any(round["decision"] != "accepted" for round in done):
        raise SystemExit(f"seed {seed}: a round was rejected: {done[-1]['reason']}")
    for command in ("annotate", "publish"):
        florence(folder, command, "--round", str(last), "--student", "champion")
    truth, ids = read_gold(folder)
    tables = [read_labels(folder, round) for round in range(rounds)]
    found = [
        {(m.task, m.metric): m.interval(EvaluateSettings()) for m in measure_quality(table, truth, ids)}
        for table in tables
    ]
    gained = {
        key[:2]: change for key, change in measure_gains(tables[0], tables[-1], truth, EvaluateSettings()).items()
    }
    return {
        key: {
            "rounds": [values[key].mean for values in found],
            "change": [gained[key].mean, gained[key].low, gained[key].high],
        }
        for key in found[0]
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="of scenes, annotators and training (default 0 1 2)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="rounds of labels, the first one included (default 2)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the demo's number of scenes and training steps (default 1)"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the workspaces here, and resume those that are here"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: there is no refinement in fewer than 2")
    with tempfile.TemporaryDirectory() as folder:
        home = (options.keep or Path(folder)).resolve()
        found = {
            seed: measure_rounds(home / f"seed-{seed}", seed, options.rounds, options.scale) for seed in options.seeds
        }
    rows: list[list[Any]] = [
        [
            "annotation type",
            "metric",
            *(f"seed {seed}, rounds 0 to {options.rounds - 1}" for seed in found),
            "error cut by, at least",
            "falls",
        ]
    ]
    for key in found[options.seeds[0]]:
        values = [by_key[key]["rounds"] for by_key in found.values()]
        cut = min((v[-1] - v[0]) / max(1 - v[0], 1e-9) for v in values)
        falls = [str(seed) for seed, by_key in found.items() if by_key[key]["change"][2] < 0]
        cells = [" → ".join(f"{value:.3f}" for value in v) for v in values]
        rows.append([*key, *cells, f"{100 * cut:.0f}%" if key[1] in AS_ERROR else "", ", ".join(falls) or "no"])
    print_table("Labels of gold images against the truth", rows)
    print("\nA type falls, on the seeds named, if the 95% interval of the change, paired over images, lies below 0.")
    figures = {seed: {" ".join(key): values for key, values in by_key.items()} for seed, by_key in found.items()}
    if options.json:
        options.json.write_text(
            json.dumps({"benchmark": "refinement", "scale": options.scale, "seeds": figures}, indent=2) + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
