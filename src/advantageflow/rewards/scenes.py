"""The drawn world's verifier as rewards. Range [0, 1]; source: `advantageflow.scenes.verifier`."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from advantageflow.scenes.verifier import Verdict, verify


def graded(images: Tensor, prompts: list[str]) -> list[float]:
    """How much of the prompt is right, in [0, 1]."""
    return [verdict.graded for verdict in _verdicts(images, prompts)]


def strict(images: Tensor, prompts: list[str]) -> list[float]:
    """1 if all of the prompt is right and nothing is extra, else 0."""
    return [verdict.strict for verdict in _verdicts(images, prompts)]


def _verdicts(images: Tensor, prompts: list[str]) -> list[Verdict]:
    pixels = (images.permute(0, 2, 3, 1) * 255).round().numpy().astype(np.uint8)
    return verify(pixels, prompts)
