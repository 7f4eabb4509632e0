"""Floating-point operations of the network's matrix products, and how many a second this machine can do at most."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from advantageflow.bench.calls import Calls, bare, spent
from advantageflow.policy import Role
from advantageflow.trainer import Trainer

LARGE = {"cpu": 2048}  # edge of the square matrices whose product gives the peak
LARGE_OF_GPU = 8192
LOOKS = 8


def flops(trainer: Trainer, found: Calls) -> dict[Role, float]:
    """Of one image as each role, the backward pass of the learner's included; the mean over the calls that were made.

    A multiplication and an addition are two. Attention is counted as the two products that it consists of.
    """
    sums: dict[Role, float] = {}
    each: dict[object, float] = {}
    for call in found.made:
        kind = (call.role, call.gradient, call.through, call.shape, call.tokens)
        if kind not in each:
            inputs = found.inputs[call].of(1)
            # the kernels that fuse attention are not counted on every device, plain products are
            counter = FlopCounterMode(display=False)
            with trainer.policy.acting_as(call.role) as transformer, sdpa_kernel(SDPBackend.MATH), counter:
                bare(trainer, transformer, inputs, call.gradient, call.through)
            each[kind] = counter.get_total_flops()
        sums[call.role] = sums.get(call.role, 0.0) + each[kind] * call.images
    return {role: sums[role] / count for role, count in found.by_role().items()}


def of_calls(each: Mapping[Role, float], images: Mapping[Role, int]) -> float:
    """Of so many images of each role; what was not called counts as the mean of those that were."""
    return sum(each.get(role, sum(each.values()) / len(each)) * count for role, count in images.items())


def peak(trainer: Trainer) -> float:
    """The most operations a second that a large matrix product of the network's precision reaches here."""
    device, dtype = trainer.model.device, trainer.model.dtype
    size = LARGE.get(device.type, LARGE_OF_GPU)
    matrix = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(spent(trainer, lambda: matrix @ matrix).truer(trainer) for _ in range(LOOKS))
