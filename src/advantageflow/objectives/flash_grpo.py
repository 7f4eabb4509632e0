"""Flash-GRPO (He et al., arXiv 2605.15980): one step of the sampler, weighed so that all steps teach alike."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from advantageflow.objectives.base import NonNegative, Positive, Reverse, Transition, clipped_surrogate, divergence
from advantageflow.walk_plan import Plan, chain

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FlashGRPO(Reverse):
    """PPO's clipped surrogate on the one step that has noise, the same for all images that are compared.

        loss = w max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε)) + β ‖μ_θ - μ_ref‖² / (2 g²),        A clipped to ±c
        1 / w = sqrt(dt) (1 / g + g (1 - t) / (2t))

    1 / w is the size of ∂ log p_θ / ∂v per unit of the noise that was drawn, so that the gradient at v has the same
    size in every step. Each iteration draws its step among those of the first half; g is the SDE's coefficient.

    Args:
        clip_range, kl_weight, advantage_clip: ε, β, c.

    Departs from the paper in: an iteration's prompts share the step, where each has its own; w is not divided by its
    mean over the steps, a constant.
    """

    title: ClassVar[str] = "Flash-GRPO"
    paper: ClassVar[str] = "arXiv 2605.15980"
    claim: ClassVar[str] = ""
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#b45309", "#f5b566")}
    solvers: ClassVar[tuple[str, ...]] = ("flow_sde", "dance_sde", "memoryless")  # whose mean has the slope of w
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "group_std",
        "advantage.clip": 5.0,
        "rollout.solver": "flow_sde",
        "policy.rollout_decay": 0,
        "learn.t_draws": 1,
    }

    clip_range: Positive = 1e-3
    kl_weight: NonNegative = 0.0
    advantage_clip: Positive = 5.0

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"reference"} if self.kl_weight else ())

    def plan(self, iteration: int, steps: int, level: float, transitions: int | None) -> Plan:
        noisy = random.Random(iteration).randrange(max(min(transitions or steps, steps // 2), 1))
        return chain([level if step == noisy else 0.0 for step in range(steps)], {noisy})

    def terms(self, seen: Transition) -> dict[str, Tensor]:
        from advantageflow.flow import like

        assert seen.sigma is not None
        assert seen.sigma_next is not None
        g, t, dt = seen.diffusion, like(seen.sigma, seen.diffusion), like(seen.sigma - seen.sigma_next, seen.diffusion)
        slope = dt.sqrt() * (1 / g + g * (1 - t) / (2 * t))
        found = {"policy": clipped_surrogate(seen, self.clip_range, self.advantage_clip) / slope}
        if "reference" in self.sees:
            found["reference"] = self.kl_weight * divergence(seen)
        return found
