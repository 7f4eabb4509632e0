"""`train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advantageflow.cli.completion import Changes, RecipeOrScenes
from advantageflow.cli.listing import show_settings
from advantageflow.cli.processes import ProcessesOption, shared_by
from advantageflow.cli.rehearsing import DrawsOption, ImagesOption, StepsOption, refuse_without_rehearsal


def train(
    recipe: RecipeOrScenes = None,
    changes: Changes = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/RECIPE-TIME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what the run would cost, and stop.")] = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="List what may be set, of one SECTION or KEY or all, and stop.")
    ] = False,
    processes: ProcessesOption = 1,
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse", help="One iteration at the model's true size with random weights; fetches nothing."),
    ] = False,
    images: ImagesOption = None,
    steps: StepsOption = None,
    draws: DrawsOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Of a rehearsal: its figures alone on stdout, as JSON.")
    ] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume with other prompts, weights or reward files than before.")
    ] = False,
) -> None:
    """Improve a model with a reward."""
    if settings:
        _list_settings(recipe, changes, nothing_else=not (resume or output or plan or rehearse))
        return

    from rich.console import Console

    from advantageflow import api
    from advantageflow.errors import ConfigError
    from advantageflow.run.interrupts import EXIT_CODE, Stopped
    from advantageflow.run.progress import say

    if resume and ((recipe and "=" not in recipe) or output or plan):
        raise ConfigError("--resume continues a run in its folder; give no recipe, --output or --plan with it")
    short = {"--images": images, "--steps": steps, "--draws": draws, "--json": as_json or None}
    if rehearse:
        _rehearse(recipe, changes, short, nothing_else=not (resume or output or plan or processes > 1))
        return
    refuse_without_rehearsal(short)
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


def _list_settings(recipe: str | None, changes: list[str] | None, *, nothing_else: bool) -> None:
    from advantageflow.errors import ConfigError

    if not nothing_else:
        raise ConfigError(
            "--settings lists those of a recipe; give no --resume, --output, --plan or --rehearse with it"
        )
    show_settings([*([recipe] if recipe else []), *(changes or [])])


def _rehearse(
    recipe: str | None, changes: list[str] | None, short: dict[str, int | None], *, nothing_else: bool
) -> None:
    from advantageflow.api import recipe_and_changes
    from advantageflow.errors import ConfigError
    from advantageflow.rehearsal.command import rehearse_recipe

    if not nothing_else:
        raise ConfigError(
            "--rehearse runs one iteration in this process and keeps nothing; give no --resume, --output, --plan or "
            "--processes with it"
        )
    images, steps, draws, as_json = short.values()
    rehearse_recipe(*recipe_and_changes(recipe, changes or []), images, steps, draws, bool(as_json))
