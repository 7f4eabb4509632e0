"""One typed tree of settings: a recipe in YAML, changed by `key=value`, checked before any model is loaded."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Annotated, Any, get_args

import yaml
from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from advantageflow.config_errors import check_plain, explain
from advantageflow.config_rules import WORLDS as WORLDS
from advantageflow.config_rules import add_prompts, check_combination, check_method, check_pairs
from advantageflow.config_rules import check_label as check_label
from advantageflow.config_sections import AdvantageSettings as AdvantageSettings
from advantageflow.config_sections import EvaluationSettings as EvaluationSettings
from advantageflow.config_sections import LearnSettings as LearnSettings
from advantageflow.config_sections import ModelSettings as ModelSettings
from advantageflow.config_sections import ODESolver as ODESolver
from advantageflow.config_sections import PolicySettings as PolicySettings
from advantageflow.config_sections import PromptSettings as PromptSettings
from advantageflow.config_sections import RolloutSettings as RolloutSettings
from advantageflow.config_sections import RunSettings as RunSettings
from advantageflow.config_sections import ScoringSettings as ScoringSettings
from advantageflow.config_sections import SDESolver as SDESolver
from advantageflow.config_types import LARGE, Section
from advantageflow.errors import ConfigError as ConfigError
from advantageflow.errors import shown
from advantageflow.evaluated import DEFAULT_REWARD, add_trained, inherit, labels, trained_on
from advantageflow.methods import DEFAULT, dump_method, find_method, read_method
from advantageflow.reading import assign, find_recipe, parse_changes, read_recipe
from advantageflow.reading import flatten as flatten
from advantageflow.reading import recipe_names as recipe_names
from advantageflow.rewards.own import pooled, resolve_rewards
from advantageflow.walk_plan import Plan


class Config(Section):
    """Everything that decides a run."""

    name: str = Field("run", description="of the recipe, and of its runs' folders")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="of all that is drawn at random")
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
    def undivided(self) -> int:
        """How many images, one after the other, are in one optimizer step: of a coupled group, of a tree, or one."""
        if self.objective.whole_groups or self.learn.share:
            return self.rollout.images_per_prompt
        plan = self.walk_plan()
        return plan.leaves if plan else 1

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
