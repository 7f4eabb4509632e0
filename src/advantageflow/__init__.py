"""AdvantageFlow: reinforcement learning for rectified-flow image generators."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advantageflow.api import Run as Run
    from advantageflow.api import evaluate as evaluate
    from advantageflow.api import report as report
    from advantageflow.api import sample as sample
    from advantageflow.api import train as train
    from advantageflow.config import load_config as load_config
    from advantageflow.errors import ConfigError as ConfigError
    from advantageflow.errors import NonFiniteError as NonFiniteError

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(("train", "evaluate", "sample", "report", "Run"), "api"),
    "load_config": "config",
    **dict.fromkeys(("ConfigError", "NonFiniteError"), "errors"),
}


def __getattr__(name: str) -> Any:
    """What is used is imported then, so that the package itself is there at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
