"""Weights of learned rewards: from a folder or a hub, with an error that says what to do when they cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from advantageflow.devices import choose_device
from advantageflow.errors import ConfigError, shown
from advantageflow.hub import cannot_fetch, file_of_hub, notice_offline


def reward_device() -> torch.device:
    """Where learned rewards run: the GPU if there is one."""
    return torch.device(choose_device())


def from_hub(kind: Any, path: str, **options: Any) -> Any:
    """`kind.from_pretrained(path)`; model weights as safetensors only.

    Raises:
        ConfigError: nothing can be loaded from there.
    """
    if isinstance(kind, type) and issubclass(kind, torch.nn.Module):
        options["use_safetensors"] = True
    local = Path(path).exists()
    if not local:
        notice_offline()
    try:
        return kind.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        if not local:
            raise cannot_fetch(path, error) from error
        raise ConfigError(f"cannot load {shown(path)}: {' '.join(str(error).split())[:300]}") from error


def file_from_hub(repository: str, name: str) -> Path:
    """A single file of a hub repository, or of a local folder.

    Raises:
        ConfigError: there is no such file, or it cannot be fetched.
    """
    local = Path(repository) / name
    return local if local.is_file() else file_of_hub(repository, name)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict. Official scorers that come only as .pt files are read as plain tensors, never as code."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("state_dict", state)  # type: ignore[no-any-return]
