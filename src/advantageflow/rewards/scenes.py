"""The drawn world's verifier as rewards. Range [0, 1]; source: `advantageflow.scenes.verifier` and `.exact`."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from advantageflow.scenes.exact import verify_exact
from advantageflow.scenes.verifier import verify


def graded(images: Tensor, prompts: list[str]) -> list[float]:
    """How much of the prompt is right, in [0, 1]."""
    return [verdict.graded for verdict in verify(_pixels(images), prompts)]


def strict(images: Tensor, prompts: list[str]) -> list[float]:
    """1 if all of the prompt is right and nothing is extra, else 0; each object is named by the nearest shape."""
    return [verdict.strict for verdict in verify(_pixels(images), prompts)]


def exact(images: Tensor, prompts: list[str]) -> list[float]:
    """1 if, besides, every object's shape and asked colour are clear, and nothing else can be seen; else 0."""
    return verify_exact(_pixels(images), prompts)


def _pixels(images: Tensor) -> np.ndarray:
    pixels: np.ndarray = (images.permute(0, 2, 3, 1) * 255).round().numpy().astype(np.uint8)
    return pixels
