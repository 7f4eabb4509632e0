"""`push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="At the hub; made where there is none.")],
    private: Annotated[bool, typer.Option(help="Where it is made, for yourself alone.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be sent, and send nothing.")] = False,
) -> None:
    """Send a run's adapter to the Hugging Face hub, with its card, its pictures and its recipe."""
    from rich.console import Console

    from advantageflow.errors import ConfigError, to_type
    from advantageflow.hub import check_repository, send
    from advantageflow.run.card import write_card
    from advantageflow.run.directory import RunDirectory
    from advantageflow.run.folder_lock import locked

    RunDirectory.check_run(run)
    check_repository(repository, dry_run)
    directory, folder = RunDirectory(run), run / "lora"
    summary = directory.summary()
    if directory.config().policy.lora_rank == 0:
        raise ConfigError(
            f"{run} trains all weights, and push sends adapters; write the whole pipeline with advantageflow export "
            f"{to_type(run)} --format merged, and send that with hf upload {repository} FOLDER"
        )
    if summary is None or not folder.is_dir():
        raise ConfigError(
            f"{run} is not finished; push needs the adapter of a finished run: advantageflow train --resume "
            f"{to_type(run)}"
        )
    with locked(run):
        kept = write_card(directory, folder, summary, repository, keep=True)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    console = Console(markup=False, highlight=False, soft_wrap=True)
    if kept:
        console.print("README.md was changed here, and stays as it is")
    for file in files:
        console.print(f"{file.stat().st_size / 1e6:9.3f} MB  {file.relative_to(folder)}")
    if dry_run:
        console.print(f"{len(files)} files would go to {repository}; nothing was sent")
    else:
        console.print(f"{len(files)} files are at {send(folder, repository, private)}")
