"""Algorithm 1 of AdvantageFlow (arXiv 2605.26013), and every other method of the same six verbs:

    prompts -> roll out -> reward -> advantage -> learn -> refresh the rollout policy

The loop departs from the paper in:
    1. an iteration may take several optimizer steps, each on an equal part of its images (`learn.optimizer_steps`);
    2. an image may be noised at several times in one step (`learn.t_draws`), as in the code of arXiv 2509.16117;
    3. a method of another family learns from what its rollout records instead of noised images (see `learning`);
    4. pairs on disk may stand in for what the policy draws and the rewards say (`sources`);
    5. an average of the learner's weights is kept for evaluation and export, as in that code.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from advantageflow.advantages import zero_variance_groups
from advantageflow.config import Config, ConfigError
from advantageflow.config_rules import check_path
from advantageflow.decay import decay_of
from advantageflow.environment import peak_memory
from advantageflow.flow import RECTIFIED
from advantageflow.learner import Learner
from advantageflow.learning import Scored
from advantageflow.models.base import FlowModel
from advantageflow.objectives.base import Method
from advantageflow.pairs import Pair
from advantageflow.policy import AHEAD, Policy
from advantageflow.prompts import PromptSet
from advantageflow.rewards import Reward
from advantageflow.rewards.scoring import Scorer
from advantageflow.run.directory import RunDirectory
from advantageflow.run.held_out import HeldOut
from advantageflow.run.keeper import Copy, Keeper
from advantageflow.run.metrics import reward_metrics
from advantageflow.run.pace import TRAINING
from advantageflow.run.progress import Display
from advantageflow.run.tracking import Tracking
from advantageflow.run.watch import Watch, constant_rewards_advice
from advantageflow.seeding import Stream, address_seed
from advantageflow.sources import source_of
from advantageflow.world import AskedToStopError, World


class Trainer:
    """A run: its model, policy, optimizer and folder.

    Args:
        rewards: name -> function of the rewards that are learned from, each of `config.reward_weights`.
        evaluated: label -> function of the rewards that are evaluated.
        pairs: to learn from in place of images that the policy draws.
        display: shows progress.
        provenance: see `Keeper`.
        accept_changes: see `Keeper`.
        world: the processes that share the run; by default there is no other.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        model: FlowModel,
        *,
        train_prompts: PromptSet,
        held_out_prompts: PromptSet,
        rewards: Mapping[str, Reward],
        evaluated: Mapping[str, Reward],
        display: Display,
        pairs: Sequence[Pair] | None = None,
        provenance: Mapping[str, Mapping[str, Any]] | None = None,
        accept_changes: bool = False,
        world: World | None = None,
    ) -> None:
        self.config, self.directory, self.model, self.display = config, directory, model, display
        self.world, advance = world or World(), display.advance
        self.method: Method = config.objective
        check_path(self.method, model.family, model.path is RECTIFIED)
        settings, seed = config.policy, address_seed(Stream.POLICY, config.seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            critic = self.method.critic(model.latent_channels)
        self.policy = Policy(
            model.transformer,
            lora_rank=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            targets=model.adapted(settings.lora_targets),
            seed=seed,
            slow=(*self.method.slow, *[AHEAD] * config.rollout.ahead),
            critic=critic.to(model.device) if critic is not None else None,
        )
        self.held_out = HeldOut(
            config, directory, model, self.policy, held_out_prompts, evaluated, display, self._timed, self.world
        )
        self.decays = {"rollout": decay_of(settings.rollout_decay, settings.rollout_every), **self.method.slow}
        self.learner = Learner(config, model, self.policy, self.method, rewards, advance, self.world)
        limits = config.scoring
        self.scorer = Scorer(rewards, attempts=limits.attempts, timeout=limits.timeout, world=self.world)
        self.source = source_of(
            config, model, self.policy, self.method, train_prompts, pairs, self.scorer, advance, self.world
        )
        self.iteration = 0
        self.evaluation: dict[str, Any] | None = None  # of the weights as they are now
        self.watch, self.tracking = Watch(config), Tracking(config, directory, display)
        state = (model, self.policy, self.learner.optimizer, self.learner.scaler)
        self.keeper = Keeper(config, directory, *state, display.warn, provenance or {}, accept_changes, self.world)
        self.seconds = dict.fromkeys((*TRAINING, "evaluating"), 0.0)
        self._begun: tuple[dict[str, Any], Copy | None] | None = None

    def run(self) -> dict[str, Any] | None:
        """Train to the last iteration and write the summary; None if the world was asked to stop before.

        An iteration that was stopped is undone: what is saved is the run after the last whole one.

        Raises:
            NonFiniteError: a loss, gradient, weight or step is not sound, or too many steps were spikes; the last
                checkpoint is sound.
            ConfigError: rewards were constant for `run.constant_rewards_stop` iterations; a checkpoint was saved.
            LostError: another process of the run has ended.
        """
        with self.tracking:
            try:
                self._resume()
                return self._run()
            except AskedToStopError:
                self._undo()
                if self.keeper.saved != self.iteration:
                    self._save()
                self.directory.export(self.iteration)
                self.world.share(lambda: None)  # no process ends before the first has saved
                return None

    def _run(self) -> dict[str, Any]:
        self.tracking.begin(self.iteration - self.done, self.watch.rows, self.held_out.before)
        if not self.done:
            self.directory.unfinish()
        while not self.done:
            self._begin()
            row = self.iterate()
            if self.config.evaluation.is_due(self.iteration) and not self.done:
                row |= self._evaluate()
            self._begun = None
            self.directory.append_metrics(row)
            self.watch.see(row)
            self.display.iteration_done(row)
            if self.iteration % self.config.run.samples_every == 0 and not self.done:
                self._draw_samples()
            if not self.done:
                self.tracking.tell(self.iteration, self.held_out.before)
            last = self.done or self.watch.stops
            if last or self.evaluation or self.keeper.is_time(self.iteration):
                self._save()
            if last or self.evaluation:
                self.directory.export(self.iteration)
            if self.evaluation:
                self.held_out.draw_curve(self.evaluation, self._training_seconds())
            for warning in self.watch.warnings():
                self.display.warn(warning)
            if self.watch.stops:
                raise ConfigError(f"{constant_rewards_advice(self.watch.constant)}; then continue the run")
        return self._finish()

    @property
    def done(self) -> bool:
        """Whether the run has spent its iterations or its time."""
        limit = self.config.run.max_seconds
        return self.iteration >= self.config.run.iterations or (limit is not None and self._training_seconds() >= limit)

    def iterate(self) -> dict[str, Any]:
        """One iteration of Algorithm 1; returns its metrics."""
        config, seconds, settings = self.config, dict(self.seconds), self.config.rollout
        groups = torch.arange(settings.prompts_per_iteration).repeat_interleave(settings.images_per_prompt)
        with self._timed("sampling", len(groups)):
            prompts, rollout = self.source.draw(self.iteration)
        with self._timed("scoring", len(groups)):
            rewards, scores, probes = self.source.rewards(groups)
        advantages = self.method.credit(rewards, groups, rollout.scored(probes), config.advantage.model_dump())
        scored = Scored(prompts, rollout, rewards, groups, advantages, (config.seed, self.iteration))
        with self._timed("learning", len(prompts) * config.learn.t_draws):
            probed = self.learner.probe(scored)
            learned = self.learner.learn(scored)
        stepped = learned["spiked_steps"] != config.learn.optimizer_steps
        for role, decay in self.decays.items():
            # a copy that follows now and then is due for the iterations before, too
            if (self.iteration + 1) % decay.every == 0 and (stepped or decay.every > 1):
                self.policy.update(role, decay(self.learner.optimizer_step))

        self.evaluation = None
        self.held_out.forget_pictures()
        self.seconds = self.world.share(lambda: self.seconds)  # all go by the first one's clock
        row = {
            "iteration": self.iteration,
            **reward_metrics(rewards, scores),
            "zero_variance_groups": zero_variance_groups(rewards, groups),
            "advantage/mean": advantages.mean().item(),
            **self.source.metrics(rollout, rewards),
            **learned,
            **probed,
            **{f"seconds/{stage}": self.seconds[stage] - seconds[stage] for stage in TRAINING},
            "seconds/training": self._training_seconds(),
        }
        self.iteration += 1
        return row

    def _begin(self) -> None:
        """Remember the run before an iteration; its weights, where one can be stopped after an optimizer step."""
        config = self.config
        torn = config.learn.optimizer_steps > 1 or config.rollout.ahead or config.evaluation.is_due(self.iteration + 1)
        self._begun = self._record(), self.keeper.copy() if torn else None

    def _undo(self) -> None:
        """Be again as before an iteration that was stopped."""
        if self._begun is None:
            return
        (record, weights), self._begun = self._begun, None
        self._restore({**record, "before": self.held_out.before})  # the base model is what it was
        if weights is not None:
            self.keeper.put_back(weights)

    def _evaluate(self) -> dict[str, Any]:
        """What a row holds of an evaluation."""
        found = self.held_out.compare(self.iteration)
        self.evaluation = found["evaluation"]
        return found

    def _draw_samples(self) -> None:
        self.directory.write_samples(self.iteration, self.held_out.pictures("average"))

    def _finish(self) -> dict[str, Any]:
        found = self._evaluate()
        self._draw_samples()
        self.directory.write_before_after(self.held_out.pictures("reference"), self.held_out.pictures("average"))
        self._save()
        self.directory.export(self.iteration)
        summary = {
            "before": self.held_out.before,
            "after": found["evaluation"],
            "difference": found["difference"],
            "iterations": self.iteration,
            "seconds": {**self.seconds, "training": self._training_seconds()},
            "peak_memory": peak_memory(self.model.device),
            "batch_size": self.model.fits.agreed(self.world),
        }
        self.held_out.draw_curve(found["evaluation"], self._training_seconds())
        self.directory.write_summary(summary)
        self.tracking.tell(self.iteration, self.held_out.before, found)
        return summary

    def _training_seconds(self) -> float:
        return sum(self.seconds[stage] for stage in TRAINING)

    @contextmanager
    def _timed(self, stage: str, total: int) -> Iterator[None]:
        self.display.stage(stage, total)
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        self.seconds[stage] += took
        self.display.stage_done(stage, total, took)

    def _record(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "optimizer_step": self.learner.optimizer_step,
            "spikes": self.learner.spikes.state(),
            "before": self.held_out.before,
            "evaluation": self.evaluation,
            "seconds": dict(self.seconds),
        }

    def _restore(self, record: Mapping[str, Any]) -> None:
        self.iteration, self.learner.optimizer_step = record["iteration"], record["optimizer_step"]
        self.held_out.before, self.evaluation = record["before"], record.get("evaluation")
        self.seconds = record["seconds"]
        self.learner.spikes.load(record.get("spikes", {}))

    def _save(self) -> None:
        self.keeper.save(self._record(), self.watch.collapse)

    def _resume(self) -> None:
        record = self.keeper.resume()
        if record is not None:
            self._restore(record)
            self.display.resumed(self.iteration, self.held_out.before is not None)
        self.directory.keep_metrics(self.iteration)
        self.watch.restore(self.world.share(self.directory.metrics))
        drawn = self.iteration % self.config.run.samples_every == 0
        if record is not None and drawn and not self.world.share(lambda: self.directory.has_samples(self.iteration)):
            self._draw_samples()  # it was stopped before
        if record is None:
            self._save()
