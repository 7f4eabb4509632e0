"""Prompt sets, and which prompts an iteration uses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from advantageflow.config import ConfigError
from advantageflow.seeding import Stream, address_seed


@dataclass(frozen=True)
class PromptSet:
    """Prompts, each with the task it belongs to."""

    texts: tuple[str, ...]
    tasks: tuple[str, ...]

    @cached_property
    def by_task(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for index, task in enumerate(self.tasks):
            found.setdefault(task, []).append(index)
        return found

    def draw(self, start: int, count: int, *address: int) -> list[int]:
        """Indices of the prompts at positions start ... start + count - 1 of an endless, task-balanced sequence.

        Tasks take turns. Within a task every prompt comes once before any comes twice, in an order that depends on
        the address (such as the seed) and the round alone.
        """
        tasks = list(self.by_task.values())
        chosen = []
        for position in range(start, start + count):
            turn, which = divmod(position, len(tasks))
            indices = tasks[which]
            epoch, place = divmod(turn, len(indices))
            order = np.random.default_rng(address_seed(Stream.PROMPTS, *address, which, epoch)).permutation(
                len(indices)
            )
            chosen.append(indices[order[place]])
        return chosen


def load_prompts(source: str) -> PromptSet:
    """Load "scenes:train", "scenes:held_out", or a text file with one prompt a line (empty lines are skipped).

    Raises:
        ConfigError: there is no such set or file, or it holds no prompt.
    """
    if source.startswith("scenes:"):
        from advantageflow.scenes.prompts import split_prompts

        split = source.removeprefix("scenes:")
        if split not in ("train", "held_out"):
            raise ConfigError(f"unknown prompt set {source!r}; built in are scenes:train and scenes:held_out")
        prompts = [prompt for found in split_prompts(split).values() for prompt in found]
        return PromptSet(tuple(prompt.text for prompt in prompts), tuple(prompt.task for prompt in prompts))
    path = Path(source)
    if not path.is_file():
        raise ConfigError(
            f"prompt file {source!r} does not exist; give a text file with one prompt a line, or scenes:train"
        )
    texts = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if not texts:
        raise ConfigError(f"prompt file {source!r} holds no prompt; write one a line")
    return PromptSet(texts, ("all",) * len(texts))
