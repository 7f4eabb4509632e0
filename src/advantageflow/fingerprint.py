"""Fingerprints of what decides a result: stored work is found by content, and not by a name that may have moved on.

Each is a SHA-256 in hexadecimal; equal content has equal fingerprints on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def of_value(value: Any) -> str:
    """Plain data; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def of_file(path: Path) -> str:
    """The bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def of_folder(path: Path) -> str:
    """The names and bytes of all files below a folder."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return of_value({file.relative_to(path).as_posix(): of_file(file) for file in files})


def of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Names, precisions, shapes and values of tensors."""
    import torch

    found = {}
    for name, tensor in tensors.items():
        raw = tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy()
        found[name] = [str(tensor.dtype), list(tensor.shape), hashlib.sha256(raw.data).hexdigest()]
    return of_value(found)
