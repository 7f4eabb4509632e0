"""The optimizer of a run by its name, and the learning rate of each of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from advantageflow.config import ConfigError, LearnSettings


def build_optimizer(settings: LearnSettings, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """AdamW in full precision, or with 8-bit moments by bitsandbytes.

    Raises:
        ConfigError: bitsandbytes is not installed, or cannot work here.
    """
    betas = (0.9, settings.beta2)
    return _KINDS[settings.optimizer](
        parameters, lr=settings.learning_rate, betas=betas, weight_decay=settings.weight_decay
    )


def _adamw(parameters: list[Tensor], **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, foreach=True, **options)


def _adamw_8bit(parameters: list[Tensor], **options: Any) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            "learn.optimizer is 'adamw_8bit', which needs bitsandbytes; install with: pip install bitsandbytes, "
            "or set learn.optimizer=adamw"
        ) from error
    found: torch.optim.Optimizer = AdamW8bit(parameters, **options)
    return found


_KINDS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": _adamw, "adamw_8bit": _adamw_8bit}


def rate(settings: LearnSettings, step: int, steps: int) -> float:
    """The learning rate of optimizer step number `step`, counted from 0, of `steps` in all.

    It grows linearly over the first `warmup_steps`; then it stays ("constant"), or falls to 0 at the end, linearly
    ("linear") or along half a cosine ("cosine"). It depends on nothing else, so a resumed run has the same.
    """
    warm = settings.warmup_steps
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, steps - warm))
    left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[settings.schedule]
    return settings.learning_rate * left


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use a learning rate in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
