"""The command `train RECIPE --rehearse`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console


def rehearse_recipe(
    recipe: str,
    changes: Sequence[str],
    images: int | None = None,
    steps: int | None = None,
    draws: int | None = None,
    as_json: bool = False,
) -> None:
    """Rehearse a recipe and print what it took.

    Args:
        as_json: figures alone on stdout; what is said meanwhile goes to stderr.

    Raises:
        ConfigError: see `shortened.shorten` and `run.rehearse`.
    """
    from advantageflow.rehearsal.shortened import shorten

    config, rehearsed = shorten(recipe, changes, images, steps, draws)
    from advantageflow.rehearsal.reckoning import figures
    from advantageflow.rehearsal.run import rehearse  # which imports torch
    from advantageflow.rehearsal.shown import print_figures

    found = figures(rehearse(rehearsed, Console(stderr=as_json)), rehearsed, config)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_figures(Console(), found)
