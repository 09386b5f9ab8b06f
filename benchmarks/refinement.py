"""What a refinement is worth: the demo's loop on drawn scenes, and how good the labels of each round are on gold images, against the drawn truth.

Labels of round 0 are the consensus of three annotators with declared rates of errors; in each round after it the accepted model is one more. Nothing
is trained after the last round's labels. A run that was broken off goes on where ``--keep`` names its folder again.

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
"""Measures that are 1 at best: what is missing is error. CIDEr has no such bound."""


Key = tuple[str, str]
"""Kind and measure."""


def refined(folder: Path, seed: int, rounds: int, scale: float) -> dict[Key, dict[str, Any]]:
    """How good the labels of each round are (``rounds``), and what the last gained over the first, paired over images (``change``: mean, low, high).

    Raises SystemExit where a model is rejected: there is no student then.
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
        {(m.task, m.metric): m.interval(EvaluateSettings()) for m in measure_quality(table, truth, ids)} for table in tables
    ]
    gained = {key[:2]: change for key, change in measure_gains(tables[0], tables[-1], truth, EvaluateSettings()).items()}
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
        "--keep", type=Path, metavar="DIR", help="keep the workspaces here, and go on with those that are here"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: there is no refinement in fewer than 2")
    with tempfile.TemporaryDirectory() as folder:
        home = (options.keep or Path(folder)).resolve()
        found = {seed: refined(home / f"seed-{seed}", seed, options.rounds, options.scale) for seed in options.seeds}
    rows: list[list[Any]] = [
        [
            "kind",
            "measure",
            *(f"seed {seed}, rounds 0 to {options.rounds - 1}" for seed in found),
            "error cut by, at least",
            "falls",
        ]
    ]
    for key in found[options.seeds[0]]:
        values = [kinds[key]["rounds"] for kinds in found.values()]
        cut = min((v[-1] - v[0]) / max(1 - v[0], 1e-9) for v in values)
        falls = [str(seed) for seed, kinds in found.items() if kinds[key]["change"][2] < 0]
        cells = [" → ".join(f"{value:.3f}" for value in v) for v in values]
        rows.append([*key, *cells, f"{100 * cut:.0f}%" if key[1] in AS_ERROR else "", ", ".join(falls) or "no"])
    print_table("Labels of gold images against the truth", rows)
    print("\nA kind falls, on the seeds named, where the 95% interval of the change, paired over images, lies below 0.")
    figures = {seed: {" ".join(key): values for key, values in kinds.items()} for seed, kinds in found.items()}
    if options.json:
        options.json.write_text(
            json.dumps({"benchmark": "refinement", "scale": options.scale, "seeds": figures}, indent=2) + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
