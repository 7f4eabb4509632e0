"""Samplers of a rectified flow, one plain function each.

ODE solvers are called `solver(velocity, x, sigmas, callback=None) -> x`:

    velocity  a function (x, t) -> dx/dt, with t a float64 scalar tensor in (0, 1]
    x         noise [batch, ...] at time sigmas[0]
    sigmas    decreasing times, float64 [steps + 1], from 1 to 0
    callback  called as callback(step, x) after every step

SDE solvers are single steps, because a reverse-process method needs every transition's log-probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from advantageflow.flow import like, predict_x0

Velocity = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[int, Tensor], None]


def euler(velocity: Velocity, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Euler's method, x' = x + (t' - t) v(x, t) (AdvantageFlow, eq. 3); here the same as DDIM, η = 0."""
    for step, (t, t_next) in enumerate(pairwise(sigmas)):
        x = x + like(t_next - t, x) * velocity(x, t)
        if callback:
            callback(step, x)
    return x


def heun(velocity: Velocity, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Heun's second-order method (Karras et al., arXiv 2206.00364, Algorithm 1); the last step is Euler's."""
    for step, (t, t_next) in enumerate(pairwise(sigmas)):
        dt = like(t_next - t, x)
        slope = velocity(x, t)
        proposal = x + dt * slope
        x = proposal if t_next == 0 else x + dt * 0.5 * (slope + velocity(proposal, t_next))
        if callback:
            callback(step, x)
    return x


def dpm2(velocity: Velocity, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, Algorithm 2) with α = 1 - σ; first and last steps are first order.

    This is the rollout solver of DiffusionNFT's code. At σ = 1 the log-SNR is -∞, so the second step, whose history is
    that point, is first order as well.
    """
    previous: tuple[Tensor, Tensor] | None = None  # x0 prediction and log-SNR step size of the step before
    last = len(sigmas) - 2
    for step, (t, t_next) in enumerate(pairwise(sigmas)):
        x0 = predict_x0(x, velocity(x, t), t)
        width = _log_snr(t_next) - _log_snr(t)
        target = x0
        if previous is not None and step < last:
            x0_before, width_before = previous
            target = x0 + 0.5 * like(width / width_before, x) * (x0 - x0_before)
        # -(1 - t')(e^{-h} - 1), with e^{-h} = (1 - t) t' / ((1 - t') t), written so that t = 1 and t' = 0 are exact
        x = like(t_next / t, x) * x + like((1 - t_next) - (1 - t) * t_next / t, x) * target
        previous = x0, width
        if callback:
            callback(step, x)
    return x


def _log_snr(t: Tensor) -> Tensor:
    return torch.log1p(-t) - torch.log(t)


ODE_SOLVERS = {"euler": euler, "heun": heun, "dpm2": dpm2}
SDE_SOLVERS = ("flow_sde",)


def flow_sde_diffusion(sigma: Tensor | float, sigma_next: Tensor | float, noise_level: float) -> Tensor:
    """Flow-GRPO's diffusion coefficient s = a sqrt(σ / (1 - σ)); in the denominator σ = 1 is replaced by the next σ."""
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    sigma_next = torch.as_tensor(sigma_next, dtype=torch.float64, device=sigma.device)
    return noise_level * torch.sqrt(sigma / (1 - torch.where(sigma == 1, sigma_next, sigma)))


def flow_sde_step(
    velocity_value: Tensor,
    x: Tensor,
    sigma: Tensor | float,
    sigma_next: Tensor | float,
    *,
    noise_level: float,
    noise: Tensor | None = None,
    next_x: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of the SDE with the flow's marginals (Flow-GRPO, arXiv 2505.05470, eq. 9), in float32 or wider.

        mean = x (1 + s²/(2σ) dt) + v (1 + s² (1 - σ)/(2σ)) dt,    std = s sqrt(-dt),    dt = σ' - σ < 0

    Args:
        velocity_value: v(x, σ) [batch, ...].
        x: the current state [batch, ...].
        sigma, sigma_next: the step's times, scalars or [batch], 1 ≥ sigma > sigma_next ≥ 0.
        noise_level: a, Flow-GRPO's 0.7; 0 gives Euler's step, whose log-probability is not finite.
        noise: standard normal noise to sample the next state with; or
        next_x: a next state whose log-probability is asked for.

    Returns:
        (next_x, mean, std, log_prob): std is a scalar or [batch]; log_prob [batch] is the *mean* over all other
        dimensions of the Gaussian log-density, as in Flow-GRPO's code.

    Raises:
        ValueError: both or neither of `noise` and `next_x` are given.
    """
    if (noise is None) == (next_x is None):
        raise ValueError("give flow_sde_step exactly one of `noise` (to sample) and `next_x` (to score)")
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, velocity_value = x.to(dtype), velocity_value.to(dtype)
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    sigma_next = torch.as_tensor(sigma_next, dtype=torch.float64, device=sigma.device)
    dt = sigma_next - sigma
    diffusion = flow_sde_diffusion(sigma, sigma_next, noise_level)
    std = diffusion * torch.sqrt(-dt)
    keep = 1 + diffusion**2 / (2 * sigma) * dt
    push = (1 + diffusion**2 * (1 - sigma) / (2 * sigma)) * dt
    mean = like(keep, x) * x + like(push, x) * velocity_value
    if next_x is None:
        assert noise is not None
        next_x = mean + like(std, x) * noise.to(dtype)
    residual = (next_x.to(dtype) - mean).square().flatten(1).mean(1)
    std = std.to(dtype).to(x.device)
    log_prob = -residual / (2 * std**2) - torch.log(std) - 0.5 * math.log(2 * math.pi)
    return next_x.to(dtype), mean, std, log_prob
