"""Forward-process methods: images noised afresh, or at states that their sampler went through.

Times and advantages are float64 and stay on the CPU until they are cast, since not every device has float64.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from advantageflow.config import LearnSettings
from advantageflow.flow import draw_t, like
from advantageflow.learning.base import Case, Family, Terms
from advantageflow.objectives.base import Noised
from advantageflow.policy import Role
from advantageflow.seeding import Stream, generator, noise

SLOPE = 0.005  # the slope of an average velocity is taken between times so far before and after


class ForwardFamily(Family):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._shared = self.method.shared_noise or self.config.learn.share == "group"
        sigmas, edges = self.model.sigmas(self.config.rollout.num_inference_steps), self.scored.rollout.edges
        self._sigmas, self._edges = sigmas, edges
        if edges is not None:
            self._edge, sigmas = edges.places(), sigmas[edges.step.unique()]
        else:
            sigmas = sigmas[:-1]  # at the end, which may be later than 0, the network is not asked
        firsts = [self._addressed_by(image) for image in range(len(self.scored.prompts))]
        learn, address = self.config.learn, self.scored.address
        self._times = draw_times(learn, firsts, sigmas, address)
        self._ends: Tensor | None = None  # of the spans, where averages are learned
        if self.method.average_velocity:
            self._times, self._ends = draw_spans(learn, firsts, sigmas, address)

    def cases(self, images: list[int]) -> list[Case]:
        """So many draws of each image that the method chooses."""
        size, taught = self.config.rollout.images_per_prompt, set[int]()
        for first in {image // size * size for image in images}:
            taught |= {first + number for number in self.method.chosen(self.scored.rewards[first : first + size])}
        return super().cases([image for image in images if image in taught])

    def _addressed_by(self, image: int) -> int:
        """The image whose address gives the times: its own, or that of its group's first."""
        size = self.config.rollout.images_per_prompt
        return image // size * size if self.method.whole_groups or self._shared else image

    def look(self, cases: list[Case], step: int, alike: Collection[Role] = ()) -> Terms:
        """Noise the cases' images and compare the predictions of all roles there."""
        scored, model = self.scored, self.model
        images, draws = [image for image, _ in cases], self.config.learn.t_draws
        draw = [number for _, number in cases]
        t, end = self._times[images, draw], None if self._ends is None else self._ends[images, draw]
        x0, prompts = scored.rollout.x0[images], [scored.prompts[image] for image in images]
        fresh = self._noise(cases) if self._edges is None else None
        x_t = self._states(images, t) if fresh is None else model.path.interpolate(x0, fresh, t)
        velocities = self._predictions(x_t, t, prompts, alike, end)
        if end is not None and fresh is not None:
            slope = self._slope(x0, fresh, t, end, prompts)
            velocities = {role: u + like(t - end, u) * slope for role, u in velocities.items()}
        critic = self.policy.critic
        seen = Noised(
            velocities,
            x0,
            x_t,
            t,
            scored.advantages[images].float().to(model.device),
            noise=fresh,
            reward=scored.rewards[images].float().to(model.device),
            group=torch.tensor(
                [int(scored.groups[image]) * draws + draw for image, draw in cases], device=model.device
            ),
            value=critic(x_t, t.float().to(model.device)) if critic is not None else None,
            step=step,
            path=model.path,
        )
        return self._terms(self.method.terms(seen), velocities, scored.advantages[images], images)

    def _noise(self, cases: list[Case]) -> Tensor:
        """Of each case, addressed by its image and draw."""
        drawn = [
            noise(
                self.model.latent_shape,
                Stream.LEARN,
                (*self.scored.address, self._addressed_by(image) if self._shared else image),
                [draw],
            )
            for image, draw in cases
        ]
        return torch.cat(drawn).to(self.model.device)

    def _states(self, images: list[int], t: Tensor) -> Tensor:
        """What was recorded of images at times of the sampler."""
        assert self._edges is not None
        steps = (self._sigmas == t[:, None]).int().argmax(1).tolist()
        return self._edges.x[[self._edge[place] for place in zip(images, steps, strict=True)]]

    def _slope(self, x0: Tensor, noise: Tensor, t: Tensor, end: Tensor, prompts: list[str]) -> Tensor:
        """d/dt u(x_t, t, r) of the rollout policy as the image moves on to its noise, [batch, ...]; no gradient."""
        model, told = self.model, self.model.encode(prompts)
        before, after = (t - SLOPE).clamp(min=0), (t + SLOPE).clamp(max=1)
        with torch.no_grad(), self.policy.acting_as("rollout") as transformer:
            first, last = (
                model.velocity(transformer, model.path.interpolate(x0, noise, time), time, told, until=end)
                for time in (before, after)
            )
        return (last - first) / like(after - before, first)


def draw_times(learn: LearnSettings, addresses: list[int], sigmas: Tensor, address: tuple[int, ...]) -> Tensor:
    """Training times [images, draws]; those of an image are addressed by (*address, its own)."""
    return torch.stack([_draw(learn, sigmas, generator(Stream.LEARN, *address, i)) for i in addresses])


def _draw(learn: LearnSettings, sigmas: Tensor, rng: torch.Generator) -> Tensor:
    return draw_t(learn.t_distribution, learn.t_draws, sigmas, rng, within=learn.t_range)


def draw_spans(
    learn: LearnSettings, addresses: list[int], sigmas: Tensor, address: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Times t and r <= t of an average velocity, [images, draws] each (arXiv 2607.15273).

    Half of the spans have no length, r = t; a quarter end at the image, r = 0; and the others lie between two times.
    """
    rngs = [generator(Stream.LEARN, *address, i) for i in addresses]
    one, other = (torch.stack([_draw(learn, sigmas, rng) for rng in rngs]) for _ in range(2))
    kind = torch.stack([torch.rand(learn.t_draws, generator=rng, dtype=torch.float64) for rng in rngs])
    between = kind >= 0.75
    end = torch.where(kind < 0.5, one, torch.zeros_like(one))
    return torch.where(between, one.maximum(other), one), torch.where(between, one.minimum(other), end)
