"""How fast a slow copy of the weights follows the learner: one formula for every published schedule."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decay:
    """ρ in θ_slow <- ρ θ_slow + (1 - ρ) θ after optimizer step s: min(base + slope · max(s - start, 0), limit).

    Before step `start` it is `base`. With `every` = n the copy moves in every n-th iteration only.

    Raises:
        ValueError: base or limit outside [0, 1), or slope, start or every out of range.
    """

    base: float = 0.0
    slope: float = 0.0
    start: int = 0
    limit: float = 0.999999
    every: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.base < 1 and 0 <= self.limit < 1 and self.slope >= 0 and self.start >= 0 and self.every >= 1):
            raise ValueError(f"{self} is no decay; base and limit lie in [0, 1), slope and start >= 0, every >= 1")

    def __call__(self, step: int) -> float:
        """ρ after optimizer step `step`."""
        return min(self.base + self.slope * max(step - self.start, 0), self.limit)


# By the numbers that recipes use, as in arXiv 2509.16117's code: on-policy; a ramp to 0.5 over 500 steps; on-policy for
# 75 steps, then a ramp to 0.999.
SCHEDULES = {0: Decay(), 1: Decay(slope=0.001, limit=0.5), 2: Decay(slope=0.0075, start=75, limit=0.999)}


def decay_of(schedule: float, every: int = 1) -> Decay:
    """The decay that a recipe's number means: a schedule (0, 1 or 2), or a constant between 0 and 1.

    Raises:
        ValueError: neither.
    """
    known = SCHEDULES.get(int(schedule)) if schedule == int(schedule) else None
    if known is not None:
        return Decay(known.base, known.slope, known.start, known.limit, every)
    if 0 < schedule < 1:
        return Decay(base=schedule, every=every)
    raise ValueError(f"unknown decay schedule {schedule}; use 0, 1, 2, or a constant between 0 and 1")
