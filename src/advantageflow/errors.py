"""The two ways in which a run is stopped on purpose, each with an exit code of its own; values as they are echoed."""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting, file or combination that cannot work; the message names it, what is allowed, and what to do."""

    exit_code = 2


class NonFiniteError(FloatingPointError):
    """A picture, loss, gradient or weight that is NaN or infinite; what was saved before is unharmed."""

    exit_code = 3


def shown(value: object, most: int = 200) -> str:
    """A value as messages echo it: its repr, at most 200 characters of it, on one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of more than 4300 digits
        text = f"a {type(value).__name__} that is too large to be shown"
    return text if len(text) <= most else f"{text[: most - 1]}…"
