"""Trackers: programs outside a run's folder that show it while it trains. One file per tracker; this folder is their
registry.

`trackers/wandb.py` is `run.trackers=wandb`: a file has the name of the package that it needs, and of the extra that
installs it. A tracker is the one class that its file derives from `base.Tracker`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence

from advantageflow.config_errors import nearest
from advantageflow.errors import ConfigError, cut, shown
from advantageflow.trackers.base import Tracker


def names() -> list[str]:
    """Every tracker's name, as recipes write it."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def check_names(wanted: Sequence[str]) -> None:
    """Check what `run.trackers` says, without importing anything.

    Raises:
        ConfigError: a name is unknown, or there twice.
    """
    allowed = names()
    for name in wanted:
        if name not in allowed:
            raise ConfigError(
                f"run.trackers names {shown(name)}{nearest(name, allowed)}; allowed: any of {', '.join(allowed)}, or []"
            )
        if wanted.count(name) > 1:
            raise ConfigError(f"run.trackers names {name} twice; name it once")


def check_ready(wanted: Sequence[str]) -> None:
    """Check that trackers can be used here.

    Raises:
        ConfigError: what one needs is not installed, or it knows already that it will be turned away.
    """
    for name in wanted:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"run.trackers names {name}, which is not installed; install with: "
                f'pip install "advantageflow[{name}]", or leave it out of run.trackers'
            )
        try:
            tracker = find(name)
        except ImportError as error:
            raise ConfigError(f"run.trackers names {name}, which cannot be imported: {cut(str(error))}") from error
        tracker.check()


def find(name: str) -> type[Tracker]:
    """The class of a tracker; its package is imported."""
    module = importlib.import_module(f"{__name__}.{name}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Tracker) and value is not Tracker
    )
    return found
