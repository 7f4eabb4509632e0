"""Code of users, run so that its faults stay its own: whose line an error is of, and what may not leak out of it."""

from __future__ import annotations

import inspect
import os
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advantageflow.errors import ConfigError, cut

PACKAGE = str(Path(__file__).parents[1]) + os.sep
LIBRARIES = tuple(sysconfig.get_paths()[kind] + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
MOST = 300  # characters of an error's own words

_lock = threading.Lock()
_running: list[object] = []  # blocks of this process that run
_shared: dict[str, Any] = {}  # what the first of them found


class QuitError(RuntimeError):
    """A reward that asked the whole process to end, as `sys.exit(0)` does."""


def abandon(block: object) -> None:
    """Wait no more for a block that may never end; what it does to the process is restored no more, either."""
    with _lock:
        if block in _running:
            _running.remove(block)


@contextmanager
def contained(block: object = None) -> Iterator[None]:
    """Nothing but an error leaves this block: not the current folder, torch's defaults, or the end of the process.

    Blocks may run side by side: what the first of them found is what each of them restores.

    Args:
        block: a name for `abandon`.

    Raises:
        QuitError: the block raised SystemExit or the like. Ctrl-C, which only the main thread gets, stays what it is.
    """
    import torch

    gradients, device = torch.is_grad_enabled(), torch.get_default_device()  # of this thread
    block = object() if block is None else block
    with _lock:
        _running.append(block)
        if len(_running) == 1:
            _shared["dtype"], _shared["folder"] = torch.get_default_dtype(), _folder()
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
        if isinstance(error, Exception) or interrupted:
            raise
        raise QuitError(f"it raised {type(error).__name__}, and may not end the process") from error
    finally:
        torch.set_grad_enabled(gradients)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)  # a set "cpu" would move tensors
        with _lock:
            if block in _running:
                _running.remove(block)
                if torch.get_default_dtype() != _shared["dtype"]:
                    torch.set_default_dtype(_shared["dtype"])
                if _shared["folder"] and _folder() != _shared["folder"]:
                    os.chdir(_shared["folder"])


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""


def reason(error: BaseException, code: object = None) -> str:
    """What went wrong, in its own words, and the user's own file and line.

    Args:
        code: what was called; where it is defined is told if the error is in no line of the user's.
    """
    text = " ".join(str(error).split())
    plain = text and (isinstance(error, ConfigError) or type(error) in (ValueError, TimeoutError, QuitError))
    place = _place(error) or (definition(code) if isinstance(error, TypeError) else "")
    text = cut(text, MOST)
    return (text if plain else f"{type(error).__name__}: {text}".removesuffix(": ")) + (f" ({place})" if place else "")


def _place(error: BaseException) -> str:
    """The "file line N" of the last frame that is neither ours nor a library's, else of the first that is not ours."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if isinstance(cause, SyntaxError) and cause.filename:
            return f"{cause.filename} line {cause.lineno}"
        frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(cause.__traceback__)]
        foreign = [frame for frame in frames if not frame[0].startswith((PACKAGE, "<")) and not _is_standard(frame[0])]
        own = [frame for frame in foreign if not frame[0].startswith(LIBRARIES)]
        if foreign:
            file, line = own[-1] if own else foreign[0]
            return f"{file} line {line}"
    return ""


def _is_standard(file: str) -> bool:
    return file.startswith(LIBRARIES[:2]) and not file.startswith(LIBRARIES[2:])


def definition(code: object) -> str:
    """The "file line N" where a function, or an instance's class, of the user's is written; "" if it is not known."""
    try:
        code = inspect.unwrap(code) if callable(code) else code
        code = code if inspect.isroutine(code) or inspect.isclass(code) else type(code)
        file, line = inspect.getsourcefile(code), inspect.getsourcelines(code)[1]
    except (OSError, TypeError):
        return ""
    return "" if file is None or file.startswith((PACKAGE, *LIBRARIES)) else f"{file} line {line}"
