"""FlowBP-Sparse (RuoyuWang-2077/FlowBP): the gradient of a few of the sampler's steps at the image that was drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Le

from advantageflow.objectives.base import Gradient, NonNegative, Real, Sampled, Start, shortfall, with_gradient_at

if TYPE_CHECKING:
    from torch import Tensor

    from advantageflow.config import Config


@dataclass(frozen=True)
class FlowBP(Gradient):
    """Raise the reward of the sampled image by some of its steps, each from the state that was recorded before it.

        loss = -r(x),        x = sg x0 + scale · Σ (t_k' - t_k)(v(sg x_k, t_k) - sg v)
        scale = 1 + rescale · (steps / active_steps - 1)

    The image that is scored is the one that was drawn. The k differ; step i is drawn with a chance ∝ (i + 1)^lateness.

    Args:
        active_steps: how many k.
        lateness: see above.
        rescale: 1 makes up for the steps without a gradient, 0 does not.
        enough: a reward beyond which nothing is learned, loss = max(enough - r, 0); null for none.

    Departs from the code in: no guidance of its own. Its other method, which leaps by polynomials, is left out.
    """

    title: ClassVar[str] = "FlowBP-Sparse"
    paper: ClassVar[str] = "RuoyuWang-2077/FlowBP"
    claim: ClassVar[str] = "SD3.5-M: HPSv2.1 .38 to .40 from 19 200 images"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#0369a1", "#7cc7f2")}
    straight: ClassVar[bool] = True

    active_steps: Annotated[int, Ge(1), Le(1000)] = 3
    lateness: NonNegative = 2.0
    rescale: Annotated[float, Ge(0), Le(1)] = 0.0
    enough: Real | None = None

    def check(self, config: Config) -> None:
        steps = config.rollout.num_inference_steps
        if self.active_steps > steps:
            raise ValueError(f"objective.active_steps is {self.active_steps}; the sampler has only {steps} steps")

    def starts(self, steps: int) -> range:
        return range(1)

    def recorded(self, steps: int) -> range:
        return range(steps)

    def calls(self, steps: int) -> int:
        return self.active_steps

    def images(self, start: Start) -> Iterator[Tensor]:
        import torch

        count = len(start.sigmas) - 1
        weights = torch.arange(1, count + 1, dtype=torch.float64) ** self.lateness
        keys = start.uniform(count).log() / weights  # the largest are a draw without replacement by weight
        chosen = keys.topk(self.active_steps, 1).indices
        image = start.state(torch.full_like(start.step, count))
        scale = 1 + self.rescale * (count / self.active_steps - 1)
        yield image + scale * with_gradient_at(start, chosen)

    def terms(self, seen: Sampled) -> dict[str, Tensor]:
        return {"reward": shortfall(seen.reward, self.enough)}
