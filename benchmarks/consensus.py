"""Quality of the consensus, beside that of other methods, on annotators of four kinds.

(a) ``simulated``: the project's simulated annotators of drawn scenes. (b) ``detections``: a generator of detections
that shares nothing with the engine. (c) ``lvis``: images that two people have labelled (``--lvis FILE``, LVIS's double
annotations): one's objects are the truth, the other is an annotator, and detectors of (b) look at the objects as well.
(d) ``photos``: the sample photos with the annotators that need no download, against boxes drawn by hand.

The other methods are tuned with truth, by one grid, for F1 at IoU 0.5, on other seeds than are measured. The images of
(c) and (d) are the same for every seed, in favour of the others. Ours has its defaults and sees no truth.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from _cases import OURS, PARTS, WEIGHTED, Options, Result, list_cases, measure_all
from _common import print_table
from _rival_programs import install_packages

TITLES = {
    "simulated": "(a) Simulated annotators of scenes",
    "detections": "(b) Drawn detections",
    "lvis": "(c) Two people's labels and drawn detections",
    "photos": "(d) Photos",
}
SLACK = 0.01
"""How much lower than the best other method a figure may be before it counts as a failure."""


def mean(result: Result, method: str, figure: str) -> float | None:
    """Return a figure's mean over the seeds; None where no seed has it."""
    values = [row[method][figure] for row in result.figures.values() if row.get(method, {}).get(figure) is not None]
    return float(np.mean(values)) if values else None


def others(result: Result) -> list[str]:
    """Return the methods that a case was measured with, without ours."""
    return [name for name in next(iter(result.figures.values())) if name != OURS]


def margins(result: Result) -> dict[str, tuple[float, str]]:
    """Return how much better ours is than the best other method, and which one that is, for F1 at 0.5 and at 0.75."""
    found = {}
    for figure in ("f1", "f1_75"):
        best = max(others(result), key=lambda name: mean(result, name, figure) or 0.0)
        found[figure] = ((mean(result, OURS, figure) or 0.0) - (mean(result, best, figure) or 0.0), best)
    return found


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Return the counts of a part: cases, failures, strictly above the best other, AP not below weighted boxes'."""
    above = [all(margin > 0 for margin, _ in margins(result).values()) for result in results]
    failed = [any(margin < -SLACK for margin, _ in margins(result).values()) for result in results]
    ap = [(mean(r, OURS, "ap") or 0.0) >= (mean(r, WEIGHTED, "ap") or 0.0) for r in results]
    sure = [mean(r, OURS, "right at 0.9") for r in results]
    return {
        "scenarios": len(results),
        "failed": sum(failed),
        "strictly above": sum(above),
        "AP not below weighted boxes fusion": sum(ap),
        "less than 0.9 right of those stated at 0.9": sum(value is not None and value < 0.9 for value in sure),
        "largest ECE": max(mean(r, OURS, "ece") or 0.0 for r in results),
    }


def show(value: float | None) -> str:
    """Return a figure as it is printed."""
    return "–" if value is None else f"{value:.3f}"


def print_part(part: str, results: Sequence[Result]) -> None:
    """Print the tables of a part: F1 and AP of all methods, and how well confidence is kept."""
    methods = [OURS, *dict.fromkeys(name for result in results for name in others(result))]
    figures = ("f1", "f1_75", "ap")
    print_table(
        f"{TITLES[part]}: F1 at IoU 0.5 / at 0.75 / average precision at 0.5",
        [
            ("scenario", *methods),
            *(
                (
                    r.case.name,
                    *(
                        " / ".join(show(mean(r, method, figure)) for figure in figures)
                        if mean(r, method, "f1") is not None
                        else ""
                        for method in methods
                    ),
                )
                for r in results
            ),
        ],
    )
    stated = ("ece", "ece_kept", "brier", "right at 0.9")
    print_table(
        f"{TITLES[part]}: confidence",
        [
            ("scenario", "ECE", "ECE of kept", "Brier", "right of ≥ 0.9", "ECE", "Brier", "right of ≥ 0.9"),
            ("", *(["ours"] * 4), *([WEIGHTED] * 3)),
            *(
                (
                    r.case.name,
                    *(show(mean(r, OURS, figure)) for figure in stated),
                    *(show(mean(r, WEIGHTED, figure)) for figure in ("ece", "brier", "right at 0.9")),
                )
                for r in results
            ),
        ],
    )


def print_failures(parts: Mapping[str, Sequence[Result]]) -> None:
    """Print the scenarios in which ours is lower than the best other method, and the counts of every part."""
    rows: list[tuple[Any, ...]] = [("part", "scenario", "IoU", "ours", "best other", "its figure", "difference")]
    for part, results in parts.items():
        for result in results:
            for figure, (margin, best) in margins(result).items():
                if margin < -SLACK:
                    level = "0.5" if figure == "f1" else "0.75"
                    values = (show(mean(result, OURS, figure)), best, show(mean(result, best, figure)))
                    rows.append((part, result.case.name, level, *values, f"{margin:+.3f}"))
    print_table(f"Failures: F1 more than {SLACK} below the best other method", rows)
    counts = {part: summary(results) for part, results in parts.items()}
    names = list(next(iter(counts.values())))
    print_table(
        "Counts",
        [
            ("part", *names),
            *(
                (part, *(show(v) if isinstance(v, float) else v for v in (row[name] for name in names)))
                for part, row in counts.items()
            ),
        ],
    )


def write_json(path: Path, parts: Mapping[str, Sequence[Result]]) -> None:
    """Write the figures and counts of what has been measured."""
    figures = {part: [asdict(result) for result in results] for part, results in parts.items()}
    counts = {part: summary(results) for part, results in parts.items()}
    text = json.dumps({"parts": figures, "counts": counts}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def run(cases: Sequence[Any], options: Options, workers: int, path: Path | None) -> None:
    """Measure every case and print the tables. ``path``: of the figures as JSON, written anew after each case."""
    began = time.monotonic()
    parts: dict[str, list[Result]] = {}
    failed: dict[str, str] = {}
    for number, result in enumerate(measure_all(cases, options, workers)):
        part = result.case.part
        parts.setdefault(part, []).append(result)
        failed.update({f"{name} ({part}, {result.case.name})": why for name, why in result.failed.items()})
        seconds = time.monotonic() - began
        if path is not None:
            write_json(path, parts)
        print(f"{number + 1}/{len(cases)} {part} {result.case.name}, {seconds:.0f} s", file=sys.stderr, flush=True)
    for part, results in parts.items():
        print_part(part, results)
    print_failures(parts)
    for name, reason in failed.items():
        print(f"\n{name} failed: {reason}")


def numbers(text: str) -> tuple[int, ...]:
    """Return the seeds of a list with commas."""
    return tuple(int(part) for part in text.split(","))


def parse() -> argparse.Namespace:
    """Return the options of the command line; ``--quick`` changes the defaults of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="one part alone; may be repeated (default all)")
    parser.add_argument("--scenario", action="append", metavar="NAME", help="one scenario alone; may be repeated")
    parser.add_argument("--lvis", type=Path, metavar="FILE", help="double annotations of LVIS, for part (c)")
    parser.add_argument("--seeds", type=numbers, help="measured (default 71,72,73)")
    parser.add_argument("--tuning", type=int, default=1071, help="seed that tunes the other methods (default 1071)")
    parser.add_argument("--images", type=int, help="of each seed and scenario (default 200; crowds have fewer)")
    parser.add_argument("--scenes", type=int, help="of each seed of part (a) (default 1000)")
    parser.add_argument("--gold", type=int, default=0, metavar="N", help="images whose truth is given as a person's")
    parser.add_argument(
        "--families",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="declare which annotators are of one family (default yes)",
    )
    parser.add_argument(
        "--packages",
        choices=("some", "all", "none"),
        help="where slow packages run (default some)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "florence-benchmarks",
        help="folder of the packages' environments (default ~/.cache/florence-benchmarks)",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--quick", action="store_true", help="one seed, few images, no packages: two minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    given = parser.parse_args()
    quick = {"seeds": (71,), "images": 40, "scenes": 100, "packages": "none"}
    usual = {"seeds": (71, 72, 73), "images": 200, "scenes": 1000, "packages": "some"}
    for name, value in (quick if given.quick else usual).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


def main() -> None:
    """Parse the command line, measure and print."""
    given = parse()
    if find_spec("ensemble_boxes") is None:
        sys.exit("weighted boxes fusion is not installed: pip install -e '.[benchmarks]' -c constraints.txt")
    parts = given.part or [part for part in PARTS if part != "lvis" or given.lvis]
    if "lvis" in parts and not (given.lvis and given.lvis.is_file()):
        sys.exit("part (c) needs a file of LVIS's double annotations: --lvis FILE")
    try:
        cases = list_cases(parts, given.scenario or (), given.lvis)
    except ValueError as error:
        sys.exit(str(error))
    methods, skipped = ((), {}) if given.packages == "none" else install_packages(given.cache)
    names = ("seeds", "tuning", "images", "scenes", "gold", "families", "packages", "cache", "lvis")
    options = Options(**{name: getattr(given, name) for name in names}, methods=methods)
    run(cases, options, given.workers, given.json)
    for name, reason in skipped.items():
        print(f"\n{name} is skipped: {reason}")


if __name__ == "__main__":
    main()
