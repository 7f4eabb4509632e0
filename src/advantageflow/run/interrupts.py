"""Signals that stop a run: the first lets it finish its iteration and save, the second ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_CODE = 130  # of a run that was stopped and can be continued, whatever the signal
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class Stopped(KeyboardInterrupt):
    """A run was stopped by a signal before its end; it can be continued.

    Args:
        at_once: in the middle of an iteration, whose rewards may still be computed.
    """

    def __init__(self, folder: Path, at_once: bool = False) -> None:
        super().__init__(f"stopped; continue with: advantageflow train --resume {folder}")
        self.at_once = at_once


@contextmanager
def stopping(
    stop: Callable[[], None], say: Callable[[str], None], at_once: Callable[[], None] | None = None
) -> Iterator[None]:
    """Call `stop` at the first of the signals; at the second call `at_once` and raise KeyboardInterrupt.

    Only the main thread of a process may listen to signals; in others nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def handle(number: int, frame: object) -> None:
        asked.append(number)
        if number == getattr(signal, "SIGHUP", None):
            _leave_terminal()
        if len(asked) > 1:
            if at_once:
                at_once()
            raise KeyboardInterrupt
        stop()
        say(f"{signal.Signals(number).name}: stopping after this iteration; once more (Ctrl-C) stops at once")

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
