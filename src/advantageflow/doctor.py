"""What is installed, what this machine has, and which rewards and recipes would run on it: `advantageflow doctor`."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from advantageflow.config import Config, load_config
from advantageflow.errors import ConfigError
from advantageflow.fingerprint import of_file
from advantageflow.hub import GATED, account, cache_folder, is_cached, is_logged_in
from advantageflow.memory import REWARDS
from advantageflow.models.source import BUILT_IN
from advantageflow.places import SPARE
from advantageflow.plan import Plan, cpu_rate, main_memory_gb, make_plan, shown_hours
from advantageflow.reading import recipe_names
from advantageflow.rewards import BUILT_IN as REWARDS_BUILT_IN

CORE = ("torch", "diffusers", "transformers", "peft")
DEVELOPERS = ("dev", "docs", "release")  # extras of those who work on this package
SUMS = Path(__file__).parent / "worlds" / "SHA256SUMS"  # of the weights that are shipped, as sha256sum writes them
MOST_HOURS = 1000.0  # of a run on a CPU; nobody waits longer


def examine(online: bool = False) -> dict[str, Any]:
    """Plain data about this installation and machine. Looks at the cache of the hub; asks it only if `online`.

    "rewards" and "recipes": name -> why it would not run here; "" where it would. "broken": sentences about what has to
    be mended, empty where all is well.
    """
    broken = [f"{name} cannot be imported ({why})" for name in CORE if (why := _import_error(name))]
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    if broken:
        return {**found, "broken": broken}
    import torch

    from advantageflow.environment import driver, versions

    damaged = damaged_weights()
    broken += [f"the weights {name} are not those that were shipped; install again" for name in damaged]
    disk = {name: _free(path) for name, path in (("cache", cache_folder()), ("here", Path.cwd()))}
    broken += [f"the disk of {place['path']} is full" for place in disk.values() if place["free_gb"] * 1e9 < SPARE]
    hub: dict[str, Any] = {"logged_in": is_logged_in()}
    if online:
        try:
            hub["account"] = account()
        except ConfigError as error:
            broken.append(str(error))
    devices = _devices()
    return {
        **found,
        **versions(),
        "cuda": torch.version.cuda,
        "driver": driver(),
        "extras": extras(),
        "devices": devices,
        "threads": torch.get_num_threads(),
        "disk": disk,
        "hub": hub,
        "weights": "damaged" if damaged else "whole",
        "rewards": {name: reward_obstacle(name) for name in REWARDS_BUILT_IN},
        "fetched_first_gb": {name: size for name in REWARDS_BUILT_IN if (size := to_fetch(name))},
        "recipes": recipe_obstacles(devices, disk["cache"]["free_gb"]),
        "broken": broken,
    }


def _import_error(name: str) -> str:
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever an installation that does not fit together raises
        return f"{type(error).__name__}: {error}"[:200]
    return ""


def extras() -> dict[str, list[str]]:
    """Extra of this package -> its packages that are not installed."""
    try:
        wanted = [
            re.fullmatch(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"].*", line) for line in requires(__package__) or ()
        ]
    except PackageNotFoundError:  # run from a folder
        return {}
    found: dict[str, list[str]] = {}
    for name, extra in (match.groups() for match in wanted if match and match[2] not in DEVELOPERS):
        found.setdefault(extra, []).extend([] if _is_installed(name) else [name])
    return found


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def damaged_weights() -> list[str]:
    """Files of shipped weights that are missing or have other bytes than those that were shipped."""
    lines = (line.split() for line in SUMS.read_text(encoding="ascii").splitlines())
    files = {name: expected for expected, name in lines}
    return [
        name
        for name, expected in files.items()
        if not (SUMS.parent / name).is_file() or of_file(SUMS.parent / name) != expected
    ]


def _free(path: Path) -> dict[str, Any]:
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    return {"path": str(path), "free_gb": shutil.disk_usage(there).free / 1e9}


def _devices() -> list[dict[str, Any]]:
    """The CPU, then each GPU, with GB of memory."""
    import torch

    from advantageflow.environment import processor

    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    cpu = {"name": processor(), "kind": "cpu", "cores": os.cpu_count(), "memory_gb": main_memory_gb()}
    return [cpu, *({"name": gpu.name, "kind": "cuda", "memory_gb": gpu.total_memory / 1e9} for gpu in gpus)]


def reward_obstacle(name: str) -> str:
    """Why a built-in reward would not run here; "" where it would, perhaps after its weights are fetched."""
    missing = REWARDS_BUILT_IN[name].missing()
    return f"{', '.join(missing)} missing" if missing else ""


def to_fetch(name: str) -> float:
    """GB of a built-in reward's weights that are not in the hub's cache, about."""
    return sum(REWARDS[weights] for weights in REWARDS_BUILT_IN[name].weights if not is_cached(weights))


def recipe_obstacles(devices: list[dict[str, Any]], free_gb: float) -> dict[str, str]:
    """Recipe -> why it would not run here.

    Args:
        devices: "kind" and "memory_gb" of each, the CPU first.
        free_gb: of the disk to which weights are fetched.
    """
    rate = cpu_rate()
    return {name: _obstacle(load_config(name), devices, free_gb, rate) for name in recipe_names()}


def _obstacle(config: Config, devices: list[dict[str, Any]], free_gb: float, rate: float) -> str:
    path = config.model.path
    for name in config.reward_names:
        if name in REWARDS_BUILT_IN and (why := reward_obstacle(name)):
            return f"{name} needs packages: {why}"
    if path not in BUILT_IN and path in GATED and not is_cached(path) and not is_logged_in():
        return f"{path} is gated: accept its licence, then hf auth login"
    plan = make_plan(config)
    gpus = [device["memory_gb"] for device in devices if device["kind"] == "cuda"]
    if not plan.memory_gb:
        return ""
    capacity, where = (max(gpus), "GPU") if gpus else (devices[0]["memory_gb"], "CPU")
    peak = max(plan.memory_gb.values())
    if peak > capacity:
        return f"about {peak:.0f} GB are needed, the {where} has {capacity:.0f}; see --plan"
    if not gpus and plan.hours_at(rate) > MOST_HOURS:
        return f"{shown_hours(plan.hours_at(rate))} hours on this CPU; it needs a GPU"
    return _disk_obstacle(plan, free_gb)


def _disk_obstacle(plan: Plan, free_gb: float) -> str:
    fetched = sum(size for name, size in plan.downloads.items() if not is_cached(name))
    return f"{fetched:.0f} GB are fetched, {free_gb:.0f} are free on the cache's disk" if fetched > free_gb else ""
