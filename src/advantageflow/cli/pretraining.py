"""`pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Make again what the package ships, from nothing.")
PretrainOutput = Annotated[Path, typer.Option(help="Folder for checkpoints and the pipeline; run again to continue.")]
AutoencoderSteps = Annotated[int, typer.Option(min=1, help="Steps of the autoencoder.")]
FlowSteps = Annotated[int, typer.Option(min=1, help="Steps of the rectified flow.")]
Pictures = Annotated[int, typer.Option(min=1, help="Drawn pictures to learn from.")]
Seed = Annotated[int, typer.Option(min=0)]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 for PyTorch's choice.")]


@app.command("scenes")
def pretrain_scenes(
    output: PretrainOutput,
    autoencoder_steps: AutoencoderSteps = 2500,
    flow_steps: FlowSteps = 8000,
    pictures: Pictures = 100_000,
    seed: Seed = 0,
    threads: Threads = 0,
) -> None:
    """Pre-train the built-in model of scenes (an hour on two CPU cores)."""
    from advantageflow.worlds.scenes.pretrain import SCENES

    _pretrain(SCENES, output, autoencoder_steps, flow_steps, pictures, seed, threads)


@app.command("words")
def pretrain_words(
    output: PretrainOutput,
    autoencoder_steps: AutoencoderSteps = 2500,
    flow_steps: FlowSteps = 3000,
    pictures: Pictures = 100_000,
    seed: Seed = 0,
    threads: Threads = 0,
) -> None:
    """Pre-train the built-in model of words (less than an hour on one CPU core)."""
    from advantageflow.worlds.words.pretrain import WORDS

    _pretrain(WORDS, output, autoencoder_steps, flow_steps, pictures, seed, threads)


DistillSteps = Annotated[int, typer.Option(min=1, help="Optimizer steps.")]
Paths = Annotated[int, typer.Option(min=1, help="Pictures that the built-in model draws to learn from.")]


@app.command("scenes-meanflow")
def pretrain_scenes_meanflow(
    output: PretrainOutput, steps: DistillSteps = 1500, paths: Paths = 2048, seed: Seed = 0, threads: Threads = 0
) -> None:
    """Distill the built-in model of scenes to an average velocity (less than an hour on one CPU core)."""
    from advantageflow.worlds.scenes.distill import distill

    _use_threads(threads)
    distill(output, steps=steps, paths=paths, seed=seed)


RewardSteps = Annotated[int, typer.Option(min=1, help="Optimizer steps.")]
RewardOutput = Annotated[Path, typer.Option(help="Folder for checkpoints and weights; run again to continue.")]


@app.command("scenes-clip")
def pretrain_scenes_clip(output: RewardOutput, steps: RewardSteps = 600, seed: Seed = 0, threads: Threads = 0) -> None:
    """Train the reward scenes_clip (minutes on one CPU core)."""
    from advantageflow.worlds.scenes.rewards.training import train_clip

    _use_threads(threads)
    train_clip(output, steps=steps, seed=seed)


@app.command("scenes-preference")
def pretrain_scenes_preference(
    output: RewardOutput, steps: RewardSteps = 500, seed: Seed = 0, threads: Threads = 0
) -> None:
    """Train the reward scenes_preference (minutes on one CPU core)."""
    from advantageflow.worlds.scenes.rewards.training import train_preference

    _use_threads(threads)
    train_preference(output, steps=steps, seed=seed)


def _pretrain(
    world: Any, output: Path, autoencoder_steps: int, flow_steps: int, pictures: int, seed: int, threads: int
) -> None:
    from advantageflow.worlds.pretraining import pretrain

    _use_threads(threads)
    pretrain(
        world,
        output,
        autoencoder_steps=autoencoder_steps,
        flow_steps=flow_steps,
        num_pictures=pictures,
        seed=seed,
    )


def _use_threads(threads: int) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)
