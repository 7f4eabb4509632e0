"""Batches that fit in memory: where one does not, its halves are computed one after the other.

What is computed stays the same: noise is addressed, gradients are summed. Where a network's result depends on how many
images it is given at once, as it may in the last bits, so does what comes of the halves.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, TypeVar

from advantageflow.errors import out_of_memory

if TYPE_CHECKING:  # plans are made without torch
    import torch

    from advantageflow.world import World

T = TypeVar("T")
Size = int | Literal["auto"]
LARGEST = {"cpu": 64}  # that "auto" begins with; a system short of main memory may end a process without an error
LARGEST_OF_GPU = 512


class Fits:
    """How much of each kind of work fits in the memory of this process, as far as it has been tried.

    say: told a line where something did not fit, and what "auto" came to.
    """

    def __init__(self) -> None:
        self.say: Callable[[str], None] = warnings.warn
        self._most: dict[str, int] = {}  # of kinds that ran out of memory
        self._chosen: dict[str, int] = {}  # of kinds that began with "auto"
        self._failed: dict[str, int] = {}  # since when nothing fitted
        self._told: dict[str, int] = {}

    def agreed(self, world: World) -> dict[str, int]:
        """Kind of work -> how many at once fit in each of the processes, where that is not a setting's number."""
        found = world.exchange({world.rank: {**self._chosen, **self._most}})
        return {kind: min(sizes[kind] for sizes in found if kind in sizes) for kind in sorted(set().union(*found))}

    def batches(
        self, kind: str, size: Size, count: int, device: torch.device, processes: int, unit: int = 1
    ) -> list[range]:
        """The numbers of all that is to be done, batch by batch; the same in all processes.

        Args:
            size: a setting's; with "auto" a batch is a process's share, as far as that is sensible.
            unit: of consecutive numbers that are never parted.
        """
        share = max(1, min(-(-count // processes), LARGEST.get(device.type, LARGEST_OF_GPU)))
        if size == "auto":
            self._chosen[kind] = max(share, self._chosen.get(kind, 0))
        each = max((share if size == "auto" else size) // unit, 1) * unit
        return [range(start, min(start + each, count)) for start in range(0, count, each)]

    def dealt(
        self, kind: str, batches: list[range], work: Callable[[range], T], world: World, unit: int
    ) -> Iterator[tuple[range, T]]:
        """The results of this process's batches, in `parts`.

        In an even world none is cut, since the others would wait in the middle of theirs: what does not fit is an
        error. What is done for the others' sake alone is dropped.
        """
        for place, batch in world.deal(batches):
            for part in self.parts(kind, batch, work, len(batch) if world.even else unit):
                if place < len(batches):
                    yield part

    def parts(self, kind: str, numbers: range, work: Callable[[range], T], unit: int = 1) -> Iterator[tuple[range, T]]:
        """The results of work on consecutive parts of `numbers`; on all at once, where nothing ran out of memory.

        What fits is remembered for the same kind of work.

        Args:
            kind: as it is said: "learning".
            work: may be called again for numbers for which it ran out of memory, and must not mind.
            unit: parts are not made smaller, nor cut inside.

        Raises:
            MemoryError, torch.OutOfMemoryError, RuntimeError: the smallest part does not fit.
        """
        start = numbers.start
        while start < numbers.stop:
            part = range(start, min(start + self._most.get(kind, len(numbers)), numbers.stop))
            try:
                found = work(part)
            except Exception as error:
                if len(part) <= unit or not out_of_memory(error):
                    raise
            else:
                self._tell(kind)
                yield part, found
                del found  # while the next is computed
                start = part.stop
                continue
            # by now the error is gone, and with it what its frames held
            _free()
            self._failed.setdefault(kind, len(part))
            self._most[kind] = max(len(part) // 2 // unit, 1) * unit

    def _tell(self, kind: str) -> None:
        """Say what fits, once."""
        failed, chosen = self._failed.pop(kind, None), self._chosen.get(kind, 0)
        if failed:
            self.say(f"out of memory, {kind} {failed} at once: going on with {self._most[kind]}")
        elif chosen > self._told.get(kind, 0) and kind not in self._most:
            self.say(f"{kind} {chosen} at once (batch_size: auto)")
        self._told[kind] = max(chosen, self._told.get(kind, 0))


def _free() -> None:
    """Give back memory that nothing holds any more."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
