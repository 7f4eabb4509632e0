"""The checkpoints of a run: which folders are one, which are kept, and how one that is damaged is set aside."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from advantageflow.run.stored import DamagedError, read_object


def place(folder: Path, iteration: int) -> Path:
    """Where the checkpoint after so many iterations is."""
    return folder / f"{iteration:06d}"


def saved(folder: Path) -> list[int]:
    """The iterations of all checkpoints, in order; any other folder or file is the user's own."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.is_dir() and re.fullmatch("[0-9]{6,}", path.name)]
    return sorted(int(name) for name in names if name == f"{int(name):06d}")


def record_of(folder: Path, iteration: int) -> dict[str, Any]:
    """What a checkpoint says of itself; empty where that cannot be read."""
    try:
        return read_object(place(folder, iteration) / "state.json")
    except DamagedError:
        return {}


def scores(folder: Path, label: str) -> dict[int, float]:
    """Iteration -> held-out score of the checkpoints that have one; the base model's, at 0, is not among them."""
    found = {}
    for iteration in saved(folder):
        value = (record_of(folder, iteration).get("evaluation") or {}).get(label)
        if iteration > 0 and isinstance(value, int | float):
            found[iteration] = float(value)
    return found


def best(found: Mapping[int, float]) -> int | None:
    """The iteration of the highest score, the earlier of equal ones."""
    return max(sorted(found), key=found.__getitem__, default=None)


def kept(iterations: Collection[int], newest: int, best: int | None, collapse: int | None) -> set[int]:
    """What is kept of the saved iterations: so many of the newest, the best, and the last before a collapse.

    Args:
        collapse: the iterations that were done before the one in which the images of a prompt became alike.
    """
    before = max((i for i in iterations if collapse is not None and i <= collapse), default=None)
    return {*sorted(iterations)[-newest:], *(i for i in (best, before) if i is not None)}


def remove(path: Path) -> None:
    """Remove a folder so that a kill leaves no half of it under its name."""
    trash = path.with_name(f".{path.name}.partial")
    shutil.rmtree(trash, ignore_errors=True)
    path.rename(trash)
    shutil.rmtree(trash)


def set_aside(path: Path) -> Path:
    """Give a checkpoint that cannot be used a name that nothing takes for one."""
    number, aside = 1, path.with_name(f"damaged-{path.name}")
    while aside.exists():
        number += 1
        aside = path.with_name(f"damaged-{path.name}-{number}")
    return path.rename(aside)
