"""The command line: parse, call, print. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from advantageflow.config import Config
    from advantageflow.evaluation import Evaluation
    from advantageflow.run_directory import RunDirectory

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Reinforcement learning for rectified-flow image generators.",
)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its warnings are about parts that are not used here
    try:
        app()
    except Exception as error:
        from advantageflow.config import ConfigError

        if not isinstance(error, ConfigError | FloatingPointError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def _show_version(wanted: bool) -> None:
    if wanted:
        from advantageflow import __version__

        print(f"advantageflow {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="A shipped recipe or a YAML file; default: scenes.")] = None,
    changes: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/RECIPE-TIME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
) -> None:
    """Improve a model with a reward."""
    from rich.console import Console

    from advantageflow.config import ConfigError, load_config
    from advantageflow.run_directory import RunDirectory

    if recipe is not None and "=" in recipe:
        changes = [recipe, *(changes or [])]
        recipe = None
    if resume is not None:
        if recipe or changes or output:
            raise ConfigError(
                "--resume continues a run as it was configured; give no recipe, key=value or --output with it"
            )
        directory, config = RunDirectory.open(resume)
    else:
        config = load_config(recipe or "scenes", changes or [])
        directory = None
    inputs = _load_inputs(config)
    if directory is None:
        name = Path(recipe or "scenes").stem
        directory = RunDirectory.create(output or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}", config)
    _run(Console(), config, directory, inputs)


def _load_inputs(config: Config) -> dict[str, Any]:
    """Prompts and rewards, checked before a model is loaded."""
    from advantageflow.config import ConfigError
    from advantageflow.models import model_exists
    from advantageflow.prompts import load_prompts
    from advantageflow.rewards import load_reward

    if not model_exists(config.model.path):
        raise ConfigError(
            f"model.path {config.model.path!r} is neither 'scenes', nor a folder with model_index.json, nor a hub name"
        )
    return {
        "train_prompts": load_prompts(config.prompts.train),
        "held_out_prompts": load_prompts(config.prompts.held_out),
        "reward": load_reward(config.reward),
        "rewards": {label: (name, load_reward(name)) for label, name in config.evaluation.rewards.items()},
    }


def _run(console: Console, config: Config, directory: RunDirectory, inputs: dict[str, Any]) -> None:
    import torch

    from advantageflow.models import load_model
    from advantageflow.progress import Display
    from advantageflow.trainer import Trainer

    console.print(f"run folder: {directory.path}", highlight=False)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    device = config.model.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(config.model.path, config.model.dtype, device)
    with Display(console, config.run.iterations) as display:
        trainer = Trainer(config, directory, model, display=display, **inputs)

        def stop(number: int, frame: object) -> None:
            if trainer.stopping:
                raise KeyboardInterrupt
            trainer.stopping = True
            console.print("stopping after this iteration; press Ctrl-C again to stop at once")

        previous = signal.signal(signal.SIGINT, stop)
        try:
            summary = trainer.run()
        except KeyboardInterrupt:
            summary = None
        finally:
            signal.signal(signal.SIGINT, previous)
    if summary is None:
        console.print(f"stopped; continue with: advantageflow train --resume {directory.path}", highlight=False)
        raise typer.Exit(130)
    _print_summary(console, directory, summary)


def _print_summary(console: Console, directory: RunDirectory, summary: dict[str, Any]) -> None:
    columns = {"before": summary["before"], "after": summary["after"]}
    _print_scores(console, "Held-out prompts", columns)
    minutes = summary["seconds"]["training"] / 60
    console.print(f"{summary['iterations']} iterations, {minutes:.1f} minutes of training", highlight=False)
    console.print(
        f"pictures: {directory.samples / 'before_after.png'}, {directory.curve}", highlight=False, soft_wrap=True
    )
    if directory.lora.exists():
        console.print(f"adapter for diffusers: {directory.lora}", highlight=False, soft_wrap=True)


def _print_scores(console: Console, title: str, columns: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(title=title)
    table.add_column("score")
    for name in columns:
        table.add_column(name, justify="right")
    first = next(iter(columns.values()))
    for label in (label for label in first if label != "tasks"):
        table.add_row(label, *(f"{column[label]:.3f}" for column in columns.values()))
    if len(first["tasks"]) > 1:
        table.add_section()
        for task in first["tasks"]:
            table.add_row(f"  {task}", *(f"{column['tasks'][task]:.3f}" for column in columns.values()))
    console.print(table)


ModelArgument = Annotated[str, typer.Argument(help="'scenes', a pipeline folder, or a hub name.")]
LoraOption = Annotated[Path | None, typer.Option(help="An adapter that train exported.")]
StepsOption = Annotated[int, typer.Option(min=2, help="Sampling steps.")]
GuidanceOption = Annotated[float, typer.Option(min=0, help="Classifier-free guidance scale; 1 is none.")]


@app.command()
def evaluate(
    model: ModelArgument = "scenes",
    lora: LoraOption = None,
    prompts: Annotated[str, typer.Option(help="A built-in set or a text file.")] = "scenes:held_out",
    reward: Annotated[list[str] | None, typer.Option(help="LABEL=REWARD; may be given several times.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images to draw.")] = 480,
    steps: StepsOption = 10,
    guidance: GuidanceOption = 1.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the scores here too.")] = None,
) -> None:
    """Score a model on held-out prompts, with fixed prompts and seeds."""
    import json

    from rich.console import Console

    from advantageflow.checkpoint import write_atomic
    from advantageflow.config import ConfigError
    from advantageflow.prompts import load_prompts
    from advantageflow.rewards import load_reward

    named = dict(
        part.partition("=")[::2] if "=" in part else (part, part)
        for part in reward or ["strict=scenes_strict", "graded=scenes_graded"]
    )
    if any(label == "tasks" for label in named):
        raise ConfigError("a reward cannot be labelled 'tasks'; choose another label")
    rewards = {label: (name, load_reward(name)) for label, name in named.items()}
    found = _evaluate(model, lora, load_prompts(prompts), rewards, images, steps, guidance)
    _print_scores(Console(), f"{images} images, {steps} steps, guidance {guidance:g}", {"score": found.summary()})
    if json_file:
        write_atomic(json_file, json.dumps(found.summary(), indent=2) + "\n")


@app.command()
def sample(
    prompts: Annotated[list[str], typer.Argument(help="Prompts, one image each.")],
    model: Annotated[str, typer.Option(help="'scenes', a pipeline folder, or a hub name.")] = "scenes",
    lora: LoraOption = None,
    output: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("samples.png"),
    images: Annotated[int, typer.Option(min=1, help="Images per prompt.")] = 4,
    steps: StepsOption = 10,
    guidance: GuidanceOption = 1.0,
) -> None:
    """Draw images of prompts into one grid."""
    from rich.console import Console

    from advantageflow.prompts import PromptSet
    from advantageflow.report.grids import labelled_grid

    repeated = tuple(prompt for prompt in prompts for _ in range(images))
    chosen = PromptSet(repeated, tuple(str(i) for i in range(len(repeated))))
    found = _evaluate(model, lora, chosen, {}, len(repeated), steps, guidance)
    labelled_grid(found).save(output)
    Console().print(f"wrote {output}", highlight=False, soft_wrap=True)


def _evaluate(
    model_path: str, lora: Path | None, prompts: Any, rewards: Any, images: int, steps: int, guidance: float
) -> Evaluation:
    from rich.progress import Progress

    from advantageflow.config import ConfigError
    from advantageflow.evaluation import evaluate as evaluate_model
    from advantageflow.models import load_model, model_exists

    if not model_exists(model_path):
        raise ConfigError(
            f"model {model_path!r} is neither 'scenes', nor a folder with a model_index.json, nor a hub name"
        )
    if lora is not None and not (lora / "pytorch_lora_weights.safetensors").is_file():
        raise ConfigError(f"{lora} holds no pytorch_lora_weights.safetensors; give the lora folder of a run")
    model = load_model(model_path)
    if lora is not None:
        model.pipeline.load_lora_weights(lora)
    with Progress() as progress:
        task = progress.add_task("sampling", total=images)
        return evaluate_model(
            model,
            model.transformer,
            prompts,
            rewards,
            num_images=images,
            num_inference_steps=steps,
            guidance_scale=guidance,
            advance=lambda count: progress.advance(task, count),
        )


@app.command("pretrain-scenes")
def pretrain_scenes(
    output: Annotated[Path, typer.Option(help="Folder for checkpoints and the pipeline; run again to continue.")],
    autoencoder_steps: Annotated[int, typer.Option(min=1)] = 2500,
    flow_steps: Annotated[int, typer.Option(min=1)] = 5000,
    scenes: Annotated[int, typer.Option(min=1, help="Rendered scenes to learn from.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for PyTorch's choice.")] = 0,
) -> None:
    """Pre-train the built-in model from nothing (about an hour on two CPU cores)."""
    import torch

    from advantageflow.scenes.pretrain import pretrain

    if threads:
        torch.set_num_threads(threads)
    pretrain(output, autoencoder_steps=autoencoder_steps, flow_steps=flow_steps, num_scenes=scenes, seed=seed)
