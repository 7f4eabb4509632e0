"""CRD, centered reward distillation (arXiv 2603.14128)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from advantageflow.decay import Decay
from advantageflow.objectives.base import Forward, Noised, NonNegative, Positive, error_scale, mean_square

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CRD(Forward):
    """Match the reward that the learner implies, centred within a prompt's images, to the centred reward.

        r_θ = -(‖v_θ - v*‖² / w_θ - ‖v_old - v*‖² / w_old),        w = mean |v - v*|, at least 1e-5, held constant
        R = clip(z / 10 + 1/2, 0, 1)
        loss = (5/β) (β (r_θ - sg Σ p r_θ) - (R - Σ p R))²  +  λ (m + R (1 - m)) ‖v_θ - v_ref‖²,    m = 1e-4 / λ

    Sums are over the images of a prompt, which are noised at the same time; p is uniform, or softmax(±R / T) in turn.
    v_old is a slow copy of its own; the images come from the rollout policy. Squares are means over the image.

    Args:
        beta: β.
        reference_weight: λ.
        reference_guidance: classifier-free guidance of v_ref.
        temperature: T; null for uniform p.
        adaptive_scale: with False, w = 1.
        old_base, old_slope, old_limit: decay of v_old, min(base + slope · step, limit).

    Departs from the paper, known by a public port of its code, in: the centre is that of a prompt's images alone, where
    the port takes what is in a batch; its cross-entropy form and its hard pools (T = 0) are left out.
    """

    title: ClassVar[str] = "CRD"
    paper: ClassVar[str] = "arXiv 2603.14128"
    claim: ClassVar[str] = "SD3.5-M: GenEval .93, with less reward hacking"
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#475a8a", "#a9b8e8")}
    whole_groups: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "raw_std",
        "advantage.clip": 5.0,
        "rollout.solver": "dpm2",
        "policy.rollout_decay": 1,
    }

    beta: Positive = 1.0
    reference_weight: NonNegative = 0.1
    reference_guidance: Positive = 4.5
    temperature: Positive | None = None
    adaptive_scale: bool = True
    old_base: NonNegative = 0.25
    old_slope: NonNegative = 0.001
    old_limit: NonNegative = 0.5

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"old", "reference"} if self.reference_weight else {"old"})

    @property
    def slow(self) -> Mapping[str, Decay]:
        return {"old": Decay(self.old_base, self.old_slope, 0, self.old_limit)}

    @property
    def guidance(self) -> Mapping[str, float]:
        return {"reference": self.reference_guidance}

    def terms(self, seen: Noised) -> dict[str, Tensor]:
        import torch

        reward = (seen.advantage / 10 + 0.5).clamp(0, 1)
        implied = self._error(seen.of("old") - seen.target) - self._error(seen.v - seen.target)
        same = seen.same_group
        signs = (0.0,) if self.temperature is None else (1 / self.temperature, -1 / self.temperature)
        losses = []
        for sign in signs:
            share = (sign * reward).exp() / (same @ (sign * reward).exp())  # the softmax within a group
            centered = implied - (same @ (share * implied)).detach()
            losses.append((self.beta * centered - (reward - same @ (share * reward))).square())
        found = {"data": 5 / self.beta * torch.stack(losses).mean(0)}
        if "reference" in self.sees:
            least = min(1e-4 / self.reference_weight, 1.0)
            pull = self.reference_weight * (least + reward * (1 - least))
            found["reference"] = pull * mean_square(seen.v - seen.v_ref)
        return found

    def _error(self, error: Tensor) -> Tensor:
        return mean_square(error) / (error_scale(error) if self.adaptive_scale else 1.0)
