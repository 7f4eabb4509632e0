"""AC-Flow (Fan et al., arXiv 2510.18072): an actor, and a critic that foresees the reward from the noised image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from advantageflow.objectives.base import Forward, Noised, NonNegative, Positive, mean_square

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class ACFlow(Forward):
    """AdvantageFlow's loss, whose advantage at a noised image is what the reward exceeds the critic's guess by.

        A_t = clip(A - V(x_t, t), -1, 1)
        loss = A_t ‖f_θ - x0‖² + γ ‖f_θ - f_old‖² + λ ‖f_θ - f_ref‖²  +  c (V(x_t, t) - A)²,        f = x_t - t v

    V is a small network that is trained along. Until it has learned for `warm_up` optimizer steps, nothing else is.
    With V = 0 it is AdvantageFlow. Squares are means over the image.

    Args:
        gamma: γ.
        reference_weight: λ.
        critic_weight: c.
        channels: the critic's width.
        warm_up: see above.

    Departs from the paper, of which we know the abstract and notes, in: the weighting, its clip and all constants are
    ours; V is of the reward less its prompt's mean, since it does not see the prompt; the pull to the rollout policy.
    """

    title: ClassVar[str] = "AC-Flow"
    paper: ClassVar[str] = "arXiv 2510.18072"
    claim: ClassVar[str] = ""
    colors: ClassVar[dict[str, tuple[str, str]]] = {"": ("#166534", "#74d99a")}
    defaults: ClassVar[dict[str, Any]] = {
        "advantage.normalize": "centered_rms",
        "advantage.clip": 5.0,
        "rollout.solver": "dpm2",
        "policy.rollout_decay": 1,
    }

    gamma: NonNegative = 1.1
    reference_weight: NonNegative = 1e-3
    critic_weight: Positive = 1.0
    channels: Annotated[int, Ge(1), Le(4096)] = 32
    warm_up: Annotated[int, Ge(0), Le(10**6)] = 0

    @property
    def sees(self) -> frozenset[str]:
        return frozenset(({"rollout"} if self.gamma else set()) | ({"reference"} if self.reference_weight else set()))

    def critic(self, channels: int) -> nn.Module:
        from advantageflow.objectives._critic import Critic

        return Critic(channels, self.channels)

    def terms(self, seen: Noised) -> dict[str, Tensor]:
        acts, value = float(seen.step >= self.warm_up), seen.value
        advantage = seen.advantage if value is None else seen.advantage - value.detach()
        found = {"data": acts * advantage.clamp(-1, 1) * mean_square(seen.f - seen.x0)}
        if value is not None:
            found["critic"] = self.critic_weight * (value - seen.advantage).square()
        if "rollout" in self.sees:
            found["rollout"] = acts * self.gamma * mean_square(seen.f - seen.f_old)
        if "reference" in self.sees:
            found["reference"] = acts * self.reference_weight * mean_square(seen.f - seen.f_ref)
        return found
