"""Adjoint Matching (Domingo-Enrich et al., arXiv 2409.08861): regression on a gradient that the base model carried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from advantageflow.objectives.base import Controlled, Gradient, Positive, Start, mean_square
from advantageflow.walk_plan import Plan, chain

if TYPE_CHECKING:
    from torch import Tensor

    from advantageflow.config import Config


@dataclass(frozen=True)
class AdjointMatching(Gradient):
    """Steer the sampler from the base model's way as the reward's gradient, carried back along that way, would have it.

        loss = m ‖μ_θ - μ_ref + s² a'‖² / max(s, t - t')²
        a = -λ ∇r(x0) at the end,  a = (∂μ_ref / ∂x)ᵀ a' a step before
        m = 0 where ‖s a'‖ > b λ, else 1

    Images are drawn by an SDE in which they forget their noise; μ is a transition's mean, s its standard deviation,
    and a' the lean adjoint after it. The minimum is the sampler of p_ref exp(λ r). The reward is differentiated once,
    the base model in every step, and the learner by its own loss alone. The last step, which adds no noise, is not
    learned from. Squares are means over the image, and norms are roots of these.

    Args:
        reward_scale: λ. Where learning ends early, and alike at all learning rates, it is too small.
        bound: b, since of some images the adjoint grows without measure on its way; null for none.
        active_steps: steps of each image that are learned from, drawn anew each time.

    Departs from the paper in: fewer steps, all with one chance, where it has the last 10 of 40 and 10 others; DDIM with
    η = 1 by default, a memoryless step that keeps the flow's marginals when there are few (`rollout.solver: memoryless`
    is the paper's); a step with less noise than its width, t - t', weighs less; `bound`, where it has one on the loss.
    """

    title: ClassVar[str] = "Adjoint Matching"
    paper: ClassVar[str] = "arXiv 2409.08861"
    claim: ClassVar[str] = (
        "more realism, and preference by reward models it never saw, than other reward gradients, with variety kept"
    )
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#be185d", "#f9a8d4")}
    straight: ClassVar[bool] = True
    solvers: ClassVar[tuple[str, ...]] = ("ddim", "memoryless")
    defaults: ClassVar[dict[str, Any]] = {
        **Gradient.defaults,
        "rollout.solver": "ddim",
        "rollout.noise_level": 1.0,
    }

    reward_scale: Positive = 100.0
    bound: Positive | None = 0.03
    active_steps: Annotated[int, Ge(1), Le(1000)] = 2

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"reference"})

    def check(self, config: Config) -> None:
        if config.rollout.noise_level != 1:
            raise ValueError(
                f"rollout.noise_level is {config.rollout.noise_level}, but images forget their noise with 1 alone; set "
                "rollout.noise_level=1"
            )
        noisy = config.rollout.num_inference_steps - 1
        if self.active_steps > noisy:
            raise ValueError(f"objective.active_steps is {self.active_steps}; only {noisy} of the steps have noise")

    def starts(self, steps: int) -> range:
        return range(1)

    def plan(self, iteration: int, steps: int, level: float, transitions: int | None) -> Plan:
        return chain([level] * (steps - 1) + [0.0], range(steps))

    def calls(self, steps: int) -> int:
        return self.active_steps

    def calls_of_others(self, steps: int) -> int:
        return steps

    def look(self, start: Start, reward: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        import torch

        means, adjoints = self.adjoints(start, reward)
        chosen = start.uniform(len(start.sigmas) - 2).argsort(1)[:, : self.active_steps]
        rows, found = torch.arange(len(chosen)), []
        for step in chosen.T:
            x = start.state(step)
            mean, std = start.move(start.velocity(x, start.sigmas[step]), x, step)
            width = start.sigmas[step] - start.sigmas[step + 1]
            found.append(self.terms(Controlled(mean, means[step, rows], std, width, adjoints[step, rows])))
        return {name: torch.stack([terms[name] for terms in found]).mean(0) for name in found[0]}

    def adjoints(self, start: Start, reward: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Of every step the base model's mean, and the lean adjoint after it: [steps, batch, ...] each."""
        import torch

        count = len(start.sigmas) - 1
        means, adjoints = list[torch.Tensor](), list[torch.Tensor]()
        image = start.state(torch.full_like(start.step, count)).requires_grad_()
        adjoint = -self.reward_scale * torch.autograd.grad(reward(image).sum(), image)[0]
        with start.base() as velocity:  # until its gradient is taken: a checkpointed network computes again
            for step in (torch.full_like(start.step, number) for number in reversed(range(count))):
                x = start.state(step).requires_grad_()
                mean, _ = start.move(velocity(x, start.sigmas[step]), x, step)
                means, adjoints = [mean.detach(), *means], [adjoint, *adjoints]
                (adjoint,) = torch.autograd.grad(mean, x, adjoint)
        return torch.stack(means), torch.stack(adjoints)

    def terms(self, seen: Controlled) -> dict[str, Tensor]:
        from advantageflow.flow import like

        std, width = like(seen.std, seen.mean), like(seen.width, seen.mean)
        loss = mean_square((seen.mean - seen.mean_ref + std**2 * seen.adjoint) / std.maximum(width))
        if self.bound is not None:
            loss = loss * (mean_square(std * seen.adjoint) <= (self.bound * self.reward_scale) ** 2)
        return {"control": loss}
