"""What trackers are told of a run. Each is told in a thread of its own, so that none can stop a run or hold it up.

The run keeps its rows, and its pictures are files: so a tracker that was away is told later what it missed, and one
that knows which steps it has is told none twice. A step is the number of iterations that are done.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from advantageflow.config import Config, dump_config
from advantageflow.errors import cut
from advantageflow.run.changes import flat
from advantageflow.run.checkpoint import write_atomic
from advantageflow.run.directory import RunDirectory
from advantageflow.run.pace import counted
from advantageflow.run.progress import Display
from advantageflow.run.stored import read_object
from advantageflow.trackers import find
from advantageflow.trackers.base import Opening, Tracker

CLOSE_SECONDS = 20.0  # that the end of a run waits for all trackers
SLOW_SECONDS = 60.0  # after which a tracker that does not answer is spoken of
HAVE = "metrics.jsonl and samples/ have everything"
Step = tuple[dict[str, float], dict[str, Path]]  # numbers and pictures, by name


class Follower:
    """Tells a tracker every step, in order; one that fails is tried again with every further step.

    Args:
        known: steps that were told before, as far as the tracker cannot tell.
        make: opens the tracker.
        step: what there is to tell of one.
    """

    def __init__(self, name: str, known: int, make: Callable[[], Tracker], step: Callable[[int], Step]) -> None:
        self.name, self.known, self.sent, self.lost = name, known, known, 0
        self.lines: list[tuple[str, bool]] = []  # to say, and whether as a warning
        self._make, self._step = make, step
        self._tracker: Tracker | None = None
        self._ended: bool | None = None  # whether the run came to its end, once it has ended
        self._since: float | None = None  # the tracker has been at work
        self._asked = self._warned = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def wake(self, known: int, ended: bool | None = None) -> None:
        """There are steps up to `known`, or the run has ended."""
        with self._changed:
            self.known, self._ended, self._asked = known, ended, True
            self._since = self._since or time.monotonic()
            self._changed.notify()

    def look(self) -> None:
        """Whether the tracker answers."""
        since = self._since
        if since and time.monotonic() - since > SLOW_SECONDS:
            self._warn(f"has not answered for {SLOW_SECONDS:.0f} s")

    def wait(self, seconds: float) -> None:
        """For the end, at most so long; what is missing by then is to be said."""
        self._thread.join(seconds)
        left = max(self.known - self.sent, 0)
        if left or self.lost:
            self.lines.append((f"{self.name} was not told of {counted(left)} and {self.lost} pictures; {HAVE}", True))
        elif self._thread.is_alive():
            self.lines.append((f"{self.name} was told everything, but does not close; it is left alone", True))

    def _work(self) -> None:
        ended = None
        while ended is None:
            with self._changed:
                self._changed.wait_for(lambda: self._asked)
                self._asked, known, ended = False, self.known, self._ended
            try:
                tracker = self._tracker = self._tracker or self._open()
                while self.sent < known:
                    self._tell(tracker, self.sent + 1)
                if ended is not None:
                    tracker.close(ended)
            except Exception as error:  # of whatever kind: it is said, and the run goes on
                self._warn(_told(error))
            with self._changed:
                self._since = self._since if self._asked else None

    def _open(self) -> Tracker:
        tracker = self._make()
        self.sent = self.sent if tracker.last is None else tracker.last
        self.lines.append((f"{self.name}: {tracker.place}", False))
        return tracker

    def _tell(self, tracker: Tracker, step: int) -> None:
        values, pictures = self._step(step)
        for name, file in pictures.items():
            try:
                tracker.picture(step, name, file)
            except Exception as error:  # numbers are not held up by a picture
                self.lost += 1
                self._warn(f"did not take a picture: {_told(error)}")
        tracker.scalars(step, values)
        self.sent = step

    def _warn(self, what: str) -> None:
        if not self._warned:
            self.lines.append((f"{self.name} {what}; the run goes on, it is tried again, and {HAVE}", True))
        self._warned = True


class Tracking:
    """The trackers of a run, which only its first process has. As a context it closes them at the end."""

    def __init__(self, config: Config, directory: RunDirectory, display: Display) -> None:
        self.config, self.directory, self.display = config, directory, display
        self.names = config.run.trackers if directory.writes else []
        self._followers: list[Follower] = []
        self._rows: Sequence[Mapping[str, Any]] = []
        self._found: dict[int, Mapping[str, Any]] = {}  # what was evaluated at the end, by step
        self._before: Mapping[str, Any] | None = None
        self._step = 0

    def begin(self, step: int, rows: Sequence[Mapping[str, Any]], before: Mapping[str, Any] | None) -> None:
        """Open the trackers of a run that has done so many steps, and told them unless it had none until now.

        Args:
            rows: of the steps; it grows as the run goes on.
            before: see `tell`.
        """
        self._rows, self._step, self._before = rows, step, before
        file = self.directory.path / "tracking.json"
        told = step if file.exists() else 0
        if self.names and not file.exists():
            write_atomic(file, json.dumps({"id": uuid4().hex[:12]}) + "\n")
        for name in self.names:
            opening = Opening(
                name=self.directory.path.resolve().name,
                id=read_object(file, {"id": str})["id"],
                folder=self.directory.path,
                step=told,
                settings=flat(self.config),
                yaml=dump_config(self.config),
            )
            self._followers.append(Follower(name, told, partial(find(name), opening), self._content))
        self._wake()

    def tell(self, step: int, before: Mapping[str, Any] | None, found: Mapping[str, Any] | None = None) -> None:
        """A step is done.

        Args:
            before: the base model's held-out scores, where they are known.
            found: an evaluation that no row has: it is the run's last.
        """
        self._step, self._before = step, before
        if found is not None:
            self._found[step] = found
        self._wake()

    def _wake(self) -> None:
        for follower in self._followers:
            follower.wake(self._step)
            follower.look()
        self._say()

    def _say(self) -> None:
        for follower in self._followers:
            while follower.lines:
                line, warns = follower.lines.pop(0)
                (self.display.warn if warns else self.display.say)(line)

    def _content(self, step: int) -> Step:
        row = {**self._rows[step - 1], **self._found.get(step, {})}
        pictures = {"samples": f"{step:06d}.png"}
        if "evaluation" in row and not any("evaluation" in earlier for earlier in self._rows[: step - 1]):
            pictures["base"] = f"{0:06d}.png"  # the base model was drawn for this evaluation
        if step in self._found:
            pictures["before_after"] = "before_after.png"
        files = {name: self.directory.samples / file for name, file in pictures.items()}
        values = numbers(row, self._before if "evaluation" in row else None)
        return values, {name: file for name, file in files.items() if file.exists()}

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the trackers, unless the run is to stop at once."""
        for follower in self._followers:
            follower.wake(self._step, ended=self._step in self._found)
        until = time.monotonic() + (0 if kind is KeyboardInterrupt else CLOSE_SECONDS)
        for follower in self._followers:
            follower.wait(max(until - time.monotonic(), 0))
        self._say()


def numbers(row: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, float]:
    """The numbers of a row by name: its own, and held-out scores as held_out/LABEL, held_out_tasks/TASK,
    held_out_base/LABEL and held_out_difference/LABEL, /LABEL/low and /LABEL/high.
    """
    evaluation, difference = row.get("evaluation", {}), row.get("difference", {})
    told = {name: value for name, value in row.items() if name != "iteration"}
    told |= {f"held_out/{label}": score for label, score in evaluation.items()}
    told |= {f"held_out_tasks/{task}": score for task, score in evaluation.get("tasks", {}).items()}
    told |= {f"held_out_base/{label}": score for label, score in (before or {}).items()}
    for label, found in difference.items():
        told[f"held_out_difference/{label}"] = found["value"]
        told |= {f"held_out_difference/{label}/{end}": found[end] for end in ("low", "high")}
    return {name: value for name, value in told.items() if isinstance(value, int | float)}


def _told(error: Exception) -> str:
    """In a line; an address in it keeps its user and password to itself."""
    text = re.sub(r"//[^/\s@]*@", "//", " ".join(str(error).split()))
    return f"failed, {cut(f'{type(error).__name__}: {text}')}"
