"""From prompts to samples: a policy draws K images for each of L prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from advantageflow.errors import ConfigError
from advantageflow.fits import Size
from advantageflow.models.conditioning import Conditioning
from advantageflow.seeding import Stream, noise
from advantageflow.solvers import ODE_SOLVERS, Velocity, solve
from advantageflow.walk_plan import Plan
from advantageflow.walks import Edges, probe, walk
from advantageflow.world import World

if TYPE_CHECKING:
    from advantageflow.models.base import FlowModel

Selecting = Callable[[Velocity, Tensor, Tensor, range], Tensor]  # (velocity, noise, sigmas, numbers) -> images x0


@dataclass(frozen=True)
class Rollout:
    """Clean latents x0 [images, ...], and the recorded transitions that led to them, where a plan keeps any.

    probes: the latents of each of the plan's probes, [images, ...], until they are scored.
    """

    x0: Tensor
    edges: Edges | None = None
    probes: Sequence[Tensor] = ()

    def to(self, device: torch.device | str) -> Rollout:
        """The same on another device."""
        edges = self.edges.to(device) if self.edges is not None else None
        return Rollout(self.x0.to(device), edges, [latents.to(device) for latents in self.probes])

    def scored(self, probes: Tensor | None) -> Edges | None:
        """Its transitions, with the rewards of probes [images, probes]."""
        return replace(self.edges, probes=probes) if self.edges is not None else None

    @staticmethod
    def join(batches: Sequence[Rollout]) -> Rollout:
        """Several batches as one, without their probes."""
        x0 = torch.cat([batch.x0 for batch in batches])
        edges = [batch.edges for batch in batches if batch.edges is not None]
        return Rollout(x0, Edges.join(edges, [len(batch.x0) for batch in batches]) if edges else None)


def sample_batches(
    model: FlowModel,
    transformer: nn.Module,
    prompts: list[str],
    *,
    stream: Stream,
    address: tuple[int, ...],
    num_inference_steps: int,
    solver: str | Selecting,
    plan: Plan | None = None,
    guidance_scale: float = 1.0,
    negative_prompt: str = "",
    batch_size: Size = 64,
    noises: Sequence[int] | None = None,
    world: World | None = None,
) -> Iterator[tuple[range, Rollout]]:
    """Draw one sample per prompt, a batch at a time: the numbers of its prompts, and their samples.

    Sample i starts from noise that is addressed by (stream, *address, i); batches do not change it.
    A plan's trees, each from one noise and of one prompt, are never parted. A batch too large for memory is.

    Args:
        solver: of the ODE, or with a plan the kind of its steps with noise; or a function, see `selection`.
        plan: noise, splits and what is recorded; None for the solver alone.
        noises: numbers of the noise that samples, or trees, start from, in place of 0, 1, 2 ...
        world: the processes that share the work; this one draws its batches.
    """
    sigmas = model.sigmas(num_inference_steps)
    stepping = _stepping(model, sigmas, solver, plan)
    empty = model.encode([negative_prompt]) if guidance_scale != 1.0 else None
    leaves, processes = plan.leaves if plan else 1, world or World()

    def draw(numbers: range) -> Rollout:
        chosen = prompts[numbers.start : numbers.stop : leaves]
        predicted = _predictions(model, transformer, chosen, guidance_scale, empty)
        roots = (noises or range(len(prompts)))[numbers.start // leaves :][: len(chosen)]

        def fresh(step: int, nodes: int) -> Tensor:
            """Noise of all nodes of a step, addressed by their number among them."""
            each = nodes // len(chosen)
            places = [root * each + node for root in roots for node in range(each)]
            return noise(model.latent_shape, stream, (*address, step), places).to(model.device)

        with torch.no_grad():
            x, path, velocity = fresh(0, len(chosen)), model.path, partial(predicted, stepping)
            if not isinstance(solver, str):
                return Rollout(solver(velocity, x, sigmas, numbers))
            if plan is None:
                return Rollout(solve(solver, path, velocity, partial(predicted, model.ends), x, sigmas))
            x0, edges = walk(velocity, x, sigmas, plan, solver, lambda step, nodes: fresh(1 + step, nodes), path)
            return Rollout(x0, edges, probe(velocity, edges, sigmas, plan) if edges else ())

    kind = "sampling" if stream is Stream.ROLLOUT else "evaluating"
    batches = model.fits.batches(kind, batch_size, len(prompts), model.device, processes.size, leaves)
    yield from model.fits.dealt(kind, batches, draw, processes, leaves)


def _stepping(model: FlowModel, sigmas: Tensor, solver: str | Selecting, plan: Plan | None) -> Callable[..., Tensor]:
    """The model's velocity at the sampler's times; the average until the next one where it predicts averages.

    Raises:
        ConfigError: it does, and the solver has steps of the velocity.
    """
    if model.predicts != "average_velocity":
        return model.velocity
    if any(plan.noise) if plan else solver in {*ODE_SOLVERS} - {"euler"}:
        raise ConfigError(
            f"the solver {solver} has steps of the velocity at a time, and the model {model.family} predicts averages "
            "over whole steps; set rollout.solver=euler"
        )
    ends = dict(zip(sigmas.tolist(), [*sigmas[1:], sigmas[-1]], strict=True))

    def average(transformer: nn.Module, x_t: Tensor, t: Tensor, prompt: Conditioning, **given: Any) -> Tensor:
        return model.velocity(transformer, x_t, t, prompt, **given, until=ends[t.item()])

    return average


def _predictions(
    model: FlowModel, transformer: nn.Module, prompts: list[str], guidance_scale: float, empty: Conditioning | None
) -> Callable[..., Any]:
    """(`model.velocity` or `model.ends`, x_t, t) -> what it gives; of each prompt there are as many nodes as fit."""
    encoded: dict[int, Conditioning] = {}

    def predicted(what: Callable[..., Any], x_t: Tensor, t: Tensor) -> Any:
        nodes = len(x_t) // len(prompts)
        if nodes not in encoded:
            encoded[nodes] = model.encode([prompt for prompt in prompts for _ in range(nodes)])
        return what(transformer, x_t, t, encoded[nodes], guidance_scale=guidance_scale, empty_prompt=empty)

    return predicted
