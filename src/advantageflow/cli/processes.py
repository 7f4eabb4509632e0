"""`--processes`: a command whose work several processes of this machine share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

ProcessesOption = Annotated[
    int, typer.Option(min=1, max=1024, help="Of this machine, which share the work; each takes a GPU.")
]
OPTION = "--processes"


def shared_by(processes: int) -> None:
    """Run the command that was typed in several processes, and exit as it does; return in each of these.

    Raises:
        Exit: where this process only starts others.
    """
    if processes == 1:
        return
    from advantageflow.launcher import launch

    code = launch(without_option(sys.argv[1:]), processes)
    raise typer.Exit(code)


def without_option(words: Sequence[str]) -> list[str]:
    """What was typed, but for the number of processes."""
    kept: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "--":
            return [*kept, word, *words]
        if word == OPTION:
            words.pop(0)
        elif not word.startswith(f"{OPTION}="):
            kept.append(word)
    return kept
