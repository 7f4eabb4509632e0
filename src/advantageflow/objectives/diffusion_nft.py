"""DiffusionNFT (Zheng et al., arXiv 2509.16117), as its official code computes it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from advantageflow.flow import predict_x0
from advantageflow.objectives.forward import ForwardObjective, full_precision, mean_square


@dataclass(frozen=True)
class DiffusionNFT(ForwardObjective):
    """Fit a positive policy to good images and a negative one to bad images, both tied to the learner.

        v± = v_old ± β (v_θ - v_old)        f± = x_t - t v±        w± = max(mean |f± - x0|, 1e-5), held constant
        r = clip(z, -c, c) / (2c) + 1/2
        loss = (c/β) [ r ‖f+ - x0‖² / w+  +  (1 - r) ‖f- - x0‖² / w- ]  +  λ ‖v_θ - v_ref‖²

    `advantage` is z, not yet clipped: (reward - prompt mean) / (std of the batch + 1e-4). Squares are means over the
    image.

    Args:
        beta: β, how far the implicit policies lie from the rollout policy; smaller learns faster.
        reference_weight: λ; the reference term is in velocity space here.
        advantage_clip: c.
        adaptive_scale: with False, w± = 1; then the loss is AdvantageFlow's with A = z and γ = cβ - z, but for a
            constant.

    Departs from the code in: the w± and the reference term keep the precision of their inputs (the code's reference
    term underflows in half precision); and from the paper in all that its code departs in: c/β, w± and λ.
    """

    beta: float = 1.0
    reference_weight: float = 1e-4
    advantage_clip: float = 5.0
    adaptive_scale: bool = True

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
        clip = self.advantage_clip
        optimality = advantage.to(velocity.dtype).clamp(-clip, clip) / (2 * clip) + 0.5
        step = self.beta * (velocity - rollout_velocity)
        positive = predict_x0(x_t, rollout_velocity + step, t) - x0
        negative = predict_x0(x_t, rollout_velocity - step, t) - x0
        return {
            "positive": clip / self.beta * optimality * self._scaled(positive),
            "negative": clip / self.beta * (1 - optimality) * self._scaled(negative),
            "reference": self.reference_weight * mean_square(velocity - reference_velocity),
        }

    def _scaled(self, error: Tensor) -> Tensor:
        if not self.adaptive_scale:
            return mean_square(error)
        return mean_square(error) / error.detach().abs().flatten(1).mean(1).clamp(min=1e-5)
