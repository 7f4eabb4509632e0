"""GRPO-Guard (arXiv 2510.22319): ratios with mean 1 and the same spread in every step of the sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from advantageflow.objectives.base import (
    NonNegative,
    Positive,
    Reverse,
    Transition,
    divergence,
    mean_square,
    ppo,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GRPOGuard(Reverse):
    """PPO's clipped surrogate with a ratio that is normalized in each step, so that the clip acts on all alike.

        ρ = exp(s (log p_θ - log p_old + ‖μ_θ - μ_old‖² / (2 s²))),        s the transition's standard deviation
        loss = max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε)) / |dt|  +  β ‖μ_θ - μ_ref‖² / (2 g²),        A clipped to ±c

    A ratio of densities is below 1 on average, the more so the later the step; the added square takes that away, and s
    its spread. g is the SDE's coefficient. Log-probabilities and squares are means over the image.

    Args:
        clip_range: ε.
        kl_weight: β.
        advantage_clip: c.

    Departs from the code in: |dt| is each transition's own, where it takes the mean over a batch of one step.
    """

    title: ClassVar[str] = "GRPO-Guard"
    paper: ClassVar[str] = "arXiv 2510.22319"
    claim: ClassVar[str] = "SD3.5-M: GenEval2 85.8 (Flow-GRPO 56.6), as measured in Flow-DPPO's paper"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#334155", "#a3b3c9")}
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "raw_std",
        "advantage.clip": 5.0,
        "rollout.solver": "flow_sde",
        "policy.rollout_decay": 0,
    }

    clip_range: Positive = 4e-6
    kl_weight: NonNegative = 0.0
    advantage_clip: Positive = 5.0

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"rollout", "reference"} if self.kl_weight else {"rollout"})

    def terms(self, seen: Transition) -> dict[str, Tensor]:
        assert seen.std is not None
        std, dt = seen.std, (seen.std / seen.diffusion) ** 2
        advantage = seen.advantage.clamp(-self.advantage_clip, self.advantage_clip)
        moved = mean_square(seen.mean - seen.mean_old) / (2 * std**2)
        ratio = (std * (seen.log_prob - seen.log_prob_old + moved)).exp()
        found = {"policy": ppo(advantage, ratio, self.clip_range) / dt}
        if "reference" in self.sees:
            found["reference"] = self.kl_weight * divergence(seen)
        return found
