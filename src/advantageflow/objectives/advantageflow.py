"""AdvantageFlow (Kveton et al., arXiv 2605.26013), eq. 5 and Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from advantageflow.objectives.base import Forward, Noised, NonNegative, Positive, Real, error_scale, mean_square

if TYPE_CHECKING:
    from torch import Tensor

LEAST_CURVATURE = 0.25  # of "auto", without λ


@dataclass(frozen=True)
class AdvantageFlow(Forward):
    """Advantage-weighted prediction of a clean image, pulled towards the rollout policy and the base model.

        loss = β A ‖f_θ - x0‖² + γ ‖f_θ - f_old‖² + λ ‖f_θ - f_ref‖²,        f = x_t - t v

    The squares are means over the image. The loss of a sample is strictly convex in f_θ iff βA + γ + λ > 0 (eq. 7).

    Args:
        gamma: γ, the weight of the rollout term: a number (the paper's 1.1); "1-A" for β(β - A), which is 1 - A at
            β = 1 and gives every sample the same curvature β²; or "auto" for 1/4 + max(0, -βA).
        beta: β, the strength of arXiv 2509.16117; 1 in the paper but for OCR (0.1).
        reference_weight: λ.
        adaptive_scale: divide a sample's loss by the mean of |f_θ - x0|, at least 1e-5 and held constant.

    "auto" is ours: the least γ with which no sample's curvature is below 1/4. A small constant γ learns fast, but a
    sample of βA < -γ is not convex: its loss falls the further f leaves x0. While rewards vary, others outweigh it.
    Once most images are right, advantages are a few large negative ones, and gradients grow without end. At f_old the
    gradient is the same for every γ.

    Departs from the paper in:
        - means instead of sums over the image;
        - `adaptive_scale`, which is not in the paper; off by default.
    """

    title: ClassVar[str] = "AdvantageFlow"
    paper: ClassVar[str] = "arXiv 2605.26013"
    claim: ClassVar[str] = (
        "DiffusionNFT's best in about half of the time; GenEval, never trained on, .268 → .700 (DiffusionNFT .638)"
    )
    short: ClassVar[tuple[str, str] | None] = ("gamma", "γ")
    colors: ClassVar[dict[str, tuple[str, str]]] = {"1.1": ("#c9480b", "#ff9a66"), "1-A": ("#0b66c3", "#6cb2ff")}
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "centered_rms",
        "advantage.clip": 1.0,
        "rollout.solver": "dpm2",
        "policy.rollout_decay": 1,
    }

    gamma: Real | Literal["1-A", "auto"] = 1.1
    beta: Positive = 1.0
    reference_weight: NonNegative = 1e-3
    adaptive_scale: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.gamma, str) and self.gamma not in ("1-A", "auto"):
            raise ValueError(f'gamma is {self.gamma!r}; use a number, "1-A" or "auto"')

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"rollout"} if self.gamma != 0 else ()) | ({"reference"} if self.reference_weight else set())

    def rollout_weight(self, advantage: Tensor) -> Tensor | float:
        """γ of each sample."""
        if self.gamma == "auto":
            return LEAST_CURVATURE - (self.beta * advantage).clamp(max=0)
        return self.beta * (self.beta - advantage) if isinstance(self.gamma, str) else self.gamma

    def curvature(self, advantage: Tensor) -> Tensor:
        """βA + γ + λ of each sample; the loss is strictly convex where it is positive (eq. 7)."""
        return self.beta * advantage + self.rollout_weight(advantage) + self.reference_weight

    def terms(self, seen: Noised) -> dict[str, Tensor]:
        scale: Tensor | float = error_scale(seen.f - seen.x0) if self.adaptive_scale else 1.0
        found = {"data": self.beta * seen.advantage * mean_square(seen.f - seen.x0) / scale}
        if "rollout" in self.sees:
            found["rollout"] = self.rollout_weight(seen.advantage) * mean_square(seen.f - seen.f_old) / scale
        if "reference" in self.sees:
            found["reference"] = self.reference_weight * mean_square(seen.f - seen.f_ref) / scale
        return found
