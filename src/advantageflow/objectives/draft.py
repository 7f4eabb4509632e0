"""DRaFT-K (Clark et al., arXiv 2309.17400): the reward's gradient through the last K steps of the sampler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Le

from advantageflow.objectives.base import Gradient, Real, Sampled, Start, check_last_steps, shortfall

if TYPE_CHECKING:
    from torch import Tensor

    from advantageflow.config import Config


@dataclass(frozen=True)
class DRaFT(Gradient):
    """Raise the reward of the sampled image itself.

        loss = -r(x0),        x0 by Euler's method, whose last K steps have a gradient

    Args:
        last_steps: K.
        enough: a reward beyond which nothing is learned, loss = max(enough - r, 0); null for none.

    Departs from the paper in: Euler's method on a rectified flow.
    """

    title: ClassVar[str] = "DRaFT-K"
    paper: ClassVar[str] = "arXiv 2309.17400"
    claim: ClassVar[str] = "higher rewards than reinforcement learning, for many rewards"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#a86a00", "#f0b94d")}

    last_steps: Annotated[int, Ge(1), Le(1000)] = 1
    enough: Real | None = None

    def check(self, config: Config) -> None:
        check_last_steps(self.last_steps, config)

    def starts(self, steps: int) -> range:
        return range(steps - self.last_steps, steps - self.last_steps + 1)

    def calls(self, steps: int) -> int:
        return self.last_steps

    def images(self, start: Start) -> Iterator[Tensor]:
        x, first = start.x, int(start.step[0])
        for t, t_next in zip(start.sigmas[first:-1], start.sigmas[first + 1 :], strict=True):
            x = start.path.step(x, start.velocity(x, t), t, t_next)
        yield x

    def terms(self, seen: Sampled) -> dict[str, Tensor]:
        return {"reward": shortfall(seen.reward, self.enough)}
