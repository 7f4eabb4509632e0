"""Reverse-process methods: the recorded transitions of a sampler with noise."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from advantageflow.flow import like
from advantageflow.learning.base import Case, Family, Terms
from advantageflow.objectives.base import Transition
from advantageflow.policy import Role
from advantageflow.seeding import Stream, generator
from advantageflow.solvers import gaussian_log_prob, sde_step


class ReverseFamily(Family):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        settings = self.config.rollout
        edges, iteration = self.scored.rollout.edges, self.scored.address[-1]
        assert edges is not None
        self._edges, self._sigmas = edges, self.model.sigmas(settings.num_inference_steps)
        plan = self.config.walk_plan(iteration)
        assert plan is not None
        self._levels, self._tree = torch.tensor(plan.noise, dtype=torch.float64), plan.leaves
        self._steps = sorted(plan.keep)
        learned = self.method.learned(edges, self.scored.advantages, iteration)
        self._of_tree: dict[tuple[int, int], list[int]] = {}  # (first image of the tree, step) -> its edges
        for edge, (step, first) in enumerate(zip(edges.step.tolist(), edges.leaves[:, 0].tolist(), strict=True)):
            if learned[edge]:
                self._of_tree.setdefault((first // self._tree * self._tree, step), []).append(edge)

    def cases(self, images: list[int]) -> list[Case]:
        """Of each chain or tree so many distinct steps as there are draws, and all transitions of these."""
        draws = self.config.learn.t_draws
        trees = dict.fromkeys(image // self._tree * self._tree for image in images)
        chosen = {
            tree: torch.randperm(
                len(self._steps), generator=generator(Stream.LEARN, *self.scored.address, tree)
            ).tolist()
            for tree in trees
        }
        return [
            (edge, tree)
            for draw in range(min(draws, len(self._steps)))
            for tree in trees
            for edge in self._of_tree.get((tree, self._steps[chosen[tree][draw]]), [])
        ]

    def look(self, cases: list[Case], step: int, alike: Collection[Role] = ()) -> Terms:
        """Score the cases' transitions under the learner, and find the means of whom the method sees."""
        scored, edges = self.scored, self._edges
        chosen = [edge for edge, _ in cases]
        images = edges.leaves[chosen, 0].tolist()
        x, next_x, index = edges.x[chosen], edges.next_x[chosen], edges.step[chosen]
        sigma, sigma_next, level = self._sigmas[index], self._sigmas[index + 1], self._levels[index]
        velocities = self._predictions(x, sigma, [scored.prompts[image] for image in images], alike)
        means, std = {}, torch.empty(0)
        for role, v in velocities.items():
            means[role], std = sde_step(self.config.rollout.solver, v, x, sigma, sigma_next, level)
        seen = Transition(
            gaussian_log_prob(next_x, means["learner"], std),
            edges.log_prob[chosen],
            means,
            std / like(torch.sqrt(sigma - sigma_next), std),
            scored.advantages[chosen].float().to(x.device),
            std=std,
            sigma=sigma,
            sigma_next=sigma_next,
            step=index,
        )
        return self._terms(self.method.terms(seen), velocities, scored.advantages[chosen], images)
