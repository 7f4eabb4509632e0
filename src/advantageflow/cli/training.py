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
    from advantageflow.run_directory import RunDirectory


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

    from advantageflow.config import ConfigError, load_config
    from advantageflow.folder_lock import locked

    if recipe is not None and "=" in recipe:
        changes = [recipe, *(changes or [])]
        recipe = None
    if resume is None:
        config = load_config(recipe or "scenes", changes or [])
        if plan:
            from advantageflow.plan import print_plan

            print_plan(config)
            return
    elif recipe or output or plan:
        raise ConfigError("--resume continues a run in its folder; give no recipe, --output or --plan with it")
    from advantageflow.run_directory import RunDirectory

    if resume is not None:
        _resume(Console(markup=False), resume, changes or [], accept_changes)
        return
    folder = output or Path("runs") / f"{Path(recipe or 'scenes').stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    RunDirectory.check_new(folder)
    inputs = _load_inputs(config)
    with locked(folder):
        _run(Console(markup=False), config, RunDirectory.create(folder, config), inputs)


def _resume(console: Console, folder: Path, overrides: list[str], accept_changes: bool) -> None:
    from advantageflow.changes import changed, finished
    from advantageflow.config import ConfigError
    from advantageflow.folder_lock import locked
    from advantageflow.run_directory import RunDirectory

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
            console.print(text, highlight=False, soft_wrap=True)
            return
        _run(console, config, directory, _load_inputs(config), accept_changes)


def _load_inputs(config: Config) -> dict[str, Any]:
    """Prompts, device, model and rewards, checked in this order before weights are loaded."""
    from advantageflow.devices import choose_device
    from advantageflow.models import check_family, check_model_path, picture_size
    from advantageflow.prompts import load_prompt_sets, shown_prompts
    from advantageflow.rewards import check_reward, load_reward
    from advantageflow.rewards.trial import try_rewards

    check_model_path(config.model.path, config.model.base)
    names = dict.fromkeys([*config.reward_weights, *config.evaluation.rewards.values()])
    for name in names:
        check_reward(name)
    sets = load_prompt_sets(config.prompts)
    pictured = shown_prompts(config.evaluation, sets[1])
    choose_device(config.model.device)
    check_family(config.model)
    if config.model.lora:
        from advantageflow.adapters import read_adapter

        read_adapter(config.model.lora)
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
    return {
        "train_prompts": sets[0],
        "held_out_prompts": sets[1],
        "rewards": {name: loaded[name] for name in config.reward_weights},
        "evaluated": {label: loaded[name] for label, name in config.evaluation.rewards.items()},
    }


def _run(
    console: Console, config: Config, directory: RunDirectory, inputs: dict[str, Any], accept_changes: bool = False
) -> None:
    import torch

    from advantageflow.changes import check_inputs
    from advantageflow.devices import choose_device
    from advantageflow.environment import environment
    from advantageflow.evaluated import described
    from advantageflow.interrupts import EXIT_CODE, stopping
    from advantageflow.models import load_model
    from advantageflow.progress import Display
    from advantageflow.prompts import describe_sets
    from advantageflow.provenance import of_inputs, of_model
    from advantageflow.trainer import Trainer

    console.print(f"run folder: {directory.path}", highlight=False)
    told = describe_sets(inputs["train_prompts"], inputs["held_out_prompts"])
    for line in (*told, f"evaluated on held-out prompts: {described(config.evaluation.rewards)}"):
        console.print(line, highlight=False, soft_wrap=True)
    fingerprints = of_inputs(inputs["train_prompts"], inputs["held_out_prompts"], inputs["rewards"])
    if not accept_changes:
        check_inputs(directory.latest_record(), fingerprints)
    directory.write_prompts(told)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    model = load_model(device=choose_device(config.model.device), **config.model.model_dump(exclude={"device"}))
    provenance = {
        "environment": environment(),
        "inputs": {**fingerprints, **of_model(model.pipeline.components)},
    }
    at_once = False
    with Display(console, config.run.iterations) as display:
        trainer = Trainer(
            config, directory, model, display=display, provenance=provenance, accept_changes=accept_changes, **inputs
        )

        def stop() -> None:
            trainer.stopping = True

        try:
            with stopping(stop, console.print):
                summary = trainer.run()
        except KeyboardInterrupt:
            summary, at_once = None, True
    if summary is None:
        console.print(f"stopped; continue with: advantageflow train --resume {directory.path}", highlight=False)
        if at_once:
            os._exit(EXIT_CODE)  # without waiting for rewards that are being computed
        raise typer.Exit(EXIT_CODE)
    _print_summary(console, directory, summary)


def _print_summary(console: Console, directory: RunDirectory, summary: dict[str, Any]) -> None:
    from advantageflow.collapse import lost_variety, variety_warning

    columns = {"before": summary["before"], "after": summary["after"]}
    _print_scores(console, "Held-out prompts", columns)
    minutes = summary["seconds"]["training"] / 60
    console.print(f"{summary['iterations']} iterations, {minutes:.1f} minutes of training", highlight=False)
    console.print(
        f"pictures: {directory.samples / 'before_after.png'}, {directory.curve}", highlight=False, soft_wrap=True
    )
    console.print(f"in one page: advantageflow report {directory.path}", highlight=False, soft_wrap=True)
    diversity = [row["diversity"] for row in directory.metrics()]
    if lost_variety(diversity):
        console.print(variety_warning(diversity), style="bold yellow", highlight=False, soft_wrap=True)
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
