"""Rewards that are differentiated: asked for scores with a gradient, and told at once what is wrong with an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from advantageflow.errors import shown
from advantageflow.rewards import Reward
from advantageflow.rewards.faults import contained, definition, reason
from advantageflow.rewards.scoring import RewardError

if TYPE_CHECKING:
    from advantageflow.prompts import PromptSet


def score_with_gradient(name: str, reward: Reward, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Scores [batch], float32 on the images' device, differentiable with respect to the images.

    Args:
        images: float32 in [0, 1], [batch, 3, height, width], on any device.

    Raises:
        RewardError: it raises, or does not return one finite number per image with a gradient; the message names the
            reward and, of the user's own, the file and line.
    """
    given: Any = reward
    try:
        with contained():
            scores = given.with_gradient(images.clone(), list(prompts))
    except Exception as error:  # whatever a user's function raises becomes one clear message
        raise RewardError(f"with_gradient of the reward {shown(name)} failed: {reason(error, reward)}") from error
    problem = _problem(scores, images, prompts)
    if problem:
        raise _wrong(name, reward, problem)
    found: Tensor = scores.to(images.device, torch.float32)
    return found


def try_gradients(rewards: Mapping[str, Reward], prompts: PromptSet, size: tuple[int, int]) -> None:
    """Differentiate every reward once, on a grey picture and the first prompt.

    Args:
        rewards: name -> function.
        size: height and width in pixels.

    Raises:
        RewardError: see `score_with_gradient`, or the scores do not come from the images.
    """
    for name, reward in rewards.items():
        grey = torch.full((1, 3, *size), 0.5, requires_grad=True)
        scores = score_with_gradient(name, reward, grey, prompts.texts[:1])
        try:
            (slope,) = torch.autograd.grad(scores.sum(), grey, allow_unused=True)
        except RuntimeError as error:
            raise RewardError(f"the gradient of the reward {shown(name)} failed: {reason(error, reward)}") from error
        if slope is None:
            raise _wrong(name, reward, _DETACHED)


_DETACHED = (
    "returned scores without a gradient to its images; compute them from the images in torch alone, without detach, "
    "numpy, item() or no_grad"
)


def _problem(scores: Any, images: Tensor, prompts: Sequence[str]) -> str | None:
    """What is wrong with an answer."""
    wanted = f"return a tensor [{len(prompts)}], one number per image"
    if not isinstance(scores, Tensor):
        return f"returned a {type(scores).__name__}; {wanted}"
    if list(scores.shape) != [len(prompts)]:
        return f"returned the shape {list(scores.shape)} for {len(prompts)} images; {wanted}"
    if images.requires_grad and not scores.requires_grad:
        return _DETACHED
    bad = (~torch.isfinite(scores.detach())).nonzero().flatten().tolist()
    return f"returned {scores[bad[0]].item()} for sample {bad[0]}, prompt {shown(prompts[bad[0]])}" if bad else None


def _wrong(name: str, reward: Reward, problem: str) -> RewardError:
    place = definition(reward)
    return RewardError(f"with_gradient of the reward {shown(name)} {problem}{place and f' ({place})'}")
