"""What is watched while a run trains: whether images of a prompt still differ, and whether their rewards do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from advantageflow.run.collapse import first_lost, lost_variety, variety_warning

WARN_AFTER = 3  # iterations with constant rewards


class Watch:
    """Warns once of a collapse and of constant rewards; the latter stop a run after a while.

    Args:
        groups: prompts in an iteration.
        most: iterations with constant rewards after which the run is stopped; 0 for never.
    """

    def __init__(self, groups: int, most: int) -> None:
        self.groups, self.most = groups, most
        self.rows: list[Mapping[str, Any]] = []

    def restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rows of iterations that an earlier process did."""
        self.rows = list(rows)

    def see(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)

    @property
    def diversity(self) -> list[float | None]:
        """Of each iteration; None where the policy drew no images."""
        return [row["diversity"] for row in self.rows]

    @property
    def collapse(self) -> int | None:
        """The first iteration, from 0, in which the images of a prompt had become alike; None if there is none."""
        return first_lost(self.diversity)

    @property
    def constant(self) -> int:
        """How many of the last iterations had no prompt whose images differ in reward."""
        told = [row["zero_variance_groups"] >= self.groups for row in reversed(self.rows)]
        return told.index(False) if False in told else len(told)

    @property
    def stops(self) -> bool:
        """Whether rewards were constant for too long; a run that is continued gets as many iterations again."""
        return self.most > 0 and self.constant > 0 and self.constant % self.most == 0

    def warnings(self) -> list[str]:
        """What a user is to be told after the last row."""
        told = []
        if lost_variety(self.diversity) and not lost_variety(self.diversity[:-1]):
            told.append(variety_warning(self.diversity))
        if self.constant == WARN_AFTER:
            told.append(constant_rewards_advice(self.constant))
        return told


def constant_rewards_advice(count: int) -> str:
    """What to do where rewards were constant for so many iterations."""
    return (
        f"nothing is learned: for {count} iterations all images of each prompt got the same reward; see that the "
        "reward tells images of a prompt apart (advantageflow rewards check), or take a graded one, easier prompts or "
        "a larger rollout.images_per_prompt"
    )
