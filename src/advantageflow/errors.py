"""The ways in which a run is stopped on purpose, values as they are echoed, and which file an error is of."""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ConfigError(ValueError):
    """A setting, file or combination that cannot work; the message names it, what is allowed, and what to do."""

    exit_code = 2


class NonFiniteError(FloatingPointError):
    """A picture, loss, gradient or weight that is NaN, infinite or far too large; what was saved before is unharmed."""

    exit_code = 3


class LostError(RuntimeError):
    """Another process of a run has ended, or does not answer: why is for that one to say."""

    exit_code = 4


def shown(value: object, most: int = 200) -> str:
    """A value as messages echo it: its repr, at most 200 characters of it, on one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of more than 4300 digits
        text = f"a {type(value).__name__} that is too large to be shown"
    return cut(text, most)


def to_type(path: Path) -> str:
    """A path as it is typed in a shell."""
    return shlex.quote(str(path))


def cut(text: str, most: int = 200) -> str:
    """At most so many characters of a text."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, is that main memory or a device's was not enough."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    torch = sys.modules.get("torch")  # without it nothing of it can have been raised
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError) and re.search(r"out of memory|can't allocate memory|ALLOC_FAILED", str(error)):
        return True
    return error.__cause__ is not None and out_of_memory(error.__cause__)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An error of the disk in this block names `path`: where a write fails and not an opening, the system names none.

    Raises:
        OSError: also where safetensors found it, which has an error of its own kind.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        number = re.search(r"(?:os error|code:) (\d+)", str(error))
        if type(error).__name__ != "SafetensorError" or not number:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
