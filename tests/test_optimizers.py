"""The optimizer by name, and the learning rate as a function of the step alone."""

import importlib.util
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file

from advantageflow.config import ConfigError, LearnSettings
from advantageflow.optimizers import build_optimizer, rate
from advantageflow.run.checkpoint import load_optimizer_tensors, optimizer_tensors


def rates(steps=10, **settings):
    learn = LearnSettings(learning_rate=1.0, **settings)
    return [rate(learn, step, steps) for step in range(steps + 1)]


def test_constant_by_default():
    assert rates() == [1.0] * 11


def test_the_second_moment_forgets_as_it_is_told():
    """After gradients 1 and 0 the second moment is β₂ (1 - β₂), whatever the step was."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(LearnSettings(beta2=0.9), [weight])
    for gradient in (1.0, 0.0):
        weight.grad = torch.full((1,), gradient)
        optimizer.step()
    assert optimizer.state[weight]["exp_avg_sq"].item() == pytest.approx(0.09)


def test_the_warm_up_is_linear_and_reaches_the_rate():
    assert rates(warmup_steps=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_linear_and_cosine_fall_to_nothing_after_the_warm_up():
    linear = rates(schedule="linear", warmup_steps=2)
    assert linear[2] == 1.0
    assert linear[6] == pytest.approx(0.5)
    cosine = rates(schedule="cosine", warmup_steps=2)
    assert cosine[6] == pytest.approx(0.5)
    assert cosine[4] == pytest.approx((1 + 2**-0.5) / 2)
    assert linear[10] == cosine[10] == 0.0
    assert all(first > second for first, second in pairwise(cosine[2:]))


def test_past_the_end_the_rate_does_not_rise_again():
    learn = LearnSettings(learning_rate=1.0, schedule="cosine")
    assert rate(learn, 25, 10) == 0.0


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_an_optimizer_that_is_not_installed_is_named():
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        build_optimizer(LearnSettings(optimizer="adamw_8bit"), [torch.zeros(1, requires_grad=True)])


class EightBit(torch.optim.Optimizer):
    """What bitsandbytes' Adam keeps: bytes, a table that parameters share, and a count that is a plain number."""

    table = torch.linspace(-1, 1, 256)

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 1.0})

    def step(self):
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state.setdefault("step", 0)
            state["step"] += 1
            state.setdefault("state1", torch.zeros(parameter.shape, dtype=torch.uint8)).add_(1)
            state.setdefault("qmap1", self.table)

    def load_state_dict(self, found):  # as bitsandbytes does it: bytes stay bytes
        for parameter, entry in zip(self.param_groups[0]["params"], found["state"].values(), strict=True):
            self.state[parameter] = entry


def test_the_state_of_an_8_bit_optimizer_goes_through_a_file(tmp_path):
    def new():
        return EightBit([torch.zeros(3, requires_grad=True), torch.zeros(2, requires_grad=True)])

    first, second = new(), new()
    for _ in range(3):
        first.step()
    save_file(optimizer_tensors(first), tmp_path / "optimizer.safetensors")
    load_optimizer_tensors(second, load_file(tmp_path / "optimizer.safetensors"))
    second.step()
    for state in second.state.values():
        assert state["step"] == 4
        assert isinstance(state["step"], int)
        assert state["state1"].dtype == torch.uint8
        assert state["state1"].tolist() == [4] * len(state["state1"])
        assert torch.equal(state["qmap1"], EightBit.table)
