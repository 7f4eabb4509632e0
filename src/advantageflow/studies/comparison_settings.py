"""What decides a comparison, kept in its folder: the same command goes on only where nothing of it has changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advantageflow import __version__, fingerprint
from advantageflow.config import WORLDS, Config, ConfigError, flatten
from advantageflow.environment import commit
from advantageflow.errors import cut, shown
from advantageflow.run.changes import as_read, differing
from advantageflow.run.checkpoint import write_atomic
from advantageflow.run.stored import read_object

FILE = "comparison-settings.json"
PER_RUN = ("seed", "run.threads")  # not of an arm


def settle(output: Path, arms: Mapping[str, Config], asked: Mapping[str, Any]) -> list[str]:
    """Keep what decides a comparison, or compare it with what was kept. Returns what should be said.

    Args:
        arms: label -> settings.
        asked: what the command line says of the comparison.

    Raises:
        ConfigError: the folder belongs to another comparison, or a recipe or file has changed since.
    """
    now = {
        **asked,
        "settings": {label: settings(config) for label, config in arms.items()},
        "files": {name: found for config in arms.values() for name, found in files(config).items()},
        "code": {"version": __version__, "commit": commit()},
    }
    file = output / FILE
    then = read_object(file) if file.exists() else {}
    now = json.loads(json.dumps(now))
    if any(then.get(name, now[name]) != now[name] for name in asked):
        raise ConfigError(f"{output} holds another comparison ({file}); choose another --output")
    for label, kept in then.get("settings", {}).items():
        _same(f"the recipe of {shown(label)}", as_read(kept, now["settings"][label]), now["settings"][label], output)
    _same("what the recipes name", then.get("files", {}), now["files"], output)
    output.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(now, indent=2) + "\n")
    before = then.get("code", now["code"])
    if before == now["code"]:
        return []
    changed = ", ".join(f"{name} was {before.get(name)} and is {value}" for name, value in now["code"].items())
    return [f"the code has changed since this comparison was begun ({changed}); finished runs are kept as they are"]


def all_rewards(arms: Mapping[str, Config], typed: bool) -> dict[str, str]:
    """Label -> reward by which every arm is to be evaluated: all that any of them is; {} where they agree already.

    Args:
        typed: whether the command line says which rewards are evaluated.

    Raises:
        ConfigError: they do not agree on what is typed, or one label stands for two rewards.
    """
    found: dict[str, str] = {}
    for arm, config in arms.items():
        for label, name in config.evaluation.rewards.items():
            if found.setdefault(label, name) != name:
                raise ConfigError(
                    f"the score {shown(label)} would be {shown(found[label])}, and {shown(name)} in the arm "
                    f"{shown(arm)}; name both, with a label each: evaluation.rewards={{LABEL: REWARD, LABEL: REWARD}}"
                )
    if all(list(config.evaluation.rewards.items()) == list(found.items()) for config in arms.values()):
        return {}
    if typed:
        all_of_them = cut(", ".join(f"{label}: {name}" for label, name in found.items()), 400)
        raise ConfigError(
            "the arms would be evaluated by different rewards, since each is by what it trains on; give all of them "
            f"for all arms, as in evaluation.rewards={{{all_of_them}}}"
        )
    return found


def settings(config: Config) -> dict[str, Any]:
    """The settings of an arm as "section.key"."""
    return {key: value for key, value in flatten(config.model_dump(mode="json")).items() if key not in PER_RUN}


def files(config: Config) -> dict[str, str]:
    """Fingerprints of the files and folders that an arm's settings name: prompts, weights, adapters, rewards."""
    model, prompts = config.model, config.prompts
    rewards = [name.rpartition(":")[0] for name in (*config.reward_weights, *config.evaluation.rewards.values())]
    named = [model.path, model.base, model.lora, prompts.train, prompts.held_out, config.rollout.source]
    named += [*rewards, *(f"{name.replace('.', '/')}.py" for name in rewards)]
    paths = {str(name): Path(str(name)) for name in named if name and name not in WORLDS and "://" not in str(name)}
    return {
        name: fingerprint.of_folder(path) if path.is_dir() else fingerprint.of_file(path)
        for name, path in sorted(paths.items())
        if len(name) < 1024 and path.exists()
    }


def _same(what: str, then: Mapping[str, Any], now: Mapping[str, Any], output: Path) -> None:
    text = differing(then, now)
    if text:
        raise ConfigError(
            f"{what} has changed since the comparison in {output} was begun: {text}; choose another --output, or "
            "undo the change"
        )
