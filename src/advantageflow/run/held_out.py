"""A run's held-out prompts: scores of its policy, and how they differ from the base model's, image by image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from advantageflow.config import Config
from advantageflow.evaluation import Evaluation, evaluate
from advantageflow.models.base import FlowModel
from advantageflow.policy import Policy, Role
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
        timed: (stage, number of images) -> what its time is taken in.
        world: the processes that share the work.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        model: FlowModel,
        policy: Policy,
        prompts: PromptSet,
        rewards: Mapping[str, Reward],
        display: Display,
        timed: Callable[[str, int], AbstractContextManager[None]],
        world: World,
    ) -> None:
        self.config, self.model, self.policy, self.prompts, self.rewards = config, model, policy, prompts, rewards
        self.directory, self.display, self.advance, self.world = directory, display, display.advance, world
        self.timed = timed
        self.shown_prompts = shown_prompts(config.evaluation, prompts)
        self.before: dict[str, Any] | None = None  # the base model's scores, once they are known
        self._pictures: dict[Role, Evaluation] = {}

    def evaluate(self, role: Role) -> Evaluation:
        """Draw and score the run's held-out images.

        Those that are shown are drawn first and on their own, so that they are the same where they are drawn alone.
        """
        settings = self.config.evaluation
        if not settings.shows_evaluated:
            return self._draw(role, self.prompts, 0, settings.num_images, keep_images=False)
        shown, rest = self.pictures(role), settings.num_images - settings.number_shown
        if not rest:
            return shown
        return shown.and_then(self._draw(role, self.prompts, settings.number_shown, rest, keep_images=False))

    def pictures(self, role: Role) -> Evaluation:
        """What is shown of the weights as they are now; drawn once."""
        if role not in self._pictures:
            prompts = self.prompts if self.config.evaluation.shows_evaluated else self.shown_prompts
            count = self.config.evaluation.number_shown
            self._pictures[role] = self._draw(role, prompts, 0, count, keep_images=True)
        return self._pictures[role]

    def _draw(self, role: Role, prompts: PromptSet, first: int, count: int, keep_images: bool) -> Evaluation:
        settings = self.config.evaluation
        with self.timed("evaluating", count), self.policy.acting_as(role) as transformer:
            return evaluate(
                self.model,
                transformer,
                prompts,
                self.rewards,
                num_images=count,
                first=first,
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
                batch_size=self.config.rollout.batch_size,
                attempts=self.config.scoring.attempts,
                timeout=self.config.scoring.timeout,
                advance=self.advance,
                keep_images=keep_images,
                world=self.world,
            )

    def forget_pictures(self) -> None:
        """The trained weights have changed."""
        self._pictures.pop("average", None)

    def compare(self, iteration: int) -> dict[str, Any]:
        """The "evaluation" of the weights after so many iterations and its "difference" to the base model's; said.

        Before the first, the base model is evaluated, which is frozen: no iteration has to wait for it.

        Raises:
            DamagedError: the base model's scores are not whole.
        """
        if self.before is None or not self.world.share(self.directory.base_scores.exists):  # as in early versions
            self._evaluate_base()
        found = self.evaluate("average")
        base = self.world.share(self._base)
        difference = {
            label: paired_difference(values.tolist(), base[label]).plain() for label, values in found.by_image.items()
        }
        self.display.evaluated(iteration, found.scores, difference)
        return {"evaluation": found.summary(), "difference": difference}

    def draw_curve(self, after: Mapping[str, Any], seconds: float) -> None:
        """The run's curve up to now, after so many seconds of training."""
        self.directory.draw_curve({"before": self.before, "after": after, "seconds": {"training": seconds}})

    def _evaluate_base(self) -> None:
        """Write down its pictures and its score of every image, and say the mean."""
        found = self.evaluate("reference")
        if not self.world.share(lambda: self.directory.has_samples(0)):
            self.directory.write_samples(0, self.pictures("reference"))
        self.directory.write_base_scores({label: values.tolist() for label, values in found.by_image.items()})
        self.display.evaluated(0, found.scores, None)
        self.before = found.summary()

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
