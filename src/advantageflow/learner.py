"""Optimizer steps on an iteration's images: each on the mean loss of an equal part of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from advantageflow.config import Config
from advantageflow.errors import NonFiniteError, shown
from advantageflow.learning import FAMILIES, Family, Scored, Terms
from advantageflow.learning.base import Case
from advantageflow.models.base import FlowModel
from advantageflow.objectives.base import Method, total
from advantageflow.optimizers import build_optimizer, rate, set_rate
from advantageflow.policy import Policy, average_decay
from advantageflow.rewards import Reward
from advantageflow.run.metrics import learning_metrics
from advantageflow.run.soundness import check_step, sizes
from advantageflow.run.spikes import Spikes
from advantageflow.seeding import Stream, generator
from advantageflow.world import World

SIGNS = {"positive": 1, "negative": -1}


class Learner:
    """The optimizer of a policy, and the method that it learns by.

    Args:
        rewards: name -> function, for methods that learn from a reward's gradient.
        advance: told how many cases were learned from, were all processes as far as this one.
        world: the processes that share the work; by default there is no other.
    """

    def __init__(
        self,
        config: Config,
        model: FlowModel,
        policy: Policy,
        method: Method,
        rewards: Mapping[str, Reward],
        advance: Callable[[int], None],
        world: World | None = None,
    ) -> None:
        self.config, self.model, self.policy, self.method = config, model, policy, method
        self.rewards, self.advance, self.world = rewards, advance, world or World()
        self.optimizer = build_optimizer(config.learn, policy.parameters)
        # half-precision gradients are too small for float16 unless scaled up
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=model.dtype == torch.float16)
        self.optimizer_step = 0
        self.spikes = Spikes(config.learn.max_grad_norm_ratio, config.run.spikes_stop)
        plan, group = config.walk_plan(), config.rollout.images_per_prompt
        self._unit = config.undivided
        leaves = plan.leaves if plan else 1
        self._cases = method.taught(group) if method.whole_groups else leaves  # that are never parted

    def learn(self, scored: Scored) -> dict[str, float | None]:
        """Take the iteration's optimizer steps and return their metrics.

        Raises:
            NonFiniteError: a loss, a gradient or a step is not sound, or too many steps in a row were spikes.
            AskedToStopError: a process was asked to stop, before one of the steps.
        """
        if self.world.size > 1:
            weights = torch.stack(torch._foreach_norm(self.policy.parameters))
            self.world.check_same({"weights of norms": weights.tolist()})
        learn, family = self.config.learn, self._family(scored)
        found: list[Terms] = []
        norms: list[float] = []
        spikes: list[float] = []
        for images in self._parts(scored):
            self.optimizer.zero_grad()
            set_rate(
                self.optimizer, rate(learn, self.optimizer_step, self.config.run.iterations * learn.optimizer_steps)
            )
            cases = family.cases(images)
            terms = self._gradients(family, cases, len(cases))
            found += terms
            norm = self._unscaled_norm(scored.address[-1])
            taught = any(bool(part.advantages.any()) for part in terms)
            if math.isfinite(norm) and self.spikes.skip(norm, taught, scored.address[-1]):
                self.scaler.update()
                spikes.append(norm)
                continue
            self._step(scored.address[-1])
            norms += [norm] if math.isfinite(norm) else []
        return {
            **learning_metrics(found),
            "grad_norm": sum(norms) / len(norms) if norms else None,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "skipped_steps": learn.optimizer_steps - len(norms),
            "spiked_steps": len(spikes),  # of the skipped ones
            "spike_norm": max(spikes, default=None),
        }

    def probe(self, scored: Scored) -> dict[str, float | None]:
        """Norms of the gradients that cases of either sign of the advantage contribute, by one draw of each image.

        Nothing is learned from it. It is done every `run.probe_every` iterations; in between they are None.
        """
        every = self.config.run.probe_every
        if not every or scored.address[-1] % every:
            return {f"grad_norm/{name}_advantage": None for name in SIGNS}
        family = self._family(scored)
        cases = family.cases([*range(len(scored.prompts))])
        cases = cases[: max(len(cases) // self.config.learn.t_draws, 1)]
        signs = torch.sign(scored.advantages)
        found: dict[str, float | None] = {}
        for name, sign in SIGNS.items():
            self.optimizer.zero_grad()
            mine = [case for case in cases if signs[case[0]] == sign]
            self._gradients(family, cases if self.method.whole_groups else mine, len(cases), sign)
            gradients = [p.grad for p in self.policy.parameters if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients).item() / self.scaler.get_scale() if mine else None
            found[f"grad_norm/{name}_advantage"] = norm
        self.optimizer.zero_grad()
        return found

    def _family(self, scored: Scored) -> Family:
        return FAMILIES[self.method.family](self.model, self.policy, self.method, self.config, self.rewards, scored)

    def _parts(self, scored: Scored) -> list[list[int]]:
        """The images of each optimizer step, in random order."""
        count, unit = len(scored.prompts) // self._unit, self._unit
        order = torch.randperm(count, generator=generator(Stream.ORDER, *scored.address)).tolist()
        steps = self.config.learn.optimizer_steps
        return [[unit * number + i for number in order[part::steps] for i in range(unit)] for part in range(steps)]

    def _gradients(self, family: Family, cases: list[Case], count: int, sign: int | None = None) -> list[Terms]:
        """Put the gradient of the summed loss of cases, over `count`, into the parameters.

        Batches are dealt to processes by their place, and their gradients are added in `learn.accumulate` and rounded
        once. A process that has not the memory for one cuts it.

        Args:
            sign: of the advantages that count; None is for all.

        Returns:
            What the formula gave for every batch.
        """
        parameters, mine = self.policy.parameters, dict[int, Terms]()
        # not every device has float64
        wide = torch.float32 if self.model.device.type == "mps" else getattr(torch, self.config.learn.accumulate)
        sums = [torch.zeros_like(parameter, dtype=wide) for parameter in parameters]
        alike = self.policy.alike(self.method.sees)
        touched: set[int] = set()  # an optimizer leaves parameters without gradient alone

        def look(numbers: range) -> Terms:
            self.optimizer.zero_grad()  # a batch that did not fit may have left a part
            terms = family.look(cases[numbers.start : numbers.stop], self.optimizer_step, alike)
            loss = total(terms.terms)
            self._check(loss, terms, family.scored)
            if sign is not None:
                loss = loss[(torch.sign(terms.advantages) == sign).to(loss.device)]
            self.scaler.scale(loss.sum() / count).backward()
            return terms.detached()

        fits, size = self.model.fits, self.config.learn.batch_size
        batches = fits.batches("learning", size, len(cases), self.model.device, self.world.size, self._cases)
        for numbers, terms in fits.dealt("learning", batches, look, self.world, self._cases):
            for index, parameter in enumerate(parameters):
                if parameter.grad is not None:
                    sums[index] += parameter.grad
                    touched.add(index)
                    parameter.grad = None
            mine[numbers.start] = terms
            if sign is None:
                self.advance(len(numbers) * self.world.size)
        self.world.sum(sums)
        touched = set().union(*self.world.exchange({self.world.rank: touched}))
        for index, (parameter, gradient) in enumerate(zip(parameters, sums, strict=True)):
            parameter.grad = gradient.to(parameter.dtype) if index in touched else None
        return self.world.exchange(mine)

    def _check(self, loss: Tensor, terms: Terms, scored: Scored) -> None:
        """Raise NonFiniteError, naming the image, unless all losses are finite."""
        bad = (~torch.isfinite(loss.detach())).nonzero().flatten().tolist()
        if bad:
            image = terms.images[bad[0]]
            values = {name: value[bad[0]].item() for name, value in terms.terms.items()}
            raise NonFiniteError(
                f"the loss of sample {image} (prompt {shown(scored.prompts[image])}) is {loss[bad[0]].item()} in "
                f"iteration {scored.address[-1]}: {values}; lower learn.learning_rate, then continue from the last "
                "checkpoint"
            )

    def _unscaled_norm(self, iteration: int) -> float:
        """The gradient's norm before it was clipped; only with a gradient scale, which may be too large, not finite."""
        self.scaler.unscale_(self.optimizer)
        most = self.config.learn.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters, most, foreach=True).item()
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise NonFiniteError(f"the gradient norm is {norm} in iteration {iteration}")
        return norm

    def _step(self, iteration: int) -> None:
        """One optimizer step by the clipped gradient."""
        parameters = self.policy.parameters
        before = sizes(parameters)
        self.scaler.step(self.optimizer)  # skipped where the scale was too large; it is then lowered
        check_step(before, parameters, self.policy.parameter_names, iteration)
        self.scaler.update()
        self.optimizer_step += 1
        self.policy.update("average", average_decay(self.optimizer_step, self.config.policy.average_decay))
