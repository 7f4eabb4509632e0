"""AWM, advantage weighted matching (arXiv 2509.25050), as its code computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from advantageflow.decay import Decay
from advantageflow.objectives.base import Forward, Noised, NonNegative, Positive, mean_square

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AWM(Forward):
    """A policy gradient whose log-likelihood is the loss of pre-training.

        loss = A ℓ(e) + γ ‖v_θ - v_ema‖² + λ ‖v_θ - v_ref‖²,        e = ‖v_θ - v*‖²,  v* = noise - x0
        A = clip(z, -c, c) / c
        ℓ(e):  uniform e;   t: t e;   t2: t² e;   huber: t √e;   ghuber: t e^p / p

    v_ema is a slow copy of the learner; images are the learner's own. With `uniform` it is AdvantageFlow's loss in
    velocity space, with the slow copy in place of the rollout policy, and RVM, reward-based velocity matching
    (arXiv 2608.23664), which the recipe scenes-rvm has. Squares are means over the image.

    Args:
        weighting: ℓ.
        power: p, of ghuber.
        ema_weight: γ.
        reference_weight: λ.
        advantage_clip: c.
        ema_slope, ema_limit: decay of v_ema, min(slope · step, limit).

    Departs from the code in: no clipped ratio, which is 1 in the only optimizer step that it takes on an iteration's
    images; and so on in several; the images of one prompt are noised at times of their own.
    """

    title: ClassVar[str] = "AWM"
    paper: ClassVar[str] = "arXiv 2509.25050"
    claim: ClassVar[str] = "SD3.5-M and FLUX: up to 24 times as fast as Flow-GRPO, at equal quality"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#2f6f8f", "#8fc9e6")}
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "raw_std",
        "advantage.clip": 5.0,
        "rollout.solver": "dpm2",
        "policy.rollout_decay": 0,
    }

    weighting: Literal["uniform", "t", "t2", "huber", "ghuber"] = "ghuber"
    power: Positive = 0.25
    ema_weight: NonNegative = 1.0
    reference_weight: NonNegative = 1e-4
    advantage_clip: Positive = 5.0
    ema_slope: NonNegative = 0.001
    ema_limit: NonNegative = 0.3

    @property
    def sees(self) -> frozenset[str]:
        return frozenset(({"ema"} if self.ema_weight else set()) | ({"reference"} if self.reference_weight else set()))

    @property
    def slow(self) -> Mapping[str, Decay]:
        return {"ema": Decay(0.0, self.ema_slope, 0, self.ema_limit)}

    def terms(self, seen: Noised) -> dict[str, Tensor]:
        from advantageflow.flow import like

        error, clip = mean_square(seen.v - seen.target), self.advantage_clip
        found = {"data": seen.advantage.clamp(-clip, clip) / clip * self._loss(error, like(seen.t, error))}
        if "ema" in self.sees:
            found["ema"] = self.ema_weight * mean_square(seen.v - seen.of("ema"))
        if "reference" in self.sees:
            found["reference"] = self.reference_weight * mean_square(seen.v - seen.v_ref)
        return found

    def _loss(self, error: Tensor, t: Tensor) -> Tensor:
        import torch

        if "huber" in self.weighting:
            power, scale = (0.5, 1.0) if self.weighting == "huber" else (self.power, 1 / self.power)
            tiny = 1e-10  # a root has no slope at 0
            loss: Tensor = t * scale * ((error + tiny).pow(power) - tiny**power)
            return loss
        return error * {"uniform": torch.ones_like(t), "t": t, "t2": t.square()}[self.weighting]
