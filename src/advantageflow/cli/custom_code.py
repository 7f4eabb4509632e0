"""The option --no-custom-code, of every command that may import what a recipe or an argument names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from advantageflow.custom_code import refusing

NoCustomCode = Annotated[
    bool,
    typer.Option("--no-custom-code", help="Import no Python but the package's own; a recipe that names some ends."),
]


def refusable(command: Callable[..., None]) -> Callable[..., None]:
    """A command that has the option, and is told nothing of it."""

    @wraps(command)
    def call(*args: Any, no_custom_code: bool = False, **kwargs: Any) -> None:
        with refusing(no_custom_code):
            command(*args, **kwargs)

    option = inspect.Parameter("no_custom_code", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=NoCustomCode)
    parameters = [*inspect.signature(command, eval_str=True).parameters.values(), option]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call
