"""Everything a run needs to continue: tensors in safetensors, the rest in JSON; written whole or not at all.

A checkpoint is a folder. Its manifest.json holds the size and SHA-256 of every other file, and is checked on reading.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from advantageflow import fingerprint
from advantageflow.errors import NonFiniteError, writing
from advantageflow.run.soundness import check_finite
from advantageflow.run.stored import DamagedError, read_object

Tensors = dict[str, dict[str, torch.Tensor]]  # a group of named tensors -> file

MANIFEST = "manifest.json"
FORMAT = 2  # of state.json; 1, which does not say so, had no manifest


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A directory to fill under a temporary name, renamed to `path` when the block ends without an error.

    The folder that it is in has to be there: that of a run which has vanished is not made again, without what it held.
    """
    temporary, retired = (path.with_name(f".{path.name}.{state}") for state in ("partial", "retired"))
    shutil.rmtree(temporary, ignore_errors=True)
    with writing(path):
        temporary.mkdir()
        try:
            yield temporary
            for part in temporary.rglob("*"):
                _flush(part)
            _flush(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # a full disk is not made fuller
            raise
        shutil.rmtree(retired, ignore_errors=True)
        if path.exists():
            path.rename(retired)
        temporary.rename(path)
        _flush(path.parent)
    shutil.rmtree(retired, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Finish what a kill left in the middle of `atomic_directory`, for every directory in a folder."""
    for retired in folder.glob(".*.retired"):
        original = retired.with_name(retired.name[1:].removesuffix(".retired"))
        if original.exists():
            shutil.rmtree(retired)
        else:
            retired.rename(original)
    for temporary in folder.glob(".*.partial"):
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


def write_atomic(path: Path, text: str) -> None:
    """Replace a file's text in one step."""
    temporary = path.with_name(f".{path.name}.partial")
    with writing(path):
        temporary.write_text(text, encoding="utf-8")
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_state(
    directory: Path,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    record: Mapping[str, Any],
    export: Callable[[Path], None] | None = None,
) -> None:
    """Write named groups of tensors (one safetensors file each) and a JSON record, atomically.

    Args:
        export: writes further files into the directory.

    Raises:
        NonFiniteError: a tensor holds NaN or infinity; nothing is written.
    """
    for name, group in tensors.items():
        check_finite(group, name)
    with atomic_directory(directory) as temporary:
        for name, group in tensors.items():
            save_file(
                {key: value.detach().contiguous() for key, value in group.items()}, temporary / f"{name}.safetensors"
            )
        if export:
            export(temporary)
        (temporary / "state.json").write_text(json.dumps({"format": FORMAT, **record}, indent=2), encoding="utf-8")
        (temporary / MANIFEST).write_text(json.dumps({"files": _files(temporary)}, indent=2), encoding="utf-8")


def _files(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a folder, but of its manifest."""
    files = sorted(file for file in directory.rglob("*") if file.is_file() and file != directory / MANIFEST)
    return {
        file.relative_to(directory).as_posix(): {"size": file.stat().st_size, "sha256": fingerprint.of_file(file)}
        for file in files
    }


def verify(directory: Path, keys: Mapping[str, type | tuple[type, ...]] | None = None) -> dict[str, Any]:
    """The JSON record of a checkpoint whose every file is what was written.

    Args:
        keys: that the record has, with the types of their values.

    Raises:
        DamagedError: a file was changed, is missing or was not written with the rest.
    """
    file = directory / MANIFEST
    if file.exists():
        written, found = read_object(file, {"files": dict})["files"], _files(directory)
        for name in sorted({*written, *found}):
            if written.get(name) != found.get(name):
                state = "is missing" if name not in found else "is not part of it" if name not in written else "changed"
                raise DamagedError(f"{directory / name} {state}")
    record = read_object(directory / "state.json", keys)
    if record.pop("format", None) and not file.exists():
        raise DamagedError(f"{file} is missing")
    return record


def load_state(directory: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read what `save_state` wrote: (tensor groups, record).

    Raises:
        DamagedError: see `verify`, or a file cannot be read.
    """
    return load_tensors(directory), verify(directory)


def load_tensors(directory: Path) -> Tensors:
    """The tensor groups of a checkpoint.

    Raises:
        DamagedError: a file cannot be read, or holds NaN or infinity, as those of early versions may.
    """
    tensors: Tensors = {}
    for file in sorted(directory.glob("*.safetensors")):
        try:
            tensors[file.stem] = load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise DamagedError(f"{file} is damaged: {error}") from None
        try:
            check_finite(tensors[file.stem], file.stem)
        except NonFiniteError:
            raise DamagedError(f"{file} holds NaN or infinity") from None
    return tensors


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimizer's per-parameter state as flat tensors, keyed "index.name".

    An 8-bit optimizer shares tables between its parameters, which a file of tensors cannot; each has its own here.
    """
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for index, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            tensor = torch.as_tensor(value)
            found[f"{index}.{name}"] = tensor.clone() if tensor.data_ptr() in seen else tensor
            seen.add(tensor.data_ptr())
    return found


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, keeping the optimizer's own hyper-parameters."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        is_number = value.ndim == 0 and not value.is_floating_point()  # AdamW's count of steps is a float tensor
        state.setdefault(int(index), {})[name] = value.item() if is_number else value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
