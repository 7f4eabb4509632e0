"""`train`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from advantageflow.config import Config
    from advantageflow.pairs import Pair
    from advantageflow.prompts import PromptSet
    from advantageflow.run.directory import RunDirectory


def train(
    recipe: Annotated[str | None, typer.Argument(help="A shipped recipe or a YAML file; default: scenes.")] = None,
    changes: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/RECIPE-TIME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what the run would cost, and stop.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Resume with other prompts, weights or reward files than before.")
    ] = False,
) -> None:
    """Improve a model with a reward."""
    from rich.console import Console

    from advantageflow.errors import cut
    from advantageflow.run.progress import say

    console = Console()
    if recipe is not None and "=" in recipe:
        changes = [recipe, *(changes or [])]
        recipe = None
    recipe_name = Path(recipe or "scenes").stem
    folder = output or Path("runs") / f"{recipe_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not plan:  # before what takes seconds to import
        what = "going on with" if resume else f"{recipe_name},"
        say(console, cut(f"AdvantageFlow: {what} run folder {resume or folder}", 400))
    from advantageflow.config import ConfigError, load_config
    from advantageflow.run.folder_lock import locked

    if resume is None:
        config = load_config(recipe or "scenes", changes or [])
        if plan:
            from advantageflow.plan import print_plan

            print_plan(config)
            return
    elif recipe or output or plan:
        raise ConfigError("--resume continues a run in its folder; give no recipe, --output or --plan with it")
    from advantageflow.run.directory import RunDirectory

    if resume is not None:
        _resume(console, resume, changes or [], accept_changes)
        return
    RunDirectory.check_new(folder)
    inputs = _load_inputs(console, config)
    with locked(folder):
        _run(console, config, RunDirectory.create(folder, config), inputs)


def _resume(console: Console, folder: Path, overrides: list[str], accept_changes: bool) -> None:
    from advantageflow.config import ConfigError
    from advantageflow.run.changes import changed, finished
    from advantageflow.run.directory import RunDirectory
    from advantageflow.run.folder_lock import locked
    from advantageflow.run.progress import say

    RunDirectory.check_run(folder)
    with locked(folder):
        directory, config = RunDirectory.open(folder)
        config, summary = changed(config, overrides), directory.summary()
        if finished(config, summary):
            done = summary["iterations"] if summary else 0
            text = (
                f"{folder} is finished, after {done} iterations; to go on: advantageflow train --resume {folder} "
                f"run.iterations={2 * done}" + (" run.max_seconds=null" if config.run.max_seconds else "")
            )
            if overrides:
                raise ConfigError(text)
            say(console, text)
            return
        _run(console, config, directory, _load_inputs(console, config), accept_changes)


def _load_inputs(console: Console, config: Config) -> dict[str, Any]:
    """Prompts, device, model and rewards, checked in this order before weights are loaded."""
    from advantageflow.devices import choose_device
    from advantageflow.models import check_family, check_model_path, picture_size
    from advantageflow.prompts import load_prompt_sets, shown_prompts
    from advantageflow.rewards import check_gradients, check_reward, load_reward
    from advantageflow.rewards.gradients import try_gradients
    from advantageflow.rewards.trial import try_rewards
    from advantageflow.run.progress import say

    check_model_path(config.model.path, config.model.base)
    names = dict.fromkeys([*config.reward_weights, *config.evaluation.rewards.values()])
    for name in names:
        check_reward(name)
    if config.objective.family == "gradient":
        check_gradients(config.reward_weights, config.objective.name)
    say(console, "loading prompts")
    sets = load_prompt_sets(config.prompts)
    pairs = _load_pairs(console, config, sets[0])
    pictured = shown_prompts(config.evaluation, sets[1])
    choose_device(config.model.device)
    check_family(config.model)
    if config.model.lora:
        from advantageflow.adapters import read_adapter

        read_adapter(config.model.lora)
    say(console, f"loading {'rewards' if len(names) > 1 else 'the reward'} {', '.join(names)}")
    loaded = {name: load_reward(name) for name in names}  # last, since it may load weights
    scored = dict.fromkeys(config.evaluation.rewards.values(), sets[1]) | dict.fromkeys(config.reward_weights, sets[0])
    evaluated = list(config.evaluation.rewards.values())
    for prompts, scoring in ((sets[0], list(config.reward_weights)), (sets[1], evaluated), (pictured, evaluated)):
        for name in scoring:
            prompts.check_for(name, loaded[name])
    size, timeout = picture_size(config.model), config.scoring.timeout
    try_rewards(loaded, scored, size, timeout)
    if pictured is not sets[1]:  # which lack the columns of a file
        try_rewards({name: loaded[name] for name in evaluated}, dict.fromkeys(evaluated, pictured), size, timeout)
    learned = {name: loaded[name] for name in config.reward_weights}
    if config.objective.family == "gradient":
        try_gradients(learned, sets[0], size)
    return {
        "train_prompts": sets[0],
        "held_out_prompts": sets[1],
        "pairs": pairs,
        "rewards": learned,
        "evaluated": {label: loaded[name] for label, name in config.evaluation.rewards.items()},
    }


def _load_pairs(console: Console, config: Config, train: PromptSet) -> list[Pair] | None:
    """The pairs to learn from, without those of held-out prompts; None where the policy draws."""
    from advantageflow.models import picture_size
    from advantageflow.pairs import describe, load_pairs, trained
    from advantageflow.run.progress import say

    source = config.rollout.source
    if source is None:
        return None
    pairs = load_pairs(source, picture_size(config.model), config.prompts.column)
    kept = trained(pairs, train.texts)
    say(console, describe(pairs, kept, source))
    return kept


def _run(
    console: Console, config: Config, directory: RunDirectory, inputs: dict[str, Any], accept_changes: bool = False
) -> None:
    import torch

    from advantageflow.devices import choose_device
    from advantageflow.environment import environment
    from advantageflow.evaluated import described
    from advantageflow.models import load_model
    from advantageflow.prompts import describe_sets
    from advantageflow.run.changes import check_inputs
    from advantageflow.run.interrupts import EXIT_CODE, stopping
    from advantageflow.run.progress import Display, say
    from advantageflow.run.provenance import of_inputs, of_model
    from advantageflow.trainer import Trainer

    told = describe_sets(inputs["train_prompts"], inputs["held_out_prompts"])
    for line in (*told, f"evaluated on held-out prompts: {described(config.evaluation.rewards)}"):
        say(console, line)
    named = ("train_prompts", "held_out_prompts", "rewards", "pairs")
    fingerprints = of_inputs(*(inputs[name] for name in named))
    if not accept_changes:
        check_inputs(directory.latest_record(), fingerprints)
    directory.write_prompts(told)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    say(console, f"loading the model {config.model.path}")
    model = load_model(device=choose_device(config.model.device), **config.model.model_dump(exclude={"device"}))
    if model.start:
        say(console, f"its start is the adapter {config.model.lora}: {model.start}")
    provenance = {
        "environment": environment(),
        "inputs": {**fingerprints, **of_model(model.pipeline.components)},
    }
    at_once = False
    with Display(console, config) as display:
        trainer = Trainer(
            config, directory, model, display=display, provenance=provenance, accept_changes=accept_changes, **inputs
        )
        display.say(f"on {model.device}, {config.model.dtype}: {trainer.policy}")

        def stop() -> None:
            trainer.stopping = True

        try:
            with stopping(stop, display.say):
                summary = trainer.run()
        except KeyboardInterrupt:
            summary, at_once = None, True
    if summary is None:
        say(console, f"stopped; continue with: advantageflow train --resume {directory.path}")
        if at_once:
            os._exit(EXIT_CODE)  # without waiting for rewards that are being computed
        raise typer.Exit(EXIT_CODE)
    _print_summary(console, directory, summary)


def _print_summary(console: Console, directory: RunDirectory, summary: dict[str, Any]) -> None:
    from advantageflow.run.collapse import lost_variety, variety_warning
    from advantageflow.run.progress import change, say

    differences = {label: change(found) for label, found in summary["difference"].items()}
    _print_scores(console, {"before": summary["before"], "after": summary["after"]}, differences)
    minutes = summary["seconds"]["training"] / 60
    say(console, f"{summary['iterations']} iterations, {minutes:.1f} minutes of training")
    say(console, f"pictures: {directory.samples / 'before_after.png'}, {directory.curve}")
    say(console, f"in one page: advantageflow report {directory.path}")
    diversity = [row["diversity"] for row in directory.metrics()]
    if lost_variety(diversity):
        say(console, variety_warning(diversity), "bold yellow")
    if directory.lora.exists():
        say(console, f"adapter for diffusers: {directory.lora}")


def _print_scores(console: Console, columns: dict[str, dict[str, Any]], differences: dict[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Held-out prompts")
    table.add_column("score")
    for name in (*columns, "difference"):
        table.add_column(name, justify="right")
    first = next(iter(columns.values()))
    for label in (label for label in first if label != "tasks"):
        table.add_row(Text(label), *(f"{column[label]:.3f}" for column in columns.values()), differences[label])
    if len(first["tasks"]) > 1:
        table.add_section()
        for task in first["tasks"]:
            table.add_row(Text(f"  {task}"), *(f"{column['tasks'][task]:.3f}" for column in columns.values()))
    console.print(table)
