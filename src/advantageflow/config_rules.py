"""What settings must fit together, and what the labels of scores may be."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from advantageflow.errors import ConfigError, shown

if TYPE_CHECKING:
    from advantageflow.config import Config

OWN_KEYS = ("tasks", "all", "task", "prompt", "index", "scores", "iteration", "seconds")


def check_combination(config: Config) -> None:
    """Check settings that are each allowed.

    Raises:
        ConfigError: some do not fit together; the message says what to set.
    """
    solver, objective = config.rollout.solver, config.objective
    if objective.family == "reverse" and solver != "flow_sde":
        raise ConfigError(
            f"rollout.solver is {solver!r}, an ODE, but objective {objective.name!r} learns from an SDE's transitions; "
            "set rollout.solver=flow_sde or remove the key"
        )
    if objective.family == "forward" and solver == "flow_sde":
        raise ConfigError(
            f"rollout.solver is 'flow_sde', but objective {objective.name!r} learns from clean samples of an ODE; "
            "set rollout.solver to dpm2, euler or heun"
        )
    if config.learn.transitions and objective.family == "forward":
        raise ConfigError(
            f"learn.transitions chooses among an SDE's transitions, but objective {objective.name!r} learns from "
            "noised images; remove the key"
        )
    steps, draws = config.rollout.num_inference_steps, config.learn.t_draws
    # the last transition of an SDE adds almost no noise and is not learned from
    transitions = min(config.learn.transitions or steps, steps - 1)
    most = transitions if objective.family == "reverse" else steps
    if draws > most and (objective.family == "reverse" or config.learn.t_distribution == "rollout_grid"):
        raise ConfigError(
            f"learn.t_draws is {draws}, but this rollout of {steps} steps has only {most} times to learn from; "
            f"set learn.t_draws to at most {most}"
        )
    if config.policy.lora_rank == 0 and config.model.dtype != "float32":
        raise ConfigError(
            f"policy.lora_rank=0 trains all weights, which model.dtype={config.model.dtype} is too coarse for; "
            "set model.dtype=float32 or a lora_rank"
        )
    images = config.rollout.prompts_per_iteration * config.rollout.images_per_prompt
    if config.learn.optimizer_steps > images:
        raise ConfigError(
            f"learn.optimizer_steps is {config.learn.optimizer_steps}, but an iteration has only {images} images"
        )
    if not config.reward_weights:
        raise ConfigError("reward is empty; name at least one, such as reward=scenes_graded")
    if not config.evaluation.rewards:
        raise ConfigError("evaluation.rewards is empty; name at least one, such as {reward: scenes_graded}")
    for label in config.evaluation.rewards:
        check_label(label)
    if config.run.best is not None and config.run.best not in config.evaluation.rewards:
        raise ConfigError(
            f"run.best is {shown(config.run.best)}; allowed: a label of evaluation.rewards, "
            f"{', '.join(config.evaluation.rewards)}"
        )


def check_label(label: str) -> None:
    """A held-out score's label stands in tables and beside keys of our own.

    Raises:
        ConfigError: it would be taken for one of these, or cannot be shown.
    """
    if label in OWN_KEYS:
        raise ConfigError(
            f"a score cannot be labelled {label!r}, which the results use themselves; choose another label"
        )
    if not re.fullmatch(r"[^\s\[\]|`]([^\[\]|`]{0,98}[^\s\[\]|`])?", label):
        raise ConfigError(f"a score cannot be labelled {shown(label)}; give it 1 to 100 characters without []|`")
