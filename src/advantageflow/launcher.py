"""One command in several processes of this machine, which share its work: started, watched and ended together."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from subprocess import DEVNULL, Popen
from typing import IO, Any

from advantageflow.errors import LostError
from advantageflow.run.interrupts import EXIT_CODE
from advantageflow.studies.children import ended_by_signals, forget, start

LOOK_SECONDS = 0.1
GRACE_SECONDS = 30.0  # for the others to end, after one has
MOST_TOLD = 4000  # characters of what a process said


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run `advantageflow` with arguments in so many processes; the exit code of the first that failed, or 0.

    The first process speaks; of another that fails first, its last words are printed. Signals are handed on to all.
    """
    with ExitStack() as stack, ended_by_signals(lambda line: None):
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(processes)]
        port = _free_port()
        children = {
            rank: start(
                [sys.executable, "-m", "advantageflow", *arguments],
                _environment(rank, processes, port),
                **({"stdout": DEVNULL, "stderr": said[rank]} if rank else {}),
            )
            for rank in range(processes)
        }
        ended = _wait(children)
        # those that only lost the others are not to blame
        failed = [rank for rank, code in ended.items() if code not in (0, LostError.exit_code)]
        failed += [rank for rank, code in ended.items() if code == LostError.exit_code]
        if not failed:
            return 0
        code = ended[failed[0]]
        _tell(failed[0], code, said[failed[0]])
    return code if code > 0 else LostError.exit_code


def _environment(rank: int, processes: int, port: int) -> Mapping[str, str]:
    """Of a process: its place, where all meet, and its share of the CPU's threads."""
    threads = str(max((os.cpu_count() or 1) // processes, 1))
    return {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _wait(children: Mapping[int, Popen[Any]]) -> dict[int, int]:
    """The exit codes of all, in the order in which they ended.

    After one has failed the others find that out as they speak with it; those that do not end are killed. A run that
    was asked to stop has not failed, and its first process may take its time to save.
    """
    ended: dict[int, int] = {}
    failed: float | None = None
    while len(ended) < len(children):
        for rank, child in children.items():
            if rank not in ended and child.poll() is not None:
                forget(child)
                ended[rank] = child.returncode
                if child.returncode not in (0, EXIT_CODE) and failed is None:
                    failed = time.monotonic()
        if failed is not None and time.monotonic() - failed > GRACE_SECONDS:
            for child in children.values():
                child.kill()  # none that has ended
        time.sleep(LOOK_SECONDS)
    return ended


def _tell(rank: int, code: int, said: IO[bytes]) -> None:
    """Say how a process failed, where it could not itself."""
    if code < 0:
        name = signal.Signals(-code).name
        print(
            f"error: process {rank} was ended by {name}, as the system does where memory runs out; the run can be "
            "continued with --resume",
            file=sys.stderr,
        )
    elif rank:
        said.seek(0)
        print(said.read().decode(errors="replace")[-MOST_TOLD:].strip(), file=sys.stderr)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
