"""A run put together, in one place: what it needs is loaded and checked, and its trainer built and run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from advantageflow.config import Config
from advantageflow.config_rules import check_path
from advantageflow.devices import choose_device
from advantageflow.environment import environment, versions
from advantageflow.errors import ConfigError, to_type
from advantageflow.evaluated import described
from advantageflow.fingerprint import of_value
from advantageflow.models import (
    CURVED,
    check_family,
    check_learned,
    check_model_path,
    load_and_say,
    picture_size,
)
from advantageflow.pairs import Pair, describe, load_pairs, trained
from advantageflow.places import check_links
from advantageflow.prompts import PromptSet, describe_sets, load_prompt_sets, shown_prompts
from advantageflow.rewards import Reward, check_gradients, check_reward, load_reward
from advantageflow.rewards.gradients import try_gradients
from advantageflow.rewards.trial import try_rewards
from advantageflow.run.bystander import Bystander
from advantageflow.run.changes import changed, check_inputs, finished, flat
from advantageflow.run.directory import RunDirectory
from advantageflow.run.folder_lock import locked
from advantageflow.run.interrupts import Stopped, stopping
from advantageflow.run.pace import counted
from advantageflow.run.progress import Display, say
from advantageflow.run.provenance import of_inputs, of_model
from advantageflow.run.summary import print_summary
from advantageflow.sharding import check_sharding, shard
from advantageflow.trackers import check_ready
from advantageflow.world import World, calling_together, joined

if TYPE_CHECKING:
    from advantageflow.models.base import FlowModel
    from advantageflow.trainer import Trainer


@dataclass(frozen=True)
class Inputs:
    """What a run needs beside its settings and its model.

    Args:
        rewards: name -> function of the rewards that are learned from.
        evaluated: label -> function of the rewards that are evaluated.
        pairs: to learn from in place of images that the policy draws.
    """

    train_prompts: PromptSet
    held_out_prompts: PromptSet
    rewards: Mapping[str, Reward]
    evaluated: Mapping[str, Reward]
    pairs: Sequence[Pair] | None = None


def train_new(config: Config, folder: Path, console: Console, given: Mapping[str, Reward] | None = None) -> None:
    """A new run, from nothing to its summary.

    Args:
        given: name -> function of rewards that are there already, and are not loaded by their names.

    Raises:
        ConfigError: a setting or what it names cannot work; the folder is in use, or not empty.
        NonFiniteError: see `Trainer.run`.
        Stopped: by a signal.
    """
    with joined() as world:
        world.check_same({"command": "train", "settings": of_value(flat(config))})
        world = world.patient(_patience(config))
        world.share(partial(RunDirectory.check_new, folder))
        world.share(partial(check_ready, config.run.trackers))
        inputs = load_inputs(config, console, given)
        with _owned(folder, world):
            directory = RunDirectory.create(folder, config) if world.rank == 0 else Bystander(folder)
            _train(build(config, directory, inputs, console, world=world), console)


def train_on(
    folder: Path,
    changes: Iterable[str],
    console: Console,
    given: Mapping[str, Reward] | None = None,
    *,
    accept_changes: bool = False,
) -> None:
    """A run that was stopped, or has more to do now, from its last checkpoint to its summary.

    Args:
        changes: settings as "section.key=value".
        given: see `train_new`.
        accept_changes: whether prompts, weights and files of rewards may be others than before.

    Raises:
        ConfigError, NonFiniteError, Stopped: see `train_new`.
    """
    overrides = list(changes)
    with joined() as world:
        world.check_same({"command": "train --resume"})  # where the processes disagree, all is told and none waits
        world.share(partial(_check_run, folder))
        with _owned(folder, world):
            directory, config, summary = _open(folder, overrides, world)
            if not finished(config, summary):
                world = world.patient(_patience(config))
                world.share(partial(check_ready, config.run.trackers))
                inputs = load_inputs(config, console, given)
                trainer = build(config, directory, inputs, console, accept_changes=accept_changes, world=world)
                _train(trainer, console)
                return
    done = summary["iterations"] if summary else 0
    text = (
        f"{folder} is finished, after {counted(done)}; to go on: advantageflow train --resume {to_type(folder)} "
        f"run.iterations={2 * done}" + (" run.max_seconds=null" if config.run.max_seconds else "")
    )
    if overrides:
        raise ConfigError(text)
    say(console, text)


def _owned(folder: Path, world: World) -> AbstractContextManager[None]:
    """The folder's lock, which the first process holds for all."""
    return locked(folder) if world.rank == 0 else nullcontext()


def _check_run(folder: Path) -> None:
    RunDirectory.check_run(folder)
    check_links(folder)


def _open(folder: Path, overrides: list[str], world: World) -> tuple[RunDirectory, Config, dict[str, Any] | None]:
    """The run in a folder, which the first process reads for all: its settings with changes, and its summary."""

    def read() -> tuple[Config, dict[str, Any] | None]:
        directory, config = RunDirectory.open(folder)
        return changed(config, overrides), directory.summary()

    config, summary = world.share(read)
    return RunDirectory(folder) if world.rank == 0 else Bystander(folder), config, summary


def _patience(config: Config) -> timedelta:
    """How long a process waits for the others, one of which may wait for a reward."""
    return timedelta(seconds=2 * config.scoring.timeout * config.scoring.attempts)


def load_inputs(
    config: Config, console: Console, given: Mapping[str, Reward] | None = None, *, known_model: bool = False
) -> Inputs:
    """Prompts, device, model and rewards, checked in this order before weights are loaded.

    Args:
        given: see `train_new`.
        known_model: the model's family needs no look at its files.

    Raises:
        ConfigError: one of them cannot work.
    """
    given = given or {}
    names = config.reward_names
    strangers = [name for name in given if name not in names]
    if strangers:
        raise ConfigError(f"the run has the rewards {', '.join(names)}, and none that is called {strangers[0]}")
    check_model_path(config.model.path, config.model.base)
    for name in names:
        if name not in given:
            check_reward(name)
    if config.objective.family == "gradient":
        check_gradients(config.reward_weights, config.objective.name, given)
    say(console, "loading prompts")
    train, held_out = load_prompt_sets(config.prompts)
    pairs = _load_pairs(config, console, train)
    choose_device(config.model.device)
    if config.model.shard:
        check_sharding()
    if not known_model:
        family = check_family(config.model)
        check_path(config.objective, family, family not in CURVED)
        check_learned(config.objective, config.model.path, family)
    if config.model.lora:
        from advantageflow.adapters import read_adapters

        read_adapters(config.model.lora)
    say(console, f"loading {'rewards' if len(names) > 1 else 'the reward'} {', '.join(names)}")
    loaded = {name: given[name] if name in given else load_reward(name) for name in names}  # may load weights
    inputs = Inputs(
        train,
        held_out,
        {name: loaded[name] for name in config.reward_weights},
        {label: loaded[name] for label, name in config.evaluation.rewards.items()},
        pairs,
    )
    _try(config, inputs, loaded)
    return inputs


def _load_pairs(config: Config, console: Console, train: PromptSet) -> list[Pair] | None:
    """The pairs to learn from, without those of held-out prompts; None where the policy draws."""
    source = config.rollout.source
    if source is None:
        return None
    pairs = load_pairs(source, picture_size(config.model), config.prompts.column)
    kept = trained(pairs, train.texts)
    say(console, describe(pairs, kept, source))
    return kept


def _try(config: Config, inputs: Inputs, loaded: Mapping[str, Reward]) -> None:
    """Ask every reward whether it can score the prompts, and for the score of one picture."""
    train, held_out = inputs.train_prompts, inputs.held_out_prompts
    pictured = shown_prompts(config.evaluation, held_out)
    learned, evaluated = list(config.reward_weights), list(config.evaluation.rewards.values())
    for prompts, scoring in ((train, learned), (held_out, evaluated), (pictured, evaluated)):
        for name in scoring:
            prompts.check_for(name, loaded[name])
    size, timeout = picture_size(config.model), config.scoring.timeout
    try_rewards(loaded, dict.fromkeys(evaluated, held_out) | dict.fromkeys(learned, train), size, timeout)
    if pictured is not held_out:  # which lack the columns of a file
        try_rewards({name: loaded[name] for name in evaluated}, dict.fromkeys(evaluated, pictured), size, timeout)
    if config.objective.family == "gradient":
        try_gradients(inputs.rewards, train, size)


def build(
    config: Config,
    directory: RunDirectory,
    inputs: Inputs,
    console: Console,
    *,
    accept_changes: bool = False,
    model: FlowModel | None = None,
    display: Display | None = None,
    world: World | None = None,
) -> Trainer:
    """The trainer of a run, which has its model, and goes on from the run's last checkpoint.

    Args:
        directory: the run's own, which is locked.
        accept_changes: see `train_on`.
        model: one that is loaded; by default that of the settings is.
        display: of its progress; by default one on the console.
        world: the processes that share the run; by default there is no other.

    Raises:
        ConfigError: the model cannot be loaded, inputs have changed since the run was begun, or are others in another
            process.
    """
    told = describe_sets(inputs.train_prompts, inputs.held_out_prompts)
    for line in (*told, f"evaluated on held-out prompts: {described(config.evaluation.rewards)}"):
        say(console, line)
    fingerprints = of_inputs(inputs.train_prompts, inputs.held_out_prompts, inputs.rewards, inputs.pairs)
    if not accept_changes:
        check_inputs(directory.latest_record(), fingerprints)
    directory.write_prompts(told)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    if model is None:
        model = load_and_say(config.model, partial(say, console))
    from advantageflow.trainer import Trainer  # takes seconds, and much can be wrong before

    inputs_now = {**fingerprints, **of_model(model.pipeline.components)}
    if world is not None:
        world.check_same({**versions(), **inputs_now, "device": model.device.type})
    display = display or Display(console, config)
    model.fits.say = display.say
    trainer = Trainer(
        config,
        directory,
        model,
        train_prompts=inputs.train_prompts,
        held_out_prompts=inputs.held_out_prompts,
        rewards=inputs.rewards,
        evaluated=inputs.evaluated,
        pairs=inputs.pairs,
        display=display,
        provenance={"environment": environment(), "inputs": inputs_now},
        accept_changes=accept_changes,
        world=world,
    )
    say(console, f"on {model.device}, {config.model.dtype}: {trainer.policy}")
    if config.model.shard:
        _shard(trainer, partial(say, console))
    return trainer


def _shard(trainer: Trainer, told: Callable[[str], None]) -> None:
    """Part the base among the processes, after it has its adapters, which every process has whole."""
    size = trainer.world.size
    alone = "model.shard does nothing, since there is one process; start several, such as --processes 2"
    shard(trainer.policy.transformer, trainer.policy.adapters, trainer.model.device, trainer.world)
    told(f"the base is parted among {size} processes" if size > 1 else alone)


def _train(trainer: Trainer, console: Console) -> None:
    """To the summary, which is said; or to a signal, after which the run can be continued."""

    def stop() -> None:
        trainer.world.stopping = True

    folder = trainer.directory.path
    with trainer.display:
        try:
            with stopping(stop, trainer.display.say), calling_together():
                summary = trainer.run()
        except KeyboardInterrupt:
            raise Stopped(folder) from None
    if summary is None:
        raise Stopped(folder)
    if trainer.directory.writes:
        print_summary(console, trainer.directory, summary)
