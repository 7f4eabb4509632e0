"""What a result was computed with: versions, commit, machine."""

from __future__ import annotations

import os
import platform
import re
import resource
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from advantageflow import __version__
from advantageflow.devices import choose_device

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy")


def environment() -> dict[str, Any]:
    """Plain data: versions, the commit ("+" where files differ from it; None outside a checkout), and the machine."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        **versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "gpus": devices,
        "driver": driver(),
    }


def begun_with(device: str, threads: int) -> dict[str, Any]:
    """`environment`, and what this process computes on.

    Args:
        device: by its name, see `devices.choose_device`.
        threads: of the CPU; 0 for PyTorch's choice.
    """
    command = [Path(sys.argv[0]).name.replace("__main__.py", "advantageflow"), *sys.argv[1:]]
    return {
        **environment(),
        "device": choose_device(device),
        "threads": threads or torch.get_num_threads(),
        "command": shlex.join(command),
    }


def driver() -> str | None:
    """The version of NVIDIA's driver, where Linux has one."""
    file = Path("/proc/driver/nvidia/version")
    found = re.search(r"Module\s+(?:for \S+\s+)?([\d.]+)", file.read_text(encoding="utf-8")) if file.exists() else None
    return found and found[1]


def versions() -> dict[str, str | None]:
    """Of this package, its commit, and those that it computes with; None where there is none."""
    found: dict[str, str | None] = {"advantageflow": __version__, "commit": commit()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@cache
def commit() -> str | None:
    """The commit of the checkout that this package runs from, if it does."""
    here = Path(__file__).parent
    try:
        head = _git("rev-parse", "--short=12", "HEAD", folder=here)
        changed = _git("status", "--porcelain", "--", str(here), folder=here)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _git(*arguments: str, folder: Path) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, encoding="utf-8", check=True
    ).stdout.strip()


def processor() -> str:
    """The name of the CPU."""
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held: of the GPU, or of main memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory(device: torch.device) -> None:
    """Begin `peak_memory` again from what is held now, where the system can: with CUDA, and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (file := Path("/proc/self/clear_refs")).exists():
        file.write_text("5", encoding="ascii")
