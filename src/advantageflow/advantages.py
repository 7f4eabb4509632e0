"""From rewards to advantages: how much better an image is than the others of its prompt."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Normalize = Literal["centered_rms", "raw_std", "centered", "group_std", "group_softmax", "group_best", "group_rank"]
Combine = Literal["sum", "standardize", "gdpo"]


def combine_rewards(rewards: Tensor, weights: Tensor, group_ids: Tensor, how: Combine = "sum") -> Tensor:
    """One reward per image out of several.

    sum: Σ w_k r_k, so that a reward counts by its weight times its own spread (the paper, and arXiv 2509.16117's code).
    standardize: Σ w_k r_k / std(r_k) over the batch (arXiv 2609.37670).
    gdpo: Σ w_k (r_k - mean_prompt) / std_prompt(r_k) (GDPO).

    A reward that does not vary, in the batch or in a group, adds nothing there.

    Args:
        rewards: float [rewards, batch].
        weights: [rewards].
        group_ids: integers [batch]; equal for images of one prompt.

    Returns:
        float64 [batch].

    Raises:
        ValueError: `how` is unknown.
    """
    rewards, weights = rewards.double(), weights.double().unsqueeze(1)
    if how == "sum":
        return (weights * rewards).sum(0)
    if how == "standardize":
        centered = rewards - rewards.mean(1, keepdim=True)
        spread = rewards.std(1, correction=0, keepdim=True)
        constant = (rewards == rewards[:, :1]).all(1, keepdim=True)
        return torch.where(constant, 0.0, weights * centered / spread).sum(0)
    if how == "gdpo":
        total = torch.zeros(rewards.shape[1], dtype=torch.float64, device=rewards.device)
        for weight, values in zip(weights, rewards, strict=True):
            centered, group = _center(values, group_ids)
            variance = _of_group(centered.square(), group, "mean")
            total += torch.where(centered == 0, 0.0, weight * centered / variance.sqrt()[group])
        return total
    raise ValueError(f"unknown combination {how!r}; use one of {', '.join(get_args(Combine))}")


def group_advantages(
    rewards: Tensor,
    group_ids: Tensor,
    normalize: Normalize = "centered_rms",
    clip: float = 1.0,
    recenter: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """Advantages of a batch, each prompt's mean reward being the baseline.

    - centered_rms: A = clip((r - mean_prompt) / Z), Z the root mean square over the batch of the centred rewards
      (AdvantageFlow, eq. 6).
    - raw_std: z = clip((r - mean_prompt) / (std + 1e-4)), std over the batch of the raw rewards, so that differences
      between prompts enlarge it (the code of arXiv 2509.16117 and 2505.05470; their clip is 5).
    - centered: A = clip(r - mean_prompt).
    - group_std: A = clip((r - mean_prompt) / (std_prompt + 1e-8)), the unbiased std of the prompt's own rewards.
    - group_softmax: A = clip(K p - 1), p the softmax over the prompt's K images of (r - mean_prompt) / (temperature Z)
      (arXiv 2606.30376, whose Z is that of raw_std); 1 + A are weights with mean 1.
    - group_best: the same at temperature 0: A = clip(K / n - 1) for the n best images of a prompt; -1 for others.
    - group_rank: A is the rank among the prompt's images, from -1 for the worst to 1 for the best; equals share theirs.

    A group whose rewards are all equal gets exactly 0; `zero_variance_groups` counts these.

    Args:
        rewards: float [batch], finite, higher is better.
        group_ids: integers [batch]; equal for images of one prompt.
        clip: bound of the result, positive.
        recenter: subtract each group's mean again after clipping, and shrink a group that then leaves [-clip, clip].
            Clipping skewed rewards leaves a mean advantage other than 0, which the theory does not allow.
        temperature: of group_softmax, positive.

    Returns:
        float64 [batch] in [-clip, clip].

    Raises:
        ValueError: shapes differ, a reward is not finite, clip is not positive, or `normalize` is unknown.
    """
    if rewards.ndim != 1 or rewards.shape != group_ids.shape:
        raise ValueError(
            f"rewards and group_ids must both be [batch], got {list(rewards.shape)} and {list(group_ids.shape)}"
        )
    if not torch.isfinite(rewards).all():
        bad = int((~torch.isfinite(rewards)).nonzero()[0])
        raise ValueError(f"reward {bad} is {rewards[bad].item()}; advantages need finite rewards")
    if clip <= 0:
        raise ValueError(f"clip must be positive, got {clip}")
    rewards = rewards.double()
    centered, group = _center(rewards, group_ids)
    advantages = _normalized(centered, rewards, group, normalize, temperature).clamp(-clip, clip)
    if recenter:
        advantages, group = _center(advantages, group_ids)
        largest = torch.zeros(int(group.max()) + 1, dtype=advantages.dtype, device=advantages.device)
        largest.scatter_reduce_(0, group, advantages.abs(), "amax")
        advantages = advantages * (clip / largest.clamp(min=clip))[group]
    return advantages


def _normalized(centered: Tensor, rewards: Tensor, group: Tensor, normalize: Normalize, temperature: float) -> Tensor:
    """Centred rewards in the unit that `group_advantages` names; groups are numbered from 0."""
    root_mean_square = centered.square().mean().sqrt()
    if normalize == "centered_rms":
        return centered / root_mean_square if root_mean_square > 0 else centered
    if normalize == "raw_std":
        return centered / (rewards.std(correction=0) + 1e-4)
    if normalize == "centered":
        return centered
    if normalize == "group_std":
        size = torch.bincount(group)
        squares = torch.zeros(len(size), dtype=rewards.dtype, device=rewards.device)
        squares.scatter_reduce_(0, group, centered.square(), "sum")
        return centered / (torch.sqrt(squares / (size - 1).clamp(min=1)) + 1e-8)[group]
    if normalize == "group_softmax":
        scaled = centered / (temperature * root_mean_square) if root_mean_square > 0 else centered
        scaled = (scaled - _of_group(scaled, group, "amax")[group]).exp()  # a low temperature overflows otherwise
        return scaled / _of_group(scaled, group, "mean")[group] - 1
    if normalize == "group_best":
        best = centered == _of_group(centered, group, "amax")[group]
        return best.double() / _of_group(best.double(), group, "mean")[group] - 1
    if normalize == "group_rank":
        same = group[:, None] == group
        above = (torch.sign(centered[:, None] - centered) * same).sum(1)  # worse ones less better ones
        return above / (same.sum(1) - 1).clamp(min=1)
    raise ValueError(f"unknown normalize {normalize!r}; use one of {', '.join(get_args(Normalize))}")


def _of_group(values: Tensor, group: Tensor, reduce: str) -> Tensor:
    """Values [batch] reduced over each group: [groups]."""
    found = torch.zeros(int(group.max()) + 1, dtype=values.dtype, device=values.device)
    return found.scatter_reduce_(0, group, values, reduce, include_self=False)


def zero_variance_groups(rewards: Tensor, group_ids: Tensor) -> int:
    """The number of prompts whose images all got the same reward, and so teach nothing."""
    return sum(bool((rewards[group_ids == i] == rewards[group_ids == i][0]).all()) for i in group_ids.unique())


def _center(values: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Values minus their group's mean, exactly 0 where a group is constant; and the groups numbered from 0."""
    unique, group = torch.unique(group_ids, return_inverse=True)
    low, high, total = (
        torch.zeros(len(unique), dtype=values.dtype, device=values.device).scatter_reduce_(
            0, group, values, reduce, include_self=False
        )
        for reduce in ("amin", "amax", "mean")
    )
    centered = values - total[group]
    return torch.where((low == high)[group], torch.zeros_like(centered), centered), group
