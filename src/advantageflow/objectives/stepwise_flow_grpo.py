"""Stepwise-Flow-GRPO (Savani et al., arXiv 2603.28718): the credit of a step is what it adds to the reward foreseen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from advantageflow.objectives.base import NonNegative, Positive, Reverse, Transition, clipped_surrogate, divergence
from advantageflow.walk_plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

    from advantageflow.walks import Edges


@dataclass(frozen=True)
class StepwiseFlowGRPO(Reverse):
    """PPO's clipped surrogate, in which every transition has an advantage of its own.

        gain = r(image foreseen after the step) - r(image foreseen before it)
        A = (gain - mean) / std,  over all images and steps of a prompt
        loss = max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε)) + β ‖μ_θ - μ_ref‖² / (2 g²),        A clipped to ±c

    From every state an image is foreseen by a short ODE of the rollout policy, and the reward is asked. The gains of an
    image add up to what its last state is worth more than its first. g is the SDE's coefficient.

    Args:
        foresight: steps of the short ODE, as evenly as the sampler's times allow.
        clip_range, kl_weight, advantage_clip: ε, β, c.

    Departs from the paper in: an ODE of 2 steps by default, where it has 5; Flow-GRPO's SDE by default, where its own
    is nearer to `rollout.solver: ddim`.
    """

    title: ClassVar[str] = "Stepwise-Flow-GRPO"
    paper: ClassVar[str] = "arXiv 2603.28718"
    claim: ClassVar[str] = "SD3.5-M: GenEval .87 (Flow-GRPO .72) in 400 GPU-hours"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#4d7c0f", "#b5dd6e")}
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "group_std",
        "advantage.clip": 5.0,
        "rollout.solver": "flow_sde",
        "policy.rollout_decay": 0,
    }

    foresight: Annotated[int, Ge(1), Le(1000)] = 2
    clip_range: Positive = 1e-4
    kl_weight: NonNegative = 0.0
    advantage_clip: Positive = 5.0

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"reference"} if self.kl_weight else ())

    def plan(self, iteration: int, steps: int, level: float, transitions: int | None) -> Plan:
        plan = super().plan(iteration, steps, level, transitions)
        assert plan is not None
        return replace(plan, probes=tuple(self._way(place, steps) for place in range(len(plan.keep) + 1)))

    def _way(self, place: int, steps: int) -> tuple[int, ...]:
        count = min(self.foresight, steps - place)
        return tuple(place + round(i * (steps - place) / count) for i in range(count + 1))

    def credit(self, rewards: Tensor, groups: Tensor, edges: Edges | None, settings: Mapping[str, Any]) -> Tensor:
        from advantageflow.advantages import group_advantages

        assert edges is not None
        assert edges.probes is not None
        gains = edges.probes.diff(dim=1)
        of = groups.repeat_interleave(gains.shape[1])
        return group_advantages(gains.flatten(), of, **settings).view_as(gains)[edges.leaves[:, 0], edges.step]

    def terms(self, seen: Transition) -> dict[str, Tensor]:
        found = {"policy": clipped_surrogate(seen, self.clip_range, self.advantage_clip)}
        if "reference" in self.sees:
            found["reference"] = self.kl_weight * divergence(seen)
        return found
