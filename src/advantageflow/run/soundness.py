"""Weights and steps that are not sound: NaN, infinite, or larger than any learning moves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from advantageflow.errors import NonFiniteError

# A weight may move by at most so much in one optimizer step. Adam moves it by no more than 3.2 learning rates, and
# learning rates are below .01; weights and their usual changes are far below 1.
LARGEST_STEP = 1.0
WHAT_TO_DO = "what was saved before is unharmed: lower learn.learning_rate, then continue from the last checkpoint"


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors that hold NaN or infinity.

    Raises:
        NonFiniteError: naming the first.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteError(f"{what} {name} holds NaN or infinity and is not saved; {WHAT_TO_DO}")


@torch.no_grad()
def sizes(weights: Sequence[Tensor]) -> Tensor:
    """The largest absolute value of each tensor, [tensors]; NaN where it holds one."""
    return torch.stack([part.float() for part in torch._foreach_norm(list(weights), ord=float("inf"))])


def check_step(before: Tensor, weights: Sequence[Tensor], names: Sequence[str], iteration: int) -> None:
    """Check that an optimizer step left every weight finite, and no tensor's size grown by more than `LARGEST_STEP`.

    To compare weight by weight would take a copy of all of them. So a step of more than `LARGEST_STEP` plus twice the
    tensor's size is always found, a smaller one perhaps, and a sound one is never taken for such.

    Args:
        before: `sizes` of the weights before the step.

    Raises:
        NonFiniteError: naming the first that moved further.
    """
    moved = sizes(weights) - before
    bad = (~(moved <= LARGEST_STEP)).nonzero().flatten().tolist()  # also where it is NaN
    if bad:
        raise NonFiniteError(
            f"the weights {names[bad[0]]} moved by {moved[bad[0]].item():.3g} in one step of iteration {iteration}; "
            f"at most {LARGEST_STEP:g} is learning; {WHAT_TO_DO}"
        )
