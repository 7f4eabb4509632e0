"""Flow-DPO (arXiv 2501.13918): direct preference optimization (Diffusion-DPO, arXiv 2311.12908) of a flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from advantageflow.objectives.base import Forward, Noised, Positive, mean_square

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FlowDPO(Forward):
    """Tell the best image of a prompt from the worst: predict the first one better than the base model does.

        d = ‖v_θ - v*‖² - ‖v_ref - v*‖²,        v* = noise - x0
        loss = -log σ(-β/2 (d_best - d_worst))

    Both have one noise and one time. Where all images of a prompt have the same reward there is no loss. With pairs on
    disk (`rollout.source`) it learns offline. Squares are means over the image.

    Args:
        beta: β, the same at all times.

    Departs from the paper in: preferences are the reward's, of the learner's own images or of given ones.
    """

    title: ClassVar[str] = "Flow-DPO"
    paper: ClassVar[str] = "arXiv 2501.13918"
    claim: ClassVar[str] = "video: VBench 83.4 with a constant β, 80.9 with β (1 - t)²"
    aliases: ClassVar[tuple[str, ...]] = ("diffusion-dpo",)
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#9d174d", "#f49ac1")}
    whole_groups: ClassVar[bool] = True
    shared_noise: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "centered",
        "advantage.clip": 100.0,
        "rollout.solver": "dpm2",
        "policy.rollout_decay": 0,
    }

    beta: Positive = 100.0

    @property
    def sees(self) -> frozenset[str]:
        return frozenset({"reference"})

    def taught(self, size: int) -> int:
        return 2

    def chosen(self, rewards: Tensor) -> list[int]:
        values = rewards.tolist()
        best, worst = values.index(max(values)), len(values) - 1 - values[::-1].index(min(values))
        return sorted((best, worst))

    def terms(self, seen: Noised) -> dict[str, Tensor]:
        import torch

        difference = mean_square(seen.v - seen.target) - mean_square(seen.v_ref - seen.target)
        pair = seen.same_group
        preferred = torch.sign(seen.advantage - pair @ seen.advantage / pair.sum(1))  # 1 and -1, or 0 and 0
        margin = pair @ (preferred * difference)
        return {"preference": -preferred.abs() * torch.nn.functional.logsigmoid(-self.beta / 2 * margin)}
