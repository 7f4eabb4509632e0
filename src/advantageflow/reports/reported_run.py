"""What a page tells of a run, read from its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advantageflow.config import Config, ConfigError
from advantageflow.errors import to_type
from advantageflow.methods import label_of
from advantageflow.reports.page import Place
from advantageflow.reports.page_pictures import FULL_BYTES, PICTURES, Picture, read_pictures
from advantageflow.run.directory import RunDirectory
from advantageflow.run.history import Point, history
from advantageflow.run.stored import DamagedError


@dataclass(frozen=True)
class ReportedRun:
    """What a run's folder tells; `points` starts with the base model, and is empty before the first evaluation."""

    name: str
    config: Config
    rows: list[dict[str, Any]]
    points: list[Point]
    summary: dict[str, Any] | None  # None: not finished
    environment: dict[str, Any] | None
    changes: list[dict[str, Any]]  # see `RunDirectory.changes`
    pictures: dict[int, list[Picture]]  # iteration -> samples

    @property
    def labels(self) -> list[str]:
        """Of the held-out scores; the first goes by task."""
        known = self.points[0].scores if self.points else self.config.evaluation.rewards
        return [label for label in known if label != "tasks"]

    @property
    def method(self) -> str:
        """By which its colour is chosen, see `colors.color_of`."""
        return label_of(self.config.objective)

    def place(self, iteration: int, seconds: float) -> Place:
        """Where a moment is on each axis."""
        rollout = self.config.rollout
        return {
            "seconds": seconds,
            "images": iteration * rollout.prompts_per_iteration * rollout.images_per_prompt,
            "steps": iteration * self.config.learn.optimizer_steps,
        }


def check_folder(folder: Path) -> None:
    """Check that there is a run in a folder.

    Raises:
        ConfigError: there is none; where it has runs inside, as of a comparison, these are named.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        inner = sorted([*folder.glob("*/config.yaml"), *folder.glob("runs/*/config.yaml")])  # of a comparison
        such = f", such as {inner[0].parent}" if inner else ""
        raise ConfigError(
            f"{folder} holds no run: there is no {file}; give folders that `advantageflow train` wrote{such}"
        )


def load_run(folder: Path, name: str, runs: int = 1) -> ReportedRun:
    """A run's folder.

    Args:
        name: by which the report calls it.
        runs: how many runs share the page; the more, the fewer pictures each has.

    Raises:
        ConfigError: it holds no run, or not one finished iteration.
    """
    check_folder(folder)
    directory = RunDirectory(folder)
    rows = directory.metrics()
    if not rows:
        raise ConfigError(
            f"{folder} has no finished iteration to report; continue it with: "
            f"advantageflow train --resume {to_type(folder)}"
        )
    summary = directory.summary()
    if summary:
        _check_cost(summary, folder / "summary.json")
    before = summary["before"] if summary else directory.before()
    return ReportedRun(
        name=name,
        config=directory.config(),
        rows=rows,
        points=history(rows, before, summary),
        summary=summary,
        environment=directory.environment(),
        changes=directory.changes(),
        pictures=read_pictures(directory.samples, PICTURES // runs, FULL_BYTES // runs),
    )


def _check_cost(summary: dict[str, Any], file: Path) -> None:
    seconds = summary.get("seconds")
    named = {"iterations": summary.get("iterations"), **(seconds if isinstance(seconds, dict) else {"seconds": None})}
    for name, value in named.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or "training" not in named:
            raise DamagedError(f"{file} is damaged: {name!r} is {type(value).__name__}, or there is no 'training'")


def names(folders: Sequence[Path]) -> list[str]:
    """Folders' names; their paths where names repeat."""
    count = Counter(folder.resolve().name for folder in folders)
    return [name if count[name := folder.resolve().name] == 1 else str(folder) for folder in folders]
