"""`methods`: what there is to learn by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RESULTS = Path(__file__).resolve().parents[3] / "results"  # which a checkout has


def methods(
    name: Annotated[str, typer.Argument(help="One method, with its formula; default: a table of all.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="All, as docs/methods.md has them.")] = False,
) -> None:
    """List the methods: names, papers, what each sees, and what may be set of it."""
    import json

    from rich.console import Console

    from advantageflow.errors import ConfigError
    from advantageflow.methods import describe, describe_method, find_method
    from advantageflow.paper.measured import measured
    from advantageflow.reports.methods import markdown, page_of, table

    if as_json and as_markdown:
        raise ConfigError("--json and --markdown exclude each other; give one of them")
    described = [describe_method(find_method(name))] if name else describe()
    known = measured(RESULTS)
    found = [{**method, "measured": known.get(method["name"], [])} for method in described]
    if as_json:
        print(json.dumps(found[0] if name else found, indent=2, ensure_ascii=False))
    elif as_markdown:
        print(page_of(found[0]) if name else markdown(found), end="")
    else:
        console = Console(markup=False)
        for row in found if name else ():
            console.print(f"{row['doc']}\n", highlight=False)
        console.print(table(found))
