"""Scores on held-out prompts: fixed prompts and fixed noise, so that two policies are compared on the same draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from advantageflow.fits import Size
from advantageflow.prompts import PromptSet
from advantageflow.rewards import Reward
from advantageflow.rewards.scoring import Scorer
from advantageflow.rollout import sample_batches
from advantageflow.seeding import Stream
from advantageflow.selection import Selection
from advantageflow.world import World

if TYPE_CHECKING:
    from advantageflow.models.base import FlowModel

# Evaluation draws do not depend on the run's seed: runs with different seeds are scored on the same prompts and noise.
EVALUATION_SEED = 0


@dataclass(frozen=True)
class Evaluation:
    """Scores of images by label, with the images, where they are kept."""

    prompts: list[str]
    prompt_tasks: list[str]
    images: Tensor
    by_image: dict[str, Tensor]

    @property
    def scores(self) -> dict[str, float]:
        """label -> mean."""
        return {label: values.mean().item() for label, values in self.by_image.items()}

    @property
    def tasks(self) -> dict[str, float]:
        """task -> mean of the first label."""
        found: dict[str, list[float]] = {}
        for values in list(self.by_image.values())[:1]:
            for task, value in zip(self.prompt_tasks, values.tolist(), strict=True):
                found.setdefault(task, []).append(value)
        return {task: sum(part) / len(part) for task, part in found.items()}

    def and_then(self, other: Evaluation) -> Evaluation:
        """With others after these, whose images are not kept."""
        by_image = {label: torch.cat([values, other.by_image[label]]) for label, values in self.by_image.items()}
        return Evaluation(
            self.prompts + other.prompts, self.prompt_tasks + other.prompt_tasks, torch.empty(0), by_image
        )

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
    batch_size: Size = 64,
    attempts: int = 1,
    timeout: float | None = None,
    advance: Callable[[int], None] | None = None,
    keep_images: bool = True,
    selection: Selection | None = None,
    world: World | None = None,
) -> Evaluation:
    """Draw images number `first` to `first + num_images - 1` with the Euler solver; score them by every reward, if any.

    Args:
        rewards: label -> function.
        negative_prompt: what guidance leads away from.
        seed: of the order of prompts and the noise.
        selection: of several candidates the one that a reward chooses.
        keep_images: whether the images are returned; else there are none.
        world: the processes that share the work; all get the same. By default there is no other.
    """
    world = world or World()
    chosen = prompts.draw(first, num_images, seed)
    texts = [prompts.texts[i] for i in chosen]
    metadata = [prompts.metadata[i] for i in chosen]
    scorer = Scorer(rewards, attempts=attempts, timeout=timeout, world=world)
    images: dict[int, Tensor] = {}
    for numbers, batch in sample_batches(
        model,
        transformer,
        texts,
        stream=Stream.EVALUATION,
        address=(seed,),
        num_inference_steps=num_inference_steps,
        solver=selection.solver(model, texts, metadata, seed) if selection else "euler",
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        batch_size=batch_size,
        noises=range(first, first + num_images),
        world=world,
    ):
        drawn = model.decode(batch.x0).cpu()
        scorer.submit(drawn, [texts[i] for i in numbers], [metadata[i] for i in numbers], numbers.start)
        if keep_images:
            images[numbers.start] = drawn
        if advance:
            advance(len(numbers) * world.size)
    by_image, tasks = scorer.results(), [prompts.tasks[i] for i in chosen]
    kept = torch.cat(world.exchange(images)) if keep_images else torch.empty(0)
    return Evaluation(texts, tasks, kept, by_image)
