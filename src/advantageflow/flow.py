"""The rectified-flow path between data (t = 0) and noise (t = 1).

    x_t = (1 - t) x0 + t noise        velocity = dx_t / dt = noise - x0

Every function is elementwise. `t` is a scalar or a tensor [batch]; the other tensors are [batch, ...].
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

TDistribution = Literal["uniform", "rollout_grid", "logit_normal"]


def like(t: Tensor | float, x: Tensor) -> Tensor:
    """`t`, a scalar or [batch], shaped to broadcast against x [batch, ...], in x's dtype and on its device."""
    t = torch.as_tensor(t).to(x.dtype).to(x.device)  # in this order: not every device has float64
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim)) if t.ndim else t


def interpolate(x0: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
    """x_t = (1 - t) x0 + t noise."""
    t = like(t, x0)
    return (1 - t) * x0 + t * noise


def predict_x0(x_t: Tensor, velocity: Tensor, t: Tensor | float) -> Tensor:
    """The clean image that a velocity points to: x_t - t v."""
    return x_t - like(t, x_t) * velocity


def predict_noise(x_t: Tensor, velocity: Tensor, t: Tensor | float) -> Tensor:
    """The noise that a velocity comes from: x_t + (1 - t) v."""
    return x_t + (1 - like(t, x_t)) * velocity


def velocity_from_x0(x_t: Tensor, x0: Tensor, t: Tensor | float) -> Tensor:
    """The velocity whose clean image is x0: (x_t - x0) / t, for t > 0."""
    return (x_t - x0) / like(t, x_t)


def shift_t(t: Tensor, shift: float) -> Tensor:
    """Move times towards noise: shift t / (1 + (shift - 1) t), the identity for 1 (SD3, arXiv 2403.03206, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def sd3_sigmas(num_steps: int, shift: float = 3.0) -> Tensor:
    """The times at which SD3 is sampled: float64 [num_steps + 1], from 1 down to 0.

    This is the grid of diffusers' `FlowMatchEulerDiscreteScheduler`, to the bit: it shifts a table of 1000 times, takes
    `num_steps` evenly spaced values between that table's ends, shifts these once more and appends 0. Its last
    value before 0 is .0089 for shift 3, whatever the number of steps.

    Raises:
        ValueError: num_steps < 2.
    """
    if num_steps < 2:
        raise ValueError(f"num_steps must be at least 2, got {num_steps}")
    ends = shift_t(torch.tensor([1000.0, 1.0]) / 1000, shift).double()
    evenly = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    sigmas = shift_t(ends[0] + (ends[1] - ends[0]) * evenly, shift)
    return torch.cat([sigmas.float().double(), torch.zeros(1, dtype=torch.float64)])


def draw_t(
    distribution: TDistribution, num_draws: int, sigmas: Tensor, generator: torch.Generator, shift: float = 1.0
) -> Tensor:
    """Training times of one sample: float64 [num_draws] in (0, 1].

    uniform: independent draws from (0, 1) (AdvantageFlow, Algorithm 1).
    rollout_grid: `num_draws` of the times at which the sample was generated, each at most once, in random order
        (DiffusionNFT's code).
    logit_normal: the sigmoid of a standard normal (SD3).
    `shift` moves uniform and logit_normal draws towards noise.

    Raises:
        ValueError: an unknown distribution, or more draws from the grid than it has times.
    """
    if distribution == "uniform":
        return shift_t(1 - torch.rand(num_draws, generator=generator, dtype=torch.float64), shift)
    if distribution == "logit_normal":
        return shift_t(torch.randn(num_draws, generator=generator, dtype=torch.float64).sigmoid(), shift)
    if distribution == "rollout_grid":
        grid = sigmas[sigmas > 0]
        if num_draws > len(grid):
            raise ValueError(f"cannot draw {num_draws} distinct times from a rollout grid of {len(grid)}")
        return grid[torch.randperm(len(grid), generator=generator)[:num_draws]]
    raise ValueError(f"unknown t distribution {distribution!r}; use one of {', '.join(get_args(TDistribution))}")
