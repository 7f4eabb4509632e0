"""Sampling times that depend on the size of an image."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor


def dynamic_shift_sigmas(scheduler: Any, num_steps: int, image_tokens: int) -> Tensor:
    """The sampling times of pipelines that shift more for larger images, float64 [num_steps + 1]."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    limits = {name: scheduler.config[name] for name in names if name in scheduler.config}
    mu = calculate_shift(image_tokens, *limits.values())
    return shifted_sigmas(scheduler, np.linspace(1.0, 1 / num_steps, num_steps), mu)


def shifted_sigmas(scheduler: Any, sigmas: Sequence[float] | np.ndarray, mu: float) -> Tensor:
    """Times from 1 down, as a scheduler shifts them by mu, where it does; and 0: float64 [times + 1]."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(sigmas=sigmas, mu=mu)
    found: Tensor = scheduler.sigmas.double()
    return found
