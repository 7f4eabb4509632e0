"""Sentences about wrong settings: the key, its value, what is allowed, and the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from advantageflow.errors import ConfigError, shown

MAX_TEXT = 4096
_BATCH = "allowed: how many at once, from 1, or auto"
# Where pydantic's words would speak of unions
ALLOWED = {
    "evaluation.rewards": "allowed: a reward for each label: {exact: scenes_exact, preference: pickscore}",
    "evaluation.prompts_shown": "allowed: how many held-out prompts, from 1 to 256, or a list of 1 to 256 prompts",
    "learn.batch_size": _BATCH,
    "learn.t_range": "allowed: [FIRST, SECOND], each a number from 0 to 1, the first below the second",
    "model.device": "allowed: auto, cpu, mps, cuda, cuda:NUMBER",
    "model.resolution": "allowed: pixels, such as 512, or [height, width], such as [512, 768]",
    "policy.rollout_decay": "allowed: a schedule (0, 1 or 2) or a constant between 0 and 1",
    "reward": "allowed: a reward's name, names with their weights: {pickscore: 1}, or a list of one reward's servers",
    "rollout.batch_size": _BATCH,
    "run.trackers": "allowed: any of tensorboard, wandb, trackio, mlflow; [] is none",
    "rollout.images_per_prompt": "a group needs at least 2 images to compare",
}
MOST_SENTENCES = 3
SHORTEST = 3  # beginning of a name that says which is meant


def explain(errors: list[ErrorDetails], root: type[BaseModel]) -> str:
    """One sentence per wrong key of the tree `root`."""
    by_key: dict[str, list[ErrorDetails]] = {}
    for error in errors:
        path = [str(part) for part in error["loc"]]
        if path[0] == "reward":
            del path[1:]
        del path[3 if path[:2] == ["evaluation", "rewards"] else 2 :]  # the branch of a union of types
        by_key.setdefault(".".join(path), []).append(error)
    sentences = [_sentence(key, found, root) for key, found in list(by_key.items())[:MOST_SENTENCES]]
    more = len(by_key) - len(sentences)
    return "; ".join([*sentences, f"and {more} more"] if more else sentences)


def _sentence(key: str, found: list[ErrorDetails], root: type[BaseModel]) -> str:
    first = found[0]
    if first["type"] == "extra_forbidden":
        section, _, last = key.rpartition(".")
        names = _allowed_keys(first["loc"], root)
        where = f"in {shown(section)}" if section else "at the top of a recipe"
        return f"unknown key {shown(key)}{nearest(last, names)}; allowed {where}: {', '.join(names)}"
    if key in ALLOWED:
        return f"{key} is {shown(first['input'])}; {ALLOWED[key]}"
    if first["type"] == "model_type":
        names = _allowed_keys((*first["loc"], ""), root)
        return f"{key} is {shown(first['input'])}, but it is a section; allowed in it: {', '.join(names)}"
    message = first["msg"][0].lower() + first["msg"][1:]
    key = key if key.isprintable() and len(key) <= 200 else shown(key)
    return f"{key} is {shown(first['input'])}; {message.replace('input should', 'it should')}"


def _allowed_keys(path: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    section = root
    for part in path[:-1]:
        inner = section.model_fields[str(part)].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        section = inner
    return list(section.model_fields)


def nearest(name: str, names: Iterable[str], most: int = 1) -> str:
    """A question with the likeliest of `names`, those that begin so first; "" where none is near."""
    names, name = list(names), name[:200]
    begun = [each for each in names if len(name) >= SHORTEST and each.startswith(name)]
    close = (begun or difflib.get_close_matches(name, names, n=most))[:most]
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def check_plain(key: str, given: Any, read: Any) -> None:
    """True is no number, and no path, name or address has control characters.

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(given, dict) and isinstance(read, dict):
        for name, value in given.items():
            check_plain(key, name, name)
            check_plain(f"{key}.{name}" if key else name, value, read[name])
    elif isinstance(given, bool) and not isinstance(read, bool):
        raise ConfigError(f"{key} is {given}; it should not be true or false")
    elif isinstance(read, str) and (len(read) > MAX_TEXT or not read.isprintable()):
        raise ConfigError(f"{key} is {shown(read)}; it should be printable text of at most {MAX_TEXT} characters")
