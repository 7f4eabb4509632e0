"""One sampler for chains, windows and trees: every step may add noise, may split each state, and may be recorded.

A step without noise is `Path.step`. Node i of a step has the leaves [i m, (i + 1) m), with m the product of the splits
that follow: no other bookkeeping is needed, and a node's number addresses its noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from advantageflow.flow import RECTIFIED, Path, like
from advantageflow.solvers import Velocity, euler, gaussian_log_prob, sde_step
from advantageflow.walk_plan import Plan


@dataclass(frozen=True)
class Edges:
    """Recorded transitions.

    x, next_x: the states before and after, [edges, ...].
    step: the sampler's step of each, [edges] integers.
    log_prob: under the policy that drew them, [edges]; 0 for a step without noise.
    leaves: the images [first, end) that each led to, [edges, 2].
    probes: rewards of the plan's probes, float64 [images, probes]; None before they are known, or without any.
    """

    x: Tensor
    next_x: Tensor
    step: Tensor
    log_prob: Tensor
    leaves: Tensor
    probes: Tensor | None = None

    def to(self, device: torch.device | str) -> Edges:
        """The same with its tensors on another device; steps and leaves, which are looked up, stay on the CPU."""
        return replace(self, x=self.x.to(device), next_x=self.next_x.to(device), log_prob=self.log_prob.to(device))

    @staticmethod
    def join(parts: Sequence[Edges], leaves: Sequence[int]) -> Edges:
        """Several batches as one; batch i has `leaves[i]` images."""
        offsets = [sum(leaves[:i]) for i in range(len(parts))]
        shifted = [part.leaves + offset for part, offset in zip(parts, offsets, strict=True)]
        x, next_x, step, log_prob = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("x", "next_x", "step", "log_prob")
        )
        return Edges(x, next_x, step, log_prob, torch.cat(shifted))

    def places(self) -> dict[tuple[int, int], int]:
        """(first image that it led to, step) -> the number of the transition."""
        firsts = self.leaves[:, 0].tolist()
        return {place: edge for edge, place in enumerate(zip(firsts, self.step.tolist(), strict=True))}

    def leaf_means(self, values: Tensor) -> Tensor:
        """Of values [images], the mean over each edge's leaves: [edges]."""
        total = torch.cat([values.new_zeros(1), values.cumsum(0)])
        first, end = self.leaves.T
        single = end - first == 1  # exactly the leaf's value, without the sums' rounding
        return torch.where(single, values[first], (total[end] - total[first]) / (end - first))


def walk(
    velocity: Velocity,
    x: Tensor,
    sigmas: Tensor,
    plan: Plan,
    kind: str,
    fresh: Callable[[int, int], Tensor],
    path: Path = RECTIFIED,
) -> tuple[Tensor, Edges | None]:
    """Carry noise x [roots, ...] to images [roots x plan.leaves, ...] and record what the plan keeps.

    Args:
        velocity: (x, t) -> dx/dt; x has as many rows as there are nodes.
        sigmas: decreasing times, float64 [steps + 1].
        kind: of the steps with noise, see `solvers.SDE_STEPS`.
        fresh: (step, nodes) -> standard normal noise [nodes, ...] for the states after the step.
        path: of the steps without noise.
    """
    kept: list[Edges] = []
    children = plan.children or (1,) * len(plan.noise)
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        v = velocity(x, sigma)
        if children[step] > 1:
            x, v = (part.repeat_interleave(children[step], 0) for part in (x, v))
        if plan.noise[step]:
            mean, std = sde_step(kind, v, x, sigma, sigma_next, plan.noise[step])
            next_x = mean + like(std, mean) * fresh(step, len(mean))
            log_prob = gaussian_log_prob(next_x, mean, std)
        else:
            next_x = path.step(x, v, sigma, sigma_next)
            log_prob = x.new_zeros(len(x))
        if step in plan.keep:
            first = torch.arange(len(x)) * plan.leaves_after(step)
            leaves = torch.stack([first, first + plan.leaves_after(step)], 1)
            kept.append(Edges(x, next_x, torch.full((len(x),), step), log_prob, leaves))
        x = next_x
    return x, Edges.join(kept, [0] * len(kept)) if kept else None


def probe(velocity: Velocity, edges: Edges, sigmas: Tensor, plan: Plan) -> list[Tensor]:
    """The images of each of a plan's probes, [images, ...]; `edges` are of one walk."""
    found = []
    for way in plan.probes:
        here, before = edges.step == way[0], edges.step == way[0] - 1
        x = edges.x[here] if here.any() else edges.next_x[before]
        found.append(euler(velocity, x, sigmas[[*way]]))
    return found
