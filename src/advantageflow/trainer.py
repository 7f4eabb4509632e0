"""Algorithm 1 of AdvantageFlow (arXiv 2605.26013), and every other method of the same six verbs:

    prompts -> roll out -> reward -> advantage -> learn -> refresh the rollout policy

The loop departs from the paper in:
    1. an iteration may take several optimizer steps, each on an equal part of its images (`learn.optimizer_steps`);
    2. an image may be noised at several times in one step (`learn.t_draws`), as in DiffusionNFT's code;
    3. a reverse-process objective (Flow-GRPO) learns from the recorded SDE transitions instead of noised images;
    4. an average of the learner's weights is kept for evaluation and export, as in DiffusionNFT's code.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advantageflow.advantages import combine_rewards, group_advantages, zero_variance_groups
from advantageflow.config import Config, ConfigError
from advantageflow.environment import peak_memory
from advantageflow.errors import NonFiniteError, shown
from advantageflow.evaluation import Evaluation
from advantageflow.held_out import HeldOut
from advantageflow.keeper import Keeper
from advantageflow.learning import Terms, batches, by_sign, draw_steps, draw_times, forward_terms, reverse_terms
from advantageflow.metrics import MetricsWriter, learning_metrics, norm_metrics, reward_metrics
from advantageflow.models.base import FlowModel
from advantageflow.objectives import OBJECTIVES, FlowGRPO
from advantageflow.optimizers import build_optimizer, rate, set_rate
from advantageflow.policy import LORA_TARGETS, Policy, Role, average_decay, rollout_decay
from advantageflow.progress import Display
from advantageflow.prompts import PromptSet
from advantageflow.report.grids import before_and_after, labelled_grid
from advantageflow.rewards import Reward
from advantageflow.rewards.scoring import Scorer
from advantageflow.rollout import Samples, join, sample_batches
from advantageflow.run_directory import RunDirectory
from advantageflow.seeding import Stream, address_seed, generator
from advantageflow.soundness import check_step, sizes
from advantageflow.watch import Watch, constant_rewards_advice


class Trainer:
    """A run: its model, policy, optimizer and folder.

    Args:
        rewards: name -> function of the rewards that are learned from, each of `config.reward_weights`.
        evaluated: label -> function of the rewards that are evaluated.
        display: shows progress.
        provenance: see `Keeper`.
        accept_changes: see `Keeper`.
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
        provenance: Mapping[str, Mapping[str, Any]] | None = None,
        accept_changes: bool = False,
    ) -> None:
        self.config, self.directory, self.model, self.display = config, directory, model, display
        self.train_prompts = train_prompts
        self.scorer = Scorer(rewards, attempts=config.scoring.attempts, timeout=config.scoring.timeout)
        self.held_out = HeldOut(config, directory, model, held_out_prompts, evaluated, display)
        self.objective = OBJECTIVES[config.objective.name](**config.objective.model_dump(exclude={"name"}))
        self.sigmas = model.sigmas(config.rollout.num_inference_steps)
        self.policy = Policy(
            model.transformer,
            lora_rank=config.policy.lora_rank,
            lora_alpha=config.policy.lora_alpha,
            targets=LORA_TARGETS[config.policy.lora_targets],
            seed=address_seed(Stream.POLICY, config.seed),
        )
        self.optimizer = build_optimizer(config.learn, self.policy.parameters)
        # half-precision gradients are too small for float16 unless scaled up
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=model.dtype == torch.float16)
        self.iteration = 0
        self.optimizer_step = 0
        self.before: dict[str, Any] | None = None
        self.evaluation: dict[str, Any] | None = None  # of the weights as they are now
        self.watch = Watch(config.rollout.prompts_per_iteration, config.run.constant_rewards_stop)
        weights = (self.policy, self.optimizer, self.scaler)
        self.keeper = Keeper(config, directory, model, *weights, display.warn, provenance or {}, accept_changes)
        self.seconds = {"sampling": 0.0, "scoring": 0.0, "learning": 0.0, "evaluating": 0.0}
        self.stopping = False

    def run(self) -> dict[str, Any] | None:
        """Train to the last iteration and write the summary; None if `stopping` was set before.

        Raises:
            NonFiniteError: a loss, gradient, weight or step is not sound; the last checkpoint is.
            ConfigError: rewards were constant for `run.constant_rewards_stop` iterations; a checkpoint was saved.
        """
        self._resume()
        writer = MetricsWriter(self.directory)
        if not self.done:
            self.directory.unfinish()
        if self.before is None or not self.held_out.knows_base:
            self.before = self.held_out.keep_base(self._evaluate("reference"))
            if self.iteration == 0:
                self._draw_samples("reference")
            self._save()
        while not self.done and not self.stopping:
            row = self.iterate()
            every = self.config.evaluation.every
            if every and self.iteration % every == 0 and not self.done:
                row |= self._evaluate_policy()
            writer.write(row)
            self.watch.see(row)
            self.display.iteration_done(row)
            if self.iteration % self.config.run.samples_every == 0:
                self._draw_samples()
            last = self.stopping or self.done or self.watch.stops
            if last or self.evaluation or self.keeper.is_time(self.iteration):
                self._save()
            if last or self.evaluation:
                self.directory.export(self.iteration)
            if self.evaluation:
                self.held_out.draw_curve(self.before, self.evaluation, self._training_seconds())
            for warning in self.watch.warnings():
                self.display.warn(warning)
            if self.watch.stops:
                raise ConfigError(f"{constant_rewards_advice(self.watch.constant)}; then continue the run")
        return self._finish() if self.done else None

    @property
    def done(self) -> bool:
        """Whether the run has spent its iterations or its time."""
        limit = self.config.run.max_seconds
        return self.iteration >= self.config.run.iterations or (limit is not None and self._training_seconds() >= limit)

    def iterate(self) -> dict[str, Any]:
        """One iteration of Algorithm 1; returns its metrics."""
        config, seconds = self.config, dict(self.seconds)
        count, group_size = config.rollout.prompts_per_iteration, config.rollout.images_per_prompt

        chosen = self.train_prompts.draw(self.iteration * count, count, config.seed)
        prompts = [self.train_prompts.texts[i] for i in chosen for _ in range(group_size)]
        group_ids = torch.arange(count).repeat_interleave(group_size)
        with self._timed("sampling", len(prompts)):
            samples = self._roll_out(prompts)
        with self._timed("scoring", len(prompts)):
            scores = self.scorer.results()
        weights = torch.tensor([config.reward_weights[name] for name in scores])
        rewards = combine_rewards(torch.stack(list(scores.values())), weights, group_ids, config.scoring.combine)
        advantages = group_advantages(rewards, group_ids, **config.advantage.model_dump())
        with self._timed("learning", len(prompts) * config.learn.t_draws):
            learned = self._learn(prompts, samples, advantages)
        self.policy.update_rollout(rollout_decay(config.policy.rollout_decay, self.optimizer_step))

        self.evaluation = None
        row = {
            "iteration": self.iteration,
            **reward_metrics(rewards, scores),
            "zero_variance_groups": zero_variance_groups(rewards, group_ids),
            "advantage/mean": advantages.mean().item(),
            "diversity": samples.x0.unflatten(0, (count, group_size)).var(1).mean().item(),
            **learned,
            **{
                f"seconds/{stage}": self.seconds[stage] - seconds[stage]
                for stage in ("sampling", "scoring", "learning")
            },
            "seconds/training": self._training_seconds(),
        }
        self.iteration += 1
        return row

    def _roll_out(self, prompts: list[str]) -> Samples:
        """Draw the iteration's images; each batch is scored while the next is drawn."""
        settings, metadata = self.config.rollout, self.train_prompts.by_text
        batches: list[Samples] = []
        with self.policy.acting_as("rollout") as transformer:
            for batch in sample_batches(
                self.model,
                transformer,
                prompts,
                stream=Stream.ROLLOUT,
                address=(self.config.seed, self.iteration),
                num_inference_steps=settings.num_inference_steps,
                solver=settings.solver,
                noise_level=settings.noise_level,
                guidance_scale=settings.guidance_scale,
                batch_size=settings.batch_size,
            ):
                start = len(batches) * settings.batch_size
                batches.append(batch)
                drawn = prompts[start : start + settings.batch_size]
                self.scorer.submit(self.model.decode(batch.x0).cpu(), drawn, [metadata[prompt] for prompt in drawn])
                self.display.advance(len(batch.x0))
        return join(batches)

    def _learn(self, prompts: list[str], samples: Samples, advantages: Tensor) -> dict[str, float | None]:
        """Take the iteration's optimizer steps, each on the mean loss of its part of the images."""
        learn, address = self.config.learn, (self.config.seed, self.iteration)
        order = torch.randperm(len(prompts), generator=generator(Stream.ORDER, *address)).tolist()
        terms_of = self._terms_of(prompts, samples, advantages)
        found: list[Terms] = []
        norms: dict[str, list[float]] = {"all": [], "positive": [], "negative": [], "zero": []}
        for part in range(learn.optimizer_steps):
            images = order[part :: learn.optimizer_steps]
            self.optimizer.zero_grad()
            set_rate(
                self.optimizer, rate(learn, self.optimizer_step, self.config.run.iterations * learn.optimizer_steps)
            )
            for sign, chosen in by_sign(images, advantages).items():
                before = self._gradient()
                cases = [(image, draw) for draw in range(learn.t_draws) for image in chosen]
                for batch in batches(cases, learn.batch_size):
                    terms = terms_of(batch)
                    found.append(terms.detached())
                    self._backward(terms, len(images) * learn.t_draws, prompts)
                if chosen and before:
                    added = [now - then for now, then in zip(self._gradient(), before, strict=True)]
                    norms[sign].append(torch.nn.utils.get_total_norm(added).item() / self.scaler.get_scale())
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters, learn.max_grad_norm, foreach=True)
            if torch.isfinite(norm):
                norms["all"].append(norm.item())
            elif not self.scaler.is_enabled():
                raise NonFiniteError(f"the gradient norm is {norm.item()} in iteration {self.iteration}")
            sizes_before = sizes(self.policy.parameters)
            self.scaler.step(self.optimizer)  # skipped where the scale was too large; it is then lowered
            check_step(sizes_before, self.policy.parameters, self.policy.names, self.iteration)
            self.scaler.update()
            self.optimizer_step += 1
            self.policy.update_average(average_decay(self.optimizer_step, self.config.policy.average_decay))
        return {
            **learning_metrics(found, advantages),
            **norm_metrics(norms),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "skipped_steps": learn.optimizer_steps - len(norms["all"]),
        }

    def _backward(self, terms: Terms, count: int, prompts: list[str]) -> None:
        """Add the gradient of a batch's share in the mean loss over `count` cases."""
        loss = torch.stack(list(terms.terms.values())).sum(0)
        self._check(loss, terms, prompts)
        self.scaler.scale(loss.sum() / count).backward()
        self.display.advance(len(loss))

    def _gradient(self) -> list[Tensor]:
        """A copy of the adapter's gradient so far; empty where all weights are trained, since it would be as large."""
        if not self.policy.is_lora:
            return []
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.policy.parameters]

    def _terms_of(self, prompts: list[str], samples: Samples, advantages: Tensor) -> Any:
        """What the objective sees of a batch of cases: fresh noise, or recorded transitions."""
        learn, address = self.config.learn, (self.config.seed, self.iteration)
        if isinstance(self.objective, FlowGRPO):
            transitions = min(learn.transitions or len(self.sigmas), len(self.sigmas) - 2)
            steps = draw_steps(len(prompts), learn.t_draws, transitions, address)
            noise_level = self.config.rollout.noise_level
            see = partial(reverse_terms, steps=steps, noise_level=noise_level, sigmas=self.sigmas)
            return lambda cases: see(self.model, self.policy, self.objective, samples, prompts, advantages, cases)
        times = draw_times(learn.t_distribution, len(prompts), learn.t_draws, self.sigmas, address)
        renoise = partial(forward_terms, times=times, address=address)
        return lambda cases: renoise(self.model, self.policy, self.objective, samples, prompts, advantages, cases)

    def _check(self, loss: Tensor, terms: Terms, prompts: list[str]) -> None:
        bad = (~torch.isfinite(loss.detach())).nonzero().flatten().tolist()
        if bad:
            image = terms.images[bad[0]]
            values = {name: value[bad[0]].item() for name, value in terms.terms.items()}
            raise NonFiniteError(
                f"the loss of sample {image} (prompt {shown(prompts[image])}) is {loss[bad[0]].item()} in iteration "
                f"{self.iteration}: {values}; lower learn.learning_rate, then continue from the last checkpoint"
            )

    def _evaluate(self, role: Role, shown: bool = False) -> Evaluation:
        """Of the held-out prompts, or of those whose pictures are shown."""
        settings = self.config.evaluation
        count = settings.number_shown if shown else settings.num_images
        with self._timed("evaluating", count), self.policy.acting_as(role) as transformer:
            return self.held_out.evaluate(transformer, shown)

    def _evaluate_policy(self) -> dict[str, Any]:
        """What a row holds of an evaluation."""
        found = self.held_out.compare(self._evaluate("average"), self.iteration)
        self.evaluation = found["evaluation"]
        return found

    def _draw_samples(self, role: Role = "average") -> Evaluation:
        drawn = self._evaluate(role, shown=True)
        labelled_grid(drawn).save(self.directory.samples / f"{self.iteration:06d}.png")
        self.directory.write_samples(self.iteration, drawn)
        return drawn

    def _finish(self) -> dict[str, Any]:
        found = self._evaluate_policy()
        first, last = self._evaluate("reference", shown=True), self._draw_samples()
        before_and_after(first, last).save(self.directory.samples / "before_after.png")
        self._save()
        self.directory.export(self.iteration)
        summary = {
            "before": self.before,
            "after": found["evaluation"],
            "difference": found["difference"],
            "iterations": self.iteration,
            "seconds": {**self.seconds, "training": self._training_seconds()},
            "peak_memory": peak_memory(self.model.device),
        }
        self.held_out.draw_curve(self.before, found["evaluation"], self._training_seconds())
        self.directory.write_summary(summary)
        return summary

    def _training_seconds(self) -> float:
        return self.seconds["sampling"] + self.seconds["scoring"] + self.seconds["learning"]

    @contextmanager
    def _timed(self, stage: str, total: int) -> Iterator[None]:
        self.display.stage(stage, total)
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        self.seconds[stage] += took
        self.display.stage_done(stage, total, took)

    def _save(self) -> None:
        record = {
            "iteration": self.iteration,
            "optimizer_step": self.optimizer_step,
            "before": self.before,
            "evaluation": self.evaluation,
            "seconds": self.seconds,
        }
        self.keeper.save(record, self.watch.collapse)

    def _resume(self) -> None:
        record = self.keeper.resume()
        if record is not None:
            self.iteration, self.optimizer_step = record["iteration"], record["optimizer_step"]
            self.before, self.evaluation = record["before"], record.get("evaluation")
            self.seconds = record["seconds"]
            self.display.resumed(self.iteration)
        self.directory.keep_metrics(self.iteration)
        self.watch.restore(self.directory.metrics())
