"""From prompts to samples: the rollout policy draws K images for each of L prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advantageflow.models.sd3 import Conditioning, SD3Model
from advantageflow.seeding import Stream, noise
from advantageflow.solvers import ODE_SOLVERS, flow_sde_step

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Samples:
    """Clean latents x0 [batch, ...]; after an SDE also its states and the log-probabilities of its transitions.

    states: [steps + 1, batch, ...], log_probs: [steps, batch], both None after an ODE.
    """

    x0: Tensor
    states: Tensor | None = None
    log_probs: Tensor | None = None


@torch.no_grad()
def sample(
    model: SD3Model,
    transformer: nn.Module,
    prompts: list[str],
    *,
    stream: Stream,
    address: tuple[int, ...],
    num_inference_steps: int,
    solver: str,
    noise_level: float = 0.0,
    guidance_scale: float = 1.0,
    batch_size: int = 64,
    advance: Advance | None = None,
) -> Samples:
    """Draw one sample per prompt, starting from noise that is addressed by (stream, *address, index in `prompts`).

    The batch size does not change the noise. `advance(n)` is called when n more samples are done.
    """
    sigmas = model.sigmas(num_inference_steps)
    empty = model.encode([""]) if guidance_scale != 1.0 else None
    parts = []
    for start in range(0, len(prompts), batch_size):
        indices = list(range(start, min(start + batch_size, len(prompts))))
        conditioning = model.encode([prompts[i] for i in indices])
        x = noise(model.latent_shape, stream, (*address, 0), indices).to(model.device)

        def velocity(x_t: Tensor, t: Tensor, conditioning: Conditioning = conditioning) -> Tensor:
            return model.velocity(transformer, x_t, t, conditioning, guidance_scale=guidance_scale, empty_prompt=empty)

        if solver in ODE_SOLVERS:
            parts.append(Samples(ODE_SOLVERS[solver](velocity, x, sigmas)))
        else:
            states, log_probs = [x], []
            for step in range(num_inference_steps):
                fresh = noise(model.latent_shape, stream, (*address, 1 + step), indices).to(model.device)
                x, _, _, log_prob = flow_sde_step(
                    velocity(x, sigmas[step]), x, sigmas[step], sigmas[step + 1], noise_level=noise_level, noise=fresh
                )
                states.append(x)
                log_probs.append(log_prob)
            parts.append(Samples(x, torch.stack(states), torch.stack(log_probs)))
        if advance:
            advance(len(indices))
    x0 = torch.cat([part.x0 for part in parts])
    if parts[0].states is None:
        return Samples(x0)
    return Samples(
        x0,
        torch.cat([part.states for part in parts if part.states is not None], dim=1),
        torch.cat([part.log_probs for part in parts if part.log_probs is not None], dim=1),
    )


def decode(model: SD3Model, latents: Tensor, batch_size: int = 64) -> Tensor:
    """Latents -> images on the CPU, float32 in [0, 1], [batch, 3, height, width]."""
    return torch.cat([model.decode(part).cpu() for part in latents.split(batch_size)])
