"""`evaluate` and `sample`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from advantageflow.errors import shown
from advantageflow.paper.presets import PRESETS

if TYPE_CHECKING:
    from rich.console import Console

    from advantageflow.config import Config
    from advantageflow.prompts import PromptSet
    from advantageflow.studies.candidates import Candidate

LoraOption = Annotated[
    str | None,
    typer.Option(help="An adapter: a folder or file of train, diffusers, peft or kohya, or OWNER/NAME of the hub."),
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

DEFAULTS: dict[str, Any] = {
    "prompts": "scenes:held_out",
    "reward": ["exact=scenes_exact", "strict=scenes_strict", "graded=scenes_graded"],
    "images": 480,
    "steps": 10,
    "guidance": "1.0",
    "batch_size": 64,
    "column": "prompt",
    "task_column": "tag",
}


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="'scenes', 'words', pipeline folders or hub names; MODEL+LORA is a model with an adapter."),
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
) -> None:
    """Score models side by side on the same prompts and noise, with 95 % confidence intervals.

    What is given here wins over a preset, and a preset over a run.
    """
    from advantageflow.config import ConfigError

    if preset and preset not in PRESETS:
        raise ConfigError(f"unknown preset {shown(preset)}; allowed: {', '.join(PRESETS)}")
    if json_file:
        from advantageflow.places import check_file

        check_file(json_file.expanduser())
    config = _config_of(run)
    given = {"prompts": prompts, "column": column, "task_column": task_column, "reward": reward, "images": images}
    given |= {"steps": steps, "guidance": guidance}
    chosen = {**DEFAULTS, **_of_run(config), **PRESETS.get(preset, {}), **_given(given)}
    candidates = _candidates(models, run, config, lora, _model_settings(resolution, dtype, base))
    means = _evaluate(candidates, chosen, config, output.expanduser() if output else None)
    if json_file:
        from advantageflow.run.checkpoint import write_atomic

        write_atomic(json_file.expanduser(), means)


def _evaluate(candidates: list[Candidate], chosen: dict[str, Any], config: Config | None, output: Path | None) -> str:
    """Draw, score and print; the means as JSON."""
    import json

    from rich.console import Console
    from rich.markdown import Markdown

    from advantageflow.models import picture_size
    from advantageflow.places import check_folder
    from advantageflow.rewards import check_reward, load_reward
    from advantageflow.rewards.trial import try_rewards
    from advantageflow.run.checkpoint import write_atomic
    from advantageflow.run.progress import say
    from advantageflow.studies.scoreboard import as_json, markdown, open_folder, reward_contents

    if output:
        check_folder(output)
    scales = _scales(chosen["guidance"])
    named = _labelled(chosen["reward"])
    for name in named.values():
        check_reward(name)
    settings = {
        "models": [candidate.name for candidate in candidates],
        "prompts": chosen["prompts"],
        "rewards": named,
        "steps": chosen["steps"],
        "resolution": candidates[0].settings.model_dump(mode="json")["resolution"],
        "dtype": candidates[0].settings.dtype,
    }
    prompts = _prompts(chosen, config)
    functions = {label: load_reward(name) for label, name in named.items()}
    for label, name in named.items():
        prompts.check_for(name, functions[label])
    try_rewards(functions, dict.fromkeys(functions, prompts), picture_size(candidates[0].settings))
    folder = open_folder(output, settings) if output else None
    console = Console()
    say(console, f"prompts: {prompts.describe()}")
    contents = reward_contents(named, functions) if folder else {}
    columns = _columns(console, candidates, scales, chosen, prompts, functions, folder, contents)
    table = markdown(columns)
    title = f"{chosen['images']} images, {chosen['steps']} steps, guidance {chosen['guidance']}"
    console.print(Markdown(f"**{title}**\n\n{table}"))
    means = json.dumps({"images": chosen["images"], **settings, "models": as_json(columns)}, indent=2) + "\n"
    if folder:
        write_atomic(folder / "scores.json", means)
        write_atomic(folder / "scores.md", f"# {title}\n\n{table}")
        say(console, f"tables and grids: {folder}")
    return means


def _columns(
    console: Console,
    candidates: list[Candidate],
    scales: list[float],
    chosen: dict[str, Any],
    prompts: PromptSet,
    functions: dict[str, Any],
    folder: Path | None,
    contents: dict[str, Any],
) -> dict[str, Any]:
    """Title -> rows of scores, of every model with every guidance scale."""
    from advantageflow.run.progress import Bars
    from advantageflow.studies.scoreboard import keep_for, score_images

    columns: dict[str, Any] = {}
    with Bars(console) as bars:
        for number, candidate in enumerate(candidates):
            model = candidate.load(bars.say)
            for scale in scales:
                column = candidate.name if len(scales) == 1 else f"{candidate.name}, guidance {scale:g}"
                task = bars.add(column, chosen["images"])
                file = folder / f"{number}-guidance{scale:g}.jsonl" if folder else None
                if file:
                    decided = {**candidate.contents(), "rewards": contents}
                    keep_for(file, {**decided, "steps": chosen["steps"], "guidance": scale}, prompts, bars.say)
                columns[column] = score_images(
                    model,
                    model.transformer,
                    prompts,
                    functions,
                    num_images=chosen["images"],
                    file=file,
                    title=column,
                    advance=partial(bars.advance, task),
                    num_inference_steps=chosen["steps"],
                    guidance_scale=scale,
                    batch_size=chosen["batch_size"],
                )
    return columns


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
    resolution: ResolutionOption = None,
    dtype: DtypeOption = None,
    base: BaseOption = None,
) -> None:
    """Draw images of prompts, each in a file of its own, and a grid of them: of several models on the same noise."""
    from advantageflow.config import ConfigError

    config = _config_of(run)
    scales = _scales(_of_run(config).get("guidance", "1.0"))
    chosen = {
        **DEFAULTS,
        **_of_run(config),
        "guidance": scales[0],
        **_given({"prompts": prompts, "column": column, "steps": steps, "guidance": guidance}),
    }
    if negative_prompt and chosen["guidance"] == 1:
        raise ConfigError("--negative-prompt has no effect without guidance; give a --guidance other than 1, such as 4")
    if texts and prompts:
        raise ConfigError("give prompts as arguments or with --prompts, not both")
    if not texts and not prompts and not config:
        raise ConfigError('there is nothing to draw; give a prompt, as in: advantageflow sample "a red circle"')
    rows = texts or _rows(_prompts(chosen, config), None if prompts else SHOWN_OF_RUN)
    candidates = _candidates(model, run, config, lora, _model_settings(resolution, dtype, base))
    _draw(candidates, rows, images, output.expanduser(), chosen, negative_prompt, seed)


SHOWN_OF_RUN = 6  # prompts of a run that are drawn where none is given


def _draw(
    candidates: list[Candidate],
    rows: list[str],
    images: int,
    output: Path,
    chosen: dict[str, Any],
    negative_prompt: str,
    seed: int,
) -> None:
    from rich.console import Console

    from advantageflow.evaluation import evaluate as evaluate_model
    from advantageflow.pictures import save_picture
    from advantageflow.places import check_file
    from advantageflow.prompts import PromptSet
    from advantageflow.run.grids import labelled_grid, stack
    from advantageflow.run.progress import Bars, say
    from advantageflow.studies.drawing import write_pictures

    check_file(output)
    repeated = tuple(prompt for prompt in rows for _ in range(images))
    prompts = PromptSet(repeated, tuple(str(i) for i in range(len(repeated))))
    folder = output.with_suffix("")
    grids, console = [], Console()
    with Bars(console) as bars:
        for number, candidate in enumerate(candidates):
            loaded = candidate.load(bars.say)
            task = bars.add(candidate.name, len(repeated))
            found = evaluate_model(
                loaded,
                loaded.transformer,
                prompts,
                {},
                num_images=len(repeated),
                num_inference_steps=chosen["steps"],
                guidance_scale=chosen["guidance"],
                negative_prompt=negative_prompt,
                seed=seed,
                batch_size=chosen["batch_size"],
                advance=partial(bars.advance, task),
            )
            about = {"negative_prompt": negative_prompt, "seed": seed, "model": candidate.settings.path}
            about |= {"adapter": candidate.adapter, "steps": chosen["steps"], "guidance": chosen["guidance"]}
            write_pictures(folder, str(number), found, about)
            grids.append(labelled_grid(found, candidate.name if len(candidates) > 1 else "", columns=images))
    save_picture(stack(grids), output, format="PNG")
    say(console, f"wrote {output}, and every image in {folder}")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _labelled(rewards: list[str]) -> dict[str, str]:
    """Label -> reward."""
    from advantageflow.config import ConfigError, check_label

    found: dict[str, str] = {}
    for part in rewards:
        label, separator, name = part.partition("=")
        if not separator or part.startswith(("http://", "https://")):
            label = name = part
        check_label(label)
        if label in found:
            raise ConfigError(f"the label {label} stands for two rewards; give each one of its own: LABEL=REWARD")
        found[label] = name
    return found


def _scales(text: str) -> list[float]:
    import math

    from advantageflow.config import ConfigError

    try:
        scales = [float(scale) for scale in text.split(",")]
        if not all(math.isfinite(scale) and scale >= 0 for scale in scales):
            raise ValueError
    except ValueError:
        raise ConfigError(f"--guidance is {shown(text)}; give scales such as 1.0 or 1.0,4.5") from None
    return scales


def _config_of(run: Path | None) -> Config | None:
    if run is None:
        return None
    from advantageflow.run.directory import RunDirectory

    run = run.expanduser()
    RunDirectory.check_run(run)
    return RunDirectory(run).config()


def _of_run(config: Config | None) -> dict[str, Any]:
    """What a run evaluates with."""
    if config is None:
        return {}
    settings = config.evaluation
    return {
        "prompts": None,  # those that it holds out
        "column": config.prompts.column,
        "task_column": config.prompts.task_column,
        "reward": [f"{label}={name}" for label, name in settings.rewards.items()],
        "images": settings.num_images,
        "steps": settings.num_inference_steps,
        "guidance": str(settings.guidance_scale),
        "batch_size": config.rollout.batch_size,
    }


def _prompts(chosen: dict[str, Any], config: Config | None) -> PromptSet:
    from advantageflow.prompts import load_prompts
    from advantageflow.studies.candidates import prompts_of_run

    if chosen["prompts"] is None and config is not None:
        return prompts_of_run(config)
    return load_prompts(str(Path(chosen["prompts"]).expanduser()), chosen["column"], chosen["task_column"])


def _rows(prompts: PromptSet, count: int | None) -> list[str]:
    """All prompts, or the first that are evaluated."""
    return list(prompts.texts) if count is None else [prompts.texts[i] for i in prompts.draw(0, count, 0)]


def _model_settings(resolution: str | None, dtype: str | None, base: str | None) -> dict[str, Any]:
    from advantageflow.studies.candidates import parse_size

    return _given({"resolution": parse_size(resolution) if resolution else None, "dtype": dtype, "base": base})


def _candidates(
    models: list[str] | None, run: Path | None, config: Config | None, lora: str | None, settings: dict[str, Any]
) -> list[Candidate]:
    from advantageflow.studies.candidates import named, of_run

    found = of_run(run.expanduser(), config, lora, settings) if run and config else []
    return found + named(models or ([] if found else ["scenes"]), lora, settings)
