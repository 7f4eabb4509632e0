"""Signals that stop a run: the first lets it finish its batch and save, the second ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from advantageflow.errors import to_type
from advantageflow.ranks import place

EXIT_CODE = 130  # of a run that was stopped and can be continued, whatever the signal
SAME_SECONDS = 2.0
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class Stopped(KeyboardInterrupt):
    """A run was stopped by a signal before its end; it can be continued. Rewards may still be computed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"stopped; continue with: advantageflow train --resume {to_type(folder)}")


@contextmanager
def stopping(
    stop: Callable[[], None], say: Callable[[str], None], at_once: Callable[[], None] | None = None
) -> Iterator[None]:
    """Call `stop` at the first of the signals; at the second call `at_once` and raise KeyboardInterrupt.

    A launcher hands a signal on that its processes may have got already: of several processes the same signal within
    SAME_SECONDS is one. Only the main thread of a process may listen to signals; in others nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[float] = []

    def handle(number: int, frame: object) -> None:
        if place().size > 1 and asked and time.monotonic() - asked[0] < SAME_SECONDS:
            return
        asked.append(time.monotonic())
        if number == getattr(signal, "SIGHUP", None):
            _leave_terminal()
        if len(asked) > 1:
            if at_once:
                at_once()
            raise KeyboardInterrupt
        stop()
        say(f"{signal.Signals(number).name}: saving after this batch, then stopping; once more (Ctrl-C) stops at once")

    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    # what nohup or a shell has switched off stays off, but for Ctrl-C
    numbers = [n for n in numbers if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave_terminal() -> None:
    """A terminal that has hung up is written to no more: that would be an error in the middle of an iteration."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream.isatty():
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
