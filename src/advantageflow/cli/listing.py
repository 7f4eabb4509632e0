"""What there is to choose from: `recipes`, and `train --settings`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from advantageflow.settings import Setting
    from advantageflow.shipped import Recipe

COLUMN = 40  # where what is allowed begins
INDENT = (0, 0, 0, 4)  # of lines below


def recipes(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List the recipes: model, method, reward, and a line on each."""
    import json

    from rich.console import Console
    from rich.padding import Padding

    from advantageflow.shipped import recipes as shipped

    found = shipped()
    if as_json:
        print(json.dumps([asdict(recipe) for recipe in found], indent=2, ensure_ascii=False))
        return
    console = Console(markup=False, highlight=False)
    for model, its in groupby(sorted(found, key=lambda recipe: _order(recipe, found)), key=lambda recipe: recipe.model):
        console.print(f"model {model}: recipe, method, reward", style="bold")
        for recipe in its:
            console.print(f"  {recipe.name:<27}{recipe.method:<20}{recipe.reward}", style="bold cyan", soft_wrap=True)
            console.print(Padding(recipe.about, INDENT, expand=False))
        console.print()
    console.print("advantageflow train RECIPE runs one; --settings shows what it sets, --plan its cost")


def _order(recipe: Recipe, found: Sequence[Recipe]) -> int:
    """Models in the order in which they are first named; the sort is stable."""
    return [each.model for each in found].index(recipe.model)


def show_settings(words: Iterable[str]) -> None:
    """Print settings; those of a section or key alone, with a recipe's values, where the words name these.

    Raises:
        ConfigError: a word is no recipe, change, section or key.
    """
    from rich.console import Console

    from advantageflow.errors import ConfigError
    from advantageflow.reading import recipe_names
    from advantageflow.settings import about, chosen, settings

    words = list(words)
    changes = [word for word in words if "=" in word]
    plain = [word for word in words if "=" not in word]
    recipes = [word for word in plain if word in recipe_names() or word.endswith((".yaml", ".yml"))]
    parts = [word for word in plain if word not in recipes]
    if len(recipes) > 1 or len(parts) > 1:
        raise ConfigError("--settings takes one recipe and one section: advantageflow train RECIPE SECTION --settings")
    recipe = recipes[0] if recipes else "scenes" if changes else None
    found = settings(recipe, changes)
    console = Console(markup=False, highlight=False)
    for section, its in groupby(chosen(parts[0], found) if parts else found, key=lambda setting: setting.section):
        console.print(f"{section or 'at the top'}: {about()[section]}", style="bold", soft_wrap=True)
        for setting in its:
            _print(console, setting)
    if recipe is None:
        console.print("\nThese are the defaults; a recipe's values: advantageflow train RECIPE --settings")


def _print(console: Console, setting: Setting) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from advantageflow.settings import typed

    value = shlex.quote(f"{setting.key}={typed(setting.value)}")
    allowed = setting.allowed
    if setting.value != setting.default:
        allowed += f"; default {typed(setting.default)}"
    if max(len(value) + 4, COLUMN) + len(allowed) <= console.width:
        console.print(Text.assemble("  ", (value.ljust(COLUMN - 4), "bold cyan"), "  ", allowed), soft_wrap=True)
    else:
        console.print(Text("  " + value, "bold cyan"), soft_wrap=True)
        console.print(Padding(Text(allowed), INDENT, expand=False))
    if setting.meaning:
        console.print(Padding(Text(setting.meaning), INDENT, expand=False))
