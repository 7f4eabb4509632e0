"""The command line: parse, call, print. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from advantageflow.config import Config
    from advantageflow.models.base import FlowModel
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
    plan: Annotated[bool, typer.Option("--plan", help="Print what the run would cost, and stop.")] = False,
) -> None:
    """Improve a model with a reward."""
    from rich.console import Console

    from advantageflow.config import ConfigError, load_config

    if recipe is not None and "=" in recipe:
        changes = [recipe, *(changes or [])]
        recipe = None
    if resume is None:
        config = load_config(recipe or "scenes", changes or [])
        if plan:
            from advantageflow.plan import print_plan

            print_plan(config)
            return
    elif recipe or changes or output or plan:
        raise ConfigError(
            "--resume continues a run as it was configured; give no recipe, key=value, --output or --plan with it"
        )
    from advantageflow.run_directory import RunDirectory

    directory = None
    if resume is not None:
        directory, config = RunDirectory.open(resume)
    inputs = _load_inputs(config)
    if directory is None:
        name = Path(recipe or "scenes").stem
        directory = RunDirectory.create(output or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}", config)
    _run(Console(), config, directory, inputs)


def _load_inputs(config: Config) -> dict[str, Any]:
    """Prompts and rewards, checked before a model is loaded."""
    from advantageflow.models import check_model_path
    from advantageflow.prompts import load_prompt_sets
    from advantageflow.rewards import check_reward, load_reward

    check_model_path(config.model.path)
    names = {*config.reward_weights, *config.evaluation.rewards.values()}
    for name in names:
        check_reward(name)
    sets = load_prompt_sets(config.prompts)
    loaded = {name: load_reward(name) for name in names}  # last, since it may load weights
    for prompts in sets:
        for name, reward in loaded.items():
            check = getattr(reward, "check_prompt", None)
            if check:
                prompts.check(check, f"the reward {name!r}")
    return {
        "train_prompts": sets[0],
        "held_out_prompts": sets[1],
        "rewards": {name: loaded[name] for name in config.reward_weights},
        "evaluated": {label: loaded[name] for label, name in config.evaluation.rewards.items()},
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
    model = load_model(device=device, **config.model.model_dump(exclude={"device"}))
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
    console.print(f"in one page: advantageflow report {directory.path}", highlight=False, soft_wrap=True)
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


LORA_FILE = "pytorch_lora_weights.safetensors"
LoraOption = Annotated[Path | None, typer.Option(help="An adapter that train exported.")]
StepsOption = Annotated[int, typer.Option(min=2, help="Sampling steps.")]
ResolutionOption = Annotated[int | None, typer.Option(min=16, help="Pixels; by default the model's own.")]
DtypeOption = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]

# What published tables were made with: name -> prompts, rewards, guidance scales, steps, images
PRESETS: dict[str, tuple[str, list[str], str, int, int]] = {
    # AdvantageFlow's Table 1: GenEval, without and with guidance
    "paper": ("geneval:553", ["geneval=geneval_accuracy"], "1.0,4.5", 40, 2212),
    # DiffusionNFT's table of preference scores; give its DrawBench prompts with --prompts
    "nft": ("", ["pickscore", "clipscore", "hpsv2", "aesthetic", "imagereward"], "1.0", 40, 1000),
}


@app.command()
def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="'scenes', 'words', pipeline folders or hub names; MODEL+LORA is a model with an adapter."),
    ] = None,
    lora: LoraOption = None,
    prompts: Annotated[str, typer.Option(help="See prompts.train of a recipe.")] = "scenes:held_out",
    reward: Annotated[
        list[str] | None, typer.Option(help="REWARD or LABEL=REWARD; may be given several times.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images to draw.")] = 480,
    steps: StepsOption = 10,
    guidance: Annotated[str, typer.Option(help="Classifier-free guidance scales, as in 1.0,4.5; 1 is none.")] = "1.0",
    resolution: ResolutionOption = None,
    dtype: DtypeOption = "float32",
    preset: Annotated[str, typer.Option(help=f"Settings of a published table: {', '.join(PRESETS)}.")] = "",
    output: Annotated[
        Path | None, typer.Option(help="Folder for tables, grids and scores; run again to go on.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the means here too.")] = None,
) -> None:
    """Score models side by side on the same prompts and noise, with 95 % confidence intervals."""
    import json

    from rich.console import Console
    from rich.markdown import Markdown
    from rich.progress import Progress

    from advantageflow.checkpoint import write_atomic
    from advantageflow.config import ConfigError
    from advantageflow.prompts import load_prompts
    from advantageflow.rewards import check_reward, load_reward
    from advantageflow.scoreboard import as_json, markdown, open_folder, score_images

    if preset:
        if preset not in PRESETS:
            raise ConfigError(f"unknown preset {preset!r}; allowed: {', '.join(PRESETS)}")
        known, reward, guidance, steps, images = PRESETS[preset]
        prompts = known or prompts
    try:
        scales = [float(scale) for scale in guidance.split(",")]
    except ValueError:
        raise ConfigError(f"--guidance is {guidance!r}; give scales such as 1.0 or 1.0,4.5") from None
    named = dict(
        part.partition("=")[::2] if "=" in part else (part, part)
        for part in reward or ["strict=scenes_strict", "graded=scenes_graded"]
    )
    models = _names(models, lora)
    for name in named.values():
        check_reward(name)
    settings = {
        "models": models,
        "prompts": prompts,
        "rewards": named,
        "steps": steps,
        "resolution": resolution,
        "dtype": dtype,
    }
    folder = open_folder(output, settings) if output else None
    chosen = load_prompts(prompts)
    functions = {label: load_reward(name) for label, name in named.items()}

    columns: dict[str, Any] = {}
    with Progress() as progress:
        for number, name in enumerate(models):
            model = _load_model(name, resolution, dtype)
            for scale in scales:
                column = name if len(scales) == 1 else f"{name}, guidance {scale:g}"
                task = progress.add_task(column, total=images)
                columns[column] = score_images(
                    model,
                    model.transformer,
                    chosen,
                    functions,
                    num_images=images,
                    file=folder / f"{number}-guidance{scale:g}.jsonl" if folder else None,
                    title=column,
                    advance=partial(progress.advance, task),
                    num_inference_steps=steps,
                    guidance_scale=scale,
                )
    table = markdown(columns)
    title = f"{images} images, {steps} steps, guidance {guidance}"
    Console().print(Markdown(f"**{title}**\n\n{table}"))
    means = json.dumps({"images": images, **settings, "models": as_json(columns)}, indent=2) + "\n"
    if json_file:
        write_atomic(json_file, means)
    if folder:
        write_atomic(folder / "scores.json", means)
        write_atomic(folder / "scores.md", f"# {title}\n\n{table}")
        Console().print(f"tables and grids: {folder}", highlight=False, soft_wrap=True)


@app.command()
def sample(
    prompts: Annotated[list[str], typer.Argument(help="Prompts, a row each.")],
    model: Annotated[
        list[str] | None, typer.Option(help="As for evaluate; several are drawn one after another.")
    ] = None,
    lora: LoraOption = None,
    output: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("samples.png"),
    images: Annotated[int, typer.Option(min=1, help="Images per prompt.")] = 4,
    steps: StepsOption = 10,
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance scale; 1 is none.")] = 1.0,
    resolution: ResolutionOption = None,
    dtype: DtypeOption = "float32",
) -> None:
    """Draw images of prompts into one grid: of several models on the same noise."""
    from rich.console import Console
    from rich.progress import Progress

    from advantageflow.evaluation import evaluate as evaluate_model
    from advantageflow.prompts import PromptSet
    from advantageflow.report.grids import labelled_grid, stack

    names = _names(model, lora)
    repeated = tuple(prompt for prompt in prompts for _ in range(images))
    chosen = PromptSet(repeated, tuple(str(i) for i in range(len(repeated))))
    grids = []
    with Progress() as progress:
        for name in names:
            task = progress.add_task(name, total=len(repeated))
            loaded = _load_model(name, resolution, dtype)
            found = evaluate_model(
                loaded,
                loaded.transformer,
                chosen,
                {},
                num_images=len(repeated),
                num_inference_steps=steps,
                guidance_scale=guidance,
                advance=partial(progress.advance, task),
            )
            grids.append(labelled_grid(found, name if len(names) > 1 else "", columns=images))
    stack(grids).save(output)
    Console().print(f"wrote {output}", highlight=False, soft_wrap=True)


def _names(models: list[str] | None, lora: Path | None) -> list[str]:
    """Models, each checked, with the adapter that --lora gives to all of them."""
    from advantageflow.config import ConfigError
    from advantageflow.models import check_model_path

    names = [model + (f"+{lora}" if lora else "") for model in models or ["scenes"]]
    for name in names:
        path, _, adapter = name.partition("+")
        check_model_path(path)
        if adapter and not (Path(adapter) / LORA_FILE).is_file():
            raise ConfigError(f"{adapter} holds no {LORA_FILE}; give the lora folder of a run")
    return names


def _load_model(name: str, resolution: int | None, dtype: str) -> FlowModel:
    import torch

    from advantageflow.models import load_model

    path, _, adapter = name.partition("+")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(path, device, resolution=resolution, dtype=dtype)
    if adapter:
        model.pipeline.load_lora_weights(adapter)
    return model


JobsOption = Annotated[int, typer.Option(min=1, help="Runs at once.")]
RunThreadsOption = Annotated[int, typer.Option(min=0, help="CPU threads of each run; 0 for PyTorch's choice.")]


@app.command()
def compare(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a YAML file.")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes for every arm.")] = None,
    vary: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE,VALUE, or recipe=NAME,NAME; several options are combined.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    budget: Annotated[str, typer.Option(help="Of each run: 10m, 600s, 60iterations or 5000images.")] = "5m",
    baseline: Annotated[
        str, typer.Option(help="The arm that the others are tested against; default: nft or the first.")
    ] = "",
    score: Annotated[str, typer.Option(help="The held-out score that is compared; default: the recipe's first.")] = "",
    jobs: JobsOption = 1,
    threads: RunThreadsOption = 0,
    output: Annotated[Path, typer.Option(help="Folder of the comparison; run again to go on.")] = Path("comparison"),
) -> None:
    """Train several methods with several seeds, and compare them."""
    from rich.console import Console
    from rich.live import Live
    from rich.markdown import Markdown
    from rich.table import Table

    from advantageflow import compare as comparison
    from advantageflow.config import ConfigError
    from advantageflow.report.comparison import table

    arms = comparison.parse_arms(vary or ["objective=advantageflow-1.1,advantageflow-1-A,nft,flow-grpo"], recipe)
    labels = [arm.label for arm in arms]
    baseline = baseline or ("nft" if "nft" in labels else labels[0])
    if baseline not in labels:
        raise ConfigError(f"--baseline is {baseline!r}; the arms are {', '.join(labels)}")
    runs = comparison.plan_runs(arms, seeds, budget, changes or [], output)

    def status() -> Table:
        shown = Table("arm", *(f"seed {seed}" for seed in range(seeds)))
        for label in labels:
            cells = []
            for run in (run for run in runs if run.arm.label == label):
                rows = run.rows()
                state = "diverged" if run.diverged else "done" if run.finished else ""
                cells.append(f"{len(rows)}: {rows[-1]['reward/mean']:.3f} {state}" if rows else state or "-")
            shown.add_row(label, *cells)
        return shown

    console = Console()
    with Live(get_renderable=status, console=console, refresh_per_second=0.5):
        comparison.finish_all(runs, jobs=jobs, threads=threads)
    result = comparison.report(runs, baseline, output, score or None)
    console.print(Markdown(table(result)))
    console.print(f"figures, numbers and report.html: {output}", highlight=False, soft_wrap=True)
    if not (output / "report.html").exists():
        console.print('report.html needs plotly: pip install "advantageflow[report]"', markup=False)


@app.command()
def reproduce(
    figure: Annotated[str, typer.Argument(help="fig2, fig3a, fig3b, fig3c, fig5, table1, steps, search, or all.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed and small runs, kept apart: does it work, roughly?")
    ] = False,
    jobs: JobsOption = 2,
    threads: RunThreadsOption = 1,
    runs: Annotated[Path, typer.Option(help="Folder of the runs; run again to go on.")] = Path("runs/reproduce"),
    results: Annotated[Path, typer.Option(help="Folder of records, tables and figures.")] = Path("results"),
    only_report: Annotated[bool, typer.Option("--only-report", help="Train nothing; report what there is.")] = False,
) -> None:
    """Repeat the paper's experiments at the size of the built-in worlds."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    from advantageflow.paper.experiments import FIGURES, QUICK, figures
    from advantageflow.paper.report import report
    from advantageflow.paper.study import Study, run_all

    names = figures(figure)
    study = Study(runs, results)
    if quick:
        study = Study(runs / "quick", runs / "quick" / "results", QUICK, seeds=1)
    console = Console()
    if not only_report:
        plan = study.plan([panel for name in names for panel in FIGURES[name]])
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress("{task.description}", *columns, console=console) as progress:
            task = progress.add_task("runs", total=len(plan))
            for line in run_all(study, plan, jobs=jobs, threads=threads):
                progress.advance(task)
                console.print(line, highlight=False)
    for name in report(study, names):
        console.print(Markdown((study.results / f"{name}.md").read_text()))
    console.print(f"numbers and figures: {study.results}", highlight=False, soft_wrap=True)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, finished or not.")],
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
) -> None:
    """Show runs in one HTML file: scores, curves, pictures through training, settings."""
    from rich.console import Console

    from advantageflow.report.run_page import write_report

    Console().print(f"wrote {write_report(runs, output)}", highlight=False, soft_wrap=True)


rewards_app = typer.Typer(no_args_is_help=True, help="What images can be scored by.")
app.add_typer(rewards_app, name="rewards")


@rewards_app.command("list")
def list_rewards() -> None:
    """Show every built-in reward, what it measures, and what it still needs."""
    from rich.console import Console
    from rich.table import Table

    from advantageflow.rewards import BUILT_IN

    table = Table()
    table.add_column("reward", no_wrap=True)
    table.add_column("measures")
    table.add_column("packages")
    table.add_column("fetches on first use", overflow="fold")
    for name, reward in BUILT_IN.items():
        missing = reward.missing()
        table.add_row(
            name, reward.about, f"missing {', '.join(missing)}" if missing else "installed", "\n".join(reward.weights)
        )
    console = Console()
    console.print(table)
    if any(reward.missing() for reward in BUILT_IN.values()):
        console.print('install what is missing: pip install "advantageflow[rewards]"', markup=False)


@rewards_app.command("check")
def check_rewards(names: Annotated[list[str], typer.Argument(help="Rewards to load.")]) -> None:
    """Load rewards, weights and all, and score a grey image with each."""
    import torch
    from rich.console import Console

    from advantageflow.rewards import load_reward
    from advantageflow.rewards.scoring import score

    prompts = {"geneval": "a photo of a cup", "scenes": "a circle"}
    for name in names:
        family = name.split("_")[0]
        prompt, size = prompts.get(family, 'a sign that says "OPEN"'), 64 if family == "scenes" else 512
        value = score(name, load_reward(name), torch.full((1, 3, size, size), 0.5), [prompt]).item()
        Console().print(f"{name}: {value:.4f} for a grey image and the prompt {prompt!r}", markup=False)


@rewards_app.command("score")
def score_images(
    images: Annotated[list[Path], typer.Argument(help="Image files.", exists=True, dir_okay=False)],
    prompt: Annotated[str, typer.Option(help="What they should show.")],
    reward: Annotated[list[str], typer.Option(help="A reward; may be given several times.")],
) -> None:
    """Score image files by one or several rewards."""
    import numpy as np
    import torch
    from PIL import Image
    from rich.console import Console
    from rich.table import Table

    from advantageflow.rewards import load_reward
    from advantageflow.rewards.scoring import score

    functions = {name: load_reward(name) for name in reward}
    table = Table("image", *reward)
    for path in images:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255
        values = (score(name, function, image, [prompt]).item() for name, function in functions.items())
        table.add_row(str(path), *(f"{value:.4f}" for value in values))
    Console().print(table)


@app.command()
def serve(
    reward: Annotated[str, typer.Argument(help="A built-in reward or package.module:function.")],
    host: Annotated[str, typer.Option(help="Beyond loopback, ADVANTAGEFLOW_TOKEN must be set.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with its own copy of the reward.")] = 1,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest request.")] = 64,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that a request may take.")] = 120,
    max_batch: Annotated[int, typer.Option(min=1, help="Images scored in one call.")] = 64,
) -> None:
    """Serve a reward over HTTP; its address is a reward wherever one is named."""
    from advantageflow.config import ConfigError

    try:
        from advantageflow.server import serve as run_server
    except ImportError as error:
        raise ConfigError(
            f'a reward server needs {error.name}; install with: pip install "advantageflow[rewards]"'
        ) from error
    run_server(reward, host, port, workers, max_megabytes=max_megabytes, timeout=timeout, max_batch=max_batch)


pretrain_app = typer.Typer(no_args_is_help=True, help="Make again what the package ships, from nothing.")
app.add_typer(pretrain_app, name="pretrain")
PretrainOutput = Annotated[Path, typer.Option(help="Folder for checkpoints and the pipeline; run again to continue.")]
AutoencoderSteps = Annotated[int, typer.Option(min=1, help="Steps of the autoencoder.")]
FlowSteps = Annotated[int, typer.Option(min=1, help="Steps of the rectified flow.")]
Pictures = Annotated[int, typer.Option(min=1, help="Drawn pictures to learn from.")]
Seed = Annotated[int, typer.Option(min=0)]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 for PyTorch's choice.")]


@pretrain_app.command("scenes")
def pretrain_scenes(
    output: PretrainOutput,
    autoencoder_steps: AutoencoderSteps = 2500,
    flow_steps: FlowSteps = 8000,
    pictures: Pictures = 100_000,
    seed: Seed = 0,
    threads: Threads = 0,
) -> None:
    """Pre-train the built-in model of scenes (an hour on two CPU cores)."""
    from advantageflow.scenes.pretrain import SCENES

    _pretrain(SCENES, output, autoencoder_steps, flow_steps, pictures, seed, threads)


@pretrain_app.command("words")
def pretrain_words(
    output: PretrainOutput,
    autoencoder_steps: AutoencoderSteps = 2500,
    flow_steps: FlowSteps = 3000,
    pictures: Pictures = 100_000,
    seed: Seed = 0,
    threads: Threads = 0,
) -> None:
    """Pre-train the built-in model of words (less than an hour on one CPU core)."""
    from advantageflow.words.pretrain import WORDS

    _pretrain(WORDS, output, autoencoder_steps, flow_steps, pictures, seed, threads)


RewardSteps = Annotated[int, typer.Option(min=1, help="Optimizer steps.")]
RewardOutput = Annotated[Path, typer.Option(help="Folder for checkpoints and weights; run again to continue.")]


@pretrain_app.command("scenes-clip")
def pretrain_scenes_clip(output: RewardOutput, steps: RewardSteps = 600, seed: Seed = 0, threads: Threads = 0) -> None:
    """Train the reward scenes_clip (minutes on one CPU core)."""
    from advantageflow.scenes.rewards.training import train_clip

    _use_threads(threads)
    train_clip(output, steps=steps, seed=seed)


@pretrain_app.command("scenes-preference")
def pretrain_scenes_preference(
    output: RewardOutput, steps: RewardSteps = 500, seed: Seed = 0, threads: Threads = 0
) -> None:
    """Train the reward scenes_preference (minutes on one CPU core)."""
    from advantageflow.scenes.rewards.training import train_preference

    _use_threads(threads)
    train_preference(output, steps=steps, seed=seed)


def _pretrain(
    world: Any, output: Path, autoencoder_steps: int, flow_steps: int, pictures: int, seed: int, threads: int
) -> None:
    from advantageflow.pretraining import pretrain

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
