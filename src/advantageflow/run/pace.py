"""How long a run will still take, from what its process has measured so far."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advantageflow.config import Config

TRAINING = ("sampling", "scoring", "learning")  # stages of an iteration, evaluation aside


class Pace:
    """Seconds of an iteration and of an evaluated image, and what they come to for the rest of a run."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._iterations: list[float] = []
        self._images, self._evaluating = 0, 0.0
        self.knows_base = False

    def iterated(self, seconds: float) -> None:
        self._iterations.append(seconds)

    def evaluated(self, images: int, seconds: float) -> None:
        self._images += images
        self._evaluating += seconds

    @property
    def measured(self) -> int:
        """Iterations that this process has done."""
        return len(self._iterations)

    @property
    def _each(self) -> float:
        """Seconds of an iteration; the first one warms up, and counts only while there is no other."""
        known = self._iterations[1:] or self._iterations
        return sum(known) / len(known)

    def last(self, done: int, training: float) -> int:
        """The number of iterations at which the run will end, with a budget in time as far as can be foreseen.

        Args:
            done: iterations so far.
            training: seconds of training so far.
        """
        run = self._config.run
        if run.max_seconds is None:
            return run.iterations
        return min(run.iterations, done + math.ceil(max(0.0, run.max_seconds - training) / max(self._each, 1e-9)))

    def left(self, done: int, last: int) -> float:
        """Seconds from `done` iterations to the end, with evaluations if one was measured."""
        images = images_after(self._config, done, last, self.knows_base)
        return (last - done) * self._each + images * self._evaluating / max(self._images, 1)

    def told(self, last: int) -> str:
        """The last iteration as it is said: with a budget in time it is an estimate."""
        return str(last) if self._config.run.max_seconds is None else f"about {last}"

    def expected(self, done: int, last: int) -> str:
        """A line about the time that is left."""
        left = f"about {duration(self.left(done, last))} left: {counted(last - done)} of {duration(self._each)}"
        if not self._images:
            return f"{left}, evaluations aside"
        images = images_after(self._config, done, last, self.knows_base)
        return f"{left}, and {images} evaluated images in {duration(images * self._evaluating / self._images)}"


def images_after(config: Config, done: int, last: int, knows_base: bool) -> int:
    """Images that are drawn in the evaluations, and for the pictures, of iterations `done` + 1 to `last`, the end.

    Args:
        knows_base: whether the base model was evaluated before.
    """
    settings, samples = config.evaluation, config.run.samples_every

    def between(every: int) -> int:
        return max(0, (last - 1) // every - done // every) if every else 0

    ends = 1 + (not knows_base)
    pictures = between(samples)
    pictures += -between(math.lcm(samples, settings.every)) if settings.shows_evaluated else ends
    return (between(settings.every) + ends) * settings.num_images + pictures * settings.number_shown


def counted(count: int, thing: str = "iteration") -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """As in 2.6 s, 40 s, 6 min, 1.5 h."""
    for most, unit, size in ((10, "s", 1), (90, "s", 1), (90 * 60, "min", 60), (math.inf, "h", 3600)):
        if seconds < most:
            amount = seconds / size
            return f"{amount:.1f} {unit}" if most == 10 or unit == "h" else f"{amount:.0f} {unit}"
    raise ValueError(f"no duration: {seconds}")
