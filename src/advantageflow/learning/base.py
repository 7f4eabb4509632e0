"""What the families of methods share: a scored rollout, the predictions that a formula sees, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advantageflow.config import Config
from advantageflow.models.base import FlowModel
from advantageflow.objectives.base import mean_square
from advantageflow.policy import Policy, Role
from advantageflow.rewards import Reward
from advantageflow.rollout import Rollout

Case = tuple[int, int]  # an image and the number of its draw, or a transition and the image that it is for


@dataclass(frozen=True)
class Scored:
    """An iteration's images and what they are worth.

    prompts: of each image.
    rewards, groups: [images] on the CPU; images of a prompt have one group.
    advantages: float64 on the CPU, [images] or [edges].
    address: of the iteration's randomness.
    """

    prompts: list[str]
    rollout: Rollout
    rewards: Tensor
    groups: Tensor
    advantages: Tensor
    address: tuple[int, ...]


@dataclass(frozen=True)
class Terms:
    """What one batch of cases gives: loss terms and distances, [batch] each; `terms` has a gradient.

    to_rollout, to_reference: ‖v - v_old‖² and ‖v - v_ref‖², means over the image; NaN where a method sees it not.
    advantages: [batch], on the CPU.
    images: whose loss it is.
    """

    terms: dict[str, Tensor]
    to_rollout: Tensor
    to_reference: Tensor
    advantages: Tensor
    images: list[int]

    def detached(self) -> Terms:
        """The same values without the gradient's graph and on the CPU, for the metrics."""
        return replace(
            self,
            terms={name: value.detach().cpu() for name, value in self.terms.items()},
            to_rollout=self.to_rollout.cpu(),
            to_reference=self.to_reference.cpu(),
        )


class Family(ABC):
    """How methods of one family look at an iteration.

    Args:
        method: of this family.
        rewards: name -> function; only gradient methods ask them.
    """

    def __init__(
        self,
        model: FlowModel,
        policy: Policy,
        method: Any,
        config: Config,
        rewards: Mapping[str, Reward],
        scored: Scored,
    ) -> None:
        self.model, self.policy, self.method, self.config = model, policy, method, config
        self.rewards, self.scored = rewards, scored

    def cases(self, images: list[int]) -> list[Case]:
        """All that is learned from these images: so many draws of each."""
        return [(image, draw) for draw in range(self.config.learn.t_draws) for image in images]

    @abstractmethod
    def look(self, cases: list[Case], step: int, alike: Collection[Role] = ()) -> Terms:
        """The formula's terms for a batch of cases.

        Args:
            step: optimizer steps so far.
            alike: roles that predict what the learner does.
        """

    def _predictions(
        self, x_t: Tensor, t: Tensor, prompts: list[str], alike: Collection[Role], until: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Role -> velocity at x_t, of the learner and of whom the method sees; of those alike the learner's own.

        Args:
            until: see `FlowModel.velocity`.
        """
        conditioning, guidance = self.model.encode(prompts), self.method.guidance
        own = {role for role in alike if guidance.get(role, 1.0) == guidance.get("learner", 1.0)}
        found = {}
        for role in (*sorted(self.method.sees - own, reverse=True), "learner"):
            scale = guidance.get(role, 1.0)
            empty = self.model.encode([""]) if scale != 1.0 else None
            with torch.set_grad_enabled(role == "learner"), self.policy.acting_as(role) as transformer:
                found[role] = self.model.velocity(
                    transformer, x_t, t, conditioning, guidance_scale=scale, empty_prompt=empty, until=until
                )
        return {**found, **dict.fromkeys(self.method.sees & own, found["learner"].detach())}

    def _terms(
        self, terms: dict[str, Tensor], velocities: Mapping[str, Tensor], advantages: Tensor, images: list[int]
    ) -> Terms:
        unknown = torch.full((len(images),), torch.nan)
        moved = velocities["learner"].detach().float() if velocities else unknown
        distances = {
            role: mean_square(moved - velocities[role].float()) if role in velocities else unknown
            for role in ("rollout", "reference")
        }
        return Terms(terms, distances["rollout"], distances["reference"], advantages, images)
