"""What a tracker is: it is opened with a run's settings, told every step once and in order, and closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = "advantageflow"  # under which runs are found, unless the tracker's own environment names another


@dataclass(frozen=True)
class Opening:
    """What a tracker is opened with.

    Args:
        name: of the run, for people.
        id: of the run, the same after `--resume`: letters and digits.
        folder: of the run.
        step: iterations that were told before, unless a tracker lost them; 0 of a run that is new to its trackers.
        settings: every setting, as "section.key"; no secret is among them.
        yaml: the same as config.yaml has it.
    """

    name: str
    id: str
    folder: Path
    step: int
    settings: Mapping[str, Any]
    yaml: str


class Tracker(ABC):
    """All but `check` runs in a thread of its own, may take long, and may raise anything.

    A step is the number of iterations that are done.

    Args:
        last: the last step that the tracker has of a run that goes on; None where it cannot tell.
        place: where the run can be seen, for people; "" where there is nothing to say.
    """

    last: int | None = None
    place: str = ""

    @abstractmethod
    def __init__(self, opening: Opening) -> None: ...

    @classmethod
    def check(cls) -> None:
        """Raise ConfigError where it is certain that a run could not be told."""
        return

    @abstractmethod
    def picture(self, step: int, name: str, file: Path) -> None:
        """Show a PNG; of one step before the scalars."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """All numbers of a step, by name, such as "reward/mean"."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """Send what waits; the run has come to its end, or else can be continued."""
