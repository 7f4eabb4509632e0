"""AdvantageFlow from Python: what the commands do, as functions that return values and raise exceptions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from advantageflow.custom_code import refusable
from advantageflow.errors import ConfigError, cut, shown
from advantageflow.run.progress import console as speaking
from advantageflow.run.progress import say

if TYPE_CHECKING:
    from PIL.Image import Image

    from advantageflow.config import Config

RewardLike = str | Callable[..., Sequence[float]]  # a name as in recipes, or the function itself
PathLike = str | os.PathLike[str]
DRAWING = ("lora", "prompts", "column", "images", "steps", "guidance", "resolution", "dtype", "base", "batch_size")
EVALUATING = (*DRAWING, "task_column", "reward", "preset")
SAMPLING = (*DRAWING, "negative_prompt", "seed", "select", "reward", "candidates", "temperature")


@dataclass(frozen=True)
class Run:
    """A run in its folder, which is read when it is asked."""

    folder: Path

    @property
    def config(self) -> Config:
        """Every setting."""
        from advantageflow.run.directory import RunDirectory

        return RunDirectory(self.folder).config()

    @property
    def summary(self) -> dict[str, Any] | None:
        """Held-out scores "before" and "after", their "difference" with intervals, "iterations", "seconds"; None of a
        run that is not finished.
        """
        from advantageflow.run.directory import RunDirectory

        return RunDirectory(self.folder).summary()

    def metrics(self) -> list[dict[str, Any]]:
        """A row for each iteration, as in metrics.jsonl."""
        from advantageflow.run.directory import RunDirectory

        return RunDirectory(self.folder).metrics()

    @property
    def lora(self) -> Path:
        """The folder of the trained adapter, for `pipeline.load_lora_weights`.

        Raises:
            ConfigError: the run trains all weights, which are in its folder `transformer`.
        """
        from advantageflow.errors import ConfigError

        if self.config.policy.lora_rank == 0:
            raise ConfigError(
                f"{self.folder} trains all weights, and has no adapter; they are in {self.folder / 'transformer'}; for "
                "an adapter set policy.lora_rank=32"
            )
        return self.folder / "lora"


@refusable
def train(
    recipe: PathLike | None = None,
    *changes: str,
    reward: RewardLike | Sequence[str] | Mapping[RewardLike, float] | None = None,
    output: PathLike | None = None,
    resume: PathLike | None = None,
    accept_changes: bool = False,
    no_custom_code: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Improve a model with a reward: the command `train`, with the same folder and the same numbers.

    Args:
        recipe: the name of a shipped recipe or the path of a YAML file; by default `scenes`.
        changes: settings as "section.key=value".
        reward: a name as in recipes; a function `(images, prompts) -> floats`, or an object that is called so; a list
            of one reward's servers; or several of these with their weights.
        output: the run's folder; by default runs/RECIPE-TIME.
        resume: the folder of a run to continue, with the functions that it learned from as `reward`.
        accept_changes: go on with other prompts, weights or reward files than before.
        no_custom_code: refuse Python that a recipe names; a function that is given is none of it.
        quiet: say nothing, but what custom code is imported.
        settings: by section, as in `learn={"learning_rate": 1e-3}`, or by key, as in `**{"learn.learning_rate": 1e-3}`.

    Raises:
        ConfigError: a setting, file or reward cannot work.
        NonFiniteError: a loss, gradient, weight or step is not sound; the last checkpoint is.
        KeyboardInterrupt: a signal came; the run can be continued with `resume`.
    """
    console = speaking(quiet)
    name, typed = recipe_and_changes(recipe, changes)
    folder = Path(resume or output or Path("runs") / f"{Path(name).stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    typed += [as_change(key, value) for key, value in settings.items()]
    given, weights = _named(reward)
    if resume is not None:
        if output is not None or (recipe is not None and "=" not in str(recipe)):
            raise ConfigError("resume continues a run in its folder; give no recipe and no output with it")
        if reward is not None and not given:
            raise ConfigError("resume goes on with the run's own rewards; give reward only where it is a function")
        say(console, cut(f"AdvantageFlow: going on with run folder {folder}", 400))  # the import takes seconds
        from advantageflow.building import train_on

        train_on(folder, typed, console, given, accept_changes=accept_changes)
        return Run(folder)
    if weights is not None:
        typed.append(as_change("reward", weights))
    from advantageflow.config import load_config

    config = load_config(name, typed)
    say(console, cut(f"AdvantageFlow: {Path(name).stem}, run folder {folder}", 400))  # the import takes seconds
    from advantageflow.building import train_new

    train_new(config, folder, console, given)
    return Run(folder)


@refusable
def evaluate(
    *models: str,
    run: PathLike | Run | None = None,
    output: PathLike | None = None,
    no_custom_code: bool = False,
    quiet: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Score models side by side on the same prompts and noise: the command `evaluate`.

    Args:
        models: as MODEL or MODEL+ADAPTER; by default `scenes`, or the two of the run.
        run: its base model beside what it was trained to, with its settings.
        output: folder for tables, grids and scores, in which an evaluation goes on.
        no_custom_code: refuse Python that the run or a reward names.
        quiet: say nothing.
        options: those of the command, such as `prompts`, `images`, `steps`, `guidance`, `lora`, `dtype`, `preset`;
            `reward` is a name, a function, a list of these, or a dict with labels.

    Returns:
        {"models": {model: {label: {"all" or task: {"mean", "low", "high", "half_width"}}}}, ...} with 95 % intervals.

    Raises:
        ConfigError: a model, reward or option cannot work.
    """
    from advantageflow.paper.presets import preset_named
    from advantageflow.studies import side_by_side

    folder, chosen = Path(output) if output is not None else None, _options(options, EVALUATING)
    chosen["preset"] = preset_named(chosen.get("preset", ""))
    return side_by_side.evaluate(models, speaking(quiet), run=_folder(run), output=folder, **chosen)


@refusable
def sample(
    *prompts: str,
    model: str | Sequence[str] = (),
    run: PathLike | Run | None = None,
    output: PathLike = "samples.png",
    no_custom_code: bool = False,
    quiet: bool = False,
    **options: Any,
) -> list[Image]:
    """Draw prompts: the command `sample`. Returns the pictures, model by model, prompt by prompt.

    Args:
        model: as MODEL or MODEL+ADAPTER, one or several; by default `scenes`, or the two of the run.
        run: its base model beside what it was trained to, with its settings.
        output: the PNG of the grid; single pictures go to a folder of that name beside it.
        no_custom_code: refuse Python that the run names.
        quiet: say nothing.
        options: those of the command, such as `images`, `steps`, `guidance`, `seed`, `lora`, `select`; `reward` is a
            name or a function.

    Raises:
        ConfigError: a model or option cannot work.
    """
    from advantageflow.studies import side_by_side

    models, console = [model] if isinstance(model, str) else list(model), speaking(quiet)
    return side_by_side.sample(
        prompts, models, console, run=_folder(run), output=Path(output), **_options(options, SAMPLING)
    )


def _folder(run: PathLike | Run | None) -> Path | None:
    return run.folder if isinstance(run, Run) else None if run is None else Path(run)


def _options(options: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Options of a command; paths as text.

    Raises:
        ConfigError: there is no such option.
    """
    from advantageflow.config_errors import nearest

    for name in options:
        if name not in known:
            raise ConfigError(f"unknown option {shown(name)}{nearest(name, known)}; allowed: {', '.join(known)}")
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def recipe_and_changes(recipe: PathLike | None, changes: Sequence[str]) -> tuple[str, list[str]]:
    """What was typed: the recipe may be left out before the first change."""
    if recipe is not None and "=" in str(recipe):
        return "scenes", [str(recipe), *changes]
    return str(recipe or "scenes"), list(changes)


def as_change(key: str, value: Any) -> str:
    """A setting as "section.key=value".

    Raises:
        ConfigError: the value is no plain data.
    """
    plain = str(value) if isinstance(value, Path) else value
    try:
        text = yaml.safe_dump(plain, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False)
    except yaml.YAMLError:
        raise ConfigError(f"{key} is {shown(value)}; give a number, text, a list, or a dict of these") from None
    return f"{key}={text.removesuffix('...' + chr(10)).strip()}"


def _named(
    reward: RewardLike | Sequence[str] | Mapping[RewardLike, float] | None,
) -> tuple[dict[str, Callable[..., Sequence[float]]], str | dict[str, float] | None]:
    """The functions among rewards by the names that a run records, and what the setting `reward` says of all."""
    from advantageflow.rewards.own import name_of, pooled

    if reward is None:
        return {}, None
    several = list(reward) if isinstance(reward, Mapping) else [pooled(reward)]
    for one in several:
        if not isinstance(one, str) and not callable(one):
            raise ConfigError(f"reward is {shown(one)}; give a name, a function, or an object that can be called")
    names = [one if isinstance(one, str) else name_of(one) for one in several]
    if len(set(names)) < len(names):
        raise ConfigError(f"reward names one function twice: {', '.join(names)}; give it one weight")
    given = {name: one for name, one in zip(names, several, strict=True) if not isinstance(one, str)}
    return given, dict(zip(names, reward.values(), strict=True)) if isinstance(reward, Mapping) else names[0]


@refusable
def report(*runs: PathLike | Run, output: PathLike = "report.html", no_custom_code: bool = False) -> Path:
    """Show runs, finished or not, in one HTML file; returns it.

    Args:
        runs: their folders.
        output: the file.
        no_custom_code: refuse Python that a run names.

    Raises:
        ConfigError: a folder holds no run, or the file cannot be written.
    """
    from advantageflow.places import check_file
    from advantageflow.reports.run_page import write_report

    file = Path(output)
    check_file(file)
    return write_report([run.folder if isinstance(run, Run) else Path(run) for run in runs], file)
