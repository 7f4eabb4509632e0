"""Samplers, one plain function each: of a rectified flow, but for `solve`, which is of any path.

ODE solvers are called `solver(velocity, x, sigmas, callback=None) -> x`:

    velocity  a function (x, t) -> dx/dt, with t a float64 scalar tensor in (0, 1]
    x         noise [batch, ...] at time sigmas[0]
    sigmas    decreasing times, float64 [steps + 1], from 1 to 0
    callback  called as callback(step, x) after every step

SDE solvers are single steps, called `step(v, x, sigma, sigma_next, level) -> (mean, std)`: a transition is Gaussian,
and a reverse-process method needs its log-probability. `level` is the strength of the noise; at 0 the mean is Euler's
step, to the bit. Means are float32 or wider; times are scalars or [batch], 1 >= sigma > sigma_next >= 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from advantageflow.flow import RECTIFIED, Path, like, predict_noise

Velocity = Callable[[Tensor, Tensor], Tensor]
Ends = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Callback = Callable[[int, Tensor], None]
Level = Tensor | float  # of a step's noise: a number, or one per sample


def euler(
    velocity: Velocity, x: Tensor, sigmas: Tensor, callback: Callback | None = None, path: Path = RECTIFIED
) -> Tensor:
    """Euler's method, x' = x + (t' - t) v(x, t) (AdvantageFlow, eq. 3); on any path DDIM, η = 0, see `Path.step`."""
    for step, (t, t_next) in enumerate(pairwise(sigmas)):
        x = path.step(x, velocity(x, t), t, t_next)
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


def dpm2(
    velocity: Velocity, x: Tensor, sigmas: Tensor, callback: Callback | None = None, path: Path = RECTIFIED
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, Algorithm 2); first and last steps are first order.

    This is the rollout solver of arXiv 2509.16117's code. At σ = 1 the log-SNR is -∞, so the second step, whose history
    is that point, is first order as well.
    """
    previous: tuple[Tensor, Tensor] | None = None  # x0 prediction and log-SNR step size of the step before
    last = len(sigmas) - 2
    for step, (t, t_next) in enumerate(pairwise(sigmas)):
        x0 = path.predict_x0(x, velocity(x, t), t)
        width = path.log_snr(t_next) - path.log_snr(t)
        target = x0
        if previous is not None and step < last:
            x0_before, width_before = previous
            target = x0 + 0.5 * like(width / width_before, x) * (x0 - x0_before)
        # -α'(e^{-h} - 1), with e^{-h} = α σ' / (α' σ), written so that α = 0 and σ' = 0 are exact
        sigma, sigma_next = path.sigma(t), path.sigma(t_next)
        x = like(sigma_next / sigma, x) * x + like(path.alpha(t_next) - path.alpha(t) * sigma_next / sigma, x) * target
        previous = x0, width
        if callback:
            callback(step, x)
    return x


def ddim_ode(ends: Ends, x: Tensor, sigmas: Tensor, path: Path) -> Tensor:
    """DDIM with η = 0 (arXiv 2010.02502, eq. 12), which is Euler's method in σ / α: x' = α' x̂0 + σ' ε̂."""
    for t, t_next in pairwise(sigmas):
        x = path.interpolate(*ends(x, t), t_next)
    return x


ODE_SOLVERS: dict[str, Callable[..., Tensor]] = {"euler": euler, "heun": heun, "dpm2": dpm2}


def solve(solver: str, path: Path, velocity: Velocity, ends: Ends, x: Tensor, sigmas: Tensor) -> Tensor:
    """The end of an ODE of any path. Of one that is not straight, `euler` is DDIM, as diffusers rounds it.

    Args:
        solver: of `ODE_SOLVERS`.
        ends: (x, t) -> the clean image and the noise that are predicted there, which have the velocity's place.
    """
    if path is RECTIFIED or solver == "heun":
        return ODE_SOLVERS[solver](velocity, x, sigmas)
    return ddim_ode(ends, x, sigmas, path) if solver == "euler" else dpm2(velocity, x, sigmas, path=path)


def flow_sde(v: Tensor, x: Tensor, sigma: Tensor, sigma_next: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """The SDE of arXiv 2505.05470, eq. 9, with g = level sqrt(σ / (1 - σ)); the paper's level is 0.7."""
    return _with_flow_marginals(v, x, sigma, sigma_next, flow_sde_diffusion(sigma, sigma_next, level))


def dance_sde(v: Tensor, x: Tensor, sigma: Tensor, sigma_next: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """The SDE of arXiv 2505.07818 with constant g = level, 0.3 in its code."""
    return _with_flow_marginals(v, x, sigma, sigma_next, level * torch.ones_like(sigma))


def memoryless(v: Tensor, x: Tensor, sigma: Tensor, sigma_next: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """The SDE of arXiv 2409.08861 with g = level sqrt(2σ / (1 - σ)): at level 1 x0 forgets its noise.

    1 - σ is kept from 0 by the step's width, as in the paper.
    """
    width = sigma - sigma_next
    return _with_flow_marginals(v, x, sigma, sigma_next, level * torch.sqrt(2 * sigma / (1 - sigma + width)))


def cps(v: Tensor, x: Tensor, sigma: Tensor, sigma_next: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """The coefficients-preserving sampler (arXiv 2509.05952): std = σ' sin(level π/2), and noise power stays σ'²."""
    return _split_noise(v, x, sigma, sigma_next, sigma_next * torch.sin(torch.as_tensor(level * math.pi / 2)))


def ddim(v: Tensor, x: Tensor, sigma: Tensor, sigma_next: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """DDIM with η = level (arXiv 2010.02502, eq. 16), α = 1 - σ: std = η σ' sqrt(1 - σ'²(1-σ)² / (σ²(1-σ')²))."""
    ratio = sigma_next * (1 - sigma) / (sigma * (1 - sigma_next))
    return _split_noise(v, x, sigma, sigma_next, level * sigma_next * torch.sqrt(1 - ratio**2))


def flow_sde_diffusion(sigma: Tensor | float, sigma_next: Tensor | float, noise_level: Level) -> Tensor:
    """s = a sqrt(σ / (1 - σ)) of arXiv 2505.05470; in the denominator σ = 1 is replaced by the next σ."""
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    sigma_next = torch.as_tensor(sigma_next, dtype=torch.float64, device=sigma.device)
    return noise_level * torch.sqrt(sigma / (1 - torch.where(sigma == 1, sigma_next, sigma)))


def _with_flow_marginals(v: Tensor, x: Tensor, sigma: Tensor, sigma_next: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """A step of the SDE with diffusion g and the flow's marginals: drift v + g²/(2σ) ε̂, where ε̂ = x + (1 - σ) v.

    mean = x (1 + g²/(2σ) dt) + v (1 + g² (1 - σ)/(2σ)) dt,    std = g sqrt(-dt),    dt = σ' - σ < 0
    """
    dt = sigma_next - sigma
    keep = 1 + g**2 / (2 * sigma) * dt
    push = (1 + g**2 * (1 - sigma) / (2 * sigma)) * dt
    return like(keep, x) * x + like(push, x) * v, g * torch.sqrt(-dt)


def _split_noise(v: Tensor, x: Tensor, sigma: Tensor, sigma_next: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Of the next state's noise σ' the part `std` is fresh: mean = (1 - σ') x̂0 + sqrt(σ'² - std²) ε̂."""
    euler_step = x + like(sigma_next - sigma, x) * v
    less = torch.sqrt((sigma_next**2 - std**2).clamp(min=0)) - sigma_next
    return euler_step + like(less, x) * predict_noise(x, v, sigma), std


SDEStep = Callable[[Tensor, Tensor, Tensor, Tensor, Level], tuple[Tensor, Tensor]]
SDE_STEPS: dict[str, SDEStep] = {
    "flow_sde": flow_sde,
    "dance_sde": dance_sde,
    "cps": cps,
    "ddim": ddim,
    "memoryless": memoryless,
}


def sde_step(
    kind: str, v: Tensor, x: Tensor, sigma: Tensor | float, sigma_next: Tensor | float, level: Level
) -> tuple[Tensor, Tensor]:
    """(mean [batch, ...], std scalar or [batch]) of a transition, in float32 or wider and with float64 times.

    Args:
        kind: of `SDE_STEPS`.
        v, x: the velocity and the state [batch, ...].
        level: of the noise, scalar or [batch]; 0 gives Euler's step and std 0.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    sigma_next = torch.as_tensor(sigma_next, dtype=torch.float64, device=sigma.device)
    mean, std = SDE_STEPS[kind](v.to(dtype), x.to(dtype), sigma, sigma_next, level)
    return mean, std.to(dtype).to(x.device)


def gaussian_log_prob(next_x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(next_x; mean, std²) of each sample, [batch]: its *mean* over all other dimensions.

    So it is in arXiv 2505.05470's code.

    Args:
        std: scalar or [batch], positive.
    """
    residual = (next_x.to(mean.dtype) - mean).square().flatten(1).mean(1)
    return -residual / (2 * std**2) - torch.log(std) - 0.5 * math.log(2 * math.pi)


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
    """`flow_sde` and its log-probability in one call.

    Args:
        velocity_value: v(x, σ) [batch, ...].
        x: the current state [batch, ...].
        sigma, sigma_next: the step's times, scalars or [batch], 1 ≥ sigma > sigma_next ≥ 0.
        noise_level: a, 0.7 in arXiv 2505.05470; 0 gives Euler's step, whose log-probability is not finite.
        noise: standard normal noise to sample the next state with; or
        next_x: a next state whose log-probability is asked for.

    Returns:
        (next_x, mean, std, log_prob): std is a scalar or [batch]; log_prob [batch] as `gaussian_log_prob` has it.

    Raises:
        ValueError: both or neither of `noise` and `next_x` are given.
    """
    if (noise is None) == (next_x is None):
        raise ValueError("give flow_sde_step exactly one of `noise` (to sample) and `next_x` (to score)")
    mean, std = sde_step("flow_sde", velocity_value, x, sigma, sigma_next, noise_level)
    if next_x is None:
        assert noise is not None
        next_x = mean + like(std, mean) * noise.to(mean.dtype)
    return next_x.to(mean.dtype), mean, std, gaussian_log_prob(next_x, mean, std)
