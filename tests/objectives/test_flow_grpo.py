import pytest
import torch

from advantageflow.objectives import FlowGRPO


def loss(objective, log_ratio, advantage, shift=0.0):
    mean = torch.zeros(1, 4, dtype=torch.float64)
    log_prob = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    value = objective.loss(
        log_prob,
        torch.zeros(1, dtype=torch.float64),
        mean + shift,
        mean,
        diffusion=torch.tensor([0.5], dtype=torch.float64),
        advantage=torch.tensor([advantage], dtype=torch.float64),
    )
    value.sum().backward()
    return value.item(), log_prob.grad.item()


def test_on_policy_the_gradient_is_minus_the_advantage():
    value, gradient = loss(FlowGRPO(kl_weight=0.0), 0.0, 2.0)
    assert value == -2.0
    assert gradient == -2.0


@pytest.mark.parametrize(("log_ratio", "advantage", "moves"), [(0.1, 1, False), (-0.1, 1, True), (0.1, -1, True)])
def test_the_ratio_is_clipped_pessimistically(log_ratio, advantage, moves):
    _, gradient = loss(FlowGRPO(clip_range=1e-4, kl_weight=0.0), log_ratio, float(advantage))
    assert (gradient != 0) == moves


def test_advantages_are_clipped():
    assert loss(FlowGRPO(kl_weight=0.0), 0.0, 9.0)[0] == -5.0


def test_the_divergence_is_over_the_squared_diffusion():
    value, _ = loss(FlowGRPO(kl_weight=0.1), 0.0, 0.0, shift=0.2)
    assert value == pytest.approx(0.1 * 0.2**2 / (2 * 0.5**2))


def test_a_call_whose_shapes_cannot_be_meant_is_refused():
    mean, log_prob = torch.zeros(2, 4), torch.zeros(2)
    with pytest.raises(ValueError, match=r"advantage has the shape \[2, 1\]"):
        FlowGRPO().loss(log_prob, log_prob, mean, mean, diffusion=torch.tensor(0.5), advantage=torch.zeros(2, 1))
    with pytest.raises(ValueError, match="diffusion must be positive"):
        FlowGRPO().loss(log_prob, log_prob, mean, mean, diffusion=torch.zeros(2), advantage=log_prob)
