"""All that knows that a run may be shared by several processes.

Work is cut by its place in the run and not by process: item j of a list goes to process j mod size, every process
learns every number, and gradients are summed in float64 and rounded once. So the number of processes changes no bit.

A process that is asked to stop deals itself no further item; at their next exchange all processes stop together.

Where the processes need each other for every item, as with weights that are parted among them, the world is even.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from advantageflow.errors import ConfigError, LostError, cut, shown
from advantageflow.ranks import meeting_point, place

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)  # of a process that waits for the others
LOST = (
    "another process of this run has ended, or did not answer in time; its own message says why, and the run can be "
    "continued with --resume"
)


class AskedToStopError(Exception):
    """A process was asked to stop; raised in all of them, at the same exchange."""


@dataclass
class World:
    """The processes of a run: this one's number, and how many there are. A world of one needs no other process.

    stopping: this process was asked to stop.
    even: all processes work on the same number of items, each at the same time as the others.
    group: through which the processes speak; None for PyTorch's default.
    backend: how they speak; None for PyTorch's default.
    """

    rank: int = 0
    size: int = 1
    stopping: bool = False
    even: bool = False
    group: Any = None
    backend: str | None = None

    def deal(self, items: Sequence[T]) -> Iterator[tuple[int, T]]:
        """This process's items, with their places; no further one after it was asked to stop.

        In an even world, no further one after any was asked to; and a process that would have one item less than the
        others gets the last of all once more, with a place beyond the end: what comes of it is to be dropped.
        """
        end = math.ceil(len(items) / self.size) * self.size if self.even else len(items)
        for number in range(self.rank, end, self.size):
            if self._stops():
                return
            yield number, items[min(number, len(items) - 1)]

    def _stops(self) -> bool:
        """Whether this process was asked to stop; in an even world, whether any was."""
        if not self.even:
            return self.stopping
        asked = torch.tensor([float(self.stopping)])
        self.sum([asked])
        return bool(asked)

    def exchange(self, mine: Mapping[int, T]) -> list[T]:
        """The items of all processes, by place; every process calls it and gets the same.

        Items are pickled between the run's own processes, so their tensors should be on the CPU.

        Raises:
            AskedToStopError: one of the processes was asked to stop.
            LostError: one of them has ended, or does not answer.
        """
        parts: list[tuple[bool, Mapping[int, T]]] = [(self.stopping, mine)]
        if self.size > 1:
            parts = [(False, {})] * self.size
            with _others():
                dist.all_gather_object(parts, (self.stopping, dict(mine)), group=self.group)
        if any(stopping for stopping, _ in parts):
            raise AskedToStopError
        every = {number: item for _, part in parts for number, item in part.items()}
        return [every[number] for number in sorted(every)]

    def share(self, work: Callable[[], T]) -> T:
        """What the first process gets from `work`, which the others do not call."""
        if self.size == 1:
            return work()
        found: list[Any] = [work() if self.rank == 0 else None]
        with _others():
            dist.broadcast_object_list(found, src=0, group=self.group)
        answer: T = found[0]
        return answer

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, in one piece."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _others():
            dist.all_reduce(flat, group=self.group)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def check_same(self, mine: Mapping[str, Any]) -> None:
        """Check that every process has the same values under the same names.

        Raises:
            ConfigError: one has not; the message names process, machine and what differs.
        """
        hosts = self.exchange({self.rank: (platform.node(), dict(mine))})
        for rank, (host, theirs) in enumerate(hosts):
            for name, value in hosts[0][1].items():
                if theirs.get(name) != value:
                    raise ConfigError(
                        f"process {rank} on {host} has {name} {shown(theirs.get(name), 60)}, and process 0 on "
                        f"{hosts[0][0]} has {shown(value, 60)}; give all processes the same command, files and versions"
                    )

    def patient(self, timeout: timedelta) -> World:
        """The same processes, of which each waits so long for the others, and at least PATIENCE."""
        if self.size == 1 or timeout <= PATIENCE:
            return self
        return replace(self, group=dist.new_group(timeout=timeout, backend=self.backend))


@contextmanager
def joined(timeout: timedelta = PATIENCE) -> Iterator[World]:
    """The world that a launcher started this process in; of one process without a launcher.

    Of several GPUs, each process of a machine takes that of its number; all take a machine's only one.

    Raises:
        ConfigError: there is no GPU for a process, or nothing says where the processes meet.
    """
    mine = place()
    if mine.size == 1:
        yield World()
        return
    gpus = torch.cuda.device_count()
    if gpus:
        if mine.local >= gpus > 1:
            raise ConfigError(f"process {mine.rank} has no GPU: its machine has {gpus}; start so many processes on it")
        torch.cuda.set_device(mine.local % gpus)  # a launcher may show each process its own alone
    os.environ.update(meeting_point())
    with _others():
        dist.init_process_group("gloo", timeout=timeout)
    world = World(mine.rank, mine.size)
    if gpus:
        gpu = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        backend = f"cpu:gloo,cuda:{gpu_backend(world.exchange({mine.rank: (platform.node(), gpu)}))}"
        with _others():
            world = replace(world, group=dist.new_group(timeout=timeout, backend=backend), backend=backend)
    yield world
    dist.destroy_process_group()  # not after an error, where others may wait


def gpu_backend(gpus: Sequence[tuple[str, str]]) -> str:
    """Through what processes sum what lies on their GPUs, which are told by machine and name: NCCL refuses to share."""
    return "nccl" if len(set(gpus)) == len(gpus) else "gloo"


@contextmanager
def _others() -> Iterator[None]:
    """An error in talking to the other processes is theirs."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error


def _lost(error: RuntimeError) -> LostError:
    return LostError(f"{LOST}; this one was told: {cut(' '.join(str(error).split()))}")


@contextmanager
def calling_together() -> Iterator[None]:
    """Of the errors in work that all processes of an even world do together, those in talking are the others'.

    Raises:
        LostError: one of them has ended, or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "/gloo/" not in str(error):
            raise
        raise _lost(error) from error
