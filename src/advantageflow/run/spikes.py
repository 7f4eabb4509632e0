"""Gradient norms far above those before them: such a step is skipped, and many in a row stop the run."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from advantageflow.errors import NonFiniteError

WINDOW = 20  # steps before, whose median norm a step's is held against; with fewer none is skipped


class Spikes:
    """The norms of the steps that were taken, and the rule. Processes of one run see the same norms, and skip alike.

    Args:
        ratio: a norm over so many times the median is a spike; 0 for never.
        most: spikes in a row that stop the run; 0 for never.
    """

    def __init__(self, ratio: float, most: int) -> None:
        self.ratio, self.most = ratio, most
        self.norms: deque[float] = deque(maxlen=WINDOW)
        self.in_a_row = 0

    def skip(self, norm: float, taught: bool, iteration: int) -> bool:
        """Whether the step with this norm, which is finite, is to be skipped.

        Args:
            taught: whether an advantage was other than 0. Norms of steps that only hold the policy in place, as where
                rewards are rare, are no measure for those that learn.

        Raises:
            NonFiniteError: too many in a row were.
        """
        usual = median(self.norms) if len(self.norms) == WINDOW else float("inf")
        if not self.ratio or norm <= self.ratio * usual:
            self.in_a_row = 0
            if taught and norm > 0:
                self.norms.append(norm)
            return False
        self.in_a_row += 1
        if self.most and self.in_a_row >= self.most:
            raise NonFiniteError(
                f"the gradient norms of {self.most} steps in a row were over learn.max_grad_norm_ratio "
                f"({self.ratio:g}) times their median before, {usual:.3g}, the last one {norm:.3g} in iteration "
                f"{iteration}; none of these steps was taken, and what was saved before is unharmed: see what the "
                "rewards gave, lower learn.learning_rate or raise learn.max_grad_norm_ratio (0 for no limit), then "
                "continue from the last checkpoint"
            )
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {"norms": [*self.norms], "in_a_row": self.in_a_row}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave; {} is of a run of an early version, whose history begins now."""
        self.norms = deque(state.get("norms", ()), WINDOW)
        self.in_a_row = state.get("in_a_row", 0)


def spike_warning(row: Mapping[str, Any], ratio: float) -> str:
    """What a user is told of an iteration in which steps were skipped."""
    count = row["spiked_steps"]
    return (
        f"iteration {row['iteration'] + 1}: {count} optimizer step{'s were' if count > 1 else ' was'} skipped; the "
        f"gradient norm was {row['spike_norm']:.3g}, over learn.max_grad_norm_ratio ({ratio:g}) times the median of "
        "the steps before"
    )
