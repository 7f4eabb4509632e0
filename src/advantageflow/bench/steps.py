"""How far a measurement is, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from advantageflow.run.pace import duration
from advantageflow.run.progress import Bars


class Steps:
    """One bar, of all that is measured; its unit is about an iteration of the recipe.

    total: of all steps' sizes.
    """

    def __init__(self, bars: Bars, total: int) -> None:
        self._bars, self._left, self._told = bars, total, False
        self._task = bars.add("starting", total, tell_end=False)

    @contextmanager
    def step(self, name: str, size: int = 1) -> Iterator[None]:
        """A step that begins here and is done at the block's end; after the second, what is left is told."""
        self._bars.update(self._task, name=name)
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        self._left -= size
        self._bars.advance(self._task, size)
        if not self._told:
            self._told = True
            self._bars.say(
                f"an iteration takes about {duration(spent)}, all of it about {duration(spent * self._left)}"
            )

    def skip(self, size: int) -> None:
        """Steps that cannot be taken."""
        self._left -= size
        self._bars.advance(self._task, size)
