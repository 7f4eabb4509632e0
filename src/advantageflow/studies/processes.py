"""Child processes side by side: so many at once, each with its CPU threads and its GPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import count
from typing import TypeVar

import torch

T = TypeVar("T")


class _Place(threading.local):
    """A worker thread's number among those at work."""

    number = 0


_place = _Place()


def in_parallel(tasks: Sequence[Callable[[], T]], jobs: int) -> Iterator[T]:
    """Results of tasks as they are done, `jobs` at once; after an error no further one is started."""
    numbers = count()

    def take_place() -> None:
        _place.number = next(numbers)

    pool = ThreadPoolExecutor(jobs, initializer=take_place)
    try:
        for future in as_completed([pool.submit(task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def child_environment(threads: int, processes: int = 1) -> dict[str, str]:
    """The environment of a child process of a task: of several GPUs it sees one, in turn.

    Args:
        threads: CPU threads; 0 for PyTorch's choice.
        processes: that the child starts, each with a GPU of its own.
    """
    environment = dict(os.environ)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    gpus = visible_gpus()
    if len(gpus) > 1:
        first = _place.number * processes
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[(first + i) % len(gpus)] for i in range(processes))
    return environment


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    return [name for name in named.split(",") if name]
