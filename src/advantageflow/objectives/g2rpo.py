"""G2RPO, granular GRPO (arXiv 2510.01982): the branches of one state, judged by ways to the end of several lengths."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from advantageflow.objectives.base import Positive, Reverse, Transition, clipped_surrogate
from advantageflow.walk_plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

    from advantageflow.config import Config
    from advantageflow.walks import Edges


@dataclass(frozen=True)
class G2RPO(Reverse):
    """PPO's clipped surrogate on the one step that has noise, with a reward at each of several granularities.

        A = Σ over granularities of (r - mean) / std,  among the branches of one state
        loss = max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε)),        A clipped to ±c

    Images follow the ODE to a step of the first half, another in each iteration, and part there into branches by noise.
    From there each is completed by the ODE once for every granularity, whose steps go over so many of the sampler's, so
    that what the step did is judged by several images.

    Args:
        branches: images from one first noise; `rollout.images_per_prompt` is a multiple.
        granularities: steps of the sampler in one of the ODE's; 1 is the image itself.
        clip_range, advantage_clip: ε, c.

    Departs from the code in: one step in each iteration, where it parts at all of the first half in turn, each with an
    optimizer step of its own; several rewards are combined before their advantages (`scoring.combine: gdpo` is near to
    its order).
    """

    title: ClassVar[str] = "G2RPO"
    paper: ClassVar[str] = "arXiv 2510.01982"
    claim: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ("granular-grpo",)
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#a21caf", "#eda5f5")}
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "group_std",
        "advantage.clip": 5.0,
        "rollout.solver": "flow_sde",
        "policy.rollout_decay": 0,
        "learn.t_draws": 1,
    }

    branches: Annotated[int, Ge(2), Le(1000)] = 4
    granularities: tuple[Annotated[int, Ge(1), Le(1000)], ...] = (1, 2)
    clip_range: Positive = 1e-4
    advantage_clip: Positive = 5.0

    def check(self, config: Config) -> None:
        if not self.granularities or len({*self.granularities}) < len(self.granularities):
            raise ValueError(
                f"objective.granularities is {list(self.granularities)}; allowed: one or more different whole numbers"
            )

    def plan(self, iteration: int, steps: int, level: float, transitions: int | None) -> Plan:
        parting = random.Random(iteration).randrange(max(min(transitions or steps, steps // 2), 1))
        return Plan(
            tuple(level if step == parting else 0.0 for step in range(steps)),
            frozenset({parting}),
            tuple(self.branches if step == parting else 1 for step in range(steps)),
            tuple((*range(parting + 1, steps, each), steps) for each in self.granularities if each > 1),
        )

    def credit(self, rewards: Tensor, groups: Tensor, edges: Edges | None, settings: Mapping[str, Any]) -> Tensor:
        import torch

        from advantageflow.advantages import group_advantages

        assert edges is not None
        coarse = iter(edges.probes.T if edges.probes is not None else ())
        judged = [rewards if each == 1 else next(coarse) for each in self.granularities]
        anchors = torch.arange(len(rewards)) // self.branches
        return edges.leaf_means(torch.stack([group_advantages(each, anchors, **settings) for each in judged]).sum(0))

    def terms(self, seen: Transition) -> dict[str, Tensor]:
        return {"policy": clipped_surrogate(seen, self.clip_range, self.advantage_clip)}
