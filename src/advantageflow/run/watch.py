"""What is watched while a run trains: whether images and rewards of a prompt differ, spikes, and a hacked reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from advantageflow.run.collapse import first_lost, lost_variety, variety_warning
from advantageflow.run.hacking import hacking_warning, untrained
from advantageflow.run.spikes import spike_warning

if TYPE_CHECKING:
    from advantageflow.config import Config

WARN_AFTER = 3  # iterations with constant rewards
SPAN = 5  # iterations over which the share of prompts with constant rewards is taken


class Watch:
    """Warns once of a collapse, of constant rewards and of a hacked one, and of every spike.

    Rewards that are constant for all prompts stop a run after `run.constant_rewards_stop` iterations. All is told from
    the rows, so that a run that goes on is not told twice.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.groups, self.untrained = config, config.rollout.prompts_per_iteration, untrained(config)
        self.most = config.run.constant_rewards_stop
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
        shares, bound = self._constant_shares(), self.config.run.constant_groups_warn
        if self.constant < WARN_AFTER and shares and shares[-1] > bound and max(shares[:-1], default=0) <= bound:
            told.append(constant_groups_advice(shares[-1]))
        if self.rows[-1].get("spiked_steps"):
            told.append(spike_warning(self.rows[-1], self.config.learn.max_grad_norm_ratio))
        *before, last = range(len(self.rows))
        if (hacked := self._hacked(last)) and not any(map(self._hacked, before)):
            told.append(hacked)
        return told

    def _hacked(self, iteration: int) -> str | None:
        difference = self.rows[iteration].get("difference", {})
        return hacking_warning(self.rows[: iteration + 1], difference, self.untrained)

    def _constant_shares(self) -> list[float]:
        """The share of prompts with constant rewards, over SPAN iterations up to each."""
        counts = [row["zero_variance_groups"] for row in self.rows]
        return [sum(counts[end - SPAN : end]) / (SPAN * self.groups) for end in range(SPAN, len(counts) + 1)]


def constant_rewards_advice(count: int) -> str:
    """What to do where rewards were constant for so many iterations."""
    return (
        f"nothing is learned: for {count} iterations all images of each prompt got the same reward; see that the "
        "reward tells images of a prompt apart (advantageflow rewards check), or take a graded one, easier prompts or "
        "a larger rollout.images_per_prompt"
    )


def constant_groups_advice(share: float) -> str:
    """What to do where that share of the prompts taught nothing."""
    return (
        f"little is learned: in the last {SPAN} iterations all images of a prompt got the same reward for "
        f"{share:.0%} of the prompts, which so teach nothing; a graded reward, prompts that are neither too easy nor "
        "too hard, or a larger rollout.images_per_prompt makes them differ"
    )
