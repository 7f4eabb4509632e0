"""The optimizer by name, and the learning rate as a function of the step alone."""

import importlib.util
from itertools import pairwise

import pytest
import torch

from advantageflow.config import ConfigError, LearnSettings
from advantageflow.optimizers import build_optimizer, rate


def rates(steps=10, **settings):
    learn = LearnSettings(learning_rate=1.0, **settings)
    return [rate(learn, step, steps) for step in range(steps + 1)]


def test_constant_by_default():
    assert rates() == [1.0] * 11


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
