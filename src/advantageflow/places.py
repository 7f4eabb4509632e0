"""Whether a file or folder can be written, asked before long work begins."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from advantageflow.errors import ConfigError, cut

LONGEST_NAME = 255  # bytes, of every usual file system
SPARE = 50 * 2**20  # bytes that any result should find free


def check_folder(path: Path, needed: int = SPARE) -> None:
    """A folder that will be made and filled, or filled only.

    Args:
        needed: bytes that will be written there.

    Raises:
        ConfigError: it is a file, cannot be made or written, or its disk has less than `needed` left.
    """
    there = _nearest(path)
    if not there.is_dir():
        raise ConfigError(f"{_shown(there)} is a file, not a folder; choose another --output")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{_shown(there)} cannot be written; change its permissions, or choose another --output")
    free = shutil.disk_usage(there).free
    if free < needed:
        raise ConfigError(
            f"the disk of {_shown(path)} has {free / 2**20:.0f} MB left and {needed / 2**20:.0f} MB are needed; "
            "free some space, or choose another --output"
        )


def check_links(folder: Path) -> None:
    """A folder that somebody else may have made, and in which files will be written again.

    Raises:
        ConfigError: it holds a link that leads out of it, by which something else would be written or removed.
    """
    home = os.path.realpath(folder)
    for place, folders, files in os.walk(folder):
        for path in (Path(place) / name for name in (*folders, *files)):
            target = os.path.realpath(path) if path.is_symlink() else home
            if target != home and not target.startswith(home + os.sep):
                raise ConfigError(
                    f"{_shown(path)} is a link that leads out of {_shown(folder)}, to {_shown(Path(target))}, where "
                    "nothing is written; put what it names in its place"
                )


def check_file(path: Path) -> None:
    """A file that will be written.

    Raises:
        ConfigError: it is a folder, or see `check_folder`.
    """
    if _nearest(path).is_dir() and path.is_dir():
        raise ConfigError(f"{_shown(path)} is a folder; name a file in it")
    check_folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise ConfigError(f"{_shown(path)} cannot be written; change its permissions, or name another file")


def replacing(path: Path) -> str:
    """What is said beside "wrote PATH", asked before it is written: "" where nothing is there yet."""
    return ", in place of what was there" if path.exists() else ""


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    if "\0" in str(path):
        raise ConfigError(f"the path {_shown(path)} holds the character NUL; leave it out")
    long = [part for part in path.parts if len(os.fsencode(part)) > LONGEST_NAME]
    if long:
        size = len(os.fsencode(long[0]))
        raise ConfigError(f"the name {_shown(Path(long[0]))} has {size} bytes; at most {LONGEST_NAME} are allowed")
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _shown(path: Path) -> str:
    return cut(str(path).replace("\0", "\\0"))
