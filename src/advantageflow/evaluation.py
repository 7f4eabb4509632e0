"""Scores on held-out prompts: fixed prompts and fixed noise, so that two policies are compared on the same draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advantageflow.models.base import FlowModel
from advantageflow.prompts import PromptSet
from advantageflow.rewards import Reward
from advantageflow.rewards.scoring import Scorer
from advantageflow.rollout import sample_batches
from advantageflow.seeding import Stream

# Evaluation draws do not depend on the run's seed: runs with different seeds are scored on the same prompts and noise.
EVALUATION_SEED = 0


@dataclass(frozen=True)
class Evaluation:
    """Mean scores by label and the first label's mean by task, with the images they come from."""

    scores: dict[str, float]
    tasks: dict[str, float]
    prompts: list[str]
    prompt_tasks: list[str]
    images: Tensor
    by_image: dict[str, Tensor]

    def summary(self) -> dict[str, Any]:
        return {**self.scores, "tasks": self.tasks}


def evaluate(
    model: FlowModel,
    transformer: nn.Module,
    prompts: PromptSet,
    rewards: Mapping[str, Reward],
    *,
    num_images: int,
    first: int = 0,
    num_inference_steps: int = 10,
    guidance_scale: float = 1.0,
    negative_prompt: str = "",
    seed: int = EVALUATION_SEED,
    batch_size: int = 64,
    attempts: int = 1,
    timeout: float | None = None,
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """Draw images number `first` to `first + num_images - 1` with the Euler solver; score them by every reward, if any.

    Args:
        rewards: label -> function.
        negative_prompt: what guidance leads away from.
        seed: of the order of prompts and the noise.
    """
    chosen = prompts.draw(first, num_images, seed)
    texts = [prompts.texts[i] for i in chosen]
    scorer = Scorer(rewards, attempts=attempts, timeout=timeout)
    images: list[Tensor] = []
    for batch in sample_batches(
        model,
        transformer,
        texts,
        stream=Stream.EVALUATION,
        address=(seed,),
        num_inference_steps=num_inference_steps,
        solver="euler",
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        batch_size=batch_size,
        first=first,
    ):
        images.append(model.decode(batch.x0).cpu())
        start = len(images) * batch_size - batch_size
        part = slice(start, start + batch_size)
        scorer.submit(images[-1], texts[part], [prompts.metadata[i] for i in chosen[part]])
        if advance:
            advance(len(batch.x0))
    by_image = scorer.results()
    by_task: dict[str, list[float]] = {}
    for values in list(by_image.values())[:1]:
        for index, value in zip(chosen, values.tolist(), strict=True):
            by_task.setdefault(prompts.tasks[index], []).append(value)
    return Evaluation(
        scores={label: values.mean().item() for label, values in by_image.items()},
        tasks={task: sum(values) / len(values) for task, values in by_task.items()},
        prompts=texts,
        prompt_tasks=[prompts.tasks[i] for i in chosen],
        images=torch.cat(images),
        by_image=by_image,
    )
