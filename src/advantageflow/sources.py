"""Where an iteration's images and their scores come from: the rollout policy and its rewards, or pairs on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from advantageflow.advantages import combine_rewards
from advantageflow.config import Config
from advantageflow.drafts import extremes, rank_agreement
from advantageflow.models.base import FlowModel
from advantageflow.objectives.base import Method
from advantageflow.pairs import Pair, read_picture
from advantageflow.policy import AHEAD, Policy
from advantageflow.prompts import PromptSet
from advantageflow.rewards.scoring import Scorer, Waiting
from advantageflow.rollout import Rollout, sample_batches
from advantageflow.seeding import Stream
from advantageflow.world import World

GIVEN = "given"  # the name of scores that pairs bring


class Source(Protocol):
    """Gives `prompts_per_iteration` groups of `images_per_prompt` images, and then their scores.

    config: of the run.
    weights: of each of the scores in the reward.
    """

    config: Config
    weights: Mapping[str, float]

    def draw(self, iteration: int) -> tuple[list[str], Rollout]:
        """The prompt of each image, those of a group one after the other, and the images."""

    def scores(self) -> dict[str, Tensor]:
        """Of the images that were drawn last, then of each of their probes: name -> float64 [(1 + probes) images]."""

    def rewards(self, groups: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """The reward of each image, float64 [images], the scores that it is made of, and the rewards of its probes.

        Args:
            groups: [images] integers, equal for images of one prompt. Probes are of their image's group.
        """
        scores, count = self.scores(), len(groups)
        weights, values = torch.tensor([self.weights[name] for name in scores]), torch.stack([*scores.values()])
        every = groups.repeat(values.shape[1] // count)
        rewards, *probes = combine_rewards(values, weights, every, self.config.scoring.combine).split(count)
        own = {name: found[:count] for name, found in scores.items()}
        return rewards, own, torch.stack(probes, 1) if probes else None

    def metrics(self, rollout: Rollout, rewards: Tensor) -> dict[str, float | None]:
        """What a row holds of the images and their rewards [images]: at least their `diversity`.

        That is the variance of the latents within a group; None where it says nothing of the policy.
        """


class PolicySource(Source):
    """The rollout policy draws images, and rewards score each batch while the next is drawn.

    Args:
        advance: told the number of images that were drawn.
    """

    def __init__(
        self,
        config: Config,
        model: FlowModel,
        policy: Policy,
        method: Method,
        prompts: PromptSet,
        scorer: Scorer,
        advance: Callable[[int], None],
        world: World,
    ) -> None:
        self.config, self.model, self.policy, self.method = config, model, policy, method
        self.prompts, self.scorer, self.advance, self.world = prompts, scorer, advance, world
        self.weights: Mapping[str, float] = config.reward_weights
        self.role = "rollout"  # whose images they are

    def draw(self, iteration: int) -> tuple[list[str], Rollout]:
        settings = self.config.rollout
        prompts = self.prompts_of(iteration, settings.images_per_prompt)
        return prompts, self.joined(self.draw_some(iteration, prompts, settings.num_inference_steps))

    def prompts_of(self, iteration: int, images: int) -> list[str]:
        """The iteration's prompts, so many times each."""
        count = self.config.rollout.prompts_per_iteration
        chosen = self.prompts.draw(iteration * count, count, self.config.seed)
        return [self.prompts.texts[i] for i in chosen for _ in range(images)]

    def joined(self, mine: dict[int, Rollout]) -> Rollout:
        """What all processes drew."""
        return Rollout.join(self.world.exchange(mine)).to(self.model.device)

    def draw_some(
        self, iteration: int, prompts: list[str], steps: int, noises: Sequence[int] | None = None
    ) -> dict[int, Rollout]:
        """Draw an image of each prompt, and have it scored: this process's batches, by the number of their first image.

        Args:
            noises: number of the noise that each starts from; by default its own.
        """
        settings, metadata = self.config.rollout, self.prompts.by_text
        mine: dict[int, Rollout] = {}
        with self.policy.acting_as(self.role) as transformer:
            for numbers, batch in sample_batches(
                self.model,
                transformer,
                prompts,
                stream=Stream.ROLLOUT,
                address=(self.config.seed, iteration),
                num_inference_steps=steps,
                solver=settings.solver,
                plan=self.config.walk_plan(iteration),
                guidance_scale=settings.guidance_scale,
                batch_size=settings.batch_size,
                noises=noises,
                world=self.world,
            ):
                drawn = [prompts[i] for i in numbers]
                about = [metadata[prompt] for prompt in drawn]
                for place, latents in enumerate((batch.x0, *batch.probes)):
                    images = self.model.decode(latents).cpu()
                    self.scorer.submit(images, drawn, about, place * len(prompts) + numbers.start)
                batch = replace(batch, probes=())
                mine[numbers.start] = batch if self.world.size == 1 else batch.to("cpu")
                self.advance(len(drawn) * self.world.size)
        return mine

    def scores(self) -> dict[str, Tensor]:
        return self.scorer.results()

    def metrics(self, rollout: Rollout, rewards: Tensor) -> dict[str, float | None]:
        groups = rollout.x0.unflatten(0, (-1, self.config.rollout.images_per_prompt))
        return {"diversity": groups.var(1).mean().item()}


class AheadSource(Source):
    """Draws the next iteration's images before this one's scores are asked for, so that slow rewards cost no time.

    Images are drawn by the rollout policy as it was an iteration before. Those weights are the role AHEAD, from which a
    resumed run draws again what was drawn already.
    """

    def __init__(self, source: PolicySource) -> None:
        self.source, self.config, self.weights = source, source.config, source.weights
        source.role = AHEAD
        self._next: tuple[int, list[str], Rollout, Waiting] | None = None
        self._waiting: Waiting = {}

    def draw(self, iteration: int) -> tuple[list[str], Rollout]:
        if self._next is None or self._next[0] != iteration:
            self._prepare(iteration)
        assert self._next is not None
        _, prompts, rollout, self._waiting = self._next
        self.source.policy.follow(AHEAD, "rollout")
        self._next = None
        if iteration + 1 < self.source.config.run.iterations:
            self._prepare(iteration + 1)
        return prompts, rollout

    def _prepare(self, iteration: int) -> None:
        self._next = iteration, *self.source.draw(iteration), self.source.scorer.take()

    def scores(self) -> dict[str, Tensor]:
        return self.source.scorer.results(self._waiting)

    def metrics(self, rollout: Rollout, rewards: Tensor) -> dict[str, float | None]:
        return self.source.metrics(rollout, rewards)


class PairSource(Source):
    """Pairs take turns: each comes once before any comes twice, in an order that the seed and the round decide.

    Args:
        advance: told the number of images that were read.
    """

    def __init__(
        self, config: Config, model: FlowModel, pairs: Sequence[Pair], advance: Callable[[int], None], world: World
    ) -> None:
        self.config, self.model, self.pairs, self.advance, self.world = config, model, pairs, advance, world
        self.weights: Mapping[str, float] = {GIVEN: 1.0}
        self._order = PromptSet(tuple(pair.prompt for pair in pairs), ("all",) * len(pairs))
        self._drawn: list[Pair] = []

    def draw(self, iteration: int) -> tuple[list[str], Rollout]:
        settings = self.config.rollout
        count = settings.prompts_per_iteration
        self._drawn = [self.pairs[i] for i in self._order.draw(iteration * count, count, self.config.seed)]
        files = [(path, pair.origin) for pair in self._drawn for path in pair.pictures]
        mine: dict[int, Tensor] = {}
        size, device = settings.batch_size, self.model.device
        for _, numbers in self.world.deal(
            self.model.fits.batches("encoding", size, len(files), device, self.world.size)
        ):
            batch = files[numbers.start : numbers.stop]
            pixels = np.stack([read_picture(path, self.model.picture_size, origin) for path, origin in batch])
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
            mine[numbers.start] = self.model.encode_images(images).cpu()
            self.advance(len(batch) * self.world.size)
        latents = torch.cat(self.world.exchange(mine)).to(self.model.device)
        return [pair.prompt for pair in self._drawn for _ in pair.pictures], Rollout(latents)

    def scores(self) -> dict[str, Tensor]:
        values = [score for pair in self._drawn for score in pair.scores]
        return {GIVEN: torch.tensor(values, dtype=torch.float64)}

    def metrics(self, rollout: Rollout, rewards: Tensor) -> dict[str, float | None]:
        return {"diversity": None}


class DraftSource(Source):
    """Draws `rollout.drafts` cheap drafts for each image, scores them, and draws each prompt's extremes again in full.

    After Sol-RL, whose drafts are of a lower precision; these take fewer steps. Drafts and their images start from
    the same noise, so that what drafts score says something of what images will.
    """

    def __init__(self, source: PolicySource) -> None:
        self.source, self.config, self.weights = source, source.config, source.weights
        self._drafted = torch.empty(0)  # scores of the drafts that were drawn again, [groups, kept]

    def draw(self, iteration: int) -> tuple[list[str], Rollout]:
        source, settings = self.source, self.source.config.rollout
        drafts = settings.images_per_prompt * settings.drafts
        prompts = source.prompts_of(iteration, drafts)
        source.draw_some(iteration, prompts, settings.drafting_steps)
        groups = torch.arange(settings.prompts_per_iteration).repeat_interleave(drafts)
        rewards = source.rewards(groups)[0].view(-1, drafts)
        chosen = extremes(rewards, settings.images_per_prompt)
        self._drafted = rewards.gather(1, chosen)
        noises = (chosen + drafts * torch.arange(len(chosen)).unsqueeze(1)).flatten().tolist()
        prompts = [prompts[i] for i in noises]
        return prompts, source.joined(source.draw_some(iteration, prompts, settings.num_inference_steps, noises))

    def scores(self) -> dict[str, Tensor]:
        return self.source.scores()

    def metrics(self, rollout: Rollout, rewards: Tensor) -> dict[str, float | None]:
        agreement = rank_agreement(self._drafted, rewards.view_as(self._drafted))
        return {**self.source.metrics(rollout, rewards), "drafts/rank_agreement": agreement}


def source_of(
    config: Config,
    model: FlowModel,
    policy: Policy,
    method: Method,
    prompts: PromptSet,
    pairs: Sequence[Pair] | None,
    scorer: Scorer,
    advance: Callable[[int], None],
    world: World,
) -> Source:
    """What a run's settings want to learn from."""
    if pairs is not None:
        return PairSource(config, model, pairs, advance, world)
    source = PolicySource(config, model, policy, method, prompts, scorer, advance, world)
    if config.rollout.drafted:
        return DraftSource(source)
    return AheadSource(source) if config.rollout.ahead else source
