"""Scores on held-out prompts: fixed prompts and fixed noise, so that two policies are compared on the same draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from advantageflow.models.sd3 import SD3Model
from advantageflow.prompts import PromptSet
from advantageflow.rewards import Reward, score
from advantageflow.rollout import Advance, decode, sample
from advantageflow.seeding import Stream

# Evaluation draws do not depend on the run's seed: runs with different seeds are scored on the same prompts and noise.
EVALUATION_SEED = 0


@dataclass(frozen=True)
class Evaluation:
    """Mean scores by label and the first label's mean by task, with the images they come from."""

    scores: dict[str, float]
    tasks: dict[str, float]
    prompts: list[str]
    images: Tensor
    by_image: dict[str, Tensor]

    def summary(self) -> dict[str, Any]:
        return {**self.scores, "tasks": self.tasks}


def evaluate(
    model: SD3Model,
    transformer: nn.Module,
    prompts: PromptSet,
    rewards: dict[str, tuple[str, Reward]],
    *,
    num_images: int,
    num_inference_steps: int = 10,
    guidance_scale: float = 1.0,
    batch_size: int = 64,
    advance: Advance | None = None,
) -> Evaluation:
    """Draw `num_images` with the Euler solver and score them by every reward (label -> (name, function)), if any."""
    chosen = prompts.draw(0, num_images, EVALUATION_SEED)
    texts = [prompts.texts[i] for i in chosen]
    samples = sample(
        model,
        transformer,
        texts,
        stream=Stream.EVALUATION,
        address=(EVALUATION_SEED,),
        num_inference_steps=num_inference_steps,
        solver="euler",
        guidance_scale=guidance_scale,
        batch_size=batch_size,
        advance=advance,
    )
    images = decode(model, samples.x0, batch_size)
    by_image = {label: score(name, reward, images, texts) for label, (name, reward) in rewards.items()}
    by_task: dict[str, list[float]] = {}
    for first in list(by_image.values())[:1]:
        for index, value in zip(chosen, first.tolist(), strict=True):
            by_task.setdefault(prompts.tasks[index], []).append(value)
    return Evaluation(
        scores={label: values.mean().item() for label, values in by_image.items()},
        tasks={task: sum(values) / len(values) for task, values in by_task.items()},
        prompts=texts,
        images=images,
        by_image=by_image,
    )
