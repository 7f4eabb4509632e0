"""`export`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from advantageflow.errors import shown

if TYPE_CHECKING:
    from advantageflow.run.directory import RunDirectory


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    iteration: Annotated[
        str, typer.Option(help="last, best (by the held-out score run.best), or a number that was kept.")
    ] = "last",
    output: Annotated[Path | None, typer.Option(help="Folder to write; default: lora-ITERATION in the run.")] = None,
    form: Annotated[
        Literal["diffusers", "kohya", "merged"],
        typer.Option("--format", help="kohya: its names, for ComfyUI and others; merged: the whole pipeline."),
    ] = "diffusers",
) -> None:
    """Write the trained adapter of a checkpoint; where all weights were trained, the transformer."""
    from rich.console import Console

    from advantageflow.config import ConfigError
    from advantageflow.run.checkpoint import verify
    from advantageflow.run.directory import EXPORTS, RunDirectory, copy_export
    from advantageflow.run.folder_lock import locked
    from advantageflow.run.keeping import place

    RunDirectory.check_run(run)
    directory = RunDirectory(run)
    number = _chosen(directory, iteration)
    source = place(directory.checkpoints, number)
    record = verify(source)
    if not any((source / name).is_dir() for name in EXPORTS):
        raise ConfigError(f"{source} was written by an early version, without an adapter in it; continue the run first")
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} is not an empty folder; choose another --output")
    if form != "diffusers":
        done = [_converted(directory, source, form, output or run / f"{form}-{number:06d}")]
    else:
        targets = {name: output.resolve() if output else run / f"{name}-{number:06d}" for name in EXPORTS}
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
        with nullcontext() if output else locked(run):  # elsewhere nobody else writes, and the run may go on
            done = copy_export(source, targets)
    label = directory.config().best_score
    told = {"here": record.get("evaluation"), "base model": record.get("before")}
    scores = ", ".join(f"{name} {found[label]:.3f}" for name, found in told.items() if found and label in found)
    Console(markup=False).print(
        f"iteration {number}{f' ({label}: {scores})' if scores else ''}: {done[0]}", highlight=False, soft_wrap=True
    )


def _converted(directory: RunDirectory, source: Path, form: str, output: Path) -> Path:
    """A checkpoint's trained weights in another form."""
    from advantageflow.adapter_formats import write_kohya, write_merged
    from advantageflow.config import ConfigError
    from advantageflow.models import load_model
    from advantageflow.run.checkpoint import atomic_directory
    from advantageflow.run.directory import EXPORTS

    lora, transformer = (source / name for name in EXPORTS)
    if form == "kohya" and not lora.is_dir():
        raise ConfigError(
            f"{directory.path} trained all weights, and has no adapter; give --format diffusers or merged"
        )
    config = directory.config()
    with atomic_directory(output.resolve()) as folder:
        if form == "kohya":
            write_kohya(lora, folder)
        else:
            # what model.lora brought is in the export
            settings = config.model.model_dump(exclude={"device", "lora", "shard", "compile", "offload"})
            model = load_model(**settings, device="cpu")
            if transformer.is_dir():
                model.load_transformer(transformer)
            write_merged(model, lora if lora.is_dir() else None, folder)
    return output


def _chosen(directory: RunDirectory, iteration: str) -> int:
    from advantageflow.config import ConfigError
    from advantageflow.run.keeping import best, saved, scores

    kept = saved(directory.checkpoints)
    if not kept:
        raise ConfigError(f"{directory.path} has no checkpoint yet")
    if iteration == "last":
        return kept[-1]
    if iteration == "best":
        label = directory.config().best_score
        found = best(scores(directory.checkpoints, label))
        if found is None:
            raise ConfigError(f"no checkpoint of {directory.path} has the held-out score {label}; set evaluation.every")
        return found
    if not iteration.isdecimal() or int(iteration) not in kept:
        raise ConfigError(
            f"--iteration is {shown(iteration)}; allowed: last, best, or a checkpoint that was kept: "
            f"{', '.join(map(str, kept))}"
        )
    return int(iteration)
