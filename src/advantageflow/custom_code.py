"""Python that is not ours: the one door by which what a recipe or a command names is imported.

What is imported runs, and may do all that its user may. So it is named before; or refused, where the option
--no-custom-code or the environment says so.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import ParamSpec, TypeVar

from advantageflow.errors import ConfigError, shown

VARIABLE = "ADVANTAGEFLOW_NO_CUSTOM_CODE"  # of the environment, which child processes have from us
P = ParamSpec("P")
R = TypeVar("R")
_folders: set[str] = set()  # from which files were imported


class RefusedError(ConfigError):
    """Custom code is not wanted; nothing was imported."""


def load(what: str, place: Path | str, name: str) -> ModuleType:
    """Import a file or module of somebody else's, which is told before.

    Args:
        what: it is for, as in "the reward 'mine:score'".
        place: a file, or a module's name; modules are looked for in the current folder last.
        name: that is wanted of it.

    Raises:
        RefusedError: custom code is refused.
    """
    check(what, place, name)
    _tell(f"custom code: {what} imports {_plain(name)} from {_found(place)}")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return _from_file(place) if isinstance(place, Path) else importlib.import_module(place)


def check(what: str, place: Path | str, name: str) -> None:
    """Check that `load` may import something; raises what that does."""
    if os.environ.get(VARIABLE, "") not in ("", "0"):
        raise RefusedError(
            f"{what} would import {_plain(name)} from {_found(place)}, which --no-custom-code or {VARIABLE} refuses; "
            "leave that out if you trust this code"
        )


@contextmanager
def refusing(wanted: bool) -> Iterator[None]:
    """In this block, and in processes that it starts, custom code is refused; where it is not wanted, as before."""
    before = os.environ.get(VARIABLE)
    if wanted:
        os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        if wanted and before is None:
            del os.environ[VARIABLE]
        elif wanted and before is not None:
            os.environ[VARIABLE] = before


def refusable(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose keyword `no_custom_code` has custom code refused while it runs."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with refusing(bool(kwargs.get("no_custom_code"))):
            return function(*args, **kwargs)

    return call


@cache
def _tell(line: str) -> None:
    """Once in a process: rewards are checked before they are loaded."""
    print(line, file=sys.stderr, flush=True)


def _plain(name: str) -> str:
    return shown(name)[1:-1]


def _found(place: Path | str) -> str:
    """The file; of a module its name, and where its package lies, without importing that."""
    if isinstance(place, Path):
        return shown(str(place))
    top = place.partition(".")[0]
    spec = PathFinder.find_spec(top, [*sys.path, str(Path.cwd())])
    folders = spec and spec.submodule_search_locations
    found = next(iter(folders), None) if folders else spec and spec.origin
    file = getattr(sys.modules.get(top), "__file__", None) or found
    return f"{shown(place)} ({file})" if file else shown(place)


def _from_file(path: Path) -> ModuleType:
    """Import a file, and the packages around it, under a name that no other file has."""
    inner: list[str] = []
    top = path.parent if path.name == "__init__.py" else path
    while (top.parent / "__init__.py").is_file():
        inner.insert(0, top.stem)
        top = top.parent
    loaded = sys.modules.get(".".join([top.stem, *inner]))
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):  # by the user's own import
        return loaded
    file = top / "__init__.py" if top.is_dir() else top
    name = f"advantageflow_custom_{hashlib.sha256(str(top).encode() + file.read_bytes()).hexdigest()[:16]}"
    with _beside(str(top.parent)):
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(
                name, file, submodule_search_locations=[str(top)] if top.is_dir() else None
            )
            assert spec is not None
            assert spec.loader is not None
            sys.modules[name] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(sys.modules[name])
            except BaseException:
                del sys.modules[name]
                raise
        return importlib.import_module(".".join([name, *inner]))


@contextmanager
def _beside(folder: str) -> Iterator[None]:
    """What lies beside a file is found first while that is imported, and last from then on.

    A module of the same name that was imported from beside another file is not taken for it.
    """
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        home = os.path.dirname(getattr(module, "__file__", None) or "")
        here = os.path.isfile(f"{folder}{os.sep}{top}.py") or os.path.isdir(f"{folder}{os.sep}{top}")
        if here and any(home == other or home.startswith(other + os.sep) for other in _folders - {folder}):
            del sys.modules[name]
    _folders.add(folder)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
