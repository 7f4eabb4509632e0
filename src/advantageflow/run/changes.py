"""What may change when a run is continued: all that cannot rewrite what it has done. Every change is told and kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from advantageflow.config import Config, change, check_config, default_config, flatten
from advantageflow.errors import ConfigError, shown
from advantageflow.methods import find_method

FREE = (
    "name",
    "run.*",
    "evaluation.*",
    "scoring.attempts",
    "scoring.timeout",
    "learn.learning_rate",
    "learn.schedule",
    "learn.warmup_steps",
    "learn.batch_size",
    "learn.accumulate",
    "learn.weight_decay",
    "learn.max_grad_norm",
    "learn.max_grad_norm_ratio",
    "rollout.batch_size",
    "model.device",
    "model.gradient_checkpointing",
    "model.vae_slicing",
    "model.offload",
    "model.attention",
    "model.compile",
    "model.shard",
    "model.prompt_cache",
)
EARLIER = {
    "policy.lora_targets": "all_attention"
}  # what runs did before there was the key, where it is not the default
MOST_SHOWN = 5  # differences in a message
# Changes of these make the base model's scores another thing: it is evaluated again.
EVALUATED = ("rewards", "num_images", "num_inference_steps", "guidance_scale")


def fixed(keys: Iterable[str]) -> list[str]:
    """Those of the keys that may not be changed."""
    return [key for key in keys if not any(fnmatchcase(key, pattern) for pattern in FREE)]


def flat(config: Config) -> dict[str, Any]:
    """Every setting as "section.key", as JSON has it."""
    return flatten(config.model_dump(mode="json"))


def as_read(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A record's flat settings as this version reads them: a method's alias is its name, a new key has its default.

    Args:
        then: {} where the record has none; so is the result.
        now: this version's flat settings.
    """
    if not then:
        return {}
    method = find_method(now["objective.name"])
    defaults, name = flat(default_config(now["objective.name"])), then.get("objective.name")
    return {**defaults, **EARLIER, **then, "objective.name": now["objective.name"] if name in method.aliases else name}


def changed(config: Config, overrides: Iterable[str]) -> Config:
    """A run's settings with changes for the iterations to come.

    Raises:
        ConfigError: a change is wrong, or would make the run another one.
    """
    settings = config.model_dump(mode="json")
    change(settings, overrides)
    found = check_config(settings)
    refused = fixed(differences(flat(config), flat(found)))
    if refused:
        raise ConfigError(
            f"{', '.join(refused)} cannot be changed with --resume: what the run has done would be another's; start "
            f"a new run, or change {', '.join(FREE)}"
        )
    return found


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """key -> [value then, value now] of the settings that both have."""
    return {key: [then[key], now[key]] for key in now if key in then and then[key] != now[key]}


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`differences` in words; "" where there is none."""
    found = [f"{key} was {shown(a, 60)} and is {shown(b, 60)}" for key, (a, b) in differences(then, now).items()]
    more = len(found) - MOST_SHOWN
    return ", ".join(found[:MOST_SHOWN]) + (f", and {more} more" if more > 0 else "")


def evaluates_anew(keys: Iterable[str]) -> bool:
    """Whether held-out scores before and after such a change do not compare."""
    return any(key == f"evaluation.{name}" for key in keys for name in EVALUATED)


def changes_since(record: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """What differs between a checkpoint's record and this process: part -> key -> [value then, value now].

    Args:
        now: "settings", "environment" and "inputs"; parts that the record lacks, being older, are left out.
    """
    known = {part: values for part, values in now.items() if isinstance(record.get(part), dict)}
    found = {part: differences(record[part], values) for part, values in known.items()}
    return {part: changes for part, changes in found.items() if changes}


def told(changes: Mapping[str, Mapping[str, list[Any]]]) -> list[str]:
    """A line about each kind of change."""
    return [
        f"changed {part}: " + "; ".join(f"{key} {then} -> {now}" for key, (then, now) in found.items())
        if part != "inputs"
        else f"changed since the run was started: {', '.join(found)}"
        for part, found in changes.items()
    ]


def check_inputs(record: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Check that prompts, model and rewards are those of a checkpoint.

    Raises:
        ConfigError: naming those that are not.
    """
    changed = differences(record.get("inputs") or {}, inputs)
    if changed:
        raise ConfigError(
            f"{' and '.join(changed)} changed since the run was started: the result would be neither the one nor the "
            "other's; put back what was there, or give --accept-changes"
        )


def finished(config: Config, summary: Mapping[str, Any] | None) -> bool:
    """Whether a run with this summary has done what its settings want."""
    if summary is None:
        return False
    limit, seconds = config.run.max_seconds, summary.get("seconds", {}).get("training", 0)
    return summary.get("iterations", 0) >= config.run.iterations or (limit is not None and seconds >= limit)
