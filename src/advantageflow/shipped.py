"""The recipes that come with the package: what each trains, by which method, for which reward."""

from __future__ import annotations

from dataclasses import dataclass

from advantageflow.methods import DEFAULT, find_method
from advantageflow.reading import find_recipe, read_recipe, recipe_names


@dataclass(frozen=True)
class Recipe:
    """One recipe, as its file says.

    Args:
        reward: one, or several with + between them.
        about: the comment in its first line.
    """

    name: str
    model: str
    method: str
    reward: str
    about: str


def recipes() -> list[Recipe]:
    """Every shipped recipe, those that users start from before those of the paper's figures."""
    return [_described(name) for name in sorted(recipe_names(), key=lambda name: ("/" in name, name))]


def _described(name: str) -> Recipe:
    settings = read_recipe(name)
    reward = settings["reward"]
    with find_recipe(name).open(encoding="utf-8") as file:
        about = file.readline().removeprefix("#").strip()
    return Recipe(
        name,
        settings.get("model", {}).get("path", "scenes"),
        find_method(settings.get("objective", {}).get("name", DEFAULT))().name,
        reward if isinstance(reward, str) else " + ".join(reward),
        about,
    )
