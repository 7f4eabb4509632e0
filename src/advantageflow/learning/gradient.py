"""Gradient methods: the reward itself, through the last steps of the sampler."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from advantageflow.learning.base import Case, Family, Terms
from advantageflow.objectives.base import Start
from advantageflow.policy import Role
from advantageflow.rewards.gradients import score_with_gradient
from advantageflow.seeding import Stream, generator, noise
from advantageflow.solvers import SDE_STEPS, Velocity, sde_step


class GradientFamily(Family):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        edges = self.scored.rollout.edges
        assert edges is not None
        plan = self.config.walk_plan(self.scored.address[-1])
        assert plan is not None
        self._edges, self._levels = edges, torch.tensor(plan.noise, dtype=torch.float64)
        self._sigmas = self.model.sigmas(self.config.rollout.num_inference_steps)
        self._starts = [*self.method.starts(self.config.rollout.num_inference_steps)]
        self._edge = edges.places()

    def look(self, cases: list[Case], step: int, alike: Collection[Role] = ()) -> Terms:
        """Draw the cases' images on from recorded states, as they were drawn but with gradient, and ask the rewards."""
        scored, model = self.scored, self.model
        images = [image for image, _ in cases]
        prompts = [scored.prompts[image] for image in images]
        begin = torch.tensor([self._begin(image, draw) for image, draw in cases])
        edges = [self._edge[image, int(each)] for image, each in zip(images, begin, strict=True)]
        conditioning, guidance = model.encode(prompts), self.config.rollout.guidance_scale
        empty = model.encode([""]) if guidance != 1.0 else None

        def state(steps: Tensor) -> Tensor:
            wanted = zip(images, steps.tolist(), strict=True)
            found = [self._edge.get((image, step)) for image, step in wanted]
            ends = scored.rollout.x0[images]
            return torch.stack(
                [end if edge is None else self._edges.x[edge] for edge, end in zip(found, ends, strict=True)]
            )

        def uniform(count: int) -> Tensor:
            drawn = [generator(Stream.LEARN, *scored.address, image, 1 + draw) for image, draw in cases]
            return torch.stack([torch.rand(count, generator=each, dtype=torch.float64) for each in drawn])

        def fresh(number: int) -> Tensor:
            drawn = [
                noise(model.latent_shape, Stream.LEARN, (*scored.address, image, 1 + draw), [number])
                for image, draw in cases
            ]
            return torch.cat(drawn).to(model.device)

        @contextmanager
        def acting_as(role: Role) -> Iterator[Velocity]:
            with self.policy.acting_as(role) as transformer:
                yield lambda x_t, t: model.velocity(
                    transformer, x_t, t, conditioning, guidance_scale=guidance, empty_prompt=empty
                )

        with acting_as("learner") as velocity:
            start = Start(
                self._edges.x[edges], begin, self._sigmas, velocity, fresh, state, uniform, self._move,
                lambda: acting_as("reference"), model.path,
            )  # fmt: skip
            terms = self.method.look(start, lambda latents: self._reward(latents, prompts))
        return self._terms(terms, {}, scored.advantages[images], images)

    def _move(self, v: Tensor, x: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """The sampler's transitions from x."""
        solver = self.config.rollout.solver
        kind = solver if solver in SDE_STEPS else next(iter(SDE_STEPS))  # without noise all are Euler's
        return sde_step(kind, v, x, self._sigmas[steps], self._sigmas[steps + 1], self._levels[steps])

    def _begin(self, image: int, draw: int) -> int:
        """The recorded step from which a case starts, one of those that the method allows."""
        order = torch.randperm(
            len(self._starts), generator=generator(Stream.LEARN, *self.scored.address, image, 0)
        ).tolist()
        return int(self._starts[order[draw % len(order)]])

    def _reward(self, latents: Tensor, prompts: list[str]) -> Tensor:
        """The weighted sum of the rewards of latents, [batch], with gradient."""
        pictures = self.model.decode_with_gradient(latents)
        parts = [
            weight * score_with_gradient(name, self.rewards[name], pictures, prompts)
            for name, weight in self.config.reward_weights.items()
        ]
        return torch.stack(parts).sum(0)
