"""Everything a run needs to continue: tensors in safetensors, the rest in JSON; written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A directory to fill under a temporary name, renamed to `path` when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    for file in temporary.rglob("*"):
        if file.is_file():
            _flush(file)
    retired = path.with_name(f".{path.name}.retired")
    shutil.rmtree(retired, ignore_errors=True)
    if path.exists():
        path.rename(retired)
    temporary.rename(path)
    _flush(path.parent)
    shutil.rmtree(retired, ignore_errors=True)


def write_atomic(path: Path, text: str) -> None:
    """Replace a file's text in one step."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text)
    _flush(temporary)
    temporary.replace(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_state(directory: Path, tensors: Mapping[str, Mapping[str, torch.Tensor]], record: Mapping[str, Any]) -> None:
    """Write named groups of tensors (one safetensors file each) and a JSON record, atomically."""
    with atomic_directory(directory) as temporary:
        for name, group in tensors.items():
            save_file(
                {key: value.detach().contiguous() for key, value in group.items()}, temporary / f"{name}.safetensors"
            )
        (temporary / "state.json").write_text(json.dumps(record, indent=2))


def load_state(directory: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Read what `save_state` wrote: (tensor groups, record)."""
    tensors = {file.stem: load_file(file) for file in sorted(directory.glob("*.safetensors"))}
    return tensors, json.loads((directory / "state.json").read_text())


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimizer's per-parameter state as flat tensors, keyed "index.name"."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, entry in state.items() for name, value in entry.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, keeping the optimizer's own hyper-parameters."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
