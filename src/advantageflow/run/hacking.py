"""When a reward is hacked: it rises in training while held-out scores that are not trained on fall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from advantageflow.run.progress import change

if TYPE_CHECKING:
    from advantageflow.config import Config

SPAN = 5  # iterations at either end of the run, over which the training reward is compared


def untrained(config: Config) -> list[str]:
    """Labels of the held-out scores that are of no training reward; none where pairs bring their own scores."""
    trained = config.reward_weights
    return [label for label, name in config.evaluation.rewards.items() if trained and name not in trained]


def risen(rewards: Sequence[float]) -> bool:
    """Whether the mean of the last SPAN training rewards is above every one of the first SPAN, which are others."""
    return len(rewards) >= 2 * SPAN and sum(rewards[-SPAN:]) / SPAN > max(rewards[:SPAN])


def fallen(difference: Mapping[str, Mapping[str, float | None]], labels: Sequence[str]) -> list[str]:
    """Those of the labels whose scores are below the base model's by more than the 95 % interval."""
    found = {label: difference.get(label, {}).get("high") for label in labels}
    return [label for label, high in found.items() if high is not None and high < 0]


def hacking_warning(
    rows: Sequence[Mapping[str, Any]], difference: Mapping[str, Mapping[str, float | None]], labels: Sequence[str]
) -> str | None:
    """What a user is told where both hold; None where not.

    Args:
        rows: of all iterations so far.
        difference: of held-out scores after them to the base model's.
        labels: of the scores that are not trained on.
    """
    fell = fallen(difference, labels)
    rewards = [row["reward/mean"] for row in rows] if fell else []
    if not risen(rewards):
        return None
    told = ", ".join(f"{label} {change(difference[label])}" for label in fell)
    return (
        f"reward hacking: the training reward rose from {sum(rewards[:SPAN]) / SPAN:.3f} to "
        f"{sum(rewards[-SPAN:]) / SPAN:.3f}, while held-out scores that are not trained on fell below the base model's "
        f"({told}); see the pictures, and take an earlier checkpoint, a larger weight of the reference term, or train "
        "on these scores as well"
    )
