"""The settings of a rehearsal: those of the recipe, for one iteration, perhaps of fewer images, steps and draws."""

from __future__ import annotations

from collections.abc import Iterable

from advantageflow.config import Config, load_config
from advantageflow.errors import ConfigError, shown
from advantageflow.memory import automatic
from advantageflow.models import BUILT_IN, check_family, check_learned
from advantageflow.models.architectures import ARCHITECTURES
from advantageflow.models.source import BITS

STAND_IN_PROMPTS = 64


def check_rehearsal(config: Config) -> None:
    """Check that a recipe can be rehearsed, before anything is built.

    Raises:
        ConfigError: its model's architecture is not known, or does not predict what its method learns; or it learns
            from what a rehearsal does not have.
    """
    path = config.model.base or config.model.path
    if path not in ARCHITECTURES and path not in BUILT_IN:
        raise ConfigError(
            f"a rehearsal does not know the architecture of model.path {shown(path)}; it knows "
            f"{', '.join((*ARCHITECTURES, *BUILT_IN))}; a model that is at hand needs none: set run.iterations=1"
        )
    family = ARCHITECTURES[path].family if path in ARCHITECTURES else check_family(config.model)
    check_learned(config.objective, path, family)
    if config.model.quantization in BITS:
        raise ConfigError(
            f"model.quantization is {config.model.quantization}, which a rehearsal's random weights do not have; set "
            "model.quantization=fp8 or null, and read --plan for what it saves"
        )
    if config.rollout.source is not None:
        raise ConfigError("a rehearsal draws its own images, but rollout.source brings them; set rollout.source=null")


def shorten(
    recipe: str,
    changes: Iterable[str],
    images: int | None = None,
    steps: int | None = None,
    draws: int | None = None,
) -> tuple[Config, Config]:
    """The recipe as it is, and as it is rehearsed.

    Args:
        images: of the iteration; at most a prompt's number, or a multiple of it.
        steps: of sampling.
        draws: `learn.t_draws`.

    Raises:
        ConfigError: see `check_rehearsal`; or the shortened recipe is none that could run.
    """
    typed = list(changes)
    config = load_config(recipe, typed)
    check_rehearsal(config)
    rollout = config.rollout
    each = rollout.images_per_prompt if images is None else min(images, rollout.images_per_prompt)
    count = rollout.prompts_per_iteration * each if images is None else images
    if count % each:
        raise ConfigError(
            f"--images is {count}, but a prompt has {each} images; give at most {each}, or a multiple of {each}"
        )
    drawn = count * (config.learn.t_draws if draws is None else draws)
    undivided = min(config.undivided, each)
    given = {
        "rollout.prompts_per_iteration": count // each,
        "rollout.images_per_prompt": each,
        "rollout.num_inference_steps": rollout.num_inference_steps if steps is None else steps,
        "learn.t_draws": config.learn.t_draws if draws is None else draws,
        "learn.optimizer_steps": min(config.learn.optimizer_steps, count // undivided),
        "run.iterations": 1,
        "run.probe_every": 0,  # which is not part of every iteration
        "model.prompt_cache": "null",  # the embeddings are of no use to anybody
    }
    for section, most in (("rollout", count), ("learn", drawn)):
        if section not in automatic(config):
            given[f"{section}.batch_size"] = min(getattr(config, section).batch_size, most)
    if any(str(name).startswith("hub:") for name in (config.prompts.train, config.prompts.held_out)):
        kind = "ocr" if "ocr" in config.reward_names else "geneval"
        given |= {
            "prompts.train": f"{kind}:{STAND_IN_PROMPTS}",
            "prompts.held_out": f"{kind}:{STAND_IN_PROMPTS}:1",
            "prompts.column": "prompt",
        }
    return config, load_config(recipe, [*typed, *(f"{key}={value}" for key, value in given.items())])
