"""What is written down of every iteration."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from advantageflow.learning.base import Terms


def reward_metrics(rewards: Tensor, scores: Mapping[str, Tensor]) -> dict[str, float]:
    """Of the combined reward, and the mean of each reward where there are several."""
    several = {f"reward/{name}/mean": values.mean().item() for name, values in scores.items() if len(scores) > 1}
    return {
        **several,
        "reward/mean": rewards.mean().item(),
        "reward/std": rewards.std(correction=0).item(),
        "reward/best": rewards.max().item(),
    }


def learning_metrics(found: list[Terms]) -> dict[str, float | None]:
    """Means of the loss, of each of its terms, and of the distances, over all samples and each sign of the advantage.

    A mean over no sample is None.
    """
    advantage = torch.cat([part.advantages for part in found])
    values = {
        f"loss/{name}": torch.cat([part.terms[name].detach().cpu().double() for part in found])
        for name in found[0].terms
    }
    values = {"loss": torch.stack(list(values.values())).sum(0), **values}
    for name in ("to_rollout", "to_reference"):
        values[f"distance/{name}"] = torch.cat([getattr(part, name).cpu().double() for part in found])
    row: dict[str, float | None] = {}
    for name, value in values.items():
        row[name] = mean_or_none(value)
        row[f"{name}/positive_advantage"] = mean_or_none(value[advantage > 0])
        row[f"{name}/negative_advantage"] = mean_or_none(value[advantage < 0])
    return row


def mean_or_none(values: Tensor) -> float | None:
    """The mean of the values that are not NaN, which stands for "not known here"; None if there are none."""
    known = values[~torch.isnan(values)]
    return known.mean().item() if len(known) else None
