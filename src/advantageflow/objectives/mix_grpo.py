"""MixGRPO (Li et al., arXiv 2507.21802): noise and gradients only in a window of the sampler's steps."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from advantageflow.objectives.base import NonNegative, Positive, Reverse, Transition, clipped_surrogate, divergence
from advantageflow.walk_plan import Plan, chain

if TYPE_CHECKING:
    from torch import Tensor

    from advantageflow.config import Config

Count = Annotated[int, Ge(1), Le(10**6)]


@dataclass(frozen=True)
class MixGRPO(Reverse):
    """PPO's clipped surrogate on the transitions of a window that moves from noise to image as training goes on.

        loss = max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε)) + β ‖μ_θ - μ_ref‖² / (2 s²),        A clipped to ±c

    Steps outside of the window are the ODE's. After the last place the window starts again at the first.

    Args:
        window: its number of steps.
        schedule: progressive: `iterations` at every place; decay: from `iterations` down to `fewest`; exp_decay:
            iterations · exp(-0.1 max(0, place - 13)); random: a place for each iteration; frozen: the first.
        iterations, fewest: see above.
        stride: steps that the window moves by.
        clip_range, kl_weight, advantage_clip: ε, β, c.

    Departs from the paper in:
        - a window of 2 of some 10 steps by default, where the paper has 4 of 25;
        - images of a prompt start from different noise;
        - outside of the window the solver is Euler's, always (the paper's Flash has one of higher order there);
        - β weighs the divergence from the base model, where the code's weighs that from the rollout policy;
        - several rewards are combined before their advantages (`scoring.combine: gdpo` is the paper's order).
    """

    title: ClassVar[str] = "MixGRPO"
    paper: ClassVar[str] = "arXiv 2507.21802"
    claim: ClassVar[str] = "FLUX: better than DanceGRPO in half of its training time"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#5b4bdb", "#aaa0ff")}
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "group_std",
        "advantage.clip": 5.0,
        "rollout.solver": "flow_sde",
        "policy.rollout_decay": 0,
        "learn.t_draws": 2,
    }

    window: Count = 2
    schedule: Literal["progressive", "random", "decay", "exp_decay", "frozen"] = "progressive"
    iterations: Count = 25
    fewest: Count = 5
    stride: Count = 1
    clip_range: Positive = 1e-4
    kl_weight: NonNegative = 0.0
    advantage_clip: Positive = 5.0

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"reference"} if self.kl_weight else ())

    def check(self, config: Config) -> None:
        steps = config.rollout.num_inference_steps
        if self.window > steps - 1:
            raise ValueError(
                f"objective.window is {self.window}, but of {steps} steps at most {steps - 1} are learned from; set "
                f"objective.window to at most {steps - 1}"
            )

    def plan(self, iteration: int, steps: int, level: float, transitions: int | None) -> Plan:
        last = min(transitions or steps, steps - 1) - self.window  # the last place
        first = self.place(iteration, max(last, 0))
        inside = range(first, min(first + self.window, steps - 1))
        return chain([level if step in inside else 0.0 for step in range(steps)], inside)

    def place(self, iteration: int, last: int) -> int:
        """The window's first step in an iteration, 0 to `last`."""
        if self.schedule == "frozen":
            return 0
        if self.schedule == "random":
            return random.Random(iteration).randint(0, last)
        places = list(range(0, last + 1, self.stride))
        stays = [self._stay(place, place / max(last, 1)) for place in places]
        left = iteration % sum(stays)
        return next(place for place, end in zip(places, accumulate(stays), strict=True) if left < end)

    def _stay(self, place: int, share: float) -> int:
        """Iterations at a place that lies at a share of the way."""
        if self.schedule == "decay":
            return max(round(self.iterations + share * (self.fewest - self.iterations)), 1)
        if self.schedule == "exp_decay":
            return math.ceil(self.iterations * math.exp(-0.1 * max(0, place - 13)))
        return self.iterations

    def terms(self, seen: Transition) -> dict[str, Tensor]:
        found = {"policy": clipped_surrogate(seen, self.clip_range, self.advantage_clip)}
        if "reference" in self.sees:
            found["reference"] = self.kl_weight * divergence(seen)
        return found
