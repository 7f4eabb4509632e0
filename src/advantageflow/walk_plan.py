"""What each step of a sampler does, decided without torch: see `walks`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What each step of a sampler does.

    noise: the step's noise level; 0 is the ODE's step.
    keep: the steps whose transitions are recorded.
    children: into how many each state splits before the step; () for none anywhere.

    Raises:
        ValueError: lengths differ, a step is kept that does not exist, or a state would split into fewer than one.
    """

    noise: tuple[float, ...]
    keep: frozenset[int]
    children: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.children and len(self.children) != len(self.noise):
            raise ValueError(
                f"children has {len(self.children)} steps, noise {len(self.noise)}; give one of each a step"
            )
        if not self.keep <= {*range(len(self.noise))} or any(number < 1 for number in self.children):
            raise ValueError(f"{self} keeps a step that it does not have, or splits a state into less than one")

    @property
    def leaves(self) -> int:
        """Images from one first noise."""
        return math.prod(self.children)

    def leaves_after(self, step: int) -> int:
        """Images from one state that step `step` led to."""
        return math.prod(self.children[step + 1 :])


def chain(levels: Iterable[float], keep: Iterable[int]) -> Plan:
    """A plan without splits."""
    return Plan(tuple(levels), frozenset(keep))
