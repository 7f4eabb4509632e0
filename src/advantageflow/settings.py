"""What may be set: every key with its value, what is allowed, and what it means, as the classes of settings say it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

import yaml
from pydantic import BaseModel

from advantageflow import trackers
from advantageflow.config import WORLDS, Config, default_config, load_config
from advantageflow.config_errors import ALLOWED, nearest
from advantageflow.errors import ConfigError, shown
from advantageflow.methods import DEFAULT, allowed
from advantageflow.objectives import names
from advantageflow.objectives.base import Method
from advantageflow.reading import recipe_names
from advantageflow.rewards import BUILT_IN

WORDS = "allowed: "
CHOICES = {
    "model.path": tuple(WORLDS),
    "reward": tuple(BUILT_IN),
    "run.trackers": tuple(trackers.names()),
}  # those that have a name


@dataclass(frozen=True)
class Setting:
    """One key.

    Args:
        value: the default, or a recipe's.
        choices: of its values those that can be listed, as they are typed.
    """

    key: str
    value: Any
    default: Any
    allowed: str
    meaning: str
    choices: tuple[str, ...] = ()

    @property
    def section(self) -> str:
        """The part before the dot; "" for keys at the top of a recipe."""
        return self.key.rpartition(".")[0]


def settings(recipe: str | None = None, changes: Iterable[str] = ()) -> list[Setting]:
    """Every setting, in the order of the sections.

    Args:
        recipe: whose values are shown, and whose method's settings; None for the defaults.
        changes: to the recipe, as key=value.

    Raises:
        ConfigError: see `load_config`.
    """
    config = default_config(DEFAULT) if recipe is None else load_config(recipe, changes)
    default = default_config(config.objective.name)
    found = _of_section("", Config, config, default)
    for name, field in Config.model_fields.items():
        inner = field.annotation
        if _is_section(inner):
            found += _of_section(f"{name}.", inner, getattr(config, name), getattr(default, name))
        elif name == "objective":
            found += _of_method(config.objective)
    return found


def about() -> dict[str, str]:
    """Each section, and what it is about; "" holds the keys at the top."""
    told = {"": "The recipe as a whole."}
    for name, field in Config.model_fields.items():
        inner = field.annotation
        if name == "objective":
            told[name] = "The method, and what may be set of it."
        elif _is_section(inner):
            told[name] = inspect.getdoc(inner) or ""
    return told


def chosen(part: str, found: Iterable[Setting]) -> list[Setting]:
    """The settings of a section, or the one of a key.

    Raises:
        ConfigError: there is no such section or key.
    """
    found = list(found)
    those = [setting for setting in found if part in (setting.section, setting.key)]
    if not those:
        sections = [name for name in about() if name]
        known = [*sections, *(setting.key for setting in found), *recipe_names()]
        raise ConfigError(
            f"there is no section, setting or recipe {shown(part)}{nearest(part, known)}; sections are "
            f"{', '.join(sections)}; advantageflow train --settings shows them all"
        )
    return those


def typed(value: Any) -> str:
    """A value as it is written after key=."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _is_section(hint: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def _of_section(prefix: str, section: type[BaseModel], given: BaseModel, default: BaseModel) -> list[Setting]:
    hints = typing.get_type_hints(section, include_extras=True)
    plain, usual = given.model_dump(mode="json"), default.model_dump(mode="json")
    found = []
    for name, field in section.model_fields.items():
        inner, key = field.annotation, prefix + name
        if key == "objective" or _is_section(inner):
            continue
        told = ALLOWED.get(key, "")
        words = told.removeprefix(WORDS) if told.startswith(WORDS) else ""
        found.append(
            Setting(
                key,
                plain[name],
                usual[name],
                words or allowed(hints[name]),
                field.description or "",
                CHOICES.get(key) or _choices(hints[name]),
            )
        )
    return found


def _of_method(method: Method) -> list[Setting]:
    hints, told = typing.get_type_hints(type(method), include_extras=True), meanings(type(method))
    name = Setting(
        "objective.name",
        method.name,
        DEFAULT,
        "a method (advantageflow methods lists them), or package.module:Class",
        "what is learned by; objective=NAME is short for it",
        tuple(names()),
    )
    return [
        name,
        *(
            Setting(
                f"objective.{field.name}",
                getattr(method, field.name),
                field.default,
                allowed(hints[field.name]),
                told.get(field.name, ""),
                _choices(hints[field.name]),
            )
            for field in dataclasses.fields(method)
        ),
    ]


def meanings(method: type[Method]) -> dict[str, str]:
    """What a method's docstring says of each setting, under "Args:"; "a, b: α, β" are two meanings."""
    found: dict[str, str] = {}
    _, _, args = (inspect.getdoc(method) or "").partition("\nArgs:\n")
    for entry in re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", args, re.MULTILINE):
        keys, text = entry[0].split(", "), " ".join(entry[1].split()).removesuffix(".")
        if text == "see above":
            text = f"see the formula: advantageflow methods {method().name}"
        parts = text.split(", ")
        found |= zip(keys, parts if len(parts) == len(keys) else [text] * len(keys), strict=True)
    return found


def _choices(hint: Any) -> tuple[str, ...]:
    if typing.get_origin(hint) is typing.Annotated:
        return _choices(typing.get_args(hint)[0])
    if typing.get_origin(hint) is typing.Literal:
        return tuple(map(typed, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(choice for part in typing.get_args(hint) for choice in _choices(part))
    return {bool: ("true", "false"), type(None): ("null",)}.get(hint, ())
