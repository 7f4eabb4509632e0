"""`evaluate` and `sample`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from advantageflow.models.base import FlowModel

LORA_FILE = "pytorch_lora_weights.safetensors"
LoraOption = Annotated[Path | None, typer.Option(help="An adapter that train exported.")]
StepsOption = Annotated[int, typer.Option(min=2, help="Sampling steps.")]
ResolutionOption = Annotated[int | None, typer.Option(min=16, help="Pixels; by default the model's own.")]
DtypeOption = Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the network.")]

# What published tables were made with: name -> prompts, rewards, guidance scales, steps, images
PRESETS: dict[str, tuple[str, list[str], str, int, int]] = {
    # AdvantageFlow's Table 1: GenEval, without and with guidance
    "paper": ("geneval:553", ["geneval=geneval_accuracy"], "1.0,4.5", 40, 2212),
    # DiffusionNFT's table of preference scores; give its DrawBench prompts with --prompts
    "nft": ("", ["pickscore", "clipscore", "hpsv2", "aesthetic", "imagereward"], "1.0", 40, 1000),
}


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
    from advantageflow.places import check_file, check_folder
    from advantageflow.prompts import load_prompts
    from advantageflow.rewards import check_reward, load_reward
    from advantageflow.scoreboard import as_json, markdown, open_folder, score_images

    if output:
        check_folder(output)
    if json_file:
        check_file(json_file)
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
        for part in reward or ["exact=scenes_exact", "strict=scenes_strict", "graded=scenes_graded"]
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
    for label, name in named.items():
        chosen.check_for(name, functions[label])
    Console().print(f"prompts: {chosen.describe()}", highlight=False, markup=False, soft_wrap=True)

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
    from advantageflow.pictures import save_picture
    from advantageflow.places import check_file
    from advantageflow.prompts import PromptSet
    from advantageflow.report.grids import labelled_grid, stack

    check_file(output)
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
    save_picture(stack(grids), output)
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
    from advantageflow.devices import choose_device
    from advantageflow.models import load_model

    path, _, adapter = name.partition("+")
    model = load_model(path, choose_device(), resolution=resolution, dtype=dtype)
    if adapter:
        model.pipeline.load_lora_weights(adapter)
    return model
