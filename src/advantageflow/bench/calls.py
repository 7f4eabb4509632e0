"""Calls of the transformer: those that a recipe needs, those that an iteration makes, and either of them bare."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from statistics import median

import torch
from torch import Tensor, nn

from advantageflow.config import Config
from advantageflow.errors import out_of_memory
from advantageflow.models.base import Conditioning
from advantageflow.plan import calls
from advantageflow.policy import AHEAD, Role
from advantageflow.trainer import Trainer

SHORTEST = 0.05  # seconds that a batch size is tried for
LOOKS = 3  # at each batch size


@dataclass(frozen=True)
class Call:
    """The transformer once, with the weights of a role.

    gradient: whether a backward pass follows; through: as far as the latents.
    images: how many at once; shape: of the latents of one; tokens: of text.
    """

    role: Role
    gradient: bool
    through: bool
    images: int
    shape: tuple[int, ...]
    tokens: int


@dataclass(frozen=True)
class Inputs:
    """Of a call: latents [images, ...], what it is told of times [images, ...], and prompts."""

    x_t: Tensor
    timestep: Tensor
    prompts: Conditioning

    def of(self, images: int) -> Inputs:
        """So many, of these in turn."""
        rows = torch.arange(images, device=self.x_t.device) % len(self.x_t)
        pooled, mask = (part if part is None else part[rows] for part in (self.prompts.pooled, self.prompts.mask))
        return Inputs(self.x_t[rows], self.timestep[rows], Conditioning(self.prompts.tokens[rows], pooled, mask))


@dataclass
class Calls:
    """The calls of one iteration in their order, and an example of the inputs of each kind."""

    made: list[Call] = field(default_factory=list)
    inputs: dict[Call, Inputs] = field(default_factory=dict)

    def by_role(self) -> dict[Role, int]:
        """Images that went through the transformer as each role."""
        found: Counter[Role] = Counter()
        for call in self.made:
            found[call.role] += call.images
        return dict(sorted(found.items()))

    def example(self, gradient: bool) -> Inputs | None:
        """The inputs of the largest call of a kind; None where none was made."""
        found = [call for call in self.inputs if call.gradient == gradient]
        return self.inputs[max(found, key=lambda call: call.images)] if found else None


def needed(config: Config, iteration: int) -> dict[Role, int]:
    """Images that an iteration has to put through the transformer, by role: the closed form that a plan has."""
    sampling, learning = calls(config, iteration)
    found = Counter(learning)
    found[AHEAD if config.rollout.ahead else "rollout"] += sampling
    return {role: count for role, count in sorted(found.items()) if count}


@contextmanager
def recorded(trainer: Trainer) -> Iterator[Calls]:
    """Note the calls that are made in this block."""
    found, policy, model = Calls(), trainer.policy, trainer.model
    acting_as, predict = policy.acting_as, model.predict
    acting: list[Role] = ["learner"]

    @contextmanager
    def noting_role(role: Role) -> Iterator[nn.Module]:
        acting.append(role)
        try:
            with acting_as(role) as transformer:
                yield transformer
        finally:
            acting.pop()

    def noting(transformer: nn.Module, x_t: Tensor, timestep: Tensor, prompt: Conditioning) -> Tensor:
        gradient = torch.is_grad_enabled()
        shape, tokens = tuple(x_t.shape[1:]), prompt.tokens.shape[1]
        call = Call(acting[-1], gradient, gradient and x_t.requires_grad, len(x_t), shape, tokens)
        found.made.append(call)
        found.inputs.setdefault(call, Inputs(x_t.detach(), timestep, prompt))
        return predict(transformer, x_t, timestep, prompt)

    policy.acting_as, model.predict = noting_role, noting  # type: ignore[method-assign]
    try:
        yield found
    finally:
        del policy.acting_as, model.predict


@dataclass(frozen=True)
class Spent:
    """Seconds of the clock, and of the processors: those of all threads together."""

    wall: float
    cpu: float

    def truer(self, trainer: Trainer) -> float:
        """Of one thread on a CPU what the processor spent, which other work on a busy machine does not lengthen."""
        return self.cpu if trainer.model.device.type == "cpu" and torch.get_num_threads() == 1 else self.wall


def replay(trainer: Trainer, found: Calls) -> Spent:
    """What an iteration's calls take with nothing around them, backward passes included."""

    def run() -> None:
        for role, made in groupby(found.made, key=lambda call: call.role):
            with trainer.policy.acting_as(role) as transformer:
                for call in made:
                    bare(trainer, transformer, found.inputs[call], call.gradient, call.through)

    return spent(trainer, run)


def floor(trainer: Trainer, wanted: Mapping[Role, int], found: Calls, sizes: Mapping[bool, int]) -> Spent:
    """What so many images of each role take, in batches of the size for calls without and with gradient."""

    def run() -> None:
        for role in wanted:
            gradient = role == "learner"
            with trainer.policy.acting_as(role) as transformer:
                for batch in batches[role]:
                    bare(trainer, transformer, inputs[gradient, batch], gradient)

    batches = {role: _batches(count, sizes[role == "learner"]) for role, count in wanted.items()}
    kinds = {(role == "learner", batch) for role, found_batches in batches.items() for batch in found_batches}
    inputs = {(gradient, batch): _example(found, gradient).of(batch) for gradient, batch in kinds}
    return spent(trainer, run)


def best_sizes(trainer: Trainer, found: Calls, most: int) -> dict[bool, dict[int, float]]:
    """Seconds of an image by the batch size, of calls without and with gradient, where there are such.

    Args:
        most: of the sizes, which are powers of two, and this.
    """
    sizes = [*(2**power for power in range(most.bit_length()) if 2**power < most), most]
    kinds = {gradient: example for gradient in (False, True) if (example := found.example(gradient)) is not None}
    left = {gradient: list(sizes) for gradient in kinds}
    tried = {gradient: dict[int, list[float]]() for gradient in kinds}
    for _ in range(LOOKS):
        for gradient, example in kinds.items():
            _look(trainer, example, gradient, left[gradient], tried[gradient])
    return {gradient: {size: min(costs) for size, costs in of.items()} for gradient, of in tried.items()}


def _look(trainer: Trainer, example: Inputs, gradient: bool, sizes: list[int], costs: dict[int, list[float]]) -> None:
    """Note what an image costs at each size; where memory runs out, the larger ones are left out from now on."""
    role = "learner" if gradient else "rollout"
    for size in list(sizes):
        inputs, seconds, count = example.of(size), 0.0, 0
        try:
            with trainer.policy.acting_as(role) as transformer:
                while seconds < SHORTEST:
                    seconds += spent(trainer, partial(bare, trainer, transformer, inputs, gradient)).truer(trainer)
                    count += size
        except Exception as error:
            if not costs or not out_of_memory(error):
                raise
            del sizes[sizes.index(size) :]
            return
        costs.setdefault(size, []).append(seconds / count)


def spent(trainer: Trainer, work: Callable[[], object]) -> Spent:
    """What work takes, that of an accelerator included."""
    wait(trainer.model.device)
    start, begun = time.perf_counter(), time.process_time()
    work()
    wait(trainer.model.device)
    return Spent(time.perf_counter() - start, time.process_time() - begun)


def wait(device: torch.device) -> None:
    """Until an accelerator has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def best(costs: Mapping[int, float]) -> int:
    """The batch size of the cheapest image."""
    return min(costs, key=lambda size: costs[size])


def middle(values: Sequence[float]) -> float:
    return float(median(values))


def _batches(count: int, size: int) -> list[int]:
    return [size] * (count // size) + ([count % size] if count % size else [])


def _example(found: Calls, gradient: bool) -> Inputs:
    example = found.example(gradient) or found.example(not gradient)
    assert example is not None  # every iteration calls the transformer
    return example


def bare(trainer: Trainer, transformer: nn.Module, inputs: Inputs, gradient: bool, through: bool = False) -> None:
    """One call, and its backward pass."""
    x_t = inputs.x_t.detach().requires_grad_(through)
    with torch.set_grad_enabled(gradient):
        velocity = trainer.model._predict(transformer, x_t, inputs.timestep, inputs.prompts)
    if gradient:
        velocity.backward(torch.ones_like(velocity))
        for parameter in trainer.policy.parameters:
            parameter.grad = None
