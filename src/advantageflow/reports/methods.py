"""Methods on a terminal, and as docs/methods.md: nothing is written here that their classes do not say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from advantageflow.tables import markdown_table

if TYPE_CHECKING:
    from rich.table import Table

# see `methods.describe_method`; and "measured", see `paper.measured`
Description = dict[str, Any]
HEAD = """# Methods

Written by `advantageflow methods --markdown` from the classes in [objectives/](../src/advantageflow/objectives); how a
file there becomes a method is told in [architecture.md](architecture.md). A forward method learns from images that are
noised afresh, a reverse method from the transitions of a sampler with noise, and a gradient method from a reward that
can be differentiated.
"""
LEARNED = """## What they learn

Last held-out scores in one small world, after 4800 images, at a learning rate that was
[searched](experiments.md#their-learning-rates) for each but those of a differentiable reward, whose score chooses none;
intervals are of 95 % over seeds. [Which are not above the base, and why](experiments.md#other-methods). Costs, tasks
and where the runs were made: [results/methods.md](../results/methods.md).
"""


def table(methods: Sequence[Description]) -> Table:
    """A row for each method: its settings one below the other, and what is claimed and measured of it."""
    from rich.table import Table

    found = Table("objective", "method", "family", "sees", "settings: default, allowed", show_lines=True)
    for method in methods:
        facts = [
            f"{name}: {_shown(setting['default'])}, {setting['allowed']}"
            for name, setting in method["settings"].items()
        ] or ["none"]
        facts += [f"claimed: {method['claim']}"] if method["claim"] else []
        facts += [f"measured: {line}" for line in method["measured"]]
        found.add_row(
            "\n".join([method["name"], *method["aliases"]]),
            f"{method['title']}\n{method['paper']}",
            method["family"],
            "\n".join(method["sees"]) or "–",
            "\n".join(facts),
        )
    return found


def markdown(methods: Sequence[Description]) -> str:
    """docs/methods.md."""
    rows = []
    for method in methods:
        objective = f"[`{method['name']}`](#{_anchor(method['title'])})"
        recipes = ", ".join(f"`{name}`" for name in method["recipes"])
        cells = (objective, method["title"], method["paper"], method["family"], ", ".join(method["sees"]), recipes)
        rows.append([cell or "–" for cell in cells])
    parts = [HEAD, markdown_table(["objective", "method", "paper", "family", "sees", "recipes"], rows)]
    if any(method["measured"] for method in methods):
        learned = [(m["title"], m["claim"] or "–", "; ".join(m["measured"]) or "–") for m in methods]
        parts += [LEARNED, markdown_table(["method", "its paper's claim", "here"], learned)]
    return "\n".join([*(f"{part.rstrip()}\n" for part in parts), *(page_of(method) for method in methods)])


def page_of(method: Description) -> str:
    """A method's section: what is claimed and measured, its docstring, settings, defaults, recipes and file."""
    names = ", ".join(f"`objective={name}`" for name in (method["name"], *method["aliases"]))
    file = f"[{method['file']}](../src/advantageflow/{method['file']})" if method["file"] else f"`{method['name']}`"
    facts = [f"{names}; {method['paper']}; {method['family']}; {method['lines']} lines: {file}."]
    facts.append(f"Sees beside the learner: {', '.join(method['sees']) or 'nobody'}.")
    if method["claim"]:
        facts.append(f"Claimed: {method['claim']}.")
    if method["measured"]:
        facts.append(f"Measured here: {'; '.join(method['measured'])}.")
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
