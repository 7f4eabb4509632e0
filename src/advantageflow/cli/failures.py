"""Errors that the user can mend, as a sentence and an exit code; all others are ours, and keep their traceback."""

from __future__ import annotations

import errno
import os

from advantageflow.errors import ConfigError, LostError, NonFiniteError, cut, out_of_memory

USERS = 2  # exit code of what the user can mend
INTERRUPTED = 130
ADVICE = {
    errno.ENOSPC: "free some space, or choose another --output",
    errno.EDQUOT: "free some space, or choose another --output",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or choose another --output",
    errno.EROFS: "choose a place that can be written, such as another --output",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "it was moved or deleted, or never was",
    errno.ENOTDIR: "a part of that path is a file, not a folder",
    errno.EISDIR: "it is a folder; name a file",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
SMALLER = (
    "use a smaller resolution, half precision or model.gradient_checkpointing, and smaller batches "
    "(rollout.batch_size, learn.batch_size) unless they were cut already; "
    "advantageflow train RECIPE --plan tells what is needed"
)
EXTRAS = {
    "fastapi": "rewards", "uvicorn": "rewards", "httpx": "rewards", "onnxruntime": "rewards", "rapidocr": "rewards",
    "datasets": "data", "plotly": "report", "jinja2": "report",
}  # fmt: skip
OTHERS = ("bitsandbytes", "sentencepiece", "protobuf", "tiktoken", "ftfy", "accelerate", "open_clip", "pyarrow")
NUL = "a path holds the character NUL, which no file can have; leave it out"


class Interruption(BaseException):
    """Ctrl-C where nothing is left to tidy."""


def explain(error: BaseException) -> tuple[str, int] | None:
    """What to print and the exit code; None for an error of the program itself."""
    told = _told(error)
    return told and (told[0] if told[1] == INTERRUPTED else f"error: {told[0]}", told[1])


def _told(error: BaseException) -> tuple[str, int] | None:
    if isinstance(error, ConfigError | NonFiniteError | LostError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt | Interruption):
        return "interrupted", INTERRUPTED
    if hasattr(error, "format_message"):  # of the parser of the command line
        return _usage(error), USERS
    if isinstance(error, ModuleNotFoundError):
        return _missing(error)
    if out_of_memory(error):
        return f"out of memory: {_short(str(error) or type(error).__name__)}; {SMALLER}", USERS
    if isinstance(error, OSError) and error.errno:
        return _of_system(error), USERS
    if isinstance(error, ValueError) and str(error).startswith("embedded null"):
        return NUL, USERS
    return None


def _usage(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    told = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    if "embedded null" in told:
        return NUL
    return told + (f" (see {context.command_path} --help)" if context else "")


def _of_system(error: OSError) -> str:
    what = (error.strerror or os.strerror(error.errno or 0)).lower()
    # a rename has two names, and the second is the one that the user knows
    path = error.filename2 or error.filename
    where = f"{_short(os.fsdecode(path) if isinstance(path, bytes) else str(path))}: " if path is not None else ""
    advice = ADVICE.get(error.errno or 0, "")
    return f"{where}{what}" + (f"; {advice}" if advice else "")


def _missing(error: ModuleNotFoundError) -> tuple[str, int] | None:
    name = (error.name or "").partition(".")[0]
    if name in EXTRAS:
        return f'this needs {name}; install with: pip install "advantageflow[{EXTRAS[name]}]"', USERS
    return (f"this needs {name}; install with: pip install {name}", USERS) if name in OTHERS else None


def _short(text: str) -> str:
    return cut(" ".join(text.split()))
