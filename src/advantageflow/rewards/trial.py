"""Rewards asked once before anything long begins, so that a mistake in one is told within seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from advantageflow.rewards import Reward
from advantageflow.rewards.scoring import score

if TYPE_CHECKING:
    from advantageflow.prompts import PromptSet


def try_rewards(
    rewards: Mapping[str, Reward],
    prompts: Mapping[str, PromptSet],
    size: tuple[int, int],
    timeout: float | None = None,
) -> None:
    """Call every reward once, on a grey picture and the first prompt of its set; servers tell their health before.

    Args:
        rewards: name -> function.
        prompts: name -> what the reward will score.
        size: height and width in pixels.

    Raises:
        RewardError: one does not give a finite number; the message has the user's own file and line.
        ConfigError: a server is not there, or does not want to talk.
    """
    for reward in rewards.values():
        check = getattr(reward, "check_health", None)
        if check:
            check()
    grey = torch.full((1, 3, *size), 0.5)
    for name, reward in rewards.items():
        chosen = prompts[name]
        score(name, reward, grey, chosen.texts[:1], chosen.metadata[:1], timeout=timeout)
