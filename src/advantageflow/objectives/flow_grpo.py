"""Flow-GRPO (Liu et al., arXiv 2505.05470): clipped policy gradient on the transitions of an SDE sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advantageflow.objectives.forward import check_shapes, full_precision, mean_square


@dataclass(frozen=True)
class FlowGRPO:
    """PPO's clipped surrogate, plus the divergence from the base model.

        ρ = exp(log p_θ - log p_old)
        loss = max(-A ρ, -A clip(ρ, 1 - ε, 1 + ε)) + β ‖μ_θ - μ_ref‖² / (2 s²),        A clipped to ±c

    Log-probabilities are means over the image (see `solvers.flow_sde_step`), so ratios stay near 1 and ε is small.

    Args:
        clip_range: ε.
        kl_weight: β.
        advantage_clip: c.

    Departs from the paper in, as its code does: the divergence lacks the factor 1/|dt|.
    """

    family: ClassVar[str] = "reverse"

    clip_range: float = 1e-4
    kl_weight: float = 0.04
    advantage_clip: float = 5.0

    def loss(
        self,
        log_prob: Tensor,
        rollout_log_prob: Tensor,
        mean: Tensor,
        reference_mean: Tensor,
        *,
        diffusion: Tensor,
        advantage: Tensor,
    ) -> Tensor:
        """Loss of each transition, [batch]: the sum of `terms`.

        Raises:
            ValueError: shapes do not match, or a diffusion coefficient is not positive.
        """
        check_shapes(
            {"mean": mean, "reference_mean": reference_mean},
            log_prob=log_prob,
            rollout_log_prob=rollout_log_prob,
            advantage=advantage,
        )
        if diffusion.ndim and diffusion.shape != log_prob.shape:
            raise ValueError(
                f"diffusion has the shape {list(diffusion.shape)}; give a number, or one per sample, [{len(log_prob)}]"
            )
        if not (diffusion > 0).all():
            raise ValueError("diffusion must be positive: the log-probability of a step without noise is not finite")
        terms = self.terms(log_prob, rollout_log_prob, mean, reference_mean, diffusion=diffusion, advantage=advantage)
        return torch.stack(list(terms.values())).sum(0)

    def terms(
        self,
        log_prob: Tensor,
        rollout_log_prob: Tensor,
        mean: Tensor,
        reference_mean: Tensor,
        *,
        diffusion: Tensor,
        advantage: Tensor,
    ) -> dict[str, Tensor]:
        """The loss's named terms, [batch] each.

        Args:
            log_prob, rollout_log_prob: of a transition under the learner and under the policy that drew it, [batch].
            mean, reference_mean: the transition's mean under the learner and the base model, [batch, ...].
            diffusion: s, the SDE's coefficient at the transition, scalar or [batch].
            advantage: [batch], not yet clipped.
        """
        log_prob, rollout_log_prob, mean, reference_mean = full_precision(
            log_prob, rollout_log_prob.detach(), mean, reference_mean.detach()
        )
        advantage = advantage.to(log_prob.dtype).clamp(-self.advantage_clip, self.advantage_clip)
        ratio = torch.exp(log_prob - rollout_log_prob)
        clipped = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
        divergence = mean_square(mean - reference_mean) / (2 * diffusion.to(mean.dtype).to(mean.device) ** 2)
        return {
            "policy": torch.maximum(-advantage * ratio, -advantage * clipped),
            "reference": self.kl_weight * divergence,
        }
