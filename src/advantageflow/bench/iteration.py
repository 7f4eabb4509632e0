"""An iteration of a recipe, its own calls of the transformer bare, and those that it needs at their best, in turn."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from advantageflow.bench.calls import Calls, Spent, best, best_sizes, floor, middle, needed, recorded, replay, spent
from advantageflow.bench.roofline import flops, of_calls, peak
from advantageflow.bench.steps import Steps
from advantageflow.building import build, load_inputs
from advantageflow.config import Config, change, check_config
from advantageflow.devices import choose_device
from advantageflow.environment import environment, peak_memory, reset_peak_memory
from advantageflow.learning import Scored
from advantageflow.run.directory import RunDirectory
from advantageflow.run.pace import TRAINING
from advantageflow.trainer import Trainer

WARM_UP = 2  # iterations, after which the roles have parted
SEARCH, LAST = 3, 2  # about so many iterations' time
# Gradients by sign are measured on their own, and no run comes to its end here
STEADY = ("run.probe_every=0", "run.iterations=1000000")


def size(rounds: int) -> int:
    """Of `measure`, as steps."""
    return WARM_UP + 1 + SEARCH + 3 * rounds + LAST


def varied(config: Config, *changes: str) -> Config:
    """Settings with changes.

    Raises:
        ConfigError: one of them is wrong.
    """
    settings = config.model_dump(mode="json")
    change(settings, changes)
    return check_config(settings)


@contextmanager
def trainer_of(config: Config) -> Iterator[Trainer]:
    """A recipe's own trainer, in a folder that is thrown away."""
    gc.collect()  # an earlier one, so that its memory is not counted
    quiet = Console(quiet=True)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", config)
        yield build(varied(config, *STEADY), run, load_inputs(config, quiet), quiet)


@contextmanager
def rehearsed_trainer(config: Config, rounds: int) -> Iterator[Trainer]:
    """A trainer at its model's true size, with random weights.

    Args:
        config: see `rehearsal.shortened.shorten`.

    Raises:
        ConfigError: memory is not enough, with the changes that fit.
    """
    from advantageflow.rehearsal.meter import Meter
    from advantageflow.rehearsal.run import built

    meter = Meter(torch.device(choose_device(config.model.device)))
    steady = varied(config, *STEADY)
    with built(steady, Console(quiet=True), meter, iterations=WARM_UP + 1 + rounds + 1) as found:
        yield found.trainer


def warm_up(trainer: Trainer, steps: Steps) -> None:
    for number in range(WARM_UP):
        with steps.step(f"warming up, iteration {number + 1} of {WARM_UP}"):
            trainer.iterate()


def timed(trainer: Trainer) -> tuple[Spent, dict[str, float], int]:
    """One iteration, seconds of its stages, and the most bytes that were held in it."""
    rows: list[dict[str, Any]] = []
    reset_peak_memory(trainer.model.device)
    whole = spent(trainer, lambda: rows.append(trainer.iterate()))
    stages = {stage: rows[0][f"seconds/{stage}"] for stage in TRAINING}
    return whole, stages, peak_memory(trainer.model.device)


def measure(config: Config, rounds: int, steps: Steps, *, rehearsed: bool = False) -> dict[str, Any]:
    """All that `bench` tells of a recipe, as plain data; seconds are medians over the rounds."""
    with rehearsed_trainer(config, rounds) if rehearsed else trainer_of(config) as trainer:
        model, images = trainer.model, config.rollout.prompts_per_iteration * config.rollout.images_per_prompt
        warm_up(trainer, steps)
        with recorded(trainer) as found, steps.step("an iteration whose calls are noted"):
            trainer.iterate()
        with steps.step("looking for the best batch size", SEARCH):
            costs = best_sizes(trainer, found, images)
        sizes = {gradient: best(costs.get(gradient) or costs[not gradient]) for gradient in (False, True)}
        taken, stages, held = list[dict[str, Spent]](), list[dict[str, float]](), 0
        for number in range(rounds):
            wanted, told = needed(config, trainer.iteration), f"round {number + 1} of {rounds}"
            with recorded(trainer) as found, steps.step(f"{told}: an iteration"):
                whole, parts, memory = timed(trainer)
            with steps.step(f"{told}: its calls alone"):
                own = replay(trainer, found)
            with steps.step(f"{told}: the calls it needs, at their best"):
                fixed = floor(trainer, wanted, found, sizes)
            taken.append({"iteration": whole, "own_floor": own, "fixed_floor": fixed})
            stages.append(parts)
            held = max(held, memory)
        with steps.step("gradients by sign, and the peak of this machine", LAST):
            probe = _probe(trainer, config)
            each, most = flops(trainer, found), peak(trainer)
        truer = {name: middle([one[name].truer(trainer) for one in taken]) for name in taken[0]}
    medians = {stage: middle([one[stage] for one in stages]) for stage in TRAINING} | _medians(taken, "wall")
    return {
        "recipe": config.name,
        "rehearsed": rehearsed,
        "method": config.objective.name,
        "device": str(model.device),
        "dtype": config.model.dtype,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "images": images,
        "seconds": medians,
        "cpu_seconds": _medians(taken, "cpu"),
        "overhead": _overhead(taken, "wall"),
        "cpu_overhead": _overhead(taken, "cpu"),
        "images_per_second": images / medians["iteration"],
        "peak_memory": held,
        "batch_size": {"rollout": config.rollout.batch_size, "learn": config.learn.batch_size},
        "best_batch_size": {_name(gradient): size for gradient, size in sizes.items()},
        "calls": {"needed": wanted, "made": found.by_role()},
        "probe": {"seconds": probe, "every": config.run.probe_every},
        "roofline": _roofline(found, each, most, truer, costs, wanted),
        "environment": environment(),
    }


def _medians(taken: list[dict[str, Spent]], clock: str) -> dict[str, float]:
    return {name: middle([getattr(one[name], clock) for one in taken]) for name in taken[0]}


def _overhead(taken: list[dict[str, Spent]], clock: str) -> dict[str, float]:
    """The median ratio of an iteration to its own calls, and to those that it needs."""
    seconds = [{name: getattr(spent, clock) for name, spent in one.items()} for one in taken]
    return {name: middle([one["iteration"] / one[f"{name}_floor"] for one in seconds]) for name in ("own", "fixed")}


def _roofline(
    found: Calls,
    each: dict[str, float],
    most: float,
    seconds: dict[str, float],
    costs: dict[bool, dict[int, float]],
    wanted: dict[str, int],
) -> dict[str, Any]:
    """Operations of the matrix products, and how many a second are done: at most, bare, and in an iteration."""
    roles = {False: "rollout" if "rollout" in each else min(each), True: "learner"}
    rates = {
        "iteration": of_calls(each, found.by_role()) / seconds["iteration"],
        "own_floor": of_calls(each, found.by_role()) / seconds["own_floor"],
        "fixed_floor": of_calls(each, wanted) / seconds["fixed_floor"],
    }
    for gradient, of in costs.items():
        rates[_name(gradient)] = each[roles[gradient]] / min(of.values())
    return {
        "peak_flops_per_second": most,
        "flops_per_image": each,
        "flops_per_second": rates,
        "share_of_peak": {name: rate / most for name, rate in rates.items()},
        "seconds_per_image": {_name(gradient): of for gradient, of in costs.items()},
    }


def _name(gradient: bool) -> str:
    return "with_gradient" if gradient else "without_gradient"


def _probe(trainer: Trainer, config: Config) -> float:
    """Seconds of measuring gradients by the advantage's sign, once; 0 where a run does not."""
    if not config.run.probe_every:
        return 0.0
    learner, learn = trainer.learner, trainer.learner.learn
    seen: list[Scored] = []

    def noting(scored: Scored) -> dict[str, float | None]:
        seen.append(scored)
        return learn(scored)

    learner.learn = noting  # type: ignore[method-assign]
    trainer.iterate()
    del learner.learn
    kept, learner.config = learner.config, varied(config, "run.probe_every=1")
    found = spent(trainer, lambda: learner.probe(seen[0]))
    learner.config = kept
    return found.wall
