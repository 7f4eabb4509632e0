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
    probes: further images, each by Euler's method from a recorded state: the places on the sampler's grid that it goes
        by, from one after all splits to the last. Place i is before step i.

    Raises:
        ValueError: lengths differ, a step is kept that does not exist, a state would split into fewer than one, or a
            probe does not go from a recorded state, after all splits, to the end.
    """

    noise: tuple[float, ...]
    keep: frozenset[int]
    children: tuple[int, ...] = ()
    probes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.children and len(self.children) != len(self.noise):
            raise ValueError(
                f"children has {len(self.children)} steps, noise {len(self.noise)}; give one of each a step"
            )
        if not self.keep <= {*range(len(self.noise))} or any(number < 1 for number in self.children):
            raise ValueError(f"{self} keeps a step that it does not have, or splits a state into less than one")
        for way in self.probes:
            if (
                [*way] != sorted({*way})
                or way[-1] != len(self.noise)
                or not {way[0], way[0] - 1} & self.keep
                or self.leaves_after(way[0] - 1) > 1
            ):
                raise ValueError(
                    f"the probe {way} must go from a recorded state, after all splits, to the last place, "
                    f"{len(self.noise)}"
                )

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
