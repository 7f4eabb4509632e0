"""DRTune (Wu et al., arXiv 2405.00760): gradients of a few steps that add up, and an early stop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from advantageflow.objectives.base import Gradient, Real, Sampled, Start, shortfall, with_gradient_at

if TYPE_CHECKING:
    from torch import Tensor

    from advantageflow.config import Config


@dataclass(frozen=True)
class DRTune(Gradient):
    """Raise the reward of the image that is predicted at a late step, by that step and by a few before it.

        loss = -r(f),        f = x_s - t_s v(sg x_s, t_s),        x_s = sg x_s + Σ (t_k' - t_k)(v(sg x_k, t_k) - sg v)

    The network's input is held constant in every step. s is drawn from the last steps, and the k from before s, equally
    far apart.

    Args:
        active_steps: how many k.
        stops: the share of the sampler's steps, the last ones, that s is drawn from.
        enough: a reward beyond which nothing is learned, loss = max(enough - r, 0); null for none.

    Departs from the paper in: Euler's method on a rectified flow; 2 active steps by default, where it has 3.
    """

    title: ClassVar[str] = "DRTune"
    paper: ClassVar[str] = "arXiv 2405.00760"
    claim: ClassVar[str] = "SDXL trained on HPSv2.1 comes up to Midjourney 5.2"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#6d28d9", "#c4a5ff")}
    straight: ClassVar[bool] = True

    active_steps: Annotated[int, Ge(1), Le(1000)] = 2
    stops: Annotated[float, Gt(0), Le(1)] = 0.4
    enough: Real | None = None

    def check(self, config: Config) -> None:
        steps = config.rollout.num_inference_steps
        first = min(self.starts(steps))
        if first < self.active_steps:
            raise ValueError(
                f"objective.active_steps is {self.active_steps}, but the earliest stop is after {first} of "
                f"{steps} steps; set objective.active_steps to at most {first}, or objective.stops lower"
            )

    def starts(self, steps: int) -> range:
        return range(steps - max(round(self.stops * steps), 1), steps)

    def recorded(self, steps: int) -> range:
        return range(steps)

    def calls(self, steps: int) -> int:
        return self.active_steps + 1

    def images(self, start: Start) -> Iterator[Tensor]:
        import torch

        places = (
            torch.arange(self.active_steps) + start.uniform(1)
        ) / self.active_steps  # in [0, 1) of what is before s
        steps = (places * start.step[:, None]).long()
        t = start.sigmas[start.step]
        velocity = start.velocity(start.x, t)
        yield start.path.predict_x0(start.x + with_gradient_at(start, steps), velocity, t)

    def terms(self, seen: Sampled) -> dict[str, Tensor]:
        return {"reward": shortfall(seen.reward, self.enough)}
