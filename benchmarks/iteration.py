"""Seconds per stage of an iteration, the bare time of the same transformer calls, their ratio, and peak memory.

The bare calls are replayed in the same process: every call that an iteration makes to the transformer, with the same
shapes and adapters, with or without a gradient, and with nothing around it. Iterations and replays take turns; the
medians are printed.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from advantageflow.building import build, load_inputs
from advantageflow.config import load_config
from advantageflow.policy import Role
from advantageflow.run.directory import RunDirectory
from advantageflow.trainer import Trainer

Call = tuple[Role, bool, tuple[torch.Tensor, ...]]


def record_calls(trainer: Trainer) -> list[Call]:
    """Run one iteration and note every call of the transformer: role, with gradient or not, and inputs."""
    calls: list[Call] = []
    policy, transformer = trainer.policy, trainer.model.transformer
    role: Role = "learner"
    activate, forward = policy._activate, transformer.forward

    def noting_activate(new: Role) -> None:
        nonlocal role
        role = new
        activate(new)

    def noting_forward(*inputs: torch.Tensor, **options: object) -> object:
        calls.append((role, torch.is_grad_enabled(), inputs))
        return forward(*inputs, **options)

    policy._activate, transformer.forward = noting_activate, noting_forward  # type: ignore[method-assign]
    trainer.iterate()
    del policy._activate, transformer.forward  # type: ignore[attr-defined]
    return calls


def replay(trainer: Trainer, calls: list[Call]) -> float:
    """Seconds that the calls alone take, learner's backward passes included."""
    active: Role = "learner"
    start = time.perf_counter()
    for role, with_gradient, inputs in calls:
        if role != active:
            trainer.policy._activate(role)
            active = role
        with torch.set_grad_enabled(with_gradient):
            velocity = trainer.model.transformer(*inputs, return_dict=False)[0]
        if with_gradient:
            velocity.sum().backward()
    seconds = time.perf_counter() - start
    trainer.policy._activate("learner")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="scenes")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    config = load_config(arguments.recipe, arguments.changes)
    quiet = Console(quiet=True)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", config)
        trainer = build(config, run, load_inputs(config, quiet), quiet)
        calls = record_calls(trainer)
        stages: dict[str, list[float]] = {"sampling": [], "scoring": [], "learning": [], "iteration": [], "bare": []}
        for _ in range(arguments.rounds):
            start = time.perf_counter()
            row = trainer.iterate()
            stages["iteration"].append(time.perf_counter() - start)
            for stage in ("sampling", "scoring", "learning"):
                stages[stage].append(row[f"seconds/{stage}"])
            stages["bare"].append(replay(trainer, calls))
    medians = {stage: statistics.median(seconds) for stage, seconds in stages.items()}
    for stage, seconds in medians.items():
        print(f"{stage:>10} {seconds:7.2f} s")
    ratios = [whole / bare for whole, bare in zip(stages["iteration"], stages["bare"], strict=True)]
    print(f"{'ratio':>10} {statistics.median(ratios):7.3f}   (iteration / bare transformer calls)")
    print(f"{'peak RSS':>10} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:7.2f} GiB")


if __name__ == "__main__":
    main()
