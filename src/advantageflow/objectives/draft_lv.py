"""DRaFT-LV (Clark et al., arXiv 2309.17400): DRaFT-1 whose gradient is averaged over noised copies of the image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from advantageflow.objectives.base import Gradient, Real, Sampled, Start, shortfall

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DRaFTLV(Gradient):
    """Raise the reward of the sampled image, and of what the learner makes of its noised copies.

        loss = -mean(r(x0), r(f(x0 + noise)), ...),        f = x_t - t v

    Args:
        copies: how many times the image, held constant, is noised again.
        sigma: the time that it is noised to; null for that of the sampler's last step, which on SD3's grid is .0089
            and leaves nearly nothing to change.
        enough: a reward beyond which nothing is learned, loss = max(enough - r, 0); null for none.

    Departs from the paper in: Euler's method on a rectified flow; `sigma`.
    """

    title: ClassVar[str] = "DRaFT-LV"
    paper: ClassVar[str] = "arXiv 2309.17400"
    claim: ClassVar[str] = "twice as efficient as DRaFT-1"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#b0005a", "#ff7ab3")}

    copies: Annotated[int, Ge(1), Le(100)] = 2
    sigma: Annotated[float, Gt(0), Le(1)] | None = None
    enough: Real | None = None

    def starts(self, steps: int) -> range:
        return range(steps - 1, steps)

    def calls(self, steps: int) -> int:
        return 1 + self.copies

    def pictures(self) -> int:
        return 1 + self.copies

    def images(self, start: Start) -> Iterator[Tensor]:
        import torch

        last = start.sigmas[-2]
        image = start.path.predict_x0(start.x, start.velocity(start.x, last), last)
        yield image
        t = last if self.sigma is None else torch.tensor(self.sigma, dtype=torch.float64)
        for number in range(self.copies):
            x_t = start.path.interpolate(image.detach(), start.fresh(number), t)
            yield start.path.predict_x0(x_t, start.velocity(x_t, t), t)

    def terms(self, seen: Sampled) -> dict[str, Tensor]:
        return {"reward": shortfall(seen.reward, self.enough)}
