"""Held-out scores of the shipped recipes over seeds: before, after, and in equal training time.

    python benchmarks/methods.py --seeds 3                       # AdvantageFlow alone
    python benchmarks/methods.py scenes scenes-nft scenes-flow-grpo --seeds 1

"In equal time" is the last evaluation that each run made within the training time of the shortest run.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from runs import finish_all, metrics, summary


def at_time(folder: Path, seconds: float, label: str) -> float:
    """The last score evaluated within `seconds` of training."""
    result = summary(folder)
    score: float = result["before"][label]
    for row in metrics(folder):
        if "evaluation" in row and row["seconds/training"] <= seconds:
            score = row["evaluation"][label]
    if result["seconds"]["training"] <= seconds:
        score = result["after"][label]
    return score


def spread(values: list[Any]) -> str:
    return ", ".join(f"{value:.3f}" for value in values) + f"  (mean {statistics.mean(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["scenes"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/methods"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each run")
    arguments = parser.parse_args()

    seeds = range(arguments.seeds)
    folders = {recipe: [arguments.output / f"{recipe}-{seed}" for seed in seeds] for recipe in arguments.recipes}
    runs = {folders[recipe][seed]: (recipe, [f"seed={seed}"]) for recipe in arguments.recipes for seed in seeds}
    finish_all(runs, arguments.jobs, arguments.threads)

    shortest = min(summary(folder)["seconds"]["training"] for folder in runs)
    for recipe in arguments.recipes:
        results = [summary(folder) for folder in folders[recipe]]
        print(f"\n{recipe}: {results[0]['iterations']} iterations")
        for label in ("strict", "graded"):
            print(f"  {label:>6} before {results[0]['before'][label]:.3f}")
            print(f"  {label:>6} after  {spread([result['after'][label] for result in results])}")
            equal = [at_time(folder, shortest, label) for folder in folders[recipe]]
            print(f"  {label:>6} after {shortest / 60:.1f} minutes: {spread(equal)}")
        minutes = [result["seconds"]["training"] / 60 for result in results]
        print(f"  training minutes {spread(minutes)}")


if __name__ == "__main__":
    main()
