"""FlowBP-Lagrange (RuoyuWang-2077/FlowBP): the gradient of two leaps over the sampler's steps, by polynomials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Le

from advantageflow.objectives.base import Gradient, NonNegative, Real, Sampled, Start, shortfall

if TYPE_CHECKING:
    from torch import Tensor

Few = Annotated[int, Ge(1), Le(8)]
Length = Annotated[int, Ge(1), Le(100)]


@dataclass(frozen=True)
class FlowBPLagrange(Gradient):
    """Raise the reward of the sampled image by leaps from step k to step j, and from there to the end.

        loss = -r(x),        x = sg x0 + d_j + Σ_m c_m w_m (v(x_m, t_m) - sg v),    m of the leap from j; x_j + α d_j
        d_j = Σ_m c_m w_m (v(sg x_m, t_m) - sg v),    m of the leap from k;    c = 1 at a leap's start, else c

    A leap integrates the polynomial through the velocities at up to `order` of its steps, evenly spaced from its start:
    w are the weights of these. The first `active` have a gradient. The image that is scored is the one that was drawn.

    Args:
        order: velocities in a leap.
        active: of these, how many have a gradient.
        later: c.
        nested: α, of the way through the network at step j.
        lengths: before k, from k to j, after j: the steps' shares are drawn from a Dirichlet distribution of these.
        enough: a reward beyond which nothing is learned, loss = max(enough - r, 0); null for none.

    Departs from the code in: whole numbers for `lengths`, where it has 2, 6, 2.5; no weight by how near the leaps come
    to the image; no guidance of its own.
    """

    title: ClassVar[str] = "FlowBP-Lagrange"
    paper: ClassVar[str] = "RuoyuWang-2077/FlowBP"
    claim: ClassVar[str] = "SD3.5-M: HPSv2.1 .38 to .40 from 19 200 images"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#1e3a8a", "#9db8ff")}
    straight: ClassVar[bool] = True

    order: Few = 3
    active: Few = 2
    later: NonNegative = 0.25
    nested: NonNegative = 0.1
    lengths: tuple[Length, Length, Length] = (2, 6, 2)
    enough: Real | None = None

    def starts(self, steps: int) -> range:
        return range(1)

    def recorded(self, steps: int) -> range:
        return range(steps)

    def calls(self, steps: int) -> int:
        return 2 * min(self.active, self.order)

    def images(self, start: Start) -> Iterator[Tensor]:
        import torch

        count = len(start.sigmas) - 1
        parts = (-torch.log1p(-start.uniform(sum(self.lengths)))).split(
            self.lengths, 1
        )  # exponential, so sums are gamma
        before, between, _ = torch.stack([part.sum(1) for part in parts]) / sum(part.sum(1) for part in parts)
        k = (before * count).round().long().clamp(max=count - 2)
        j = ((before + between) * count).round().long().clamp(max=count - 1).maximum(k + 1)
        end = torch.full_like(j, count)
        to_j = self._leap(start, k, j, 0.0)
        yield start.state(end) + to_j + self._leap(start, j, end, self.nested * to_j)

    def _leap(self, start: Start, first: Tensor, last: Tensor, pushed: Tensor | float) -> Tensor:
        """What moves the end of a leap from step `first` to `last`, [batch] each, when its velocities do; it is zero.

        Args:
            pushed: is added to the state at `first`.
        """
        import torch

        from advantageflow.flow import like

        moved: Tensor | float = 0.0
        supports = [_supports(*ends, self.order) for ends in zip(first.tolist(), last.tolist(), strict=True)]
        weights = [
            quadrature(start.sigmas[steps], start.sigmas[steps[0]], start.sigmas[end])
            for steps, end in zip(supports, last.tolist(), strict=True)
        ]
        for place in range(min(self.active, self.order)):
            step = torch.tensor([steps[place] if place < len(steps) else steps[0] for steps in supports])
            weight = torch.tensor([found[place].item() if place < len(found) else 0.0 for found in weights])
            x = start.state(step)
            v = start.velocity(x if place else x + pushed, start.sigmas[step])
            moved = moved + like(weight * (self.later if place else 1.0), v) * (v - v.detach())
        assert not isinstance(moved, float)
        return moved

    def terms(self, seen: Sampled) -> dict[str, Tensor]:
        return {"reward": shortfall(seen.reward, self.enough)}


def _supports(first: int, last: int, order: int) -> list[int]:
    """Up to `order` different steps of [first, last), evenly spaced, with both ends."""
    import torch

    return sorted({*torch.linspace(first, last - 1, order).round().long().tolist(), first})


def quadrature(points: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """Weights [number] with which values at `points` give the integral from `start` to `target` of their polynomial."""
    import torch

    width = target - start
    places, powers = (points - start) / width, torch.arange(len(points))
    weights: Tensor = width * torch.linalg.solve(places ** powers[:, None], 1.0 / (1 + powers).to(points.dtype))
    return weights
