"""All that knows that a run may be shared by several processes.

Work is cut by its place in the run and not by process: item j of a list goes to process j mod size, every process
learns every number, and gradients are summed in float64 and rounded once. So the number of processes changes no bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run: this one's number, and how many there are. A world of one needs no other process."""

    rank: int = 0
    size: int = 1

    def deal(self, items: Sequence[T]) -> Iterator[tuple[int, T]]:
        """This process's items, with their places."""
        for place in range(self.rank, len(items), self.size):
            yield place, items[place]

    def exchange(self, mine: Mapping[int, T]) -> list[T]:
        """The items of all processes, by place; every process calls it and gets the same.

        Items are pickled between the run's own processes, so their tensors should be on the CPU.
        """
        parts: list[Mapping[int, T]] = [mine]
        if self.size > 1:
            parts = [{} for _ in range(self.size)]
            dist.all_gather_object(parts, dict(mine))
        every = {place: item for part in parts for place, item in part.items()}
        return [every[place] for place in sorted(every)]

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, in one piece."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return any(self.exchange({self.rank: flag}))


@contextmanager
def joined(timeout: timedelta) -> Iterator[World]:
    """The world that a launcher started this process in, by RANK and WORLD_SIZE; of one process without these.

    Args:
        timeout: of a process that waits for the others; longer than a reward may take.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timeout)
    try:
        yield World(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
