"""RAM, Reinforce Adjoint Matching (Bergmeister et al., arXiv 2605.10759)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from advantageflow.objectives.base import Forward, Noised, Positive, mean_square

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RAM(Forward):
    """Move the velocity from the base model's towards the sample by as much as the reward says.

        loss = ‖v_θ - sg(v_ref + R (v* - v_θ))‖²,        v* = noise - x0,    R = scale · A

    It has the gradient of R ‖v_θ - v*‖² + ‖v_θ - v_ref‖², which is what is computed. Squares are means over the image.
    A sample's loss is strictly convex iff R > -1.

    Args:
        scale: of the advantages; the inverse temperature of the divergence from the base model.

    Departs from the paper in: R is the advantage and so clipped and centred, which leaves the mean gradient as it is
    where the learner draws its own images. How the paper itself normalizes R is not known to us.
    """

    title: ClassVar[str] = "RAM"
    paper: ClassVar[str] = "arXiv 2605.10759"
    claim: ClassVar[str] = "SD3.5-M: best of GenEval, OCR and PickScore; Flow-GRPO's peak in up to 50 times fewer steps"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#0b7285", "#66d9e8")}
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "centered_rms",
        "advantage.clip": 1.0,
        "rollout.solver": "dpm2",
        "policy.rollout_decay": 0,
    }

    scale: Positive = 1.0

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"reference"})

    def terms(self, seen: Noised) -> dict[str, Tensor]:
        return {
            "data": self.scale * seen.advantage * mean_square(seen.v - seen.target),
            "reference": mean_square(seen.v - seen.v_ref),
        }
