"""`evaluate` and `sample`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from advantageflow.cli.processes import ProcessesOption, shared_by
from advantageflow.paper.presets import PRESETS, preset_named
from advantageflow.ranks import place

LoraOption = Annotated[
    str | None,
    typer.Option(
        help="An adapter: a folder or file of train, diffusers, peft or kohya, or OWNER/NAME of the hub; or several, "
        "added: ONE:0.7+OTHER:0.5."
    ),
]
RunOption = Annotated[
    Path | None, typer.Option(help="A run: its base model beside what it was trained to, with the run's settings.")
]
StepsOption = Annotated[int | None, typer.Option(min=2, help="Sampling steps; default: 10, or the run's.")]
ResolutionOption = Annotated[
    str | None, typer.Option(help="Pixels, or HEIGHTxWIDTH as in 512x768; by default the model's own.")
]
DtypeOption = Annotated[
    Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="Of the network; default: float32.")
]
BaseOption = Annotated[
    str | None, typer.Option(help="For a model in a single file: the pipeline that has all but the transformer.")
]
ColumnOption = Annotated[str | None, typer.Option(help="Column of the prompt, in files with columns; default: prompt.")]


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Built-in names, pipeline folders or hub names; MODEL+LORA is a model with an adapter, or several."
        ),
    ] = None,
    run: RunOption = None,
    lora: LoraOption = None,
    prompts: Annotated[str | None, typer.Option(help="See prompts.train of a recipe.")] = None,
    column: ColumnOption = None,
    task_column: Annotated[str | None, typer.Option(help="Column of the prompt's task; default: tag.")] = None,
    reward: Annotated[
        list[str] | None, typer.Option(help="REWARD or LABEL=REWARD; may be given several times.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Images to draw; default: 480, or the run's.")] = None,
    steps: StepsOption = None,
    guidance: Annotated[
        str | None, typer.Option(help="Classifier-free guidance scales, as in 1.0,4.5; 1, the default, is none.")
    ] = None,
    resolution: ResolutionOption = None,
    dtype: DtypeOption = None,
    base: BaseOption = None,
    preset: Annotated[str, typer.Option(help=f"Settings of a published table: {', '.join(PRESETS)}.")] = "",
    output: Annotated[
        Path | None, typer.Option(help="Folder for tables, grids and scores; run again to go on.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the means here too.")] = None,
    processes: ProcessesOption = 1,
) -> None:
    """Score models side by side on the same prompts and noise, with 95 % confidence intervals.

    What is given here wins over a preset, and a preset over a run.
    """
    from advantageflow.places import check_file, replacing
    from advantageflow.run.checkpoint import write_atomic
    from advantageflow.run.progress import console, say
    from advantageflow.studies import side_by_side

    shared_by(processes)
    if json_file:
        check_file(json_file.expanduser())
    means = side_by_side.evaluate(
        models or [], console(), run=run, lora=lora, preset=preset_named(preset), resolution=resolution, dtype=dtype,
        base=base, output=output, prompts=prompts, column=column, task_column=task_column, reward=reward,
        images=images, steps=steps, guidance=guidance,
    )  # fmt: skip
    if json_file and place().rank == 0:
        earlier = replacing(json_file.expanduser())
        write_atomic(json_file.expanduser(), json.dumps(means, indent=2) + "\n")
        say(console(), f"wrote {json_file}{earlier}")


def sample(
    texts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPTS]...", help="Prompts, a row each.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="As for evaluate; several are drawn one after another.")
    ] = None,
    run: RunOption = None,
    lora: LoraOption = None,
    prompts: Annotated[str | None, typer.Option(help="A file of prompts, or any prompts.train of a recipe.")] = None,
    column: ColumnOption = None,
    output: Annotated[
        Path, typer.Option(help="The PNG of the grid; single images go to a folder of that name beside it.")
    ] = Path("samples.png"),
    images: Annotated[int, typer.Option(min=1, help="Images per prompt.")] = 4,
    steps: StepsOption = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="Classifier-free guidance scale; 1, the default, is none.")
    ] = None,
    negative_prompt: Annotated[
        str, typer.Option(help="What guidance leads away from; needs a --guidance other than 1.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    select: Annotated[
        Literal["best", "svdd"] | None,
        typer.Option(
            help="Keep what --reward likes: best of several images, or svdd, of several states in every step."
        ),
    ] = None,
    reward: Annotated[str | None, typer.Option(help="What selects: a reward, as for evaluate.")] = None,
    candidates: Annotated[int, typer.Option(min=2, help="To select one from.")] = 8,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 takes the best candidate; else chances are as exp(reward / temperature).")
    ] = 0.0,
    resolution: ResolutionOption = None,
    dtype: DtypeOption = None,
    base: BaseOption = None,
    processes: ProcessesOption = 1,
) -> None:
    """Draw images of prompts, each in a file of its own, and a grid of them: of several models on the same noise."""
    from advantageflow.run.progress import console
    from advantageflow.studies import side_by_side

    shared_by(processes)
    side_by_side.sample(
        texts or [], model or [], console(), run=run, lora=lora, output=output, images=images,
        negative_prompt=negative_prompt, seed=seed, resolution=resolution, dtype=dtype, base=base, prompts=prompts,
        column=column, steps=steps, guidance=guidance, select=select, reward=reward, candidates=candidates,
        temperature=temperature,
    )  # fmt: skip
