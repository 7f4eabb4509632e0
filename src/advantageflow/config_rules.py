"""What settings must fit together, and what the labels of scores may be."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from advantageflow.errors import ConfigError, shown
from advantageflow.trackers import check_names

if TYPE_CHECKING:
    from advantageflow.config import Config
    from advantageflow.objectives.base import Method

WORLDS = {"scenes": "scenes", "words": "words", "scenes-meanflow": "scenes"}  # built-in model -> whose prompts it has
ROLES = ("learner", "rollout", "average", "reference", "critic", "ahead")  # and a method's own
OWN_KEYS = ("tasks", "all", "task", "prompt", "index", "scores", "iteration", "seconds")


def check_combination(config: Config) -> None:
    """Check settings that are each allowed.

    Raises:
        ConfigError: some do not fit together; the message says what to set.
    """
    if config.policy.lora_rank == 0 and config.model.dtype != "float32":
        raise ConfigError(
            f"policy.lora_rank=0 trains all weights, which model.dtype={config.model.dtype} is too coarse for; "
            "set model.dtype=float32 or a lora_rank"
        )
    if config.policy.lora_rank == 0 and config.model.quantization:
        raise ConfigError(
            f"policy.lora_rank=0 trains all weights, which model.quantization={config.model.quantization} holds frozen "
            "in fewer bits; set model.quantization=null or a lora_rank"
        )
    if config.model.quantization == "fp8" and config.model.device == "mps":
        raise ConfigError("model.quantization=fp8 is not for model.device=mps, which has no float8; set it to null")
    if config.model.shard and config.policy.lora_rank == 0:
        raise ConfigError(
            "model.shard parts the frozen base among processes, but policy.lora_rank=0 trains all weights; set "
            "model.shard=false or a lora_rank"
        )
    if config.model.shard and config.model.quantization:
        raise ConfigError(
            f"model.shard cannot part the weights of model.quantization={config.model.quantization}; set one of them, "
            "model.shard=false or model.quantization=null"
        )
    if not config.reward:
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
    check_names(config.run.trackers)


def check_method(config: Config, method: Method, odes: tuple[str, ...], sdes: tuple[str, ...]) -> None:
    """Check that a method can learn from the sampler and the numbers of images and draws.

    Args:
        odes, sdes: the names of solvers.

    Raises:
        ConfigError: it cannot; the message says what to set.
    """
    rollout, learn = config.rollout, config.learn
    _check_solver(config, method, odes, sdes)
    if learn.transitions and method.family != "reverse":
        sees = {"forward": "noised images", "gradient": "a reward's gradient"}[method.family]
        raise ConfigError(
            f"learn.transitions chooses among an SDE's transitions, but objective {method.name!r} learns from {sees}; "
            "remove the key"
        )
    if method.family == "gradient" and config.scoring.combine != "sum":
        raise ConfigError(
            f"scoring.combine is {config.scoring.combine!r}, but objective {method.name!r} learns from the gradient of "
            "a weighted sum; set scoring.combine=sum"
        )
    _check_roles(method)
    _check_ahead(config, method)
    _check_drafts(config, method)
    try:
        method.check(config)
        plan = config.walk_plan()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    leaves = plan.leaves if plan else 1
    if rollout.images_per_prompt % leaves:
        raise ConfigError(
            f"rollout.images_per_prompt is {rollout.images_per_prompt}, but objective {method.name!r} draws trees of "
            f"{leaves} images; set a multiple of {leaves}"
        )
    if plan and method.family == "forward" and learn.t_distribution != "rollout_grid":
        raise ConfigError(
            f"learn.t_distribution is {learn.t_distribution!r}, but objective {method.name!r} learns from states that "
            "its sampler went through; set learn.t_distribution to rollout_grid, or remove the key"
        )
    most = len(plan.keep) if plan else rollout.num_inference_steps
    limited = method.family == "reverse" or (method.family == "forward" and learn.t_distribution == "rollout_grid")
    if limited and learn.t_draws > most:
        raise ConfigError(
            f"learn.t_draws is {learn.t_draws}, but this rollout of {rollout.num_inference_steps} steps has only "
            f"{most} times to learn from; set learn.t_draws to at most {most}"
        )
    _check_times(config, method)
    parts = rollout.prompts_per_iteration * rollout.images_per_prompt // config.undivided
    if learn.optimizer_steps > parts:
        whole = "whole groups" if config.undivided > leaves else "trees" if leaves > 1 else "images"
        raise ConfigError(
            f"learn.optimizer_steps is {learn.optimizer_steps}, but an iteration has only {parts} {whole}; set it to "
            f"at most {parts}"
        )


def _check_times(config: Config, method: Method) -> None:
    learn = config.learn
    if learn.share and method.family != "forward":
        raise ConfigError(
            f"learn.share is {learn.share!r}, but objective {method.name!r} noises no images; set learn.share=null, or "
            "choose a forward method"
        )
    if learn.t_range == (0, 1):
        return
    low, high = learn.t_range
    if low >= high:
        raise ConfigError(f"learn.t_range is {[low, high]}; the first must be below the second")
    if method.family != "forward" or learn.t_distribution == "rollout_grid":
        raise ConfigError(
            f"learn.t_range is {[low, high]}, which narrows times that a forward method draws freely; set "
            "learn.t_distribution to uniform or logit_normal with a forward method, or remove the key"
        )


def _check_solver(config: Config, method: Method, odes: tuple[str, ...], sdes: tuple[str, ...]) -> None:
    solver, fitting = config.rollout.solver, method.solvers or (sdes if method.family == "reverse" else odes)
    if solver in fitting:
        return
    wants = {odes: "clean samples of an ODE", sdes: "an SDE's transitions", ("euler",): "the steps of Euler's method"}
    choice = " or ".join(part for part in (", ".join(fitting[:-1]), fitting[-1]) if part)
    kind, wanted = "an ODE" if solver in odes else "an SDE", wants.get(fitting, "the steps of another solver")
    raise ConfigError(
        f"rollout.solver is {solver!r}, {kind}, but objective {method.name!r} learns from {wanted}; set rollout.solver "
        f"to {choice}, or remove the key"
    )


def check_path(method: Method, family: str, straight: bool) -> None:
    """Check that a method's steps are those of the model's path between image and noise.

    Raises:
        ConfigError: they are of the straight path alone, and the model's is another.
    """
    if method.straight and not straight:
        raise ConfigError(
            f"objective {method.name!r} has steps of the straight path between image and noise, and a {family} has "
            "another path; choose a forward method, such as objective=advantageflow"
        )


def _check_roles(method: Method) -> None:
    """A stranger's method may name roles that nobody has."""
    for role in method.slow:
        if role in ROLES or not role.isidentifier():
            raise ConfigError(
                f"objective {method.name!r} calls a slow copy {shown(role)}; allowed: one word other than "
                f"{', '.join(ROLES)}"
            )
    known = ("rollout", "reference", "average", *method.slow) if method.family != "gradient" else ("reference",)
    for role in sorted(method.sees):
        if role not in known:
            raise ConfigError(
                f"objective {method.name!r} sees {shown(role)}; allowed for a {method.family} method: "
                f"{', '.join(known)}"
            )


def _check_ahead(config: Config, method: Method) -> None:
    """Images of a policy that lags by an iteration are for methods that do not ask how likely it was to draw them."""
    why = f"objective {method.name!r} learns from images of the policy as it is; choose a forward method, or set"
    if config.rollout.source is not None:
        why = "rollout.source brings the images; set"
    elif method.family == "forward":
        return
    if config.rollout.ahead:
        raise ConfigError(f"rollout.ahead is {config.rollout.ahead}, but {why} rollout.ahead=0")


def _check_drafts(config: Config, method: Method) -> None:
    rollout = config.rollout
    if not rollout.drafted:
        return
    wrong = {
        "rollout.source brings the images": rollout.source is not None,
        "rollout.ahead draws before scores are known": rollout.ahead > 0,
        f"objective {method.name!r} learns from more than clean images; choose a forward method": (
            method.family != "forward" or config.walk_plan() is not None
        ),
        f"rollout.drafting_steps is {rollout.drafting_steps}, no fewer than rollout.num_inference_steps": (
            rollout.drafting_steps >= rollout.num_inference_steps
        ),
    }
    for why, so in wrong.items():
        if so:
            raise ConfigError(f"rollout.drafts is {rollout.drafts}, but {why}, or set rollout.drafts=1")


def check_pairs(config: Config, method: Method) -> None:
    """Check that a method can learn from pairs on disk, where these are given.

    Raises:
        ConfigError: it cannot; the message says what to set.
    """
    rollout = config.rollout
    if rollout.source is None:
        return
    if method.family != "forward" or config.walk_plan() is not None:
        learned = {
            "forward": "states that its sampler went through",
            "reverse": "the transitions of a sampler",
            "gradient": "a reward's gradient",
        }[method.family]
        raise ConfigError(
            f"rollout.source is {shown(rollout.source)}, but objective {method.name!r} learns from {learned}, which "
            "pairs on disk do not have; choose a forward method, such as objective=advantageflow, or remove the key"
        )
    if rollout.images_per_prompt != 2:
        raise ConfigError(
            f"rollout.images_per_prompt is {rollout.images_per_prompt}, but with rollout.source a group is a pair; set "
            "rollout.images_per_prompt=2"
        )
    if config.prompts.train != rollout.source:
        raise ConfigError(
            f"prompts.train is {shown(config.prompts.train)}, but rollout.source brings the training prompts; remove "
            "the key, or set prompts.train=null"
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


def add_prompts(settings: dict[str, Any]) -> None:
    """A built-in model is trained on its own world's prompts where no others are named; pairs bring theirs."""
    model, prompts = settings.get("model", {}), settings.setdefault("prompts", {})
    world = WORLDS.get(str(model.get("path", "scenes"))) if isinstance(model, dict) else None
    if not isinstance(prompts, dict):
        return
    rollout = settings.get("rollout")
    source = rollout.get("source") if isinstance(rollout, dict) else None
    if source is not None and prompts.get("train") in (None, source, f"{world}:train"):
        held_out = {"held_out": f"{world}:held_out"} if world else {}
        settings["prompts"] = {**held_out, **prompts, "train": source}
    elif world:
        settings["prompts"] = {"train": f"{world}:train", **prompts}
