"""The drawn world's verifier as rewards. Range [0, 1]; source: `advantageflow.worlds.scenes.verifier` and `.exact`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from advantageflow.worlds.scenes.exact import verify_exact
from advantageflow.worlds.scenes.prompts import parse_prompt
from advantageflow.worlds.scenes.verifier import verify

Verifier = Callable[[Tensor, list[str]], list[float]]


def _of_scenes(reward: Verifier) -> Verifier:
    """Give a reward the check of its prompts."""
    reward.check_prompt = parse_prompt  # type: ignore[attr-defined]
    return reward


@_of_scenes
def graded(images: Tensor, prompts: list[str]) -> list[float]:
    """How much of the prompt is right, in [0, 1]."""
    return [verdict.graded for verdict in verify(_pixels(images), prompts)]


@_of_scenes
def strict(images: Tensor, prompts: list[str]) -> list[float]:
    """1 if all of the prompt is right and nothing is extra, else 0; each object is named by the nearest shape."""
    return [verdict.strict for verdict in verify(_pixels(images), prompts)]


@_of_scenes
def exact(images: Tensor, prompts: list[str]) -> list[float]:
    """1 if, besides, every object's shape and asked colour are clear, and nothing else can be seen; else 0."""
    return verify_exact(_pixels(images), prompts)


def _pixels(images: Tensor) -> np.ndarray:
    pixels: np.ndarray = (images.permute(0, 2, 3, 1) * 255).round().numpy().astype(np.uint8)
    return pixels
