"""What all forward-process objectives share: the shape of their arguments, and the total of their terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class ForwardObjective:
    """A loss on a clean image, noised afresh.

    Arguments of `loss` and `terms`, for a batch of noised images:

        velocity            v_θ(x_t, t), with gradient            [batch, ...]
        rollout_velocity    v_old(x_t, t) of the rollout policy   [batch, ...]
        reference_velocity  v_ref(x_t, t) of the base model       [batch, ...]
        x0, x_t             the clean and the noised image        [batch, ...]
        t                   times in (0, 1]                       [batch]
        advantage           advantages                            [batch]

    float16 and bfloat16 are cast to float32 before anything is subtracted; float32 and float64 stay as they are.
    """

    family: ClassVar[str] = "forward"

    def loss(
        self,
        velocity: Tensor,
        rollout_velocity: Tensor,
        reference_velocity: Tensor,
        *,
        x0: Tensor,
        x_t: Tensor,
        t: Tensor,
        advantage: Tensor,
    ) -> Tensor:
        """Loss of each sample, [batch]: the sum of `terms`.

        Raises:
            ValueError: shapes do not match, or a time is outside [0, 1].
        """
        check_shapes(
            {
                "velocity": velocity,
                "rollout_velocity": rollout_velocity,
                "reference_velocity": reference_velocity,
                "x0": x0,
                "x_t": x_t,
            },
            advantage=advantage,
        )
        check_times(t, len(velocity))
        terms = self.terms(velocity, rollout_velocity, reference_velocity, x0=x0, x_t=x_t, t=t, advantage=advantage)
        return torch.stack(list(terms.values())).sum(0)

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
        """The loss's named terms, [batch] each."""
        raise TypeError(f"{type(self).__name__} does not define its terms")


def check_shapes(alike: Mapping[str, Tensor], **by_sample: Tensor) -> None:
    """Raise ValueError unless the tensors `alike` have one shape [batch, ...], and the others are [batch]."""
    (first, expected), *others = ((name, list(value.shape)) for name, value in alike.items())
    if len(expected) < 2:
        raise ValueError(f"{first} has the shape {expected}; it must be [batch, ...]")
    for name, shape in others:
        if shape != expected:
            raise ValueError(f"{name} has the shape {shape}, but {first} has {expected}; they must be equal")
    for name, value in by_sample.items():
        if list(value.shape) != expected[:1]:
            raise ValueError(f"{name} has the shape {list(value.shape)}; one number per sample is [{expected[0]}]")


def check_times(t: Tensor | float, batch: int) -> None:
    """Raise ValueError unless t is a scalar or [batch], in [0, 1]; schedulers' 0 to 1000 must be divided by 1000."""
    times = torch.as_tensor(t)
    if times.ndim and list(times.shape) != [batch]:
        raise ValueError(f"t has the shape {list(times.shape)}; give a number, or one per sample, [{batch}]")
    if not ((times >= 0) & (times <= 1)).all():
        raise ValueError(
            f"t goes from {times.min().item():g} to {times.max().item():g}; it must lie in [0, 1], 0 being the image "
            "and 1 noise (divide a scheduler's timesteps by 1000)"
        )


def full_precision(*tensors: Tensor) -> list[Tensor]:
    """Cast half-precision tensors to float32, so that differences of near-equal predictions survive."""
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


def mean_square(difference: Tensor) -> Tensor:
    """Mean over all but the batch dimension of the square: [batch, ...] -> [batch]."""
    return difference.square().flatten(1).mean(1)
