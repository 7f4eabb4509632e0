"""Child processes that end with this one: a signal lets them save and stop, a second or our own death kills them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from advantageflow.run.interrupts import stopping

PARENT = "ADVANTAGEFLOW_PARENT"  # tells a child whose it is
POLL_SECONDS = 0.5
_alive: set[subprocess.Popen[str]] = set()
_lock = threading.RLock()  # a signal may interrupt the thread that holds it
_stopping = threading.Event()


class StoppedError(Exception):
    """A child was asked to stop, or not started any more."""


def run(command: Sequence[str], env: Mapping[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end, in a session of its own: Ctrl-C reaches it by way of `ended_by_signals`.

    Raises:
        StoppedError: a signal came before it had ended.
    """
    child = start(command, env, **options)
    try:
        out, error = child.communicate()
    finally:
        forget(child)
    if _stopping.is_set():
        raise StoppedError
    return subprocess.CompletedProcess(command, child.returncode, out, error)


def start(command: Sequence[str], env: Mapping[str, str], **options: Any) -> subprocess.Popen[str]:
    """Start a command of ours, see `run`; `forget` it at its end.

    Raises:
        StoppedError: a signal came before.
    """
    with _lock:
        if _stopping.is_set():
            raise StoppedError
        child = subprocess.Popen(
            command,
            env={**env, **_apart(), PARENT: str(os.getpid())},
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
            **options,
        )
        _alive.add(child)
    return child


def forget(child: subprocess.Popen[str]) -> None:
    """Hand no further signal on to a child, which has ended."""
    with _lock:
        _alive.discard(child)


def _apart() -> dict[str, str]:
    """`python -m` would take a file of the current folder, such as yaml.py, for the module of that name."""
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return {} if ours == os.getcwd() else {"PYTHONSAFEPATH": "1"}  # which Python 3.10 does not know


@contextmanager
def ended_by_signals(say: Callable[[str], None]) -> Iterator[None]:
    """In this block a signal is handed on to the children, and a second one kills them."""
    try:
        with stopping(lambda: _stop(signal.SIGTERM), say, at_once=lambda: _stop(signal.SIGKILL)):
            yield
    finally:
        _stopping.clear()


def _stop(number: signal.Signals) -> None:
    _stopping.set()
    with _lock:
        for child in _alive:
            child.send_signal(number)


def end_with_parent() -> None:
    """In a child: be killed soon after the process that started it has gone, however that went.

    So are those of torchrun and accelerate launch, which would leave theirs at work behind them.
    """
    parent = os.environ.pop(PARENT, "")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        parent = str(os.getppid())
    if not parent.isdigit():
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)  # runs lose nothing by it

    threading.Thread(target=watch, daemon=True).start()
