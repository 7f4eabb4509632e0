"""Which rewards are scored on held-out prompts: all that are trained on, and all that are asked for.

This is settled once, where a recipe is read. A run's own settings say all of it, and stay what they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain, count
from typing import Any

from advantageflow.config_rules import OWN_KEYS
from advantageflow.errors import cut
from advantageflow.rewards import BUILT_IN

DEFAULT_REWARD = "scenes_graded"


def trained_on(settings: Mapping[str, Any]) -> list[str]:
    """The rewards that plain settings learn from."""
    reward = settings.get("reward", DEFAULT_REWARD)
    names = list(reward) if isinstance(reward, dict) else [reward]
    return [name for name in names if isinstance(name, str)]


def labels(settings: Mapping[str, Any]) -> list[str]:
    """What plain settings themselves ask to be scored."""
    return list(_rewards(settings) or {})


def inherit(settings: dict[str, Any], before: Iterable[str], own: Collection[str]) -> dict[str, Any]:
    """Settings that train on something else than those they come from: what only these evaluated is left out.

    A reward may be gigabytes to fetch, and unable to score other prompts.

    Args:
        settings: plain, with the changes made.
        before: rewards that were trained on without the changes.
        own: labels that the changes themselves ask for.
    """
    now, rewards = trained_on(settings), _rewards(settings)
    if rewards is None or set(now) == set(before):
        return settings
    return _with(settings, {label: name for label, name in rewards.items() if label in own or name in now})


def add_trained(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that also evaluate every reward that they train on, after those they name."""
    rewards = _rewards(settings)
    if rewards is None:
        return settings
    rewards = dict(rewards)
    for name in trained_on(settings):
        if name not in rewards.values():
            rewards[_label(name, rewards)] = name
    return _with(settings, rewards)


def described(rewards: Mapping[str, str]) -> str:
    """Labels with their rewards, on one line."""
    return ", ".join(label if label == name else f"{label} ({cut(name)})" for label, name in rewards.items())


def _rewards(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Label -> reward; None where the settings are wrong there, which is told when they are checked."""
    evaluation = settings.get("evaluation", {})
    rewards = evaluation.get("rewards", {}) if isinstance(evaluation, dict) else None
    return rewards if isinstance(rewards, dict) else None


def _with(settings: dict[str, Any], rewards: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "evaluation": {**settings.get("evaluation", {}), "rewards": rewards}}


def _label(name: str, taken: Collection[str]) -> str:
    """A built-in reward's name, the name of a function of the user's, or "reward"; numbered where it is taken."""
    function = name.rpartition(":")[2]
    label = name if name in BUILT_IN else "reward"
    if function != name and function.isidentifier() and len(function) < 90 and function not in (*OWN_KEYS, *BUILT_IN):
        label = function
    return next(each for each in chain([label], (f"{label}-{n}" for n in count(2))) if each not in taken)
