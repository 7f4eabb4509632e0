"""Recipes as plain data: a YAML file, what it extends, and changes written as `key=value`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from advantageflow.config_errors import nearest
from advantageflow.errors import ConfigError, shown
from advantageflow.evaluated import inherit, labels, trained_on
from advantageflow.rewards.own import resolve_rewards

RECIPES = Path(__file__).parent / "recipes"
WHOLE = ("reward", "rewards")  # mappings that are one value, and no section
MAX_BYTES = 100_000
MAX_DEPTH = 20
MAX_NODES = 10_000  # of a document, its aliases written out


class _Loader(yaml.SafeLoader):
    """Plain mappings, lists and scalars, of bounded size. Whatever has no single meaning is an error with its line."""

    depth = 0

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > MAX_NODES:
            raise _error(f"it has more than {MAX_NODES} values, its aliases written out", node)
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None):
            raise _error(f"tags are not read: {shown(event.tag)}", event)
        if self.depth == MAX_DEPTH:
            raise _error(f"it is nested deeper than {MAX_DEPTH}", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, value in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                raise _error(f"a key must be text, not {shown(key.value if key.id == 'scalar' else key.id)}", key)
            if key.value in first:
                raise _error(f"the key {shown(key.value)} is written twice, first in line {first[key.value]}", key)
            if node.flow_style and ":" in key.value and key.style is None and (value.style, value.value) == (None, ""):
                raise _error(
                    f"write {_spaced(key.value)}, with a space after the colon; in a shell between quotes", key
                )
            first[key.value] = key.start_mark.line + 1
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if not re.fullmatch(r"[-+]?(0|[1-9][0-9_]{0,99})", node.value):
            raise _error(f"{shown(node.value, 60)} is no number in decimal; for text write it in quotes", node)
        return int(node.value.replace("_", ""))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        if ":" in node.value:
            raise _error(f"{shown(node.value, 60)} is no number in decimal; for text write it in quotes", node)
        return super().construct_yaml_float(node)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]  # a date is text
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def _spaced(entry: str) -> str:
    """An entry of a mapping such as "a:1", as YAML wants it; names may have colons, numbers have none."""
    name, _, value = entry.rpartition(":") if re.search(r":[-+.\d]+$", entry) else entry.partition(":")
    return f"{{{name}: {value}}}"


def _error(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def _size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Values below a node, each alias counted as what it stands for."""
    if id(node) not in sizes:
        sizes[id(node)] = None
        parts: list[Any] = node.value if isinstance(node, yaml.CollectionNode) else []
        below = [part for entry in parts for part in (entry if isinstance(entry, tuple) else (entry,))]
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in below)
    size = sizes[id(node)]
    if size is None:
        raise _error("an anchor contains itself", node)
    return size


def parse_yaml(text: str | bytes, what: str) -> Any:
    """YAML without dates, tags, octals, and anything that is written twice.

    Args:
        what: names the text in messages.

    Raises:
        ConfigError: with the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{what} is not valid YAML: {line}{_line(error.problem or error.context)}") from None
    except RecursionError:
        raise ConfigError(f"{what} is not valid YAML: it is nested too deep") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{what} is not valid YAML: {_line(error)}") from None


def _line(problem: object) -> str:
    return shown(" ".join(str(problem).split()), 400)[1:-1]


def recipe_names() -> list[str]:
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))


def read_recipe(recipe: str) -> dict[str, Any]:
    """The plain content of a recipe, by name or path; `extends` names another whose settings it starts from.

    What it extends is looked for beside the recipe, and then among those shipped. A recipe that trains on another
    reward does not take over what that one evaluates.

    Raises:
        ConfigError: there is no such recipe, or it is no mapping of settings.
    """
    return _read(find_recipe(recipe), ())


def find_recipe(recipe: str) -> Path:
    """The file of a recipe; raises what `read_recipe` does."""
    return _find(recipe, None)


def _find(recipe: str, extended_by: Path | None) -> Path:
    """The file of a recipe; it may have the name of the shipped one that it extends."""
    is_path = recipe.endswith((".yaml", ".yml"))
    path = Path(recipe if is_path else f"{recipe}.yaml")
    try:
        places = [extended_by.parent / path.expanduser()] if extended_by else []
        places += [path.expanduser()] if is_path else []
        places += [RECIPES / path] if recipe in recipe_names() else []
        found = [place for place in places if place.exists()]
        others = [place for place in found if not (extended_by and place.samefile(extended_by))]
        missing = "" if found else _no_file(path, extended_by) if is_path else _no_recipe(recipe)
    except (OSError, ValueError, RuntimeError) as error:  # a name that is too long, or an unknown ~user
        raise ConfigError(f"there can be no recipe {shown(recipe)}: {getattr(error, 'strerror', error)}") from None
    if missing:
        raise ConfigError(missing)
    return (others or found)[0]


def _no_file(path: Path, extended_by: Path | None) -> str:
    folder = ((extended_by.parent if extended_by else Path.cwd()) / path.expanduser()).parent
    where = f"there is no folder {shown(str(folder))}" if not folder.is_dir() else f"looked for in {shown(str(folder))}"
    own = f"; the shipped recipe is {shown(path.stem)}, without {path.suffix}" if path.stem in recipe_names() else ""
    return f"no such file: {shown(str(path))}; {where}{own}"


def _no_recipe(recipe: str) -> str:
    own = f"; the file here is {shown(f'{recipe}.yaml')}, named in full" if Path(f"{recipe}.yaml").is_file() else ""
    return (
        f"unknown recipe {shown(recipe)}{nearest(recipe, recipe_names(), 3)}{own}; `advantageflow recipes` lists all; "
        "or give the path of a .yaml file"
    )


def _read(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    what = str(path) if len(str(path)) < 200 else shown(str(path))
    if any(path.samefile(other) for other in extended_by):
        raise ConfigError(f"{what} extends itself, by way of {', '.join(map(str, extended_by))[:200]}")
    if not path.is_file():
        raise ConfigError(f"{what} is not a file; give the path of a .yaml file with settings")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {what}: {error.strerror}") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{what} has more than {MAX_BYTES} bytes; a recipe has a few hundred")
    content = parse_yaml(text, what)
    if not isinstance(content, dict):
        found = "it is empty" if content is None else f"not {type(content).__name__}"
        raise ConfigError(f"{what} must hold a mapping of settings, such as 'extends: scenes'; {found}")
    content = resolve_rewards(content, path.parent)
    _check_cache(content, what)
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise ConfigError(f"extends in {what} is {shown(base)}; it must be one recipe's name or path")
    settings = _read(_find(base, path), (*extended_by, path))
    return inherit(merge(settings, content), trained_on(settings), labels(content))


def _check_cache(content: dict[str, Any], what: str) -> None:
    """A recipe may be a stranger's, and `model.prompt_cache` is the one place beside its folder where a run writes."""
    model = content.get("model")
    cache = model.get("prompt_cache") if isinstance(model, dict) else None
    if isinstance(cache, str) and (cache.startswith(("/", "~")) or ".." in Path(cache).parts):
        raise ConfigError(
            f"model.prompt_cache in {what} is {shown(cache)}; a recipe may name a folder in the current one alone: "
            "give yours with the command, as in: advantageflow train RECIPE model.prompt_cache=FOLDER"
        )


def merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Sections are merged; rewards, which are mappings too, are replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key not in WHOLE
        merged[key] = merge(base[key], value) if both else value
    return merged


def parse_changes(overrides: Iterable[str]) -> dict[str, Any]:
    """Changes as "section.key" -> value, in their order; a section as a whole counts as its keys.

    Raises:
        ConfigError: one is not of the form key=value, or a key has two values.
    """
    changes: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"cannot read {shown(override)}; write a change as key=value, such as seed=1")
        value = parse_yaml(text, f"the value of {shown(override)}")
        for name, part in _leaves(key, value).items():
            if name in changes and changes[name] != part:
                raise ConfigError(f"{shown(name)} is given twice, as {shown(changes[name])} and as {shown(part)}")
            changes[name] = part
    return changes


def _leaves(key: str, value: Any) -> dict[str, Any]:
    """A section as its keys."""
    is_section = isinstance(value, dict) and key.rpartition(".")[2] not in WHOLE
    if key == "objective" and not is_section:
        key = "objective.name"
    if not is_section:
        return {key: value}
    if not value:
        raise ConfigError(f"{shown(key)} is given as {{}}, which sets nothing; write a change as section.key=value")
    return {name: leaf for inner, part in value.items() for name, leaf in _leaves(f"{key}.{inner}", part).items()}


def assign(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set "section.key"."""
    *sections, last = key.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise ConfigError(f"{shown(key)} cannot be set: {shown(section)} is not a section")
    settings[last] = value


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as "section.key"; rewards with their weights or labels stay one value."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and key not in WHOLE:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
