"""When the images of a prompt have become alike: one rule for training, reports and comparisons."""

from __future__ import annotations

from collections.abc import Sequence

KEPT = 1 / 3  # of the first iteration's diversity, at least


def lost_variety(diversity: Sequence[float | None]) -> bool:
    """Whether less than a third of the first diversity is left.

    Args:
        diversity: of each iteration so far, the variance of the latents within a prompt's images; None where the
            policy drew none.
    """
    known = [value for value in diversity if value is not None]
    return len(known) > 1 and known[-1] < KEPT * known[0]


def first_lost(diversity: Sequence[float | None]) -> int | None:
    """The first iteration, from 0, in which `lost_variety` held; None if there is none."""
    return next((i for i in range(len(diversity)) if lost_variety(diversity[: i + 1])), None)


def variety_warning(diversity: Sequence[float | None]) -> str:
    """What a user is told where `lost_variety` holds."""
    return (
        f"collapse: the images of a prompt have become alike (diversity {diversity[-1]:.3g} in iteration "
        f"{len(diversity)}, {diversity[0]:.3g} in the first); a rollout policy that lags (policy.rollout_decay=0.8), a "
        "larger weight of the rollout or reference term, or a smaller learn.learning_rate holds the policy closer"
    )
