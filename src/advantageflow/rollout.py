"""From prompts to samples: the rollout policy draws K images for each of L prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from advantageflow.models.base import Conditioning, FlowModel
from advantageflow.seeding import Stream, noise
from advantageflow.solvers import ODE_SOLVERS, Velocity, flow_sde_step


@dataclass(frozen=True)
class Samples:
    """Clean latents x0 [batch, ...]; after an SDE also its states and the log-probabilities of its transitions.

    states: [steps + 1, batch, ...], log_probs: [steps, batch], both None after an ODE.
    """

    x0: Tensor
    states: Tensor | None = None
    log_probs: Tensor | None = None


def sample_batches(
    model: FlowModel,
    transformer: nn.Module,
    prompts: list[str],
    *,
    stream: Stream,
    address: tuple[int, ...],
    num_inference_steps: int,
    solver: str,
    noise_level: float = 0.0,
    guidance_scale: float = 1.0,
    negative_prompt: str = "",
    batch_size: int = 64,
    first: int = 0,
) -> Iterator[Samples]:
    """Draw one sample per prompt, a batch at a time.

    Sample i starts from noise that is addressed by (stream, *address, first + i); the batch size does not change it.
    """
    sigmas = model.sigmas(num_inference_steps)
    empty = model.encode([negative_prompt]) if guidance_scale != 1.0 else None
    for start in range(0, len(prompts), batch_size):
        indices = list(range(start, min(start + batch_size, len(prompts))))
        conditioning = model.encode([prompts[i] for i in indices])

        def velocity(x_t: Tensor, t: Tensor, conditioning: Conditioning = conditioning) -> Tensor:
            return model.velocity(transformer, x_t, t, conditioning, guidance_scale=guidance_scale, empty_prompt=empty)

        def fresh(draw: int, indices: list[int] = indices) -> Tensor:
            numbers = [first + i for i in indices]
            return noise(model.latent_shape, stream, (*address, draw), numbers).to(model.device)

        with torch.no_grad():
            if solver in ODE_SOLVERS:
                batch = Samples(ODE_SOLVERS[solver](velocity, fresh(0), sigmas))
            else:
                batch = _sample_sde(velocity, fresh, sigmas, noise_level)
        yield batch


def _sample_sde(velocity: Velocity, fresh: Callable[[int], Tensor], sigmas: Tensor, noise_level: float) -> Samples:
    x = fresh(0)
    states, log_probs = [x], []
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x, _, _, log_prob = flow_sde_step(
            velocity(x, sigma), x, sigma, sigma_next, noise_level=noise_level, noise=fresh(1 + step)
        )
        states.append(x)
        log_probs.append(log_prob)
    return Samples(x, torch.stack(states), torch.stack(log_probs))


def join(batches: list[Samples]) -> Samples:
    """Batches of samples as one."""
    x0 = torch.cat([batch.x0 for batch in batches])
    if batches[0].states is None:
        return Samples(x0)
    return Samples(
        x0,
        torch.cat([batch.states for batch in batches if batch.states is not None], dim=1),
        torch.cat([batch.log_probs for batch in batches if batch.log_probs is not None], dim=1),
    )
