"""`train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advantageflow.cli.processes import ProcessesOption, shared_by


def train(
    recipe: Annotated[str | None, typer.Argument(help="A shipped recipe or a YAML file; default: scenes.")] = None,
    changes: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/RECIPE-TIME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what the run would cost, and stop.")] = False,
    processes: ProcessesOption = 1,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume with other prompts, weights or reward files than before.")
    ] = False,
) -> None:
    """Improve a model with a reward."""
    from rich.console import Console

    from advantageflow import api
    from advantageflow.errors import ConfigError
    from advantageflow.run.interrupts import EXIT_CODE, Stopped
    from advantageflow.run.progress import say

    if resume and ((recipe and "=" not in recipe) or output or plan):
        raise ConfigError("--resume continues a run in its folder; give no recipe, --output or --plan with it")
    if plan:
        from advantageflow.config import load_config
        from advantageflow.plan import print_plan

        print_plan(load_config(*api.recipe_and_changes(recipe, changes or [])))
        return
    if processes > 1:
        if not resume:
            from advantageflow.config import load_config

            load_config(*api.recipe_and_changes(recipe, changes or []))  # what is wrong is said once
        shared_by(processes)
    try:
        api.train(recipe, *(changes or []), output=output, resume=resume, accept_changes=accept_changes)
    except Stopped as stopped:
        say(Console(), str(stopped))
        raise typer.Exit(EXIT_CODE) from None
