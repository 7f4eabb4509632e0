"""AlignProp (Prabhudesai et al., arXiv 2310.03739): the reward's gradient through a random number of last steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Le

from advantageflow.objectives.base import Gradient, Positive, Real, Sampled, Start, check_last_steps, shortfall

if TYPE_CHECKING:
    from torch import Tensor

    from advantageflow.config import Config


@dataclass(frozen=True)
class AlignProp(Gradient):
    """Raise the reward of the sampled image itself, by steps of which each image has its own number.

        loss = -weight · r(x0),        x0 by Euler's method, whose last K steps have a gradient

    K is uniform in 1 to `last_steps`.

    Args:
        last_steps: the most that K may be.
        enough: a reward beyond which nothing is learned, loss = weight · max(enough - r, 0); null for none.
        weight: of the loss.

    Departs from the paper in: Euler's method on a rectified flow; K is uniform, where the code's default is a normal
    number about the last 8 of 50 steps.
    """

    title: ClassVar[str] = "AlignProp"
    paper: ClassVar[str] = "arXiv 2310.03739"
    claim: ClassVar[str] = "higher rewards than reinforcement learning in fewer steps"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#1d6f42", "#8ce0b0")}

    last_steps: Annotated[int, Ge(1), Le(1000)] = 3
    enough: Real | None = None
    weight: Positive = 1e-2

    def check(self, config: Config) -> None:
        check_last_steps(self.last_steps, config)

    def starts(self, steps: int) -> range:
        return range(steps - self.last_steps, steps)

    def calls(self, steps: int) -> int:
        return self.last_steps

    def images(self, start: Start) -> Iterator[Tensor]:
        import torch

        from advantageflow.flow import like

        steps = len(start.sigmas) - 1
        x = start.state(torch.full_like(start.step, steps - self.last_steps))
        for step in range(steps - self.last_steps, steps):
            begins = like((start.step == step).to(x.device), x).bool()
            x = torch.where(begins, start.x, x)
            t, t_next = start.sigmas[step], start.sigmas[step + 1]
            x = start.path.step(x, start.velocity(x, t), t, t_next)
        yield x

    def terms(self, seen: Sampled) -> dict[str, Tensor]:
        return {"reward": self.weight * shortfall(seen.reward, self.enough)}
