"""The pages of the reference, which say what the code says; they are written when the site is built."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from typer import Typer
from typer.models import ArgumentInfo, OptionInfo

import advantageflow
from advantageflow.cli import app
from advantageflow.rewards import BUILT_IN, BuiltIn
from advantageflow.settings import about, settings, typed
from advantageflow.shipped import recipes as shipped
from advantageflow.tables import markdown_table

PARTS = {
    "For a loop of your own": [
        "advantageflow.advantages.group_advantages",
        "advantageflow.objectives.base.Method",
        "advantageflow.objectives.base.Noised",
        "advantageflow.objectives.base.Transition",
        "advantageflow.flow.Path",
        "advantageflow.solvers",
        "advantageflow.building.load_inputs",
        "advantageflow.building.build",
    ],
}


def pages() -> dict[str, str]:
    """Each page's file and text."""
    return {
        "reference/settings.md": _settings(),
        "reference/commands.md": _commands(),
        "reference/rewards.md": _rewards(),
        "reference/recipes.md": _recipes(),
        "reference/api.md": _api(),
    }


def _settings() -> str:
    parts = [
        "# Settings",
        "Every key of a recipe. On the command line a setting is `key=value`, as in `advantageflow train scenes "
        "learn.learning_rate=1e-3`; in a recipe it stands in its section. `advantageflow train --settings` shows the "
        "same in a terminal, `advantageflow train RECIPE --settings` a recipe's values. A recipe's method has defaults "
        "of its own, which hold where the recipe is silent: see [methods](../methods.md).",
    ]
    for section, its in groupby(settings(), key=lambda setting: setting.section):
        rows = [
            (f"`{setting.key}`", f"`{typed(setting.default)}`", setting.allowed, setting.meaning) for setting in its
        ]
        heading = f"`{section}`" if section else "At the top"
        parts += [f"## {heading}", about()[section], _table(["setting", "default", "allowed", "meaning"], rows)]
    parts.append("Settings of the other methods: [methods](../methods.md).")
    return _page(parts)


def _commands() -> str:
    parts = ["# Commands", "`advantageflow COMMAND --help` says the same in a terminal."]
    for name, function in _all_commands(app, "advantageflow"):
        arguments, options = [], []
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            hint, told = typing.get_args(parameter.annotation)
            row = _argument if isinstance(told, ArgumentInfo) else _option
            (arguments if row is _argument else options).append(row(parameter, hint, told))
        usage = " ".join([name, *(word.strip("`") for word, *_ in arguments), *(["[OPTIONS]"] if options else [])])
        parts += [f"## {name.removeprefix('advantageflow ')}", " ".join((inspect.getdoc(function) or "").split())]
        parts += [f"```text\n{usage}\n```", _table(["argument or option", "default", "meaning"], arguments + options)]
    return _page(parts)


def _all_commands(group: Typer, name: str) -> Iterator[tuple[str, Callable[..., None]]]:
    """Each command as it is typed, and its function, in the order of --help."""
    for command in group.registered_commands:
        yield f"{name} {command.name or command.callback.__name__.replace('_', '-')}", command.callback
    for inner in group.registered_groups:
        yield from _all_commands(inner.typer_instance, f"{name} {inner.name}")


def _argument(parameter: inspect.Parameter, hint: Any, told: ArgumentInfo) -> tuple[str, str, str]:
    word = told.metavar or parameter.name.upper()
    several = typing.get_origin(_given(hint)) is list
    word = f"{word}..." if several else word
    return f"`{word if parameter.default is parameter.empty else f'[{word}]'}`", "", told.help or ""


def _option(parameter: inspect.Parameter, hint: Any, told: OptionInfo) -> tuple[str, str, str]:
    usual, given = f"--{parameter.name.replace('_', '-')}", _given(hint)
    named = tuple(name for name in (told.default, *(told.param_decls or ())) if str(name).startswith("-"))
    names = named or (f"{usual}/--no-{usual[2:]}" if given is bool else usual,)
    value = "" if given is bool else f" {told.metavar or _value(given)}"
    default = "" if parameter.default in (None, False, "", parameter.empty) else f"`{parameter.default}`"
    return f"`{', '.join(names)}{value}`", default, told.help or ""


def _given(hint: Any) -> Any:
    """A type without None, which means that nothing was given."""
    return next((part for part in typing.get_args(hint) if part is not type(None)), hint) if _optional(hint) else hint


def _optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _value(hint: Any) -> str:
    if typing.get_origin(hint) is list:
        return _value(typing.get_args(hint)[0])
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(typing.get_args(hint))
    return {int: "N", float: "X", Path: "PATH"}.get(hint, "TEXT")


def _rewards() -> str:
    rows = [
        (f"`{name}`", reward.about, "yes" if reward.gradient else "", _needs(reward))
        for name, reward in BUILT_IN.items()
    ]
    return _page(
        [
            "# Built-in rewards",
            "Higher is better. Methods that follow a reward's gradient need one that has it. Packages come with `pip "
            'install "advantageflow[rewards]"`; weights are fetched on first use. How rewards are chosen, combined, '
            "written and served: [rewards](../rewards.md).",
            _table(["reward", "what it measures, and its range", "gradient", "needs"], rows),
        ]
    )


def _needs(reward: BuiltIn) -> str:
    links = [f"[{weights}](https://huggingface.co/{weights})" for weights in reward.weights]
    return ", ".join([*reward.modules, *links])


def _recipes() -> str:
    parts = [
        "# Recipes",
        "`advantageflow train RECIPE` runs one; `advantageflow recipes` lists them in a terminal. Those of `paper/` "
        "are the base of [the experiments](../experiments.md).",
    ]
    found = shipped()
    models = list(dict.fromkeys(recipe.model for recipe in found))
    for model in models:
        rows = [
            (f"[`{each.name}`](../../src/advantageflow/recipes/{each.name}.yaml)", each.method, each.reward, each.about)
            for each in found
            if each.model == model
        ]
        parts += [f"## {model}", _table(["recipe", "method", "reward", "what it is"], rows)]
    return _page(parts)


def _api() -> str:
    public = [f"advantageflow.{home}.{name}" for name, home in advantageflow._HOMES.items()]
    parts = ["# Python", "How these are used: [from Python](../python.md).", "## `import advantageflow`"]
    parts += [f"::: {name}" for name in public]
    for heading, names in PARTS.items():
        parts += [f"## {heading}", *(f"::: {name}" for name in names)]
    return _page(parts)


def _table(head: list[str], rows: list[tuple[str, ...]]) -> str:
    return markdown_table(head, [[cell.replace("|", "\\|") or "–" for cell in row] for row in rows])


def _page(parts: list[str]) -> str:
    return "\n\n".join(part.strip() for part in parts) + "\n"
