"""The methods there are, and what may be set of them: read from the classes in `objectives/`, written nowhere else."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import TypeAdapter, ValidationError

from advantageflow.config_errors import MOST_SENTENCES, nearest
from advantageflow.errors import ConfigError, shown
from advantageflow.reading import read_recipe, recipe_names

if TYPE_CHECKING:
    from advantageflow.objectives.base import Method

DEFAULT = "advantageflow"
LIMIT = 1e6  # bounds of this size are only there to keep products finite, and are not told


def find_method(name: Any) -> type[Method]:
    """The class of a method by its name, an alias, or package.module:Class.

    Raises:
        ConfigError: there is none; the message lists all, and the nearest; or it is custom code, which is refused.
    """
    from advantageflow.objectives import all_methods, find, names
    from advantageflow.rewards.faults import contained

    if not isinstance(name, str):
        raise ConfigError(f"objective.name is {shown(name)}; allowed: {', '.join(names())}, or package.module:Class")
    try:
        with contained() if ":" in name else nullcontext():  # which imports torch
            found = find(name)
    except ConfigError:
        raise
    except Exception as error:  # whatever a stranger's module raises becomes one sentence
        raise ConfigError(f"objective.name is {shown(name)}, which cannot be used: {shown(str(error))}") from error
    if found is None:
        known = [*names(), *(alias for method in all_methods() for alias in method.aliases)]
        raise ConfigError(
            f"objective.name is {shown(name)}{nearest(name, known)}; allowed: {', '.join(names())}, "
            "or package.module:Class"
        )
    return found


def read_method(given: Any) -> Method:
    """A method from the section `objective`: its name and settings.

    Raises:
        ConfigError: naming the key, its value, and what is allowed.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"objective is {shown(given)}; give a method's name, or a section with its name and settings")
    method = find_method(given.get("name", DEFAULT))
    settings = {key: value for key, value in given.items() if key != "name"}
    fields = {field.name for field in dataclasses.fields(method)}
    unknown = [key for key in settings if key not in fields]
    if unknown:
        wrong = "; ".join(
            f"unknown key {shown(f'objective.{key}')}{nearest(str(key), fields)}" for key in unknown[:MOST_SENTENCES]
        )
        raise ConfigError(f"{wrong}; allowed in 'objective': {', '.join(['name', *sorted(fields)])}")
    try:
        return TypeAdapter(method).validate_python(settings)
    except ValidationError as error:
        raise ConfigError(_explain(error, method)) from None


def dump_method(method: Method) -> dict[str, Any]:
    """What `read_method` makes the same of."""
    return {"name": method.name, **dataclasses.asdict(method)}


def label_of(method: Method) -> str:
    """A method's name, with the value of what its `short` names: "NAME-VALUE"."""
    return f"{method.name}-{getattr(method, method.short[0])}" if method.short else method.name


def split_label(label: str) -> tuple[type[Method], str | None] | None:
    """The method that a label names, and the value in "NAME-VALUE" or "TITLE(VALUE)"; None if it names none.

    A method is known by its name, aliases, title and class.
    """
    from advantageflow.objectives import all_methods

    known = [(name, method) for method in all_methods() for name in _known_as(method)]
    for name, method in known:
        if label == name:
            return method, None
    for name, method in known:
        found = re.fullmatch(rf"{re.escape(name)}(?:-(.+)|\((.+)\))", label)
        if found and method.short:
            return method, found[1] or found[2]
    return None


def _known_as(method: type[Method]) -> tuple[str, ...]:
    return (method().name, *method.aliases, method.title, method.__name__)


def changes_of(variant: str) -> tuple[str, ...]:
    """A method's name as changes to a recipe; "name-value" sets what the method's `short` names as well."""
    method, value = split_label(variant) or (None, None)
    if method is None or method.short is None or value is None:
        return (f"objective={variant}",)
    return (f"objective={method().name}", f"objective.{method.short[0]}={value}")


def describe() -> list[dict[str, Any]]:
    """`describe_method` of every method."""
    from advantageflow.objectives import all_methods

    return [describe_method(method) for method in all_methods()]


def describe_method(method: type[Method]) -> dict[str, Any]:
    """What there is to know of a method without a run.

    Name, aliases, title, paper, its claim, family, docstring, what it sees by default, settings with defaults and what
    is allowed, what a recipe's silence means, shipped recipes, the file in the package and its number of lines.
    """
    made, hints = method(), typing.get_type_hints(method, include_extras=True)
    file, package = Path(inspect.getfile(method)).resolve(), Path(__file__).resolve().parent
    return {
        "name": made.name,
        "aliases": list(method.aliases),
        "title": method.title,
        "paper": method.paper,
        "claim": method.claim,
        "family": method.family,
        "doc": inspect.getdoc(method) or "",
        "sees": sorted(made.sees),
        "settings": {
            field.name: {"default": getattr(made, field.name), "allowed": allowed(hints[field.name])}
            for field in dataclasses.fields(method)
        },
        "defaults": dict(method.defaults),
        "recipes": [name for name, its in _recipes().items() if its is method],
        "file": file.relative_to(package).as_posix() if file.is_relative_to(package) else None,
        "lines": len(file.read_text(encoding="utf-8").splitlines()),
    }


@cache
def _recipes() -> dict[str, type[Method]]:
    """The shipped recipes that users start from, those of the paper's figures aside, and their methods."""
    names = [name for name in recipe_names() if "/" not in name]
    return {name: find_method(read_recipe(name).get("objective", {}).get("name", DEFAULT)) for name in names}


def allowed(hint: Any) -> str:
    """What a setting may be, in words, from its annotation."""
    if typing.get_origin(hint) is Annotated:
        inner, *told = typing.get_args(hint)
        bounds = [bound for each in told for bound in getattr(each, "metadata", [each])]  # of pydantic's Field
        limits = {
            name: getattr(bound, name)
            for bound in bounds
            for name in ("gt", "ge", "lt", "le")
            if abs(getattr(bound, name, None) or 0) < LIMIT and hasattr(bound, name)
        }
        if {"ge", "le"} <= limits.keys():
            return f"{allowed(inner)} from {limits['ge']:g} to {limits['le']:g}"
        named = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
        words = [f"{named[name]} {limit:g}" for name, limit in limits.items()]
        return " ".join([allowed(inner), " and ".join(words)]).strip()
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = typing.get_args(hint)
        literal = all(typing.get_origin(part) is typing.Literal for part in parts)
        return (", " if literal else ", or ").join(map(allowed, parts))
    if typing.get_origin(hint) is tuple:
        return f"a list, each {allowed(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(map(str, typing.get_args(hint)))
    words_of: dict[Any, str] = {
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    return words_of.get(hint, str(hint).removeprefix("typing."))


def _explain(error: ValidationError, method: type[Method]) -> str:
    """One sentence per wrong setting."""
    hints = typing.get_type_hints(method, include_extras=True)
    by_key: dict[str, list[Any]] = {}
    for each in error.errors():
        by_key.setdefault(str(each["loc"][0]) if each["loc"] else "", []).append(each)
    sentences = []
    for key, found in list(by_key.items())[:MOST_SENTENCES]:
        message = found[0]["msg"].removeprefix("Value error, ")
        if not key:
            sentences.append(f"objective: {message}")
        elif len(found) > 1:
            sentences.append(f"objective.{key} is {shown(found[0]['input'])}; allowed: {allowed(hints[key])}")
        else:
            message = (message[0].lower() + message[1:]).replace("input should", "it should")
            sentences.append(f"objective.{key} is {shown(found[0]['input'])}; {message}")
    more = len(by_key) - len(sentences)
    return "; ".join([*sentences, f"and {more} more"] if more else sentences)
