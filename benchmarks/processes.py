"""What it costs to share a run: two processes with one run, against two runs of one process at the same time.

    python benchmarks/processes.py [--repeats 5] [--iterations 8] [--threads 1] [--quick]

Both load the machine in the same way: two processes, each with so many threads. Efficiency is the shared run's
iterations a second, divided by those of both runs together. The two are measured in turn, and medians are printed as
JSON, with the seconds that an iteration's exchanges take in a world of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from advantageflow.world import World

SETTINGS = (
    "rollout.batch_size=8", "learn.batch_size=16", "learn.t_draws=2", "evaluation.num_images=2",
    "evaluation.num_inference_steps=2", "evaluation.every=1000", "run.samples_every=1000", "run.checkpoint_every=1000",
    "run.constant_rewards_stop=0", "model.device=cpu",
)  # fmt: skip
GROUPS = ("rollout.prompts_per_iteration=8", "rollout.images_per_prompt=8")
QUICK = ("rollout.prompts_per_iteration=2", "rollout.images_per_prompt=2", "rollout.num_inference_steps=2")
IMAGES = 64  # of an iteration
STAGES = ("sampling", "scoring", "learning")


def start(folder: Path, settings: list[str], threads: int, processes: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "advantageflow", "train", "scenes", *settings, f"run.threads={threads}",
         "--output", str(folder), "--processes", str(processes)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def seconds(run: Path) -> float:
    """Of an iteration, the median without the first, which warms up."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return median(sum(row[f"seconds/{stage}"] for stage in STAGES) for row in rows[1:])


def measure(folder: Path, settings: list[str], threads: int, shared: bool) -> float:
    """Iterations a second of one run that two processes share, or of two runs together."""
    runs = [folder] if shared else [folder.with_name(f"{folder.name}-{number}") for number in range(2)]
    started = [start(run, settings, threads, 2 if shared else 1) for run in runs]
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit("a run failed; its message is above")
    return sum(1 / seconds(run) for run in runs)


def world_of_one(times: int = 200) -> float:
    """Seconds of what a world of one process does in an iteration: images dealt and exchanged, gradients summed."""
    world, images = World(), [torch.rand(3, 32, 32) for _ in range(IMAGES)]
    gradients = [torch.rand(100_000, dtype=torch.float64) for _ in range(20)]
    spent = []
    for _ in range(times):
        begun = time.perf_counter()
        world.exchange(dict(world.deal(images)))
        world.exchange(dict(world.deal([*range(IMAGES)])))
        world.sum(gradients)
        spent.append(time.perf_counter() - begun)
    return median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--quick", action="store_true", help="only see that it works")
    options = parser.parse_args()
    repeats, iterations = (1, 3) if options.quick else (options.repeats, options.iterations)
    settings = [*SETTINGS, *(QUICK if options.quick else GROUPS), f"run.iterations={iterations}"]
    found: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as name:
        for number in range(repeats):
            for shared in (True, False):
                folder = Path(name) / f"{number}-{'shared' if shared else 'apart'}"
                found[shared].append(measure(folder, settings, options.threads, shared))
                print(f"{folder.name}: {found[shared][-1]:.3f} iterations a second", flush=True)
    shared, apart = median(found[True]), median(found[False])
    told = {
        "iterations_a_second_shared": round(shared, 4),
        "iterations_a_second_of_two_runs": round(apart, 4),
        "efficiency": round(shared / apart, 3),
        "repeats": repeats,
        "iterations": iterations,
        "threads": options.threads,
        "world_of_one_microseconds_an_iteration": round(1e6 * world_of_one(), 1),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
