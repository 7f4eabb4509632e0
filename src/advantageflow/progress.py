"""Progress on the terminal: the run, its stage, the time left, and the current reward."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Display:
    """Two bars: iterations of the run, and images or noised copies of the current stage."""

    def __init__(self, console: Console, iterations: int) -> None:
        self.console = console
        self.iterations = iterations
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._run = self._bars.add_task("training", total=iterations)
        self._stage = self._bars.add_task("starting", total=1)
        self._name = "starting"
        self._reward = ""

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def resumed(self, iteration: int) -> None:
        """Start the run's bar at the iterations that an earlier process did."""
        self._bars.update(self._run, completed=iteration)

    def stage(self, name: str, total: int) -> None:
        self._name = name
        self._bars.reset(self._stage, total=total, description=f"  {name}")

    def advance(self, count: int) -> None:
        self._bars.advance(self._stage, count)

    def warn(self, text: str) -> None:
        """Leave a line above the bars."""
        self.console.print(text, style="bold yellow", highlight=False, soft_wrap=True)

    def iteration_done(self, row: dict[str, Any]) -> None:
        done = row["iteration"] + 1
        text = f"reward {row['reward/mean']:.3f}"
        self._bars.update(self._run, completed=done, description=f"training, {text}")
        if not self.console.is_terminal:  # a log file gets lines instead of bars
            seconds = " ".join(f"{stage} {row[f'seconds/{stage}']:.1f}s" for stage in ("sampling", "learning"))
            self.console.print(f"iteration {done} of {self.iterations}: {text}, {seconds}", highlight=False)
