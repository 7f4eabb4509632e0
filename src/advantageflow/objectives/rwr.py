"""Reward-weighted regression (Lee et al., arXiv 2302.12192), for flows as in arXiv 2501.13918."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from advantageflow.objectives.base import Forward, Noised, NonNegative, mean_square

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RWR(Forward):
    """Flow matching on own images, each as often as its reward deserves.

        loss = w ‖v_θ - v*‖² + λ ‖v_θ - v_ref‖²,        v* = noise - x0,    w = 1 + A ≥ 0

    With the advantages of `group_softmax`, w is K times the softmax of a prompt's rewards; with `group_best` only the
    best image counts, as in RAFT (arXiv 2304.06767). Squares are means over the image.

    Args:
        reference_weight: λ. Without it nothing holds the learner: on its own images the mean gradient is nearly zero,
            and what an optimizer makes of the rest leads away from all images.

    Departs from the paper in: it learns online, from the learner's own images; and the base model takes the place of
    the pre-training data.
    """

    title: ClassVar[str] = "Reward-weighted regression"
    paper: ClassVar[str] = "arXiv 2302.12192"
    claim: ClassVar[str] = "SD3.5-M, as measured in Flow-GRPO's paper: no improvement"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#6b7000", "#d4d96a")}
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "group_softmax",
        "advantage.clip": 100.0,
        "rollout.solver": "dpm2",
        "policy.rollout_decay": 0,
    }

    reference_weight: NonNegative = 1.0

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"reference"} if self.reference_weight else ())

    def terms(self, seen: Noised) -> dict[str, Tensor]:
        found = {"data": (1 + seen.advantage) * mean_square(seen.v - seen.target)}
        if "reference" in self.sees:
            found["reference"] = self.reference_weight * mean_square(seen.v - seen.v_ref)
        return found
