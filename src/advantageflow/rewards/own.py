"""A reward of the user's own: a function or class in a file or module, found, imported, and made."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from advantageflow import custom_code
from advantageflow.config_errors import nearest
from advantageflow.errors import ConfigError, cut, shown
from advantageflow.rewards.faults import contained, reason

HOW = "write ./my_reward.py:function, or package.module:function"


def is_address(name: str) -> bool:
    """Whether a reward's name is the address of a server."""
    return name.lower().startswith(("http://", "https://"))


def is_path(name: str) -> bool:
    """Whether a reward's name, or what stands before its colon, is meant as a file."""
    return name.rpartition(":")[0].endswith(".py") or name.endswith(".py") or "/" in name


def name_of(reward: Callable[..., Any]) -> str:
    """By which a run records a reward that it is given: "module:function", or "module:Class()" for an object."""
    is_object = not (inspect.isroutine(reward) or inspect.isclass(reward))
    written: Any = type(reward) if is_object else reward
    name = getattr(written, "__qualname__", type(written).__qualname__)
    return resolve(f"{written.__module__}:{name}{'()' if is_object else ''}", [Path.cwd()])


def is_of_python(name: str) -> bool:
    """Whether a reward's name is that of an object, a nested function, or one of a script that was run."""
    return name.startswith("__main__:") or name.endswith(("()", ">")) or "<locals>" in name


def pooled(reward: Any) -> Any:
    """A list of one reward's servers as their addresses with commas between them; anything else as it is.

    Raises:
        ConfigError: a list holds something else.
    """
    if not isinstance(reward, list | tuple):
        return reward
    if not reward or not all(isinstance(address, str) and is_address(address) for address in reward):
        raise ConfigError(
            f"a reward is {shown(reward)}, but a list names the servers of one reward: [http://a:8000, http://b:8000]; "
            "write one reward by its name, and several with their weights: {pickscore: 1, ocr: 1}"
        )
    return ",".join(reward)


def resolve(name: str, folders: Iterable[Path]) -> str:
    """Make "/absolute/file.py:function" of "./file.py:function" or "module:function", in the first folder that has it.

    Other names, and modules that none of the folders has, stay as they are.
    """
    target, colon, function = name.rpartition(":")
    if not colon or is_address(name):
        return name
    module = os.path.join(*target.split("."))
    files = [os.path.expanduser(target)] if is_path(name) else [f"{module}.py", os.path.join(module, "__init__.py")]
    for folder in folders:
        for file in files:
            path = os.path.abspath(os.path.join(folder, file))
            if os.path.isfile(path):
                return f"{path}:{function}"
    return name


def resolve_rewards(settings: dict[str, Any], beside: Path | None, *, typed: bool = False) -> dict[str, Any]:
    """A recipe's settings with every reward that is a file or module of the user's in `resolve`'s absolute form, and
    every list of servers as one reward.

    Modules are looked for beside the recipe and then in the current folder; so are paths, but those that were typed
    start from the current folder.

    Raises:
        ConfigError: two names of one reward are the same function, or see `pooled`.
    """
    places = [*([beside] if beside else []), Path.cwd()]

    def absolute(name: Any) -> Any:
        name = pooled(name)
        if not isinstance(name, str):
            return name
        return resolve(name, places[::-1] if typed and is_path(name) else places)

    settings, reward, evaluation = dict(settings), settings.get("reward"), settings.get("evaluation")
    if isinstance(reward, dict):
        settings["reward"] = {absolute(name): weight for name, weight in reward.items()}
        if len(settings["reward"]) < len(reward):
            raise ConfigError(f"reward names one function twice: {shown(list(reward))}; give it one weight")
    elif reward is not None:
        settings["reward"] = absolute(reward)
    if isinstance(evaluation, dict) and isinstance(evaluation.get("rewards"), dict):
        named = {label: absolute(name) for label, name in evaluation["rewards"].items()}
        settings["evaluation"] = {**evaluation, "rewards": named}
    return settings


def wanted(name: str, target: str) -> tuple[str, Path | str, str]:
    """What `custom_code.load` imports for a reward: what it is for, the file or module, and the name in it.

    Args:
        target: "file.py:name" or "module:name".
    """
    where, _, attribute = target.rpartition(":")
    return f"the reward {shown(name)}", Path(where) if is_path(target) else where, attribute


def find(name: str, target: str, *, built_in: bool = False) -> Callable[..., Any]:
    """The function or class "file.py:name" or "module:name".

    Args:
        name: of the reward, for messages.
        built_in: it comes with the package, and is no custom code.

    Raises:
        ConfigError: it cannot be imported, is refused, or is no function; the message has the user's own file and line.
    """
    where, _, attribute = target.rpartition(":")
    if is_path(target) and not (where and os.path.isfile(where)):
        missing = f"there is no file {shown(where)}" if where else "it names no function"
        raise ConfigError(f"cannot load the reward {shown(name)}: {missing}; {HOW}")
    if not built_in:
        custom_code.check(*wanted(name, target))
    try:
        with contained():
            module = importlib.import_module(where) if built_in else custom_code.load(*wanted(name, target))
    except Exception as error:  # whatever a user's module raises becomes one clear message
        raise ConfigError(f"cannot load the reward {shown(name)}: {reason(error)}; {HOW}") from error
    found = getattr(module, attribute, None)
    if found is None:
        names = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise ConfigError(
            f"cannot load the reward {shown(name)}: {cut(where)} has no {shown(attribute)}"
            f"{nearest(attribute, names)}; {HOW}"
        )
    if not callable(found):
        raise ConfigError(f"the reward {shown(name)} is not a function but {shown(found, 80)}; {HOW}")
    return found  # type: ignore[no-any-return]


def file_of(name: str) -> Path | None:
    """The file in which a reward of the user's own is written, once it is loaded."""
    target = resolve(name, [Path.cwd()]).rpartition(":")[0]
    file = target if is_path(target) else getattr(sys.modules.get(target), "__file__", None)
    return Path(file) if file else None


def make(name: str, found: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself; of a class an instance, which is called.

    Raises:
        ConfigError: the class cannot be made without arguments, or its instances cannot be called.
    """
    if not isinstance(found, type):
        return found
    try:
        with contained():
            reward = found()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"cannot load the reward {shown(name)}: {reason(error, found)}") from error
    if not callable(reward):
        raise ConfigError(f"the reward {shown(name)} is a class whose instances cannot be called; give it __call__")
    return reward  # type: ignore[no-any-return]
