"""Methods on a terminal, and as docs/methods.md: nothing is written here that their classes do not say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advantageflow.tables import markdown_table

if TYPE_CHECKING:
    from rich.table import Table

Description = dict[str, Any]  # see `methods.describe_method`
HEAD = """# Methods

Written by `advantageflow methods --markdown` from the classes in [objectives/](../src/advantageflow/objectives); how a
file there becomes a method is told in [architecture.md](architecture.md). A forward method learns from images that are
noised afresh, a reverse method from the transitions of a sampler with noise, and a gradient method from a reward that
can be differentiated.
"""


def table(methods: Sequence[Description]) -> Table:
    """A row for each method, its settings one below the other."""
    from rich.table import Table

    found = Table("objective", "method", "family", "sees", "settings: default, allowed", show_lines=True)
    for method in methods:
        settings = "\n".join(
            f"{name}: {_shown(setting['default'])}, {setting['allowed']}"
            for name, setting in method["settings"].items()
        )
        found.add_row(
            "\n".join([method["name"], *method["aliases"]]),
            f"{method['title']}\n{method['paper']}",
            method["family"],
            "\n".join(method["sees"]) or "–",
            settings or "none",
        )
    return found


def markdown(methods: Sequence[Description], results: Path) -> str:
    """docs/methods.md.

    Args:
        results: what was measured of all methods; where there is such a file, the scores in it are shown.
    """
    rows = []
    for method in methods:
        objective = f"[`{method['name']}`](#{_anchor(method['title'])})"
        recipes = ", ".join(f"`{name}`" for name in method["recipes"])
        cells = (objective, method["title"], method["paper"], method["family"], ", ".join(method["sees"]), recipes)
        rows.append([cell or "–" for cell in cells])
    parts = [HEAD, markdown_table(["objective", "method", "paper", "family", "sees", "recipes"], rows)]
    if results.is_file():
        link = f"[{results.as_posix()}](../{results.as_posix()})"
        parts.append(
            "## What they learn\n\nIn one small world, from as many images each; intervals are of 95 % over seeds."
        )
        parts += _scores(results.read_text(encoding="utf-8"))
        parts.append(f"Costs, tasks and where the runs were made: {link}.")
    return "\n".join([*(f"{part.rstrip()}\n" for part in parts), *(page_of(method) for method in methods)])


def _scores(results: str) -> list[str]:
    """Of a file of results each panel's name, what is measured, and the first table."""
    panels = [panel.strip().split("\n\n") for panel in results.split("### ")[1:]]
    return ["\n\n".join([f"### {panel[0].capitalize()}", *panel[1:3]]) for panel in panels]


def page_of(method: Description) -> str:
    """A method's section: its docstring, settings, defaults, recipes and file."""
    names = ", ".join(f"`objective={name}`" for name in (method["name"], *method["aliases"]))
    file = f"[{method['file']}](../src/advantageflow/{method['file']})" if method["file"] else f"`{method['name']}`"
    facts = [f"{names}; {method['paper']}; {method['family']}; {method['lines']} lines: {file}."]
    facts.append(f"Sees beside the learner: {', '.join(method['sees']) or 'nobody'}.")
    if method["recipes"]:
        facts.append(f"Recipes: {', '.join(f'`{name}`' for name in method['recipes'])}.")
    if method["defaults"]:
        silent = ", ".join(f"`{key}={_shown(value)}`" for key, value in method["defaults"].items())
        facts.append(f"Where a recipe is silent: {silent}.")
    rows = [
        (f"`{name}`", _shown(setting["default"]), setting["allowed"]) for name, setting in method["settings"].items()
    ]
    settings = markdown_table(["setting", "default", "allowed"], rows) if rows else "It has no settings.\n"
    lines = "\n".join(facts)
    return f"## {method['title']}\n\n{lines}\n\n```text\n{method['doc']}\n```\n\n{settings}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _anchor(title: str) -> str:
    return "".join(letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter in "-_")
