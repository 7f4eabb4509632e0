"""How much of an iteration's gradient is signal: do the gradients of several iterations, with fresh images, agree?

    python benchmarks/agreement.py RECIPE [KEY=VALUE ...] [--iterations 8]

All are taken at the same weights, since the learning rate is as good as nothing; to measure at a trained policy, give
its adapter with model.lora. The mean cosine of two iterations' gradients is the share of a gradient's squared length
that is the same in all, if what is not is independent: near 0 an iteration teaches nothing but noise. Prints JSON, with
a standard error by the jackknife over iterations. Methods differ in this at equal images, and settings of a method do.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from advantageflow.api import train
from advantageflow.config import load_config

STILL = (
    "learn.learning_rate=1e-12", "learn.warmup_steps=0", "evaluation.num_images=6", "evaluation.every=1000",
    "run.samples_every=1000", "run.checkpoint_every=1000", "run.probe_every=0",
)  # fmt: skip


def gradients(recipe: str, changes: list[str], folder: Path) -> Tensor:
    """The gradient of every iteration, the mean over its optimizer steps: [iterations, parameters]."""
    found: list[Tensor] = []

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        found.append(torch.cat([part.flatten().cpu() for part in parts]))

    hook = register_optimizer_step_pre_hook(keep)
    try:
        train(recipe, *changes, output=folder)
    finally:
        hook.remove()
    steps = load_config(recipe, changes).learn.optimizer_steps
    return torch.stack(found).unflatten(0, (-1, steps)).mean(1)


def agreement(gradients: Tensor) -> float:
    """The mean cosine of two different rows."""
    units = torch.nn.functional.normalize(gradients.double(), dim=1)
    cosines = units @ units.T
    count = len(units)
    return float((cosines.sum() - cosines.trace()) / (count * (count - 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--iterations", type=int, default=8)
    given = parser.parse_intermixed_args()
    if given.iterations < 3:
        parser.error(f"--iterations is {given.iterations}; give 3 or more, since the error leaves one out")
    changes = [*given.changes, *STILL, f"run.iterations={given.iterations}"]
    with tempfile.TemporaryDirectory() as folder:
        found = gradients(given.recipe, changes, Path(folder) / "run")
    without = torch.tensor([agreement(torch.cat([found[:i], found[i + 1 :]])) for i in range(len(found))])
    error = ((len(found) - 1) * without.var(correction=0)).sqrt()
    print(
        json.dumps({"iterations": len(found), "agreement": round(agreement(found), 4), "error": round(float(error), 4)})
    )


if __name__ == "__main__":
    main()
