"""Addressed randomness: a draw depends on what it is for, and not on what was drawn before or in which batch."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # prompts are drawn without torch
    import torch
    from torch import Tensor


class Stream(IntEnum):
    """What random numbers are for."""

    PROMPTS = 0
    ROLLOUT = 1
    LEARN = 2
    ORDER = 3
    EVALUATION = 4
    POLICY = 5


def address_seed(stream: Stream, *address: int) -> int:
    """A 64-bit seed for the stream at an address such as (seed, iteration, sample)."""
    return int(np.random.SeedSequence([stream, *address]).generate_state(1, np.uint64)[0])


def generator(stream: Stream, *address: int) -> torch.Generator:
    """A CPU generator for the stream at an address."""
    import torch

    return torch.Generator().manual_seed(address_seed(stream, *address))


def noise(shape: tuple[int, ...], stream: Stream, prefix: tuple[int, ...], indices: list[int]) -> Tensor:
    """Standard normal noise of several samples, float32 [len(indices), *shape]; sample i is drawn at (*prefix, i)."""
    import torch

    return torch.stack([torch.randn(shape, generator=generator(stream, *prefix, i)) for i in indices])
