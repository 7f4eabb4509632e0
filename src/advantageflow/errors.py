"""The two ways in which a run is stopped on purpose, each with an exit code of its own."""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting, file or combination that cannot work; the message names it, what is allowed, and what to do."""

    exit_code = 2


class NonFiniteError(FloatingPointError):
    """A picture, loss, gradient or weight that is NaN or infinite; what was saved before is unharmed."""

    exit_code = 3
