"""Where a model runs: the device that a setting or an option names, or why there is none."""

from __future__ import annotations

import torch

from advantageflow.errors import ConfigError
from advantageflow.ranks import place


def choose_device(name: str = "auto") -> str:
    """The device of a name: "auto" is CUDA if there is one, else the CPU.

    Where several processes share a run, the GPU is this process's own.

    Raises:
        ConfigError: this machine, or this build of PyTorch, has no such device.
    """
    kind, _, number = name.partition(":")
    several = place().size > 1
    if several and number:
        raise ConfigError(
            f"model.device is {name!r}, but this is one of several processes, each with a GPU of its own; set "
            "model.device=auto, and CUDA_VISIBLE_DEVICES to the GPUs that may be used"
        )
    if several and torch.cuda.is_available() and name in ("auto", "cuda"):
        return f"cuda:{torch.cuda.current_device()}"  # threads that score would take the first one
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        build = "" if torch.version.cuda else ", since this build of PyTorch has no CUDA"
        raise ConfigError(f"model.device is {name!r}, but PyTorch sees no CUDA device{build}; set model.device=cpu")
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        allowed = ", ".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
        raise ConfigError(f"model.device is {name!r}, but there is only {allowed}; set one of these")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"model.device is {name!r}, but PyTorch sees no Apple GPU here; set model.device=cpu")
    return name
