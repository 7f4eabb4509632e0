"""What a command says while it works: bars on a terminal; elsewhere, as in a log file, lines with the time of day."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from advantageflow.ranks import place
from advantageflow.run.pace import TRAINING, Pace, duration

if TYPE_CHECKING:
    from advantageflow.config import Config

LINE_SECONDS = 30.0  # without a terminal, work that takes long says a line as often as this


def console(quiet: bool = False) -> Console:
    """To speak on: of several processes that share a command the first alone is heard."""
    return Console(quiet=quiet or place().rank > 0)


def say(console: Console, text: str, style: str = "") -> None:
    """A line, as it is; with the time of day where there is no terminal."""
    at = "" if console.is_interactive else time.strftime("%H:%M:%S ")
    console.print(Text(at + text, style=style), soft_wrap=True)


class _Name(ProgressColumn):
    """A task's name, the one column that gives way."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=False))

    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")


# Each column with the width of the terminal from which on there is room for it
COLUMNS: tuple[tuple[int, ProgressColumn], ...] = (
    (0, _Name()),
    (72, BarColumn(bar_width=20)),
    (0, MofNCompleteColumn(table_column=Column(no_wrap=True))),
    (56, TimeElapsedColumn(table_column=Column(no_wrap=True))),
    (36, TimeRemainingColumn(table_column=Column(no_wrap=True))),
)


class _Fitting(Progress):
    """As many columns as there is room for, so that no line wraps, also when the terminal is resized."""

    def __init__(self, console: Console) -> None:
        self._terminal = console
        # iterations may take minutes: the time left is estimated from the whole of a task
        super().__init__(console=console, disable=not console.is_interactive, speed_estimate_period=1e9)

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        self.columns = tuple(column for width, column in COLUMNS if self._terminal.width >= width)
        return super().make_tasks_table(tasks)


class Bars:
    """A bar for each task; without a terminal a line at its end, and one every LINE_SECONDS where it takes long."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._progress = _Fitting(self.console)
        self._told: set[int] = set()  # tasks whose end is said
        self._spoken = time.monotonic()

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str, style: str = "") -> None:
        """A line above the bars."""
        say(self.console, text, style)
        self._spoken = time.monotonic()

    def add(self, name: str, total: int, done: int = 0, *, tell_end: bool = True) -> int:
        """A task, by its number.

        Args:
            tell_end: whether its end is said in a line where there is no terminal.
        """
        task = self._progress.add_task(name, total=total, completed=done)
        if tell_end and done < total:
            self._told.add(task)
        return task

    def restart(self, task: int, name: str, total: int) -> None:
        """Make another task of one."""
        self._progress.reset(TaskID(task), total=total, description=name)

    def advance(self, task: int, count: int = 1) -> None:
        known = self._progress.tasks[task]
        self._progress.advance(TaskID(task), min(count, (known.total or 0) - known.completed))
        self._tell(task)

    def update(self, task: int, *, name: str | None = None, done: int | None = None, total: int | None = None) -> None:
        """Set what is given."""
        self._progress.update(TaskID(task), description=name, completed=done, total=total)
        self._tell(task)

    def _tell(self, task: int) -> None:
        if self.console.is_interactive:
            return
        found = self._progress.tasks[task]
        ends = found.finished and task in self._told
        if ends or (not found.finished and time.monotonic() - self._spoken >= LINE_SECONDS):
            self.say(f"{found.description}: {found.completed:.0f} of {found.total:.0f}")
        if ends:
            self._told.remove(task)


class Display:
    """A run's progress: bars of its iterations and of the current stage, and a line about every evaluation.

    Without a terminal there is a line about every iteration.
    """

    def __init__(self, console: Console, config: Config) -> None:
        self._bars, self._pace, self._score = Bars(console), Pace(config), config.best_score
        self._console = console
        self._run = self._bars.add("training", config.run.iterations, tell_end=False)
        self._stage = self._bars.add("starting", 1, tell_end=False)

    def __enter__(self) -> Display:
        self._bars.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.__exit__(kind, error, traceback)

    def resumed(self, iteration: int, knows_base: bool) -> None:
        """Start the run's bar at the iterations that an earlier process did; it may have evaluated the base model."""
        self._pace.knows_base = knows_base
        self._bars.update(self._run, done=iteration)

    def stage(self, name: str, total: int) -> None:
        """A stage of an iteration begins."""
        self._bars.restart(self._stage, name, total)

    def stage_done(self, name: str, total: int, seconds: float) -> None:
        """It took so many seconds, from which the time that is left is told."""
        if name == "evaluating":
            self._pace.evaluated(total, seconds)

    def advance(self, count: int) -> None:
        self._bars.advance(self._stage, count)

    def say(self, text: str) -> None:
        """Leave a line above the bars."""
        self._bars.say(text)

    def warn(self, text: str) -> None:
        """Leave a line above the bars that stands out."""
        self._bars.say(text, "bold yellow")

    def evaluated(
        self, iteration: int, scores: Mapping[str, Any], difference: Mapping[str, Mapping[str, float | None]] | None
    ) -> None:
        """A line about held-out scores after so many iterations; of the base model, where there is no difference."""
        label = self._score
        if difference is None:
            self._pace.knows_base = True
            self.say(f"base model: {label} {number(scores[label])}")
        else:
            self.say(f"iteration {iteration}: {label} {number(scores[label])} ({change(difference[label])})")

    def iteration_done(self, row: Mapping[str, Any]) -> None:
        done, reward = row["iteration"] + 1, f"reward {row['reward/mean']:.3f}"
        seconds = {stage: row[f"seconds/{stage}"] for stage in TRAINING}
        self._pace.iterated(sum(seconds.values()))
        last = self._pace.last(done, row["seconds/training"])
        self._bars.update(self._run, name=f"training, {reward}", done=done, total=last)
        first = self._pace.measured == 1
        if not self._console.is_interactive:
            spent = ", ".join(f"{stage} {seconds[stage]:.1f} s" for stage in ("sampling", "learning"))
            left = "" if first or done == last else f", about {duration(self._pace.left(done, last))} left"
            self.say(f"iteration {done} of {self._pace.told(last)}: {reward}, {spent}{left}")
        if first and done < last:
            self.say(self._pace.expected(done, last))


def number(value: float, sign: str = "", decimals: int = 3) -> str:
    """A score, as in .381; with "+" as `sign` also where it is positive."""
    return re.sub(r"^([+-]?)0\.", r"\1.", f"{value:{sign}.{decimals}f}")


def change(difference: Mapping[str, float | None]) -> str:
    """A difference with half the width of its interval, as in +.037 ± .020; of one image there is none.

    Three decimals, and more where the interval is narrower than that: scores have scales of their own.
    """
    value, low, high = (difference[key] for key in ("value", "low", "high"))
    assert value is not None
    if low is None or high is None:
        return number(value, "+")
    half = (high - low) / 2
    decimals = max(3, -math.floor(math.log10(half))) if half > 0 else 3
    return f"{number(value, '+', decimals)} ± {number(half, decimals=decimals)}"
