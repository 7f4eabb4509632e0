"""A step that no learning takes is found without a copy of the weights."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from advantageflow.errors import NonFiniteError
from advantageflow.run.soundness import LARGEST_STEP, check_step, sizes


def weights(scale=0.1):
    draw = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(scale * torch.randn(shape, generator=draw)) for shape in ((64, 32), (32,), (8, 4))]


def step(parameters, size):
    """Move one weight of the second tensor."""
    before = sizes(parameters)
    with torch.no_grad():
        parameters[1][3] += size
    check_step(before, parameters, "abc", 7)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0])
def test_a_large_step_is_named_and_a_sound_one_is_not(sign, scale):
    largest = sizes(weights(scale))[1].item()
    step(weights(scale), sign * 0.999 * LARGEST_STEP)
    with pytest.raises(NonFiniteError, match=r"the weights b moved by \S+ in one step of iteration 7; at most 1 is"):
        step(weights(scale), sign * (1.001 * LARGEST_STEP + 2 * largest))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named(value):
    with pytest.raises(NonFiniteError, match=r"the weights b moved by (nan|inf) in one step"):
        step(weights(), value)


def test_nothing_as_large_as_the_weights_is_made():
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for part in made if isinstance(made, list | tuple) else [made]:
                self.elements = max(self.elements, part.numel() if isinstance(part, torch.Tensor) else 0)
            return made

    parameters = weights()
    with Largest() as seen:
        check_step(sizes(parameters), parameters, "abc", 0)
    assert 0 < seen.elements <= len(parameters)
