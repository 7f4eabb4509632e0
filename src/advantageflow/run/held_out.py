"""A run's held-out prompts: scores of its policy, and how they differ from the base model's, image by image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from advantageflow.config import Config
from advantageflow.evaluation import Evaluation, evaluate
from advantageflow.models.base import FlowModel
from advantageflow.prompts import PromptSet, shown_prompts
from advantageflow.rewards import Reward
from advantageflow.run.directory import RunDirectory
from advantageflow.run.progress import Display
from advantageflow.run.stored import DamagedError, read_object
from advantageflow.statistics import paired_difference
from advantageflow.world import World


class HeldOut:
    """Evaluates a run.

    Args:
        directory: its folder, in which the base model's score of every image is kept for a run that is resumed.
        rewards: label -> function.
        world: the processes that share the work.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        model: FlowModel,
        prompts: PromptSet,
        rewards: Mapping[str, Reward],
        display: Display,
        world: World,
    ) -> None:
        self.config, self.model, self.prompts, self.rewards = config, model, prompts, rewards
        self.directory, self.display, self.advance, self.world = directory, display, display.advance, world
        self.shown_prompts = shown_prompts(config.evaluation, prompts)

    def evaluate(self, transformer: nn.Module, shown: bool = False) -> Evaluation:
        """Draw and score the run's held-out images, or those that it shows."""
        settings = self.config.evaluation
        return evaluate(
            self.model,
            transformer,
            self.shown_prompts if shown else self.prompts,
            self.rewards,
            num_images=settings.number_shown if shown else settings.num_images,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            batch_size=self.config.rollout.batch_size,
            attempts=self.config.scoring.attempts,
            timeout=self.config.scoring.timeout,
            advance=self.advance,
            keep_images=shown,
            world=self.world,
        )

    @property
    def knows_base(self) -> bool:
        """Whether the base model's scores were kept; runs of early versions did not."""
        return self.world.share(self.directory.base_scores.exists)

    def keep_base(self, base: Evaluation) -> dict[str, Any]:
        """Write down the base model's score of every image, and say its mean; its summary."""
        scores = {label: values.tolist() for label, values in base.by_image.items()}
        self.directory.write_base_scores(scores)
        self.display.evaluated(0, base.scores, None)
        return base.summary()

    def compare(self, found: Evaluation, iteration: int) -> dict[str, Any]:
        """The "evaluation" of the weights after so many iterations and its "difference" to the base model's; said.

        Raises:
            DamagedError: the base model's scores are not whole.
        """
        base = self.world.share(self._base)
        difference = {
            label: paired_difference(values.tolist(), base[label]).plain() for label, values in found.by_image.items()
        }
        self.display.evaluated(iteration, found.scores, difference)
        return {"evaluation": found.summary(), "difference": difference}

    def draw_curve(self, before: Mapping[str, Any] | None, after: Mapping[str, Any], seconds: float) -> None:
        """The run's curve up to now, after so many seconds of training."""
        self.directory.draw_curve({"before": before, "after": after, "seconds": {"training": seconds}})

    def _base(self) -> dict[str, list[float]]:
        file = self.directory.base_scores
        base = read_object(file, dict.fromkeys(self.rewards, list))
        count = self.config.evaluation.num_images
        for label in self.rewards:
            numbers = [value for value in base[label] if isinstance(value, float) and math.isfinite(value)]
            if len(numbers) != count or len(base[label]) != count:
                raise DamagedError(
                    f"{file} is damaged: {label!r} has not the scores of {count} images; remove the file and "
                    "continue the run, and the base model is evaluated again"
                )
        return base
