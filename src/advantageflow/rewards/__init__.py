"""Rewards: images and prompts in, one float per image out, higher is better.

A reward is a function `(images, prompts) -> sequence of floats`, with images float32 [batch, 3, height, width] in
[0, 1] on the CPU. Built-in ones are imported when they are asked for.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from advantageflow.config import ConfigError

Reward = Callable[[Tensor, list[str]], Sequence[float]]

BUILT_IN = {
    "scenes_graded": "advantageflow.rewards.scenes:graded",
    "scenes_strict": "advantageflow.rewards.scenes:strict",
}


class RewardError(ConfigError):
    """A reward that does not give one finite number per image."""


def load_reward(name: str) -> Reward:
    """A built-in reward, or any importable function as "package.module:function" (the current folder is searched too).

    Raises:
        ConfigError: the name is unknown, or the function cannot be imported.
    """
    target = BUILT_IN.get(name, name)
    module_name, separator, function_name = target.partition(":")
    if not separator:
        raise ConfigError(
            f"unknown reward {name!r}; built in are {', '.join(BUILT_IN)}, or give package.module:function"
        )
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        function: Reward = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot load the reward {name!r}: {error}") from error
    if not callable(function):
        raise ConfigError(f"the reward {name!r} is not a function")
    return function


def score(name: str, reward: Reward, images: Tensor, prompts: list[str]) -> Tensor:
    """Call a reward and check its answer: float64 [batch].

    Raises:
        RewardError: it does not return one finite float per image; the message names reward, sample and prompt.
    """
    try:
        values = torch.as_tensor(reward(images, prompts), dtype=torch.float64).flatten()
    except (TypeError, ValueError) as error:
        raise RewardError(f"the reward {name!r} failed: {error}") from error
    if len(values) != len(prompts):
        raise RewardError(
            f"the reward {name!r} returned {len(values)} values for {len(prompts)} images; return one per image"
        )
    for index, value in enumerate(values.tolist()):
        if not math.isfinite(value):
            raise RewardError(f"the reward {name!r} returned {value} for sample {index}, prompt {prompts[index]!r}")
    return values
