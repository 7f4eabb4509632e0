"""ReFL (Xu et al., arXiv 2304.05977): the reward's gradient through one prediction, late in the sampler."""

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
class ReFL(Gradient):
    """Raise the reward of the image that the learner predicts at a late step, drawn for each image.

        loss = weight · max(enough - r(f(x_t)), 0),        f = x_t - t v

    Args:
        last_steps: the step is one of so many of the sampler's last.
        enough: a reward beyond which nothing is learned; null for none, and then loss = -weight · r.
        weight: of the loss.

    Departs from the paper in: its further loss on pre-training data, which its code lacks as well.
    """

    title: ClassVar[str] = "ReFL"
    paper: ClassVar[str] = "arXiv 2304.05977"
    claim: ClassVar[str] = ""
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#2f8f2f", "#7fdc7f")}

    last_steps: Annotated[int, Ge(1), Le(1000)] = 4
    enough: Real | None = 2.0
    weight: Positive = 1e-3

    def check(self, config: Config) -> None:
        check_last_steps(self.last_steps, config)

    def starts(self, steps: int) -> range:
        return range(max(steps - self.last_steps, 0), steps)

    def images(self, start: Start) -> Iterator[Tensor]:
        t = start.sigmas[start.step]
        yield start.path.predict_x0(start.x, start.velocity(start.x, t), t)

    def terms(self, seen: Sampled) -> dict[str, Tensor]:
        return {"reward": self.weight * shortfall(seen.reward, self.enough)}
