"""What published tables were made with: settings of `evaluate --preset NAME`."""

from __future__ import annotations

from typing import Any

from advantageflow.errors import ConfigError, shown

PRESETS: dict[str, dict[str, Any]] = {
    # AdvantageFlow's Table 1: GenEval, without and with guidance
    "paper": {
        "prompts": "geneval:553",
        "reward": ["geneval=geneval_accuracy"],
        "guidance": "1.0,4.5",
        "steps": 40,
        "images": 2212,
    },
    # DiffusionNFT's table of preference scores; give its DrawBench prompts with --prompts
    "nft": {
        "reward": ["pickscore", "clipscore", "hpsv2", "aesthetic", "imagereward"],
        "guidance": "1.0",
        "steps": 40,
        "images": 1000,
    },
}


def preset_named(name: str) -> dict[str, Any]:
    """The settings of a preset; none for "".

    Raises:
        ConfigError: there is no such preset.
    """
    if name and name not in PRESETS:
        raise ConfigError(f"unknown preset {shown(name)}; allowed: {', '.join(PRESETS)}")
    return PRESETS.get(name, {})
