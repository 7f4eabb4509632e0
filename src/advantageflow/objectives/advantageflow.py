"""AdvantageFlow (Kveton et al., arXiv 2605.26013), eq. 5 and Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from advantageflow.flow import predict_x0
from advantageflow.objectives.forward import ForwardObjective, full_precision, mean_square


@dataclass(frozen=True)
class AdvantageFlow(ForwardObjective):
    """Advantage-weighted prediction of a clean image, pulled towards the rollout policy and the base model.

        loss = β A ‖f_θ - x0‖² + γ ‖f_θ - f_old‖² + λ ‖f_θ - f_ref‖²,        f = x_t - t v

    The squares are means over the image. The loss of a sample is strictly convex in f_θ iff βA + γ + λ > 0 (eq. 7).

    Args:
        gamma: γ, the weight of the rollout term: a number (the paper's 1.1), or "1-A" for β(β - A), which is 1 - A at
            β = 1 and gives every sample the same curvature β².
        beta: β, DiffusionNFT's strength; 1 in the paper but for OCR (0.1).
        reference_weight: λ.
        adaptive_scale: divide a sample's loss by the mean of |f_θ - x0|, at least 1e-5 and held constant.

    Departs from the paper in:
        - means instead of sums over the image;
        - `adaptive_scale`, which is not in the paper; off by default.
    """

    gamma: float | Literal["1-A"] = 1.1
    beta: float = 1.0
    reference_weight: float = 1e-3
    adaptive_scale: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.gamma, str) and self.gamma != "1-A":
            raise ValueError(f'gamma is {self.gamma!r}; use a number or "1-A"')

    def rollout_weight(self, advantage: Tensor) -> Tensor | float:
        """γ of each sample."""
        return self.beta * (self.beta - advantage) if isinstance(self.gamma, str) else self.gamma

    def curvature(self, advantage: Tensor) -> Tensor:
        """βA + γ + λ of each sample; the loss is strictly convex where it is positive (eq. 7)."""
        return self.beta * advantage + self.rollout_weight(advantage) + self.reference_weight

    def terms(
        self,
        velocity: Tensor,
        rollout_velocity: Tensor,
        reference_velocity: Tensor,
        *,
        x0: Tensor,
        x_t: Tensor,
        t: Tensor,
        advantage: Tensor,
    ) -> dict[str, Tensor]:
        velocity, rollout_velocity, reference_velocity, x0, x_t = full_precision(
            velocity, rollout_velocity.detach(), reference_velocity.detach(), x0, x_t
        )
        advantage = advantage.to(velocity.dtype)
        f = predict_x0(x_t, velocity, t)
        f_old = predict_x0(x_t, rollout_velocity, t)
        f_ref = predict_x0(x_t, reference_velocity, t)

        scale: Tensor | float = 1.0
        if self.adaptive_scale:
            scale = (f - x0).detach().abs().flatten(1).mean(1).clamp(min=1e-5)
        return {
            "data": self.beta * advantage * mean_square(f - x0) / scale,
            "rollout": self.rollout_weight(advantage) * mean_square(f - f_old) / scale,
            "reference": self.reference_weight * mean_square(f - f_ref) / scale,
        }
