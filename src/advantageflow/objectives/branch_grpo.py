"""BranchGRPO (Li et al., arXiv 2509.06040): trees of images that share their beginnings, and credit for each branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from advantageflow.objectives.base import Positive, Reverse, Transition, clipped_surrogate
from advantageflow.walk_plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

    from advantageflow.config import Config
    from advantageflow.walks import Edges

Step = Annotated[int, Ge(0), Le(10**6)]


@dataclass(frozen=True)
class BranchGRPO(Reverse):
    """PPO's clipped surrogate on the edges of trees.

        loss = max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε)),        A clipped to ±c

    Every state splits in two at the steps `splits`, so a tree has 2^len(splits) images from one first noise, and
    `rollout.images_per_prompt` is a multiple of that. A node's reward is the mean of those of its images; an edge's
    advantage is its node's reward, standardized among the nodes of the same depth in the same tree.

    Args:
        splits: steps before which every state splits.
        split_noise: the noise level at a split, in units of the others'.
        prune_depths: so many depths are not learned from: at first the last, then one less deep every `prune_every`
            iterations, down to the last split.
        prune_every: see above.
        keep_share: of the nodes after the last split, the share that is learned from, those of the highest advantage.
        clip_range, advantage_clip: ε, c.

    Departs from the paper in: a split's log-probability is that of the noise that it was drawn with, where the code
    takes that of the other steps; noise in every step; `keep_share` is of a depth's nodes in a tree, where the code's
    is of each last branch's; a node's reward is never weighted by probabilities; fewer splits than its 0, 3, 6, 9.
    By the true log-probability a step weighs as the inverse of its noise, so that those after the splits, which decide
    little, outweigh them: let `learn.transitions` end with the last split.
    """

    title: ClassVar[str] = "BranchGRPO"
    paper: ClassVar[str] = "arXiv 2509.06040"
    claim: ClassVar[str] = "FLUX: HPSv2.1 .363 (DanceGRPO .360), 1.4 times as fast"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#8a5a1f", "#e0b070")}
    whole_groups: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {
        "rollout.solver": "dance_sde",
        "rollout.noise_level": 0.3,
        "policy.rollout_decay": 0,
        "learn.t_draws": 2,
    }

    splits: tuple[Step, ...] = (0, 2)
    split_noise: Positive = 4.0
    prune_depths: Step = 0
    prune_every: Annotated[int, Ge(1), Le(10**6)] = 30
    keep_share: Annotated[float, Gt(0), Le(1)] = 1.0
    clip_range: Positive = 1e-3
    advantage_clip: Positive = 5.0

    def check(self, config: Config) -> None:
        steps = config.rollout.num_inference_steps
        if not self.splits or len({*self.splits}) < len(self.splits) or max(self.splits) > steps - 2:
            raise ValueError(
                f"objective.splits is {list(self.splits)}; allowed: one or more different steps from 0 to {steps - 2}, "
                f"of {steps}"
            )

    def plan(self, iteration: int, steps: int, level: float, transitions: int | None) -> Plan:
        most = min(transitions or steps, steps - 1)
        shallowest = max(most - self.prune_depths - iteration // self.prune_every, max(self.splits) + 1)
        pruned = range(shallowest, shallowest + self.prune_depths)
        return Plan(
            tuple(level * (self.split_noise if step in self.splits else 1.0) for step in range(steps)),
            frozenset(range(most)) - {*pruned},
            tuple(2 if step in self.splits else 1 for step in range(steps)),
        )

    def credit(self, rewards: Tensor, groups: Tensor, edges: Edges | None, settings: Mapping[str, Any]) -> Tensor:
        import torch

        assert edges is not None
        values = edges.leaf_means(rewards.double())
        found = torch.zeros_like(values)
        for nodes in self._levels(edges):
            spread = values[nodes].std() if len(nodes) > 1 else values.new_zeros(())
            if spread >= 1e-6:
                found[nodes] = (values[nodes] - values[nodes].mean()) / (spread + 1e-8)
        return found

    def learned(self, edges: Edges, advantages: Tensor, iteration: int) -> Tensor:
        import torch

        kept = torch.ones(len(edges.step), dtype=torch.bool)
        for nodes in self._levels(edges):
            if edges.step[nodes[0]] > max(self.splits):
                order = advantages[nodes].argsort(descending=True, stable=True)
                kept[torch.tensor(nodes)[order[max(round(self.keep_share * len(nodes)), 1) :]]] = False
        return kept

    def _levels(self, edges: Edges) -> list[list[int]]:
        """The edges of each tree that lead to one depth."""
        size, found = 2 ** len(self.splits), dict[tuple[int, int], list[int]]()
        for edge, (step, first) in enumerate(zip(edges.step.tolist(), edges.leaves[:, 0].tolist(), strict=True)):
            found.setdefault((first // size, step), []).append(edge)
        return list(found.values())

    def terms(self, seen: Transition) -> dict[str, Tensor]:
        return {"policy": clipped_surrogate(seen, self.clip_range, self.advantage_clip)}
