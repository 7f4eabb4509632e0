"""Recipes as plain data: a YAML file, what it extends, and changes written as `key=value`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from advantageflow.config_errors import nearest
from advantageflow.errors import ConfigError

RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))


def read_recipe(recipe: str) -> dict[str, Any]:
    """The plain content of a recipe, by name or path; `extends` names another whose settings it starts from."""
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"unknown recipe {recipe!r}; shipped are {', '.join(recipe_names())}{nearest(recipe, recipe_names())}, "
            "or give the path of a .yaml file"
        )
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, not {type(content).__name__}")
    base = content.pop("extends", None)
    return content if base is None else _merge(read_recipe(str(base)), content)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Sections are merged; rewards, which are mappings too, are replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key not in ("reward", "rewards")
        merged[key] = _merge(base[key], value) if both else value
    return merged


def parse_change(override: str) -> tuple[str, Any]:
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"cannot read {override!r}; write a change as key=value, such as seed=1")
    try:
        return key, yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of {override!r} is not valid YAML: {str(error).splitlines()[0]}") from None
