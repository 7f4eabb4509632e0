"""From which checkpoint a run goes on: the newest that is whole, its own, and whose rows of metrics are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from advantageflow.errors import ConfigError
from advantageflow.run.changes import as_read, differences, fixed
from advantageflow.run.checkpoint import MANIFEST, Tensors, load_tensors, tidy, verify
from advantageflow.run.directory import RunDirectory
from advantageflow.run.keeping import place, saved, set_aside
from advantageflow.run.pace import TRAINING
from advantageflow.run.stored import DamagedError

NUMBER = (int, float)
KEYS: dict[str, type | tuple[type, ...]] = {
    "iteration": int,
    "optimizer_step": int,
    "before": (dict, type(None)),
    "seconds": dict,
}


@dataclass(frozen=True)
class Resumed:
    """A checkpoint to go on from, and what a user is told about it."""

    tensors: Tensors
    record: dict[str, Any]
    said: list[str]


def resume(
    directory: RunDirectory, settings: Mapping[str, Any], expected: Tensors, trained: Sequence[torch.Size]
) -> Resumed | None:
    """The newest checkpoint that can be used; newer ones are set aside. None if nothing was saved yet.

    Args:
        settings: those of the run, flat; a checkpoint with other ones that cannot be changed is another run's.
        expected: tensors with the names and shapes that the run has; an optimizer's are checked by `trained`.
        trained: shapes of what the optimizer trains, in its order.

    Raises:
        ConfigError: none can be used; all stay where they are.
    """
    folder = directory.checkpoints
    tidy(folder)
    problems: list[tuple[int, str]] = []
    for iteration in reversed(saved(folder)):
        path = place(folder, iteration)
        try:
            record = verify(path, KEYS)
            _check_record(record, iteration, settings)
            directory.check_rows(record.get("rows", {"count": iteration}))
            tensors = load_tensors(path)
            _check_shapes(tensors, expected, trained)
        except DamagedError as error:
            problems.append((iteration, str(error)))
            continue
        said = [
            f"checkpoint {number} is set aside as {set_aside(place(folder, number))}: {reason}"
            for number, reason in problems
        ]
        if not (path / MANIFEST).exists():
            said.append(f"{path} was written by an early version: it has no {MANIFEST} to check it against")
        return Resumed(tensors, record, said)
    if problems:
        reasons = "; ".join(reason for _, reason in problems[:3])
        raise ConfigError(
            f"no checkpoint of {directory.path} can be used ({reasons}); put back what was changed, or start again "
            "with another --output"
        )
    if directory.metrics_file.exists() and directory.metrics_file.stat().st_size:
        raise ConfigError(
            f"{directory.path} has rows of metrics but no checkpoint to go on from; put back {folder}, or start again "
            "with another --output"
        )
    return None


def _check_record(record: Mapping[str, Any], iteration: int, settings: Mapping[str, Any]) -> None:
    if record["iteration"] != iteration:
        raise DamagedError(f"checkpoint {iteration} says that it was made after {record['iteration']} iterations")
    wrong = [name for name, value in record["seconds"].items() if not isinstance(value, NUMBER)]
    if wrong or set(record["seconds"]) != {*TRAINING, "evaluating"}:
        raise DamagedError(f"state.json of checkpoint {iteration} is damaged: its seconds are not those of a run")
    then, rows = record.get("settings", {}), record.get("rows", {"count": iteration})
    if not isinstance(then, dict) or not isinstance(rows, dict) or rows.get("count") != iteration:
        raise DamagedError(
            f"state.json of checkpoint {iteration} is damaged: its settings or rows are not those of a run"
        )
    other = differences(as_read(then, settings), settings)
    if wrong := fixed(other):
        shown = ", ".join(f"{key} {other[key][0]!r}" for key in wrong[:3])
        raise DamagedError(f"checkpoint {iteration} was made with other settings than config.yaml has ({shown})"[:300])


def _check_shapes(tensors: Tensors, expected: Tensors, trained: Sequence[torch.Size]) -> None:
    for name, group in expected.items():
        found = tensors.get(name)
        if found is None:
            raise DamagedError(f"{name}.safetensors is missing")
        for key in [*group, *found]:
            if key not in found or key not in group or found[key].shape != group[key].shape:
                raise DamagedError(f"{name}.safetensors does not fit this run's model at {key}")
    if "optimizer" not in tensors:
        raise DamagedError("optimizer.safetensors is missing")
    for key, tensor in tensors["optimizer"].items():
        index, _, name = key.partition(".")
        known = index.isdigit() and int(index) < len(trained)
        if not known or (name.startswith("exp_avg") and tensor.shape != trained[int(index)]):
            raise DamagedError(f"optimizer.safetensors does not fit this run's model at {key}")
