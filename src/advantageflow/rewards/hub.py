"""Weights of learned rewards: from a folder or a hub, with an error that says what to do when they cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from advantageflow.config import ConfigError
from advantageflow.errors import shown


def reward_device() -> torch.device:
    """Where learned rewards run: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def from_hub(kind: Any, path: str, **options: Any) -> Any:
    """`kind.from_pretrained(path)`; model weights as safetensors only.

    Raises:
        ConfigError: nothing can be loaded from there.
    """
    if isinstance(kind, type) and issubclass(kind, torch.nn.Module):
        options["use_safetensors"] = True
    try:
        return kind.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise ConfigError(_cannot_load(path, error)) from error


def file_from_hub(repository: str, name: str) -> Path:
    """A single file of a hub repository, or of a local folder.

    Raises:
        ConfigError: there is no such file, or it cannot be fetched.
    """
    from huggingface_hub import hf_hub_download

    local = Path(repository) / name
    if local.is_file():
        return local
    try:
        return Path(hf_hub_download(repository, name))
    except (OSError, ValueError) as error:
        raise ConfigError(_cannot_load(f"{repository}/{name}", error)) from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict. Official scorers that come only as .pt files are read as plain tensors, never as code."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("state_dict", state)  # type: ignore[no-any-return]


def _cannot_load(what: str, error: Exception) -> str:
    reason = " ".join(str(error).split())
    return f"cannot load {shown(what)}: {reason[:300]}; fetch it once with a network, or give a folder that holds it"
