"""`--rehearse`: the options that make its iteration shorter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

ImagesOption = Annotated[int | None, typer.Option(min=2, help="Of a rehearsal: images of an iteration.")]
StepsOption = Annotated[int | None, typer.Option(min=2, help="Of a rehearsal: steps of sampling.")]
DrawsOption = Annotated[int | None, typer.Option(min=1, help="Of a rehearsal: learn.t_draws.")]


def refuse_without_rehearsal(given: Mapping[str, object]) -> None:
    """Check that no option of a rehearsal was typed, where there is none.

    Raises:
        ConfigError: one was.
    """
    from advantageflow.errors import ConfigError

    for option in (option for option, value in given.items() if value is not None):
        raise ConfigError(f"{option} is for a rehearsal; add --rehearse, or set KEY=VALUE (see --plan)")
