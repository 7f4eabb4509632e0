"""EPG, a policy gradient on an evidence bound of the image's likelihood (arXiv 2602.04663)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from advantageflow.objectives.base import Forward, Noised, NonNegative, Positive, mean_square

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EPG(Forward):
    """Importance-weighted policy gradient, with the flow-matching error in place of the log-likelihood.

        log p = -‖v - v*‖²,        v* = noise - x0
        ρ = exp(log p_θ - log p_old), at most `largest_ratio`
        loss = -sg(ρ) A log p_θ  +  λ ρ (log p_θ - log p_ref)

    All three at the same time and noise, which the images of a prompt share: advantages of mean 0 then take the common
    part of their gradients away. A is the reward less its prompt's mean. Squares are means over the image.

    Args:
        reference_weight: λ.
        largest_ratio: see above.

    Departs from the paper, known by a public port, in: noise shared by a prompt's images, which is V-GRPO's; λ.
    """

    title: ClassVar[str] = "EPG"
    paper: ClassVar[str] = "arXiv 2602.04663"
    claim: ClassVar[str] = "SD3.5-M: GenEval .95 in 90 GPU-hours"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#4d7c0f", "#b5d96b")}
    shared_noise: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "centered",
        "advantage.clip": 100.0,
        "rollout.solver": "dpm2",
        "policy.rollout_decay": 0,
    }

    reference_weight: NonNegative = 0.01
    largest_ratio: Positive = 10.0

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"rollout", "reference"} if self.reference_weight else {"rollout"})

    def terms(self, seen: Noised) -> dict[str, Tensor]:
        log_p, log_old = (-mean_square(v - seen.target) for v in (seen.v, seen.v_old))
        ratio = (log_p - log_old).exp().clamp(max=self.largest_ratio)
        found = {"policy": -ratio.detach() * seen.advantage * log_p}
        if "reference" in self.sees:
            found["reference"] = self.reference_weight * ratio * (log_p + mean_square(seen.v_ref - seen.target))
        return found
