"""Objectives: one file per method, and this folder is their registry.

`objectives/flow_grpo.py` is `objective=flow-grpo`; whoever adds a file adds a method. A method is the one public
subclass of `base.Method` that its file defines, known to no model and no optimizer; see `base`.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

from advantageflow import custom_code
from advantageflow.errors import shown
from advantageflow.objectives.base import Method


def names() -> list[str]:
    """Every method's name, as recipes write it."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in modules if name != "base" and not name.startswith("_"))


def find(name: str) -> type[Method] | None:
    """The class of a method by its name, by an alias, or as package.module:Class; None if there is none.

    Raises:
        ImportError, TypeError: a stranger's class cannot be imported, or is no method; see `custom_code.load`.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        found = getattr(custom_code.load(f"the method {shown(name)}", module, attribute), attribute, None)
        if not (isinstance(found, type) and issubclass(found, Method)):
            raise TypeError(f"{name} is no class that derives from advantageflow.objectives.base.Method")
        return _checked(found)
    if name in names():
        return _method_of(name)
    return next((method for method in all_methods() if name in method.aliases), None)


def all_methods() -> list[type[Method]]:
    """The class of every method in this folder."""
    return [_method_of(name) for name in names()]


def _method_of(name: str) -> type[Method]:
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    found = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__file__} defines {len(found)} methods; one file is one method")
    return _checked(found[0])


def _checked(method: type[Method]) -> type[Method]:
    """The class itself.

    Raises:
        TypeError: it is no method yet; a sentence says what it lacks.
    """
    where = f"{method.__module__}.{method.__qualname__}"
    if not hasattr(method, "family"):
        raise TypeError(f"{where} has no family; derive it from Forward, Reverse or Gradient")
    if "__dataclass_fields__" not in vars(method):
        raise TypeError(f"{where} is no dataclass; write @dataclass(frozen=True) above it")
    lacking = [name for name in ("title", "paper") if not hasattr(method, name)]
    if lacking:
        raise TypeError(f'{where} has no {lacking[0]}; add {lacking[0]}: ClassVar[str] = "..."')
    bases = [base for base in method.__mro__[1:] if dataclasses.is_dataclass(base)]
    taken = {name for base in bases for name in {*vars(base)} - {field.name for field in dataclasses.fields(base)}}
    for field in dataclasses.fields(method):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise TypeError(f"{where} has no default for {field.name}; every setting has one")
        if field.name in taken | {"name"}:
            raise TypeError(f"{where} calls a setting {field.name}, which means something else; choose another name")
    return method


def __getattr__(name: str) -> Any:
    """Any method's class by its own name."""
    if name[:1].isupper():
        for method in all_methods():
            if method.__name__ == name:
                return method
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
