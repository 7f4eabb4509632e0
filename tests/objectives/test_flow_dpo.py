"""Flow-DPO on two images, where its loss is one logarithm."""

import math

import pytest
import torch

from advantageflow.objectives import FlowDPO
from advantageflow.objectives.base import Noised


def seen(errors, reference, rewards, group=(0, 0)):
    """Images of zeros with noise of zeros, so that the errors are the squares of what is predicted."""
    v = torch.tensor(errors, dtype=torch.float64).sqrt()[:, None].requires_grad_()
    v_ref = torch.tensor(reference, dtype=torch.float64).sqrt()[:, None]
    zeros = torch.zeros_like(v_ref)
    return v, Noised(
        {"learner": v, "reference": v_ref}, zeros, zeros, torch.full((len(errors),), 0.5), torch.tensor(rewards),
        noise=zeros, group=torch.tensor(group),
    )  # fmt: skip


@pytest.mark.parametrize(("rewards", "sign"), [((0.9, 0.1), 1), ((0.1, 0.9), -1)])
def test_the_loss_of_a_pair(rewards, sign):
    """d_best - d_worst = (.3 - .2) - (.7 - .4)."""
    _, pair = seen([0.3, 0.7], [0.2, 0.4], rewards)
    expected = math.log1p(math.exp(5 * sign * (0.1 - 0.3)))
    assert FlowDPO(beta=10).terms(pair)["preference"].tolist() == pytest.approx([expected] * 2)


def test_a_pair_that_is_told_apart_is_left_alone():
    v, pair = seen([0.1, 0.9], [0.5, 0.5], [1.0, 0.0])
    (found,) = torch.autograd.grad(FlowDPO(beta=1e4).terms(pair)["preference"].sum(), v)
    assert not found.any()


def test_images_of_one_reward_teach_nothing():
    v, pair = seen([0.3, 0.7], [0.2, 0.4], [0.5, 0.5])
    (found,) = torch.autograd.grad(FlowDPO().terms(pair)["preference"].sum(), v)
    assert not found.any()


def test_pairs_do_not_see_each_other():
    _, both = seen([0.3, 0.7, 0.5, 0.1], [0.2, 0.4, 0.3, 0.3], [0.9, 0.1, 0.2, 0.4], (0, 0, 1, 1))
    _, second = seen([0.5, 0.1], [0.3, 0.3], [0.2, 0.4])
    objective = FlowDPO(beta=10)
    assert objective.terms(both)["preference"][2:].tolist() == objective.terms(second)["preference"].tolist()


@pytest.mark.parametrize(
    ("rewards", "chosen"),
    [((0.2, 0.9, 0.1, 0.9), [1, 2]), ((0.1, 0.5, 0.1, 0.3), [1, 2]), ((0.5, 0.5, 0.5), [0, 2]), ((0.1, 0.4), [0, 1])],
)
def test_the_best_and_the_worst_of_a_prompt_are_learned_from(rewards, chosen):
    assert FlowDPO().chosen(torch.tensor(rewards)) == chosen
    assert FlowDPO().taught(len(rewards)) == 2
