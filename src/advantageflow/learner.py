"""Optimizer steps on an iteration's images: each on the mean loss of an equal part of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

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
from advantageflow.seeding import Stream, generator

SIGNS = {"positive": 1, "negative": -1}


class Learner:
    """The optimizer of a policy, and the method that it learns by.

    Args:
        rewards: name -> function, for methods that learn from a reward's gradient.
        advance: told the number of cases that were learned from.
    """

    def __init__(
        self,
        config: Config,
        model: FlowModel,
        policy: Policy,
        method: Method,
        rewards: Mapping[str, Reward],
        advance: Callable[[int], None],
    ) -> None:
        self.config, self.model, self.policy, self.method = config, model, policy, method
        self.rewards, self.advance = rewards, advance
        self.optimizer = build_optimizer(config.learn, policy.parameters)
        # half-precision gradients are too small for float16 unless scaled up
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=model.dtype == torch.float16)
        self.optimizer_step = 0

    def learn(self, scored: Scored) -> dict[str, float | None]:
        """Take the iteration's optimizer steps and return their metrics.

        Raises:
            NonFiniteError: a loss, a gradient or a step is not sound.
        """
        learn, family = self.config.learn, self._family(scored)
        found: list[Terms] = []
        norms: list[float] = []
        for images in self._parts(scored):
            self.optimizer.zero_grad()
            set_rate(
                self.optimizer, rate(learn, self.optimizer_step, self.config.run.iterations * learn.optimizer_steps)
            )
            cases = family.cases(images)
            for batch in self._batches(cases):
                terms = family.look(batch, self.optimizer_step)
                self._backward(terms, len(cases), scored)
                found.append(terms.detached())
                self.advance(len(batch))
            norms += self._step(scored.address[-1])
        return {
            **learning_metrics(found),
            "grad_norm": sum(norms) / len(norms) if norms else None,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "skipped_steps": learn.optimizer_steps - len(norms),
        }

    def probe(self, scored: Scored) -> dict[str, float | None]:
        """Norms of the gradients that cases of either sign of the advantage contribute, by one draw of each image.

        Nothing is learned from it.
        """
        family = self._family(scored)
        cases = family.cases([*range(len(scored.prompts))])
        cases = cases[: max(len(cases) // self.config.learn.t_draws, 1)]
        signs = torch.sign(scored.advantages)
        found: dict[str, float | None] = {}
        for name, sign in SIGNS.items():
            self.optimizer.zero_grad()
            mine = [case for case in cases if signs[case[0]] == sign]
            for batch in self._batches(cases if self.method.whole_groups else mine):
                terms = family.look(batch, self.optimizer_step)
                chosen = (torch.sign(terms.advantages) == sign).to(self.model.device)
                if chosen.any():
                    self.scaler.scale(total(terms.terms)[chosen].sum() / len(cases)).backward()
            gradients = [p.grad for p in self.policy.parameters if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients).item() / self.scaler.get_scale() if mine else None
            found[f"grad_norm/{name}_advantage"] = norm
        self.optimizer.zero_grad()
        return found

    def _family(self, scored: Scored) -> Family:
        return FAMILIES[self.method.family](self.model, self.policy, self.method, self.config, self.rewards, scored)

    @property
    def _unit(self) -> int:
        """How many images, one after the other, are never parted: of a coupled group, or of a tree."""
        rollout = self.config.rollout
        plan = self.method.plan(0, rollout.num_inference_steps, rollout.noise_level, self.config.learn.transitions)
        return rollout.images_per_prompt if self.method.whole_groups else plan.leaves if plan else 1

    def _parts(self, scored: Scored) -> list[list[int]]:
        """The images of each optimizer step, in random order."""
        count, unit = len(scored.prompts) // self._unit, self._unit
        order = torch.randperm(count, generator=generator(Stream.ORDER, *scored.address)).tolist()
        steps = self.config.learn.optimizer_steps
        return [[unit * number + i for number in order[part::steps] for i in range(unit)] for part in range(steps)]

    def _batches(self, cases: list[Case]) -> list[list[Case]]:
        size = max(self.config.learn.batch_size // self._unit, 1) * self._unit
        return [cases[start : start + size] for start in range(0, len(cases), size)]

    def _backward(self, terms: Terms, count: int, scored: Scored) -> None:
        """Add the gradient of a batch's share in the mean loss over `count` cases."""
        loss = total(terms.terms)
        bad = (~torch.isfinite(loss.detach())).nonzero().flatten().tolist()
        if bad:
            image = terms.images[bad[0]]
            values = {name: value[bad[0]].item() for name, value in terms.terms.items()}
            raise NonFiniteError(
                f"the loss of sample {image} (prompt {shown(scored.prompts[image])}) is {loss[bad[0]].item()} in "
                f"iteration {scored.address[-1]}: {values}; lower learn.learning_rate, then continue from the last "
                "checkpoint"
            )
        self.scaler.scale(loss.sum() / count).backward()

    def _step(self, iteration: int) -> list[float]:
        """One optimizer step; the gradient's norm, or nothing where the step was skipped."""
        parameters = self.policy.parameters
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.learn.max_grad_norm, foreach=True)
        sound = bool(torch.isfinite(norm))
        if not sound and not self.scaler.is_enabled():
            raise NonFiniteError(f"the gradient norm is {norm.item()} in iteration {iteration}")
        before = sizes(parameters)
        self.scaler.step(self.optimizer)  # skipped where the scale was too large; it is then lowered
        check_step(before, parameters, self.policy.parameter_names, iteration)
        self.scaler.update()
        self.optimizer_step += 1
        self.policy.update("average", average_decay(self.optimizer_step, self.config.policy.average_decay))
        return [norm.item()] if sound else []
