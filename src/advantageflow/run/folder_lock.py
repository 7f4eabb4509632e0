"""One writer to a run's folder at a time. The lock is the kernel's: it ends with its process, however that ends."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from advantageflow.errors import ConfigError

LOCK, HOLDER = ".lock", ".lock-holder"  # the second says who holds the first


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only writer to a folder, which is made if it is missing.

    Raises:
        ConfigError: another process writes to it, or nobody can.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        holder = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        (folder / HOLDER).write_text(json.dumps(holder), encoding="utf-8")
    except Timeout:
        raise ConfigError(f"{folder} is in use by {_holder(folder)}; wait until that has ended, or stop it") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot write to {folder}: {reason}; choose a folder that can be written to") from None
    try:
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, TypeError, KeyError):  # it is being written, or of another version
        return "another process"
