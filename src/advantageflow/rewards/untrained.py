"""Learned rewards at their true size with random weights, and what stands in where there is none: for rehearsals."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from advantageflow.rewards import BUILT_IN, Reward, load_reward
from advantageflow.rewards.aesthetic import Aesthetic, build_head
from advantageflow.rewards.clip import Clip
from advantageflow.rewards.clipscore import CLIPScore
from advantageflow.rewards.hpsv2 import HPSv2
from advantageflow.rewards.imagereward import ImageReward, ImageRewardModel, official_config
from advantageflow.rewards.open_clip import vit_h_14_config
from advantageflow.rewards.pickscore import PickScore
from advantageflow.untrained import StandInTokenizer, untrained

CLIP_TOKENS: dict[str, Any] = {"vocabulary": 49408, "longest": 77, "begin": 49406, "end": 49407, "pad": 49407}
BERT_TOKENS: dict[str, Any] = {"vocabulary": 30522, "longest": 512, "begin": 101, "end": 102}


def vit_l_14_config() -> CLIPConfig:
    """The architecture of OpenAI's CLIP ViT-L/14."""
    return CLIPConfig(
        text_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "projection_dim": 768,
            "eos_token_id": 2,
        },
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
            "projection_dim": 768,
        },
        projection_dim=768,
    )


def _clip(config: Callable[[], CLIPConfig]) -> Clip:
    return Clip(untrained(lambda: CLIPModel(config())), StandInTokenizer(**CLIP_TOKENS))


def _aesthetic() -> Aesthetic:
    clip = _clip(vit_l_14_config)
    return Aesthetic(clip, untrained(lambda: build_head(clip.model.config.projection_dim)))


UNTRAINED: dict[str, Callable[[], Any]] = {
    "pickscore": lambda: PickScore(_clip(vit_h_14_config)),
    "hpsv2": lambda: HPSv2(_clip(vit_h_14_config)),
    "clipscore": lambda: CLIPScore(_clip(vit_l_14_config)),
    "aesthetic": _aesthetic,
    "imagereward": lambda: ImageReward(
        untrained(lambda: ImageRewardModel(official_config())), StandInTokenizer(**BERT_TOKENS)
    ),
}


class StandIn:
    """Random scores in [0, 1), the same for the same pictures."""

    def __call__(self, images: Tensor, prompts: list[str]) -> list[float]:
        """Scores [batch] of images in [0, 1], [batch, 3, height, width]."""
        seeds = (zlib.crc32(image.cpu().contiguous().numpy().tobytes()) for image in images)
        return [seed % 997 / 997 for seed in seeds]


def rehearsed_reward(name: str) -> tuple[Reward, str | None]:
    """A reward that fetches nothing, and what is to be said of it.

    One that has no weights to fetch is itself; any other has its true size and random weights, or a `StandIn`.
    """
    if name not in BUILT_IN or not BUILT_IN[name].weights:
        return load_reward(name), None
    if name in UNTRAINED:
        return UNTRAINED[name](), None
    return StandIn(), f"the reward {name} is not rehearsed: random scores stand in, which cost nothing"
