"""What a shell offers where a recipe or KEY=VALUE is typed: names, keys, and values where these can be listed."""

from __future__ import annotations

import re
from typing import Annotated

import typer


def complete_recipe(incomplete: str) -> list[str]:
    """Recipes whose names begin so; where there is none, a shell offers files."""
    from advantageflow.reading import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def complete_change(context: typer.Context, incomplete: str) -> list[str]:
    """KEY= of every key that begins so; of the only one, with its values.

    Bash cuts a word at =, and wants what comes after it alone.
    """
    from advantageflow.objectives import find
    from advantageflow.reading import recipe_names
    from advantageflow.settings import settings, typed

    before = [word for word in (context.params.get("recipe"), *(context.params.get("changes") or ())) if word]
    recipe = next((word for word in before if word in recipe_names()), None)
    chosen = re.findall(r"\bobjective(?:\.name)?(?:=| = )(\S+)", " ".join(before))
    changes = [f"objective={name}" for name in chosen[-1:] if ":" not in name and find(name)]
    values = {found.key: list(found.choices) or [typed(found.value)] for found in settings(recipe or "scenes", changes)}
    values["objective"] = values["objective.name"]
    if before[-1:] == ["="]:
        del before[-1]
    if before and before[-1] in values:
        return [value for value in values[before[-1]] if value.startswith(incomplete)]
    key, equals, begun = incomplete.partition("=")
    if equals:
        return [f"{key}={value}" for value in values.get(key, []) if value.startswith(begun)]
    keys = [each for each in values if each.startswith(key)]
    return [f"{keys[0]}={value}" for value in values[keys[0]]] if len(keys) == 1 else [f"{each}=" for each in keys]


def complete_first(context: typer.Context, incomplete: str) -> list[str]:
    """Where a recipe may be left out."""
    return complete_recipe(incomplete) or complete_change(context, incomplete)


ABOUT = "A shipped recipe or a YAML file"
RecipeArgument = Annotated[str, typer.Argument(help=f"{ABOUT}.", autocompletion=complete_recipe)]
RecipeOrScenes = Annotated[str | None, typer.Argument(help=f"{ABOUT}; default: scenes.", autocompletion=complete_first)]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings to change.", autocompletion=complete_change),
]
