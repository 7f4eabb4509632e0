"""DiffusionART (arXiv 2610.12572): one direction for all images of a prompt, taught at the states that they came by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from advantageflow.objectives.base import Forward, Noised, Positive, mean_square
from advantageflow.walk_plan import Plan, chain

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DiffusionART(Forward):
    """Move the images of a prompt together, along what distinguishes the better from the worse.

        G = D / ‖D‖,        D = Σ A (x0 - mean x0) / K,  over the K images of a prompt
        loss = m t ‖v_θ - (v_old - η G)‖²
        m = 0 where ‖v_θ - v_old‖ ≥ r and the target is farther out, else 1

    x_t is a state that the image's own sampler went through, not the image noised afresh. D is the covariance of the
    advantage and the image; where v_θ = v_old, AdvantageFlow's gradient, summed over images with one x_t, is along it,
    too. In an iteration's first optimizer step there is nothing but G; in later ones, what moved already is known.
    Squares are means over the image, and norms are roots of these.

    Args:
        strength: η, of G in a velocity.
        radius: r; null for none.

    Departs from the paper, of which we know excerpts, in: η is the same at all times, and it and r are ours; optimizer
    steps part the prompts, where the paper's part the trajectories of each.
    """

    title: ClassVar[str] = "DiffusionART"
    paper: ClassVar[str] = "arXiv 2610.12572"
    claim: ClassVar[str] = ""
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#9f1239", "#f7a3b8")}
    whole_groups: ClassVar[bool] = True
    solvers: ClassVar[tuple[str, ...]] = ("euler",)
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "group_std",
        "advantage.clip": 5.0,
        "rollout.solver": "euler",
        "policy.rollout_decay": 0,
        "learn.t_draws": 4,
    }

    strength: Positive = 0.1
    radius: Positive | None = None

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"rollout"})

    def plan(self, iteration: int, steps: int, level: float, transitions: int | None) -> Plan:
        return chain([0.0] * steps, range(steps))

    def terms(self, seen: Noised) -> dict[str, Tensor]:
        from advantageflow.flow import like

        moved, wanted = seen.v - seen.v_old, -self.strength * self.direction(seen)
        loss = mean_square(moved - wanted)
        if self.radius is not None:
            done = moved.detach()
            outward = ((wanted - done) * done).flatten(1).sum(1) > 0
            loss = loss * ~(outward & (mean_square(done) >= self.radius**2))
        return {"guidance": like(seen.t, loss) * loss}

    def direction(self, seen: Noised) -> Tensor:
        """G of each image's prompt, [batch, ...]; 0 where no image is better than another."""
        share = seen.same_group / seen.same_group.sum(1, keepdim=True)
        advantage = seen.advantage - share @ seen.advantage
        covariance = (share * advantage) @ seen.x0.flatten(1)
        norm = covariance.square().mean(1, keepdim=True).sqrt()
        return (covariance / norm.clamp(min=1e-6)).view_as(seen.x0)
