"""ADRPO, adaptive divergence regularized policy optimization (Fan et al., NeurIPS 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from advantageflow.objectives.base import Forward, Noised, NonNegative, mean_square

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ADRPO(Forward):
    """Advantage-weighted flow matching whose pull to the base model is weaker on good images.

        loss = A ‖v_θ - v*‖² + (β0 - A) ‖v_θ - v_ref‖²,        v* = noise - x0

    A is the reward less its prompt's mean, not divided by anything. The curvature is β0 whatever A is. With β0 = 1 it
    is AdvantageFlow(1-A) in velocity space, with the base model in the rollout policy's place. Squares are means over
    the image.

    Args:
        strength: β0.

    Departs from the paper in: A is clipped, to ±1 by default (`advantage.clip`), as rewards have any size here.
    """

    title: ClassVar[str] = "ADRPO"
    paper: ClassVar[str] = "Fan et al., NeurIPS 2025"
    claim: ClassVar[str] = (
        "SD3 with 2 B parameters surpasses models of 4.8 B and 12 B in binding and composition, with variety kept"
    )
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#b3261e", "#f28b82")}
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "centered",
        "advantage.clip": 1.0,
        "rollout.solver": "dpm2",
        "policy.rollout_decay": 0,
    }

    strength: NonNegative = 1.0

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"reference"})

    def terms(self, seen: Noised) -> dict[str, Tensor]:
        return {
            "data": seen.advantage * mean_square(seen.v - seen.target),
            "reference": (self.strength - seen.advantage) * mean_square(seen.v - seen.v_ref),
        }
