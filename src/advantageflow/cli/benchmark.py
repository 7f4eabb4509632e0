"""`bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from advantageflow.cli.completion import Changes, RecipeOrScenes
from advantageflow.cli.rehearsing import DrawsOption, ImagesOption, StepsOption, refuse_without_rehearsal


def bench(
    recipe: RecipeOrScenes = None,
    changes: Changes = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Medians are over so many.")] = 3,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also how cost grows with images, draws, steps, resolution, processes.")
    ] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="At the model's true size with random weights; fetches nothing.")
    ] = False,
    images: ImagesOption = None,
    steps: StepsOption = None,
    draws: DrawsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Measure what an iteration of a recipe costs here, and what of that is not the network."""
    import json

    from rich.console import Console

    from advantageflow.api import recipe_and_changes
    from advantageflow.config import ConfigError, load_config
    from advantageflow.run.progress import Bars

    short = {"--images": images, "--steps": steps, "--draws": draws}
    if rehearse:
        from advantageflow.rehearsal.shortened import shorten

        if scaling:
            raise ConfigError(
                "--scaling builds a model for every size, and --rehearse has none to load; give one of them"
            )
        _, config = shorten(*recipe_and_changes(recipe, changes or []), *short.values())
    else:
        refuse_without_rehearsal(short)
        config = load_config(*recipe_and_changes(recipe, changes or []))

    from advantageflow.bench.iteration import measure, size
    from advantageflow.bench.scaling import SIZE
    from advantageflow.bench.scaling import scaling as grown
    from advantageflow.bench.steps import Steps
    from advantageflow.bench.tables import rounded, tables

    console = Console(stderr=as_json)
    with Bars(console) as bars:
        told = Steps(bars, size(rounds) + (SIZE if scaling else 0))
        found = measure(config, rounds, told, rehearsed=rehearse)
        if scaling:
            found["scaling"] = grown(config, told)
    if as_json:
        print(json.dumps(rounded(found), indent=2, ensure_ascii=False))
    else:
        for table in tables(found):
            console.print(table)
