"""TempFlow-GRPO (arXiv 2508.04324): branches at one step of the sampler, and steps weighed by their noise."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from advantageflow.objectives.base import NonNegative, Positive, Reverse, Transition, clipped_surrogate, divergence
from advantageflow.walk_plan import Plan

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TempFlowGRPO(Reverse):
    """PPO's clipped surrogate on the one step that has noise, so that the reward's differences are that step's doing.

        loss = scale · s max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε)) + β ‖μ_θ - μ_ref‖² / (2 g²),        A clipped to ±c

    Images follow the ODE to a step that each iteration draws, part there into branches by noise, and follow the ODE to
    their ends. s is the transition's standard deviation, so that early steps, where more can be explored, count more;
    g is the SDE's coefficient.

    Args:
        branches: images from one first noise; `rollout.images_per_prompt` is a multiple.
        scale: 1 over the mean of s over all steps makes the mean weight 1, which is 2.25 for Stable Diffusion 3.5 in 10
            steps at a noise level of .7.
        clip_range, kl_weight, advantage_clip: ε, β, c.

    Departs from the paper in: one step in each iteration, where it parts at every step in turn; the factor of s in its
    surrogate is a constant, as in its scripts, where its text divides by the mean.
    """

    title: ClassVar[str] = "TempFlow-GRPO"
    paper: ClassVar[str] = "arXiv 2508.04324"
    claim: ClassVar[str] = ""
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#854d0e", "#eac46f")}
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "group_std",
        "advantage.clip": 5.0,
        "rollout.solver": "flow_sde",
        "policy.rollout_decay": 0,
        "learn.t_draws": 1,
    }

    branches: Annotated[int, Ge(2), Le(1000)] = 2
    scale: Positive = 2.25
    clip_range: Positive = 1e-4
    kl_weight: NonNegative = 0.004
    advantage_clip: Positive = 5.0

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"reference"} if self.kl_weight else ())

    def plan(self, iteration: int, steps: int, level: float, transitions: int | None) -> Plan:
        parting = random.Random(iteration).randrange(min(transitions or steps, max(steps - 1, 1)))
        noise = tuple(level if step == parting else 0.0 for step in range(steps))
        children = tuple(self.branches if step == parting else 1 for step in range(steps))
        return Plan(noise, frozenset({parting}), children)

    def terms(self, seen: Transition) -> dict[str, Tensor]:
        assert seen.std is not None
        surrogate = clipped_surrogate(seen, self.clip_range, self.advantage_clip)
        found = {"policy": self.scale * seen.std * surrogate}
        if "reference" in self.sees:
            found["reference"] = self.kl_weight * divergence(seen)
        return found
