"""How the cost of an iteration grows with images, draws of t, sampling steps, resolution and processes."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from math import log
from pathlib import Path
from statistics import linear_regression
from subprocess import DEVNULL, PIPE
from typing import Any

import torch

from advantageflow.bench.calls import middle
from advantageflow.bench.iteration import timed, trainer_of, varied
from advantageflow.bench.steps import Steps
from advantageflow.config import Config, dump_config
from advantageflow.errors import ConfigError
from advantageflow.models import picture_size
from advantageflow.run.directory import RunDirectory
from advantageflow.run.pace import TRAINING
from advantageflow.studies.children import run

FACTORS = (1, 2, 4)
PROCESSES = (1, 2)
ROUNDS = 2  # iterations of each, after one that warms up
KEYS = {
    "images": "rollout.prompts_per_iteration",
    "t draws": "learn.t_draws",
    "sampling steps": "rollout.num_inference_steps",
    "resolution": "model.resolution",
}
EACH = 1 + ROUNDS  # as steps, see `Steps`
SIZE = (1 + len(KEYS) * sum(FACTORS[1:]) + len(PROCESSES)) * EACH
# Of a run whose iterations alone are looked at
LEAN = (
    "evaluation.num_images=2", "evaluation.num_inference_steps=2", "evaluation.every=0", "evaluation.prompts_shown=1",
    "run.probe_every=0", "run.samples_every=100000", "run.checkpoint_every=100000", f"run.iterations={EACH}",
)  # fmt: skip


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """b of the power law cost = a · size^b that fits best, by least squares of the logarithms.

    Raises:
        ValueError: a size or a cost is not positive, or there are fewer than two sizes.
    """
    if len({*sizes}) < 2 or min((*sizes, *costs)) <= 0:
        raise ValueError(f"sizes {[*sizes]} and costs {[*costs]} have no exponent; give two sizes or more, all above 0")
    return linear_regression([log(size) for size in sizes], [log(cost) for cost in costs]).slope


def scaling(config: Config, steps: Steps) -> dict[str, Any]:
    """What grows -> its values, seconds and bytes at each, and exponents; or why it cannot be varied."""
    with steps.step("scaling: the recipe itself", EACH):
        base = _cost(config)
    found = {name: _grown(config, base, name, key, steps) for name, key in KEYS.items()}
    return found | {"processes": _shared(config, steps)}


def _grown(config: Config, base: dict[str, float], name: str, key: str, steps: Steps) -> dict[str, Any]:
    """One setting at 1, 2 and 4 times its value, as far as it goes."""
    values, rows, refused = [_times(config, key, 1)], [base], ""
    for factor in FACTORS[1:]:
        if refused:
            steps.skip(factor * EACH)
            continue
        value = _times(config, key, factor)
        with steps.step(f"scaling: {name}, {key}={value}", factor * EACH):
            try:
                rows.append(_cost(varied(config, f"{key}={value}")))
            except ConfigError as error:
                refused = str(error)
            else:
                values.append(value)
    return _told(key, values, rows, refused)


def _times(config: Config, key: str, factor: int) -> Any:
    """A setting's value, so many times; of a resolution, of its edges."""
    if key == "model.resolution":
        return [edge * factor for edge in picture_size(config.model)]
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name) * factor


def _cost(config: Config) -> dict[str, float]:
    """Median seconds of an iteration and of its stages, and the most bytes held."""
    with trainer_of(config) as trainer:
        trainer.iterate()
        rows = [timed(trainer) for _ in range(ROUNDS)]
        whole = middle([spent.truer(trainer) for spent, _, _ in rows])
        # on a busy machine the stages have their shares of what is true of the whole
        stages = {stage: middle([parts[stage] / spent.wall for spent, parts, _ in rows]) * whole for stage in TRAINING}
    return {"iteration": whole, **stages, "peak_memory": max(held for _, _, held in rows)}


def _shared(config: Config, steps: Steps) -> dict[str, Any]:
    """One run in one process, and shared by two; each process has the threads that it has where there are two."""
    threads = max(torch.get_num_threads() // max(PROCESSES), 1)
    rows: list[dict[str, float]] = []
    if torch.cuda.device_count() == 1:
        steps.skip(len(PROCESSES) * EACH)
        return _told("--processes", [], [], "there is one GPU")
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(dump_config(varied(config, *LEAN, f"run.threads={threads}")), encoding="utf-8")
        for count in PROCESSES:
            with steps.step(f"scaling: {count} {'process' if count == 1 else 'processes'} of {threads} threads", EACH):
                rows.append(_run(recipe, Path(folder) / str(count), count, threads))
    return {**_told("--processes", [*PROCESSES], rows, ""), "threads": threads}


def _run(recipe: Path, folder: Path, processes: int, threads: int) -> dict[str, float]:
    """Median seconds of a run's iterations after the first."""
    arguments = ["train", str(recipe), "--output", str(folder), "--processes", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "advantageflow", *arguments]
    ended = run(command, environment, stdout=DEVNULL, stderr=PIPE)
    if ended.returncode:
        raise ConfigError(f"the run in {processes} processes failed: {ended.stderr.strip()[-400:]}")
    rows = RunDirectory(folder).metrics()[1:]
    stages = {stage: middle([row[f"seconds/{stage}"] for row in rows]) for stage in TRAINING}
    return {**stages, "iteration": sum(stages.values())}


def _told(key: str, values: list[Any], rows: list[dict[str, float]], refused: str) -> dict[str, Any]:
    """What was found, as plain data."""
    found: dict[str, Any] = {"key": key, "values": values, "refused": refused}
    costs = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    sizes = FACTORS[: len(values)]
    exponents = {name: exponent(sizes, of) for name, of in costs.items() if len(values) > 1 and min(of) > 0}
    return {**found, "seconds": costs, "exponents": exponents}
