"""A value of noised images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Critic(nn.Module):
    """V(x_t, t): [batch, channels, height, width] and [batch] -> [batch]; it begins with 0 everywhere.

    Args:
        channels: of the images.
        width: of the network.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.seen = nn.Sequential(
            nn.Conv2d(channels + 1, width, 3, padding=1), nn.GroupNorm(1, width), nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GroupNorm(1, width), nn.SiLU(),
        )  # fmt: skip
        self.value = nn.Linear(width, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        times = t.reshape(-1, 1, 1, 1).expand(len(x_t), 1, *x_t.shape[2:])
        seen: Tensor = self.seen(torch.cat([x_t, times], 1))
        return self.value(seen.mean((2, 3))).squeeze(1)  # type: ignore[no-any-return]
