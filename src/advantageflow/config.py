"""One typed tree of settings: a recipe in YAML, changed by `key=value`, checked before any model is loaded."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, model_validator

from advantageflow.config_errors import check_plain, explain
from advantageflow.config_rules import WORLDS as WORLDS
from advantageflow.config_rules import add_prompts, check_combination, check_method, check_pairs
from advantageflow.config_rules import check_label as check_label
from advantageflow.config_types import (
    LARGE,
    MOST_SHOWN,
    BatchSize,
    Count,
    NonNegative,
    NumberShown,
    PathText,
    Pixels,
    Positive,
    Section,
)
from advantageflow.errors import ConfigError as ConfigError
from advantageflow.errors import shown
from advantageflow.evaluated import DEFAULT_REWARD, add_trained, inherit, labels, trained_on
from advantageflow.methods import DEFAULT, dump_method, find_method, read_method
from advantageflow.reading import assign, find_recipe, parse_changes, read_recipe
from advantageflow.reading import flatten as flatten
from advantageflow.reading import recipe_names as recipe_names
from advantageflow.rewards.own import pooled, resolve_rewards
from advantageflow.walk_plan import Plan

ODESolver = Literal["dpm2", "euler", "heun"]
SDESolver = Literal["flow_sde", "dance_sde", "cps", "ddim", "memoryless"]


class ModelSettings(Section):
    path: PathText = Field(
        "scenes",
        description="scenes, words or scenes-meanflow (built in), a diffusers pipeline folder, hub name or file",
    )
    base: PathText | None = Field(
        None, description="where path is a single file: the pipeline that has all but the transformer"
    )
    lora: PathText | None = Field(
        None, description="an adapter to start from, a path or hub name: fused, it is the reference, too"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the network; LoRA weights stay float32"
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$",
        description='"auto" (CUDA if present), "cpu", "cuda", "cuda:1", "mps"',
    )
    resolution: Pixels | tuple[Pixels, Pixels] | None = Field(
        None, description="pixels: one number, or [height, width]; null for the model's own"
    )
    max_sequence_length: Annotated[int, Field(ge=0, le=10**5)] | None = Field(
        None, description="text tokens of T5 or the language model; null for the family's usual"
    )
    distilled_guidance: NonNegative = Field(
        3.5, description="what a guidance-distilled network (FLUX.1-dev, FLUX.2-dev) is told"
    )
    gradient_checkpointing: bool = Field(False, description="compute activations again rather than keep them")
    vae_slicing: bool = Field(False, description="decode one image at a time")
    offload: bool = Field(False, description="keep text encoders and VAE off the GPU between uses")
    attention: str | None = Field(None, description="a diffusers attention backend, such as flash or sage")
    compile: bool = Field(False, description="compile the transformer's repeated blocks")
    shard: bool = Field(False, description="part the base's weights among the processes of a run; needs LoRA")
    quantization: Literal["8bit", "4bit"] | None = Field(None, description="of the base weights; needs bitsandbytes")
    prompt_cache: PathText | None = Field(None, description="folder that keeps prompt embeddings between runs")


class PolicySettings(Section):
    lora_rank: Annotated[int, Field(ge=0, le=4096)] = Field(32, description="0 trains all weights")
    lora_alpha: Positive = 64
    lora_targets: Literal["attention", "all_attention"] = Field(
        "attention",
        description="attention as arXiv 2509.16117's code has it, or SD3.5's second attention (attn2) as well",
    )
    rollout_decay: Literal[0, 1, 2] | Annotated[float, Field(gt=0, lt=1)] = Field(
        1, description="of the rollout policy: arXiv 2509.16117's schedule 0, 1 or 2, or a constant between 0 and 1"
    )
    rollout_every: Count = Field(1, description="iterations between updates of the rollout policy")
    average_decay: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of the weights that are evaluated")


class PromptSettings(Section):
    train: PathText | None = Field(
        None, description="a set, a file, or a dataset of the hub; a built-in model has prompts of its own"
    )
    held_out: PathText | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="likewise, or the share of the training prompts to hold out; null for a tenth, at most 500"
    )
    column: str = Field("prompt", description="that holds the prompt, in files with columns")
    task_column: str = Field("tag", description="that holds the prompt's task, if there is one")

    @model_validator(mode="before")
    @classmethod
    def _hold_out_of_the_same_world(cls, given: Any) -> Any:
        train = given.get("train") if isinstance(given, dict) else None
        if isinstance(train, str) and train in {f"{world}:train" for world in WORLDS.values()}:
            return {"held_out": train.replace("train", "held_out"), **given}
        return given


class RolloutSettings(Section):
    source: PathText | None = Field(
        None, description="a .jsonl file of pairs to learn from in place of images that the policy draws"
    )
    guidance_scale: NonNegative = Field(1.0, description="classifier-free guidance while sampling; 1 is none")
    prompts_per_iteration: Annotated[int, Field(ge=1, le=10**5)] = 32
    images_per_prompt: Annotated[int, Field(ge=2, le=10**5)] = Field(
        4, description="the group size; advantages need 2 or more"
    )
    num_inference_steps: Annotated[int, Field(ge=2, le=1000)] = 10
    solver: ODESolver | SDESolver = Field(
        "dpm2", description="an ODE's (the first three), or the kind of an SDE's steps"
    )
    noise_level: Positive = Field(0.7, description="of an SDE")
    batch_size: BatchSize = Field(64, description="images sampled at once, fewer where memory runs out; or auto")
    drafts: Annotated[int, Field(ge=1, le=1000)] = Field(
        1,
        description="draw so many cheap drafts for each image; a prompt's best and worst are drawn in full; 1 for none",
    )
    drafting_steps: Annotated[int, Field(ge=2, le=1000)] = Field(4, description="of the sampler, for drafts")
    ahead: Literal[0, 1] = Field(
        0, description="iterations that are drawn before an earlier one is scored and learned from, for slow rewards"
    )

    @property
    def drafted(self) -> int:
        """Drafts for each image; 0 where none are drawn."""
        return self.drafts if self.drafts > 1 else 0


class AdvantageSettings(Section):
    normalize: Literal["centered_rms", "raw_std", "centered", "group_std", "group_softmax", "group_best"] = Field(
        "centered_rms", description="what a reward's distance from its prompt's mean is divided by"
    )
    clip: Positive = 1.0
    recenter: bool = False
    temperature: Positive = Field(1.0, description="of group_softmax, in units of the batch's spread")


class ScoringSettings(Section):
    combine: Literal["sum", "standardize", "gdpo"] = Field("sum", description="how several rewards become one")
    attempts: Count = Field(2, description="calls of a reward that raises or hangs, before the run stops")
    timeout: Positive = Field(600, description="seconds that a call of a reward may take")


class LearnSettings(Section):
    t_distribution: Literal["uniform", "rollout_grid", "logit_normal"] = "rollout_grid"
    t_draws: Count = Field(
        9, description="noised copies of each image (forward) or transitions (reverse) to learn from"
    )
    transitions: Count | None = Field(
        None, description="of an SDE: learn from the first so many only; null for all but the last"
    )
    optimizer_steps: Count = Field(1, description="steps per iteration, each on an equal part of the images")
    batch_size: BatchSize = Field(
        256, description="noised copies in one call, fewer where memory runs out; or auto; does not change the result"
    )
    accumulate: Literal["float64", "float32"] = Field("float64", description="of sums of gradients; float32 takes half")
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 3e-4
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="of the learning rate after the warm-up; the others fall to 0 at the last iteration"
    )
    warmup_steps: Annotated[int, Field(ge=0, le=10**8)] = Field(
        0, description="optimizer steps over which the learning rate grows from 0"
    )
    optimizer: Literal["adamw", "adamw_8bit"] = Field("adamw", description="adamw_8bit needs bitsandbytes")
    weight_decay: NonNegative = 1e-4
    max_grad_norm: Positive = 1.0
    max_grad_norm_ratio: Literal[0] | Annotated[float, Field(gt=1, le=LARGE)] = Field(
        30, description="skip a step whose gradient norm is over so many times the median of the 20 before; 0 for never"
    )


class EvaluationSettings(Section):
    rewards: dict[str, Annotated[str, BeforeValidator(pooled)]] = Field(
        {"reward": DEFAULT_REWARD}, description="label -> reward; the first goes by task"
    )
    num_images: Count = 480
    num_inference_steps: Annotated[int, Field(ge=2, le=1000)] = 10
    guidance_scale: Positive = 1.0
    every: Annotated[int, Field(ge=0, le=10**8)] = Field(
        0, description="iterations between evaluations; 0 for start and end only"
    )
    prompts_shown: NumberShown | Annotated[list[str], Field(min_length=1, max_length=MOST_SHOWN)] = Field(
        24, description="of which pictures are kept through training: so many held-out prompts, or a list of your own"
    )

    def is_due(self, iteration: int) -> bool:
        """Whether the policy is evaluated after so many iterations, in the middle of a run."""
        return self.every > 0 and iteration % self.every == 0

    @property
    def number_shown(self) -> int:
        """How many pictures are kept of each moment."""
        return self.prompts_shown if isinstance(self.prompts_shown, int) else len(self.prompts_shown)

    @property
    def shows_evaluated(self) -> bool:
        """Whether these pictures are the first of those that are evaluated."""
        return isinstance(self.prompts_shown, int) and self.prompts_shown <= self.num_images


class RunSettings(Section):
    iterations: Count = 1000
    max_seconds: Positive | None = Field(None, description="of training, evaluation aside, after which the run ends")
    checkpoint_every: Count = Field(10, description="iterations between checkpoints")
    checkpoint_minutes: Positive = Field(10, description="between checkpoints, at most")
    keep: Count = Field(2, description="how many of the newest checkpoints are kept, beside the best")
    best: str | None = Field(
        None, description="label of the held-out score whose best checkpoint is kept; null for the first"
    )
    constant_rewards_stop: Annotated[int, Field(ge=0)] = Field(
        20, description="stop after so many iterations in which no prompt's rewards differ; 0 for never"
    )
    spikes_stop: Annotated[int, Field(ge=0, le=10**8)] = Field(
        10, description="stop after so many steps in a row that learn.max_grad_norm_ratio skipped; 0 for never"
    )
    constant_groups_warn: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="warn where a larger share of prompts have images of equal reward; 1 for never"
    )
    samples_every: Count = 10
    probe_every: Annotated[int, Field(ge=0, le=10**8)] = Field(
        10, description="iterations between measurements of gradients by the advantage's sign; 0 for never"
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(0, description="CPU threads; 0 for PyTorch's choice")


class Config(Section):
    """Everything that decides a run."""

    name: str = "run"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    reward: Annotated[str | dict[str, Annotated[float, Field(ge=-LARGE, le=LARGE)]], BeforeValidator(pooled)] = Field(
        DEFAULT_REWARD,
        description="a built-in reward, ./file.py:function, module:function, http:// address or a list of one reward's "
        "addresses; or several: weight",
    )
    model: ModelSettings = ModelSettings()
    policy: PolicySettings = PolicySettings()
    prompts: PromptSettings = PromptSettings()
    rollout: RolloutSettings = RolloutSettings()
    scoring: ScoringSettings = ScoringSettings()
    advantage: AdvantageSettings = AdvantageSettings()
    objective: Annotated[Any, PlainSerializer(dump_method)] = Field(  # a method of `objectives/`
        default_factory=lambda: read_method({"name": DEFAULT}),
        description="a method's name and its settings; see advantageflow methods",
    )
    learn: LearnSettings = LearnSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    run: RunSettings = RunSettings()

    @property
    def reward_weights(self) -> dict[str, float]:
        """Reward that is trained on -> its weight; none where pairs bring their scores."""
        if self.rollout.source is not None:
            return {}
        return {self.reward: 1.0} if isinstance(self.reward, str) else self.reward

    @property
    def reward_names(self) -> list[str]:
        """The rewards that are trained on or evaluated, each once."""
        return list(dict.fromkeys([*self.reward_weights, *self.evaluation.rewards.values()]))

    def walk_plan(self, iteration: int = 0) -> Plan | None:
        """How the method draws the images of an iteration; None is by the ODE solver alone."""
        rollout = self.rollout
        plan: Plan | None = self.objective.plan(
            iteration, rollout.num_inference_steps, rollout.noise_level, self.learn.transitions
        )
        return plan

    @property
    def best_score(self) -> str:
        """The label of the held-out score by which checkpoints are compared."""
        return self.run.best or next(iter(self.evaluation.rewards))


def load_config(recipe: str, overrides: Iterable[str] = ()) -> Config:
    """Read a recipe, apply "section.key=value" changes, and check the whole.

    Every reward that is trained on is evaluated; where the changes train on another, what the recipe evaluated beside
    its own is left out, unless the changes name it.

    Args:
        recipe: the name of a shipped recipe or the path of a YAML file.
        overrides: values are read as YAML; `objective=NAME` is short for `objective.name=NAME`.

    Raises:
        ConfigError: naming the key, what is allowed, and the nearest valid name.
    """
    settings, said, typed = read_recipe(recipe), dict[str, Any](), list(overrides)
    before = trained_on(settings)
    change(settings, typed)
    for key, value in parse_changes(typed).items():
        assign(said, key, value)
    settings = resolve_rewards(settings, find_recipe(recipe).parent, typed=True)
    return check_config(add_trained(inherit(settings, before, labels(said))))


def change(settings: dict[str, Any], overrides: Iterable[str]) -> None:
    """Apply "section.key=value" changes to plain settings, in place."""
    changes = parse_changes(overrides)
    name = changes.pop("objective.name", None)
    if name is not None:
        trial = copy.deepcopy(settings)  # a mistake elsewhere is told before methods, and torch with them, are imported
        for key, value in changes.items():
            assign(trial, key, value)
        _validate({key: value for key, value in trial.items() if key != "objective"})
        _switch_objective(settings, name)
    for key, value in changes.items():
        assign(settings, key, value)


def _switch_objective(settings: dict[str, Any], name: Any) -> None:
    """Another method starts from its own defaults, but keeps a sampler that it can learn from."""
    before, after = find_method(_named_objective(settings).get("name")), find_method(name)
    if before is after:
        return
    settings["objective"] = {"name": name}
    learn = settings.get("learn")
    if before.family != after.family and isinstance(learn, dict):
        learn.pop("transitions", None)
    for key, default in before.defaults.items():
        section, _, last = key.partition(".")
        if key not in after.defaults and settings.get(section, {}).get(last) == default:
            del settings[section][last]
    for key, default in after.defaults.items():
        if key != "rollout.solver" or (before.family, before.solvers) != (after.family, after.solvers):
            assign(settings, key, default)


def _named_objective(settings: dict[str, Any]) -> dict[str, Any]:
    """The section `objective`, which may be given as a name alone or not at all."""
    objective = settings.get("objective", {})
    if isinstance(objective, str):
        objective = {"name": objective}
    if not isinstance(objective, dict):
        raise ConfigError(f"objective is {shown(objective)}; give a method's name, or a section with its settings")
    return {"name": DEFAULT, **objective}


def check_config(settings: dict[str, Any]) -> Config:
    """Validate plain settings; what the objective needs is filled in where the recipe is silent.

    A mistake outside the section `objective` is told before methods, and torch with them, are imported.

    Raises:
        ConfigError: see `load_config`.
    """
    settings = {**settings, "objective": _named_objective(settings)}
    config = _fill(settings)
    check_plain("", settings, config.model_dump())
    check_combination(config)
    check_pairs(config, config.objective)
    check_method(config, config.objective, get_args(ODESolver), get_args(SDESolver))
    return config


def default_config(method: str) -> Config:
    """What a recipe that names a method alone means; whether the method can learn so is not checked."""
    return _fill({"objective": {"name": method}})


def _fill(settings: dict[str, Any]) -> Config:
    """Validate every value; where `settings` are silent, the method's defaults are written into them."""
    add_prompts(settings)
    _validate({key: value for key, value in settings.items() if key != "objective"})
    method = read_method(settings["objective"])
    for key, default in method.defaults.items():
        section, _, last = key.partition(".")
        settings[section] = {last: default, **settings.get(section, {})}
    return _validate({**settings, "objective": method})


def _validate(settings: dict[str, Any]) -> Config:
    """All but the section `objective`, which is a method by now, or absent."""
    try:
        return Config.model_validate({"objective": None, **settings})
    except ValidationError as error:
        raise ConfigError(explain(error.errors(), Config)) from None


def dump_config(config: Config) -> str:
    """Every value, defaults included, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
