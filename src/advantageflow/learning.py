"""From a scored rollout to gradients: what forward- and reverse-process objectives are given to see.

Each objective's samples are its *cases*: (image, draw) pairs. A case of a forward-process objective is an image noised
afresh, (x_t, t); a case of a reverse-process objective is one recorded transition of the SDE. Cases are independent,
so the batch size changes memory and speed but not the gradient. Times and advantages are float64 and stay on the
CPU until they are cast, since not every device has float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advantageflow.flow import draw_t, interpolate
from advantageflow.models.base import FlowModel
from advantageflow.objectives import FlowGRPO
from advantageflow.objectives.forward import ForwardObjective, mean_square
from advantageflow.policy import Policy
from advantageflow.rollout import Samples
from advantageflow.seeding import Stream, generator, noise
from advantageflow.solvers import flow_sde_diffusion, flow_sde_step


@dataclass(frozen=True)
class Terms:
    """What one batch of cases gives: loss terms and distances, [batch] each; `terms` has a gradient."""

    terms: dict[str, Tensor]
    to_rollout: Tensor  # ‖v - v_old‖², mean over the image
    to_reference: Tensor  # ‖v - v_ref‖²
    images: list[int]

    def detached(self) -> Terms:
        """The same values without the gradient's graph, for the metrics."""
        return replace(self, terms={name: value.detach() for name, value in self.terms.items()})


def by_sign(images: list[int], advantages: Tensor) -> dict[str, list[int]]:
    """The images of positive, of negative, and of no advantage."""
    signs = {"positive": 1, "negative": -1, "zero": 0}
    return {name: [image for image in images if torch.sign(advantages[image]) == sign] for name, sign in signs.items()}


def batches(cases: list[tuple[int, int]], batch_size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(cases), batch_size):
        yield cases[start : start + batch_size]


def forward_terms(
    model: FlowModel,
    policy: Policy,
    objective: ForwardObjective,
    samples: Samples,
    prompts: list[str],
    advantages: Tensor,
    cases: list[tuple[int, int]],
    *,
    times: Tensor,
    address: tuple[int, ...],
) -> Terms:
    """Noise the cases' images and compare the velocities of learner, rollout policy and reference there.

    Args:
        times: [images, draws], from `draw_times`.
        address: of the noise, with (image, draw) appended.
    """
    images = [image for image, _ in cases]
    x0 = samples.x0[images]
    fresh = torch.cat([noise(model.latent_shape, Stream.LEARN, (*address, image), [draw]) for image, draw in cases])
    t = times[images, [draw for _, draw in cases]]
    x_t = interpolate(x0, fresh.to(model.device), t)
    conditioning = model.encode([prompts[image] for image in images])
    with torch.no_grad():
        with policy.acting_as("rollout") as transformer:
            rollout = model.velocity(transformer, x_t, t, conditioning)
        with policy.acting_as("reference") as transformer:
            reference = model.velocity(transformer, x_t, t, conditioning)
    with policy.acting_as("learner") as transformer:
        velocity = model.velocity(transformer, x_t, t, conditioning)
    advantage = advantages[images].float().to(model.device)
    terms = objective.terms(velocity, rollout, reference, x0=x0, x_t=x_t, t=t, advantage=advantage)
    moved = velocity.detach().float()
    return Terms(terms, mean_square(moved - rollout.float()), mean_square(moved - reference.float()), images)


def draw_times(distribution: str, num_images: int, num_draws: int, sigmas: Tensor, address: tuple[int, ...]) -> Tensor:
    """Training times [num_images, num_draws]; those of image i are addressed by (*address, i)."""
    return torch.stack(
        [
            draw_t(distribution, num_draws, sigmas, generator(Stream.LEARN, *address, i))  # type: ignore[arg-type]
            for i in range(num_images)
        ]
    )


def reverse_terms(
    model: FlowModel,
    policy: Policy,
    objective: FlowGRPO,
    samples: Samples,
    prompts: list[str],
    advantages: Tensor,
    cases: list[tuple[int, int]],
    *,
    steps: Tensor,
    noise_level: float,
    sigmas: Tensor,
) -> Terms:
    """Score the cases' transitions under learner and reference.

    Args:
        steps: [images, draws], the sampler's step of each case, from `draw_steps`.
    """
    assert samples.states is not None
    assert samples.log_probs is not None
    images = [image for image, _ in cases]
    step = steps[images, [draw for _, draw in cases]]
    x, next_x = samples.states[step, images], samples.states[step + 1, images]
    rollout_log_prob = samples.log_probs[step, images]
    sigma, sigma_next = sigmas[step], sigmas[step + 1]
    conditioning = model.encode([prompts[image] for image in images])
    with torch.no_grad(), policy.acting_as("reference") as transformer:
        reference = model.velocity(transformer, x, sigma, conditioning)
    with policy.acting_as("learner") as transformer:
        velocity = model.velocity(transformer, x, sigma, conditioning)

    _, mean, _, log_prob = flow_sde_step(velocity, x, sigma, sigma_next, noise_level=noise_level, next_x=next_x)
    _, reference_mean, _, _ = flow_sde_step(reference, x, sigma, sigma_next, noise_level=noise_level, next_x=next_x)
    terms = objective.terms(
        log_prob,
        rollout_log_prob,
        mean,
        reference_mean,
        diffusion=flow_sde_diffusion(sigma, sigma_next, noise_level),
        advantage=advantages[images].float().to(model.device),
    )
    moved = velocity.detach().float()
    distance = mean_square(moved - reference.float())
    return Terms(terms, torch.full_like(distance, torch.nan), distance, images)


def draw_steps(num_images: int, num_draws: int, transitions: int, address: tuple[int, ...]) -> Tensor:
    """Distinct steps of the sampler to learn from, out of the first `transitions`, [num_images, num_draws]."""
    return torch.stack(
        [
            torch.randperm(transitions, generator=generator(Stream.LEARN, *address, i))[:num_draws]
            for i in range(num_images)
        ]
    )
