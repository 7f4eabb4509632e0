"""Paths between data (t = 0) and noise (t = 1); the rectified flow's is

    x_t = (1 - t) x0 + t noise        velocity = dx_t / dt = noise - x0

Every function is elementwise. `t` is a scalar or a tensor [batch]; the other tensors are [batch, ...].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

TDistribution = Literal["uniform", "rollout_grid", "logit_normal"]
# What a network returns; v_prediction is α noise - σ x0 of a path with α² + σ² = 1 (arXiv 2202.00512)
Predicts = Literal["velocity", "epsilon", "sample", "v_prediction", "average_velocity"]


def like(t: Tensor | float, x: Tensor) -> Tensor:
    """`t`, a scalar or [batch], shaped to broadcast against x [batch, ...], in x's dtype and on its device."""
    t = t if isinstance(t, Tensor) else torch.as_tensor(t)  # a tensor as it is: a default device would move it
    t = t.to(x.dtype).to(x.device)  # in this order: not every device has float64
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


@dataclass(frozen=True)
class Path:
    """A path x_t = α x0 + σ noise, whose velocity is α' x0 + σ' noise (stochastic interpolants, arXiv 2303.08797).

    alpha, sigma, alpha_slope, sigma_slope: functions of t, the latter two the derivatives of the former.
    """

    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]
    alpha_slope: Callable[[Tensor], Tensor]
    sigma_slope: Callable[[Tensor], Tensor]

    def interpolate(self, x0: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """x_t = α x0 + σ noise."""
        alpha, sigma, _, _ = self._at(t, x0)
        return alpha * x0 + sigma * noise

    def velocity(self, x0: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """dx_t / dt = α' x0 + σ' noise."""
        _, _, alpha_slope, sigma_slope = self._at(t, x0)
        return alpha_slope * x0 + sigma_slope * noise

    def predict_x0(self, x_t: Tensor, velocity: Tensor, t: Tensor | float) -> Tensor:
        """The clean image of a velocity: (σ' x_t - σ v) / (α σ' - α' σ)."""
        alpha, sigma, alpha_slope, sigma_slope = self._at(t, x_t)
        return (sigma_slope * x_t - sigma * velocity) / (alpha * sigma_slope - alpha_slope * sigma)

    def predict_noise(self, x_t: Tensor, velocity: Tensor, t: Tensor | float) -> Tensor:
        """The noise of a velocity: (α v - α' x_t) / (α σ' - α' σ)."""
        alpha, sigma, alpha_slope, sigma_slope = self._at(t, x_t)
        return (alpha * velocity - alpha_slope * x_t) / (alpha * sigma_slope - alpha_slope * sigma)

    def noise_between(self, x0: Tensor, x_t: Tensor, t: Tensor | float) -> Tensor:
        """The noise that leads from x0 to x_t: (x_t - α x0) / σ, for σ > 0."""
        alpha, sigma, _, _ = self._at(t, x0)
        return (x_t - alpha * x0) / sigma

    def step(self, x_t: Tensor, velocity: Tensor, t: Tensor | float, t_next: Tensor | float) -> Tensor:
        """x at t_next, as if the image and the noise of this velocity stayed the same: α' x̂0 + σ' ε̂.

        On the straight path it is Euler's step, on any path that of DDIM with η = 0 (arXiv 2010.02502).
        """
        return self.interpolate(self.predict_x0(x_t, velocity, t), self.predict_noise(x_t, velocity, t), t_next)

    def log_snr(self, t: Tensor) -> Tensor:
        """log α / σ."""
        return torch.log(self.alpha(t)) - torch.log(self.sigma(t))

    def ends(self, predicts: Predicts, prediction: Tensor, x_t: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """The clean image and the noise of what a network predicts: the one place that knows how these belong together.

        The noise does not tell the image where α = 0, nor the image the noise where σ = 0.
        """
        alpha, sigma, _, _ = self._at(t, x_t)
        if predicts == "epsilon":
            return (x_t - sigma * prediction) / alpha, prediction
        if predicts == "sample":
            return prediction, self.noise_between(prediction, x_t, t)
        if predicts == "v_prediction":
            return alpha * x_t - sigma * prediction, alpha * prediction + sigma * x_t
        return self.predict_x0(x_t, prediction, t), self.predict_noise(x_t, prediction, t)

    def velocity_of(self, predicts: Predicts, prediction: Tensor, x_t: Tensor, t: Tensor | float) -> Tensor:
        """The velocity of what a network predicts, which may be itself.

        An average velocity (MeanFlow, arXiv 2505.13447) must be one over a span of no length, which is the velocity.
        """
        if predicts in ("velocity", "average_velocity"):
            return prediction
        return self.velocity(*self.ends(predicts, prediction, x_t, t), t)

    def _at(self, t: Tensor | float, x: Tensor) -> list[Tensor]:
        t = torch.as_tensor(t)
        return [like(coefficient(t), x) for coefficient in (self.alpha, self.sigma, self.alpha_slope, self.sigma_slope)]


class _Rectified(Path):
    """The straight path, by the module's own functions, which round less."""

    def interpolate(self, x0: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        return interpolate(x0, noise, t)

    def velocity(self, x0: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        return noise - x0

    def predict_x0(self, x_t: Tensor, velocity: Tensor, t: Tensor | float) -> Tensor:
        return predict_x0(x_t, velocity, t)

    def predict_noise(self, x_t: Tensor, velocity: Tensor, t: Tensor | float) -> Tensor:
        return predict_noise(x_t, velocity, t)

    def step(self, x_t: Tensor, velocity: Tensor, t: Tensor | float, t_next: Tensor | float) -> Tensor:
        return x_t + like(t_next - t, x_t) * velocity

    def log_snr(self, t: Tensor) -> Tensor:
        return torch.log1p(-t) - torch.log(t)


RECTIFIED: Path = _Rectified(lambda t: 1 - t, lambda t: t, lambda t: -torch.ones_like(t), torch.ones_like)
COSINE = Path(
    lambda t: torch.cos(math.pi / 2 * t),
    lambda t: torch.sin(math.pi / 2 * t),
    lambda t: -math.pi / 2 * torch.sin(math.pi / 2 * t),
    lambda t: math.pi / 2 * torch.cos(math.pi / 2 * t),
)


def tabulated(alphas: Tensor, sigmas: Tensor) -> Path:
    """The path whose α and σ [n + 1] are known at the times 0, 1/n, ..., 1, and straight lines between these."""

    def between(table: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        table, last = table.double().cpu(), len(table) - 1

        def place(t: Tensor) -> tuple[Tensor, Tensor]:
            at = t.double().cpu() * last
            before = at.long().clamp(0, last - 1)
            return before, at - before

        def value(t: Tensor) -> Tensor:
            before, part = place(t)
            return torch.lerp(table[before], table[before + 1], part)

        def slope(t: Tensor) -> Tensor:
            before, _ = place(t)
            return (table[before + 1] - table[before]) * last

        return value, slope

    (alpha, alpha_slope), (sigma, sigma_slope) = between(alphas), between(sigmas)
    return Path(alpha, sigma, alpha_slope, sigma_slope)


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
    distribution: TDistribution,
    num_draws: int,
    sigmas: Tensor,
    generator: torch.Generator,
    shift: float = 1.0,
    within: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Training times of one sample: float64 [num_draws] in (0, 1].

    uniform: independent draws from (0, 1) (AdvantageFlow, Algorithm 1).
    rollout_grid: `num_draws` of the times at which the sample was generated, each at most once, in random order
        (arXiv 2509.16117's code).
    logit_normal: the sigmoid of a standard normal (SD3).
    `shift` moves uniform and logit_normal draws towards noise, and they are squeezed into the interval `within`.

    Raises:
        ValueError: an unknown distribution, or more draws from the grid than it has times.
    """
    if distribution == "uniform":
        times = shift_t(1 - torch.rand(num_draws, generator=generator, dtype=torch.float64), shift)
        return within[0] + (within[1] - within[0]) * times
    if distribution == "logit_normal":
        times = shift_t(torch.randn(num_draws, generator=generator, dtype=torch.float64).sigmoid(), shift)
        return within[0] + (within[1] - within[0]) * times
    if distribution == "rollout_grid":
        grid = sigmas[sigmas > 0]
        if num_draws > len(grid):
            raise ValueError(f"cannot draw {num_draws} distinct times from a rollout grid of {len(grid)}")
        return grid[torch.randperm(len(grid), generator=generator)[:num_draws]]
    raise ValueError(f"unknown t distribution {distribution!r}; use one of {', '.join(get_args(TDistribution))}")
