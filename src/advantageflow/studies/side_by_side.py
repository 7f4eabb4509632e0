"""Models side by side on the same prompts and noise: scored with intervals, or drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL.Image import Image as PILImage
from rich.console import Console

from advantageflow.config import Config, ConfigError, check_label
from advantageflow.errors import shown
from advantageflow.evaluation import evaluate as evaluate_images
from advantageflow.fits import Size
from advantageflow.models import picture_size
from advantageflow.pictures import save_picture, to_pil
from advantageflow.places import check_file, check_folder, replacing
from advantageflow.prompts import PromptSet, load_prompts
from advantageflow.rewards import Reward, check_reward, load_reward
from advantageflow.rewards.own import name_of, pooled
from advantageflow.rewards.trial import try_rewards
from advantageflow.run.checkpoint import write_atomic
from advantageflow.run.directory import RunDirectory
from advantageflow.run.grids import labelled_grid, stack
from advantageflow.run.progress import Bars, say
from advantageflow.selection import WAYS, Selection
from advantageflow.studies.candidates import Candidate, named, of_run, parse_size, prompts_of_run
from advantageflow.studies.drawing import remove_pictures, write_pictures
from advantageflow.studies.scoreboard import (
    as_json,
    keep_for,
    open_folder,
    reward_contents,
    score_images,
    table,
)
from advantageflow.tables import folded_table, markdown_table
from advantageflow.world import World, joined

RewardsLike = str | Reward | Sequence[str | Reward] | Mapping[str, str | Reward]
SHOWN_OF_RUN = 6  # prompts of a run that are drawn where none is given

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
    models: Sequence[str],
    console: Console,
    *,
    run: Path | None = None,
    lora: str | None = None,
    preset: Mapping[str, Any] | None = None,
    resolution: str | int | None = None,
    dtype: str | None = None,
    base: str | None = None,
    output: Path | None = None,
    **given: Any,
) -> dict[str, Any]:
    """Score models on the same prompts and noise: what `api.evaluate` says.

    Args:
        given: of DEFAULTS; wins over the preset, and the preset over the run.
    """
    config = _config_of(run)
    chosen = {**DEFAULTS, **_of_run(config), **(preset or {}), **_given(given)}
    _check_counts({"--images": chosen["images"], "--steps": chosen["steps"]})
    candidates = _candidates(models, run, config, lora, _model_settings(resolution, dtype, base))
    with joined() as world:
        folder = output.expanduser() if output and world.rank == 0 else None
        return _evaluate(candidates, chosen, config, folder, console, world)


def _evaluate(
    candidates: list[Candidate],
    chosen: Mapping[str, Any],
    config: Config | None,
    output: Path | None,
    console: Console,
    world: World,
) -> dict[str, Any]:
    """Draw, score and print; the means."""
    if output:
        check_folder(output)
    scales = _scales(chosen["guidance"])
    rewards = _labelled(chosen["reward"])
    named = {label: given if isinstance(given, str) else name_of(given) for label, given in rewards.items()}
    for given in rewards.values():
        if isinstance(given, str):
            check_reward(given)
    settings = {
        "models": [candidate.name for candidate in candidates],
        "prompts": chosen["prompts"],
        "rewards": named,
        "steps": chosen["steps"],
        "resolution": candidates[0].settings.model_dump(mode="json")["resolution"],
        "dtype": candidates[0].settings.dtype,
    }
    prompts = _prompts(chosen, config)
    functions = {label: load_reward(given) if isinstance(given, str) else given for label, given in rewards.items()}
    for label, name in named.items():
        prompts.check_for(name, functions[label])
    try_rewards(functions, dict.fromkeys(functions, prompts), picture_size(candidates[0].settings))
    folder = open_folder(output, settings) if output else None
    say(console, f"prompts: {prompts.describe()}")
    contents = reward_contents(named, functions) if folder else {}
    columns = _columns(console, candidates, scales, chosen, prompts, functions, folder, contents, world)
    header, lines = table(columns)
    title = f"{chosen['images']} images, {chosen['steps']} steps, guidance {chosen['guidance']}"
    console.print(folded_table(header, lines, title))
    means = {"images": chosen["images"], **settings, "models": as_json(columns)}
    if folder:
        write_atomic(folder / "scores.json", json.dumps(means, indent=2) + "\n")
        write_atomic(folder / "scores.md", f"# {title}\n\n{markdown_table(header, lines)}")
        say(console, f"tables and grids: {folder}")
    return means


def _columns(
    console: Console,
    candidates: Sequence[Candidate],
    scales: Sequence[float],
    chosen: Mapping[str, Any],
    prompts: PromptSet,
    functions: Mapping[str, Any],
    folder: Path | None,
    contents: Mapping[str, Any],
    world: World,
) -> dict[str, Any]:
    """Title -> rows of scores, of every model with every guidance scale."""
    columns: dict[str, Any] = {}
    with Bars(console) as bars:
        for number, candidate in enumerate(candidates):
            model = candidate.load(bars.say)
            model.fits.say = bars.say
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
                    world=world,
                    num_inference_steps=chosen["steps"],
                    guidance_scale=scale,
                    batch_size=chosen["batch_size"],
                )
    return columns


def sample(
    texts: Sequence[str],
    models: Sequence[str],
    console: Console,
    *,
    run: Path | None = None,
    lora: str | None = None,
    output: Path,
    images: int = 4,
    negative_prompt: str = "",
    seed: int = 0,
    resolution: str | int | None = None,
    dtype: str | None = None,
    base: str | None = None,
    select: str | None = None,
    reward: str | Reward | None = None,
    candidates: int = 8,
    temperature: float = 0.0,
    **given: Any,
) -> list[PILImage]:
    """Draw images of prompts, `images` of each, by every model on the same noise: what `api.sample` says.

    Args:
        select, reward, candidates, temperature: see `selection.Selection`.
        given: of DEFAULTS; wins over the run.
    """
    config = _config_of(run)
    prompts = given.get("prompts")
    chosen = {**DEFAULTS, **_of_run(config), **_given(given)}
    scales = _scales(chosen["guidance"])
    if len(scales) > 1:
        raise ConfigError(f"--guidance is {shown(chosen['guidance'])}; pictures are drawn with one scale, such as 4.5")
    chosen["guidance"] = scales[0]
    _check_counts({"--images": images, "--steps": chosen["steps"], "--seed": seed})
    if negative_prompt and chosen["guidance"] == 1:
        raise ConfigError("--negative-prompt has no effect without guidance; give a --guidance other than 1, such as 4")
    if texts and prompts:
        raise ConfigError("give prompts as arguments or with --prompts, not both")
    if not texts and not prompts and not config:
        raise ConfigError('there is nothing to draw; give a prompt, as in: advantageflow sample "a red circle"')
    rows = texts or _rows(_prompts(chosen, config), None if prompts else SHOWN_OF_RUN)
    repeated = tuple(prompt for prompt in rows for _ in range(images))
    each = PromptSet(repeated, tuple(str(i) for i in range(len(repeated))))
    drawn_by = _candidates(models, run, config, lora, _model_settings(resolution, dtype, base))
    selection = _selection(select, reward, candidates, temperature)
    if selection:
        each.check_for(selection.name, selection.reward)
        try_rewards({selection.name: selection.reward}, {selection.name: each}, picture_size(drawn_by[0].settings))
    about = {"negative_prompt": negative_prompt, "seed": seed, "steps": chosen["steps"], "guidance": scales[0]}
    with joined() as world:
        return _draw(
            drawn_by, each, images, output.expanduser(), about, chosen["batch_size"], selection, console, world
        )


def _selection(
    select: str | None, reward: str | Reward | None, candidates: int, temperature: float
) -> Selection | None:
    """How images are selected, if at all.

    Raises:
        ConfigError: a part of it is missing, or is none.
    """
    if select is None and reward is None:
        return None
    if select not in WAYS or reward is None:
        raise ConfigError(
            f"selecting needs a way and a reward: --select {' or '.join(WAYS)} and --reward NAME; "
            f"given: --select {shown(select)}, --reward {shown(reward)}"
        )
    if not isinstance(candidates, int) or candidates < 2 or not 0 <= temperature < math.inf:
        raise ConfigError(
            f"--candidates is {shown(candidates)} and --temperature {shown(temperature)}; give 2 or more, and 0 or more"
        )
    if not isinstance(reward, str):
        return Selection(select, name_of(reward), reward, candidates, temperature)
    check_reward(reward)
    return Selection(select, reward, load_reward(reward), candidates, temperature)


def _draw(
    candidates: Sequence[Candidate],
    prompts: PromptSet,
    images: int,
    output: Path,
    about: Mapping[str, Any],
    batch_size: Size,
    selection: Selection | None,
    console: Console,
    world: World,
) -> list[PILImage]:
    if world.rank == 0:
        check_file(output)
    earlier = replacing(output)
    folder = output.with_suffix("")
    grids, drawn = [], []
    with Bars(console) as bars:
        for number, candidate in enumerate(candidates):
            loaded = candidate.load(bars.say)
            loaded.fits.say = bars.say
            task = bars.add(candidate.name, len(prompts.texts))
            found = evaluate_images(
                loaded,
                loaded.transformer,
                prompts,
                {selection.name: selection.reward} if selection else {},
                num_images=len(prompts.texts),
                num_inference_steps=about["steps"],
                guidance_scale=about["guidance"],
                negative_prompt=about["negative_prompt"],
                seed=about["seed"],
                batch_size=batch_size,
                advance=partial(bars.advance, task),
                selection=selection,
                world=world,
            )
            drawn += to_pil(found.images)
            if world.rank == 0:
                if number == 0:
                    remove_pictures(folder)
                made = {**about, "model": candidate.settings.path, "adapter": candidate.adapter}
                write_pictures(folder, str(number), found, made | (selection.facts if selection else {}))
            grids.append(labelled_grid(found, candidate.name if len(candidates) > 1 else "", columns=images))
    if world.rank == 0:
        save_picture(stack(grids), output, format="PNG")
    say(console, f"wrote {output}, and every image in {folder}{earlier}")
    return drawn


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _check_counts(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        least = {"--images": 1, "--steps": 2}.get(name, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name} is {shown(value)}; give a whole number from {least} on")


def _labelled(rewards: RewardsLike) -> dict[str, str | Reward]:
    """Label -> reward, by its name or as it is given."""
    if isinstance(rewards, Mapping):
        for label in rewards:
            check_label(label)
        return {label: pooled(reward) for label, reward in rewards.items()}
    found: dict[str, str | Reward] = {}
    for part in [rewards] if isinstance(rewards, str) or callable(rewards) else rewards:
        if not isinstance(part, str):
            found[getattr(part, "__name__", "reward")] = part
            continue
        label, separator, name = part.partition("=")
        if not separator or part.startswith(("http://", "https://")):
            label = name = part
        check_label(label)
        if label in found:
            raise ConfigError(f"the label {label} stands for two rewards; give each one of its own: LABEL=REWARD")
        found[label] = name
    return found


def _scales(guidance: str | float | Sequence[float]) -> list[float]:

    given = [guidance] if isinstance(guidance, int | float) else guidance
    try:
        scales = [float(scale) for scale in (guidance.split(",") if isinstance(guidance, str) else given)]
        if not all(math.isfinite(scale) and scale >= 0 for scale in scales):
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigError(f"--guidance is {shown(guidance)}; give scales such as 1.0 or 1.0,4.5") from None
    return scales


def _config_of(run: Path | None) -> Config | None:
    if run is None:
        return None

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


def _prompts(chosen: Mapping[str, Any], config: Config | None) -> PromptSet:
    if chosen["prompts"] is None and config is not None:
        return prompts_of_run(config)
    return load_prompts(str(Path(chosen["prompts"]).expanduser()), chosen["column"], chosen["task_column"])


def _rows(prompts: PromptSet, count: int | None) -> list[str]:
    """All prompts, or the first that are evaluated."""
    return list(prompts.texts) if count is None else [prompts.texts[i] for i in prompts.draw(0, count, 0)]


def _model_settings(resolution: str | int | None, dtype: str | None, base: str | None) -> dict[str, Any]:
    return _given({"resolution": parse_size(str(resolution)) if resolution else None, "dtype": dtype, "base": base})


def _candidates(
    models: Sequence[str], run: Path | None, config: Config | None, lora: str | None, settings: dict[str, Any]
) -> list[Candidate]:
    found = of_run(run.expanduser(), config, lora, settings) if run and config else []
    return found + named(list(models) or ([] if found else ["scenes"]), lora, settings)
