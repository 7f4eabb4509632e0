"""The forward methods that are one quadratic in the prediction: each against its own published form, in float64."""

import pytest
import torch
from torch.autograd import grad

from advantageflow.objectives import ADRPO, ORWCFMW2, RAM, RWR, ACFlow, AdvantageFlow
from advantageflow.objectives._critic import Critic
from advantageflow.objectives.base import Noised, mean_square

BATCH = 6


class Case:
    def __init__(self, seed=0, scale=1.0):
        generator = torch.Generator().manual_seed(seed)
        self.x0, self.noise, self.v, self.v_old, self.v_ref = torch.randn(
            5, BATCH, 3, 2, 2, dtype=torch.float64, generator=generator
        )
        self.t = torch.rand(BATCH, dtype=torch.float64, generator=generator)
        self.advantage = scale * (2 * torch.rand(BATCH, dtype=torch.float64, generator=generator) - 1)
        self.x_t = (1 - wide(self.t)) * self.x0 + wide(self.t) * self.noise
        self.target = self.noise - self.x0

    def gradient(self, objective, old=None):
        v = self.v.clone().requires_grad_()
        predictions = {"learner": v, "rollout": self.v_old if old is None else old, "reference": self.v_ref}
        seen = Noised(predictions, self.x0, self.x_t, self.t, self.advantage, noise=self.noise)
        return grad(sum(objective.terms(seen).values()).sum(), v)[0]

    def gradient_of(self, loss):
        v = self.v.clone().requires_grad_()
        return grad(loss(v).sum(), v)[0]


def wide(values):
    return values[:, None, None, None]


@pytest.fixture
def case():
    return Case()


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_ram_is_the_regression_of_its_paper(case, scale):
    """‖v - sg(v_ref + R (v* - v))‖²: the target holds the learner's own velocity, without gradient."""

    def loss(v):
        target = case.v_ref + wide(scale * case.advantage) * (case.target - v.detach())
        return mean_square(v - target)

    torch.testing.assert_close(case.gradient(RAM(scale=scale)), case.gradient_of(loss))


def test_adrpo_at_strength_one_is_advantageflow_with_the_base_model_as_the_rollout_policy(case):
    """AF(1-A) in x0 space is t² times it."""
    expected = case.gradient(AdvantageFlow(gamma="1-A", reference_weight=0.0), old=case.v_ref)
    torch.testing.assert_close(wide(case.t**2) * case.gradient(ADRPO(strength=1.0)), expected)


@pytest.mark.parametrize("strength", [1.0, 2.5])
def test_adrpo_pulls_with_the_same_curvature_to_a_mixture(case, strength):
    """β0 ‖v - v_mix‖², v_mix = v_ref + (A / β0)(v* - v_ref)."""
    mixed = case.v_ref + wide(case.advantage / strength) * (case.target - case.v_ref)
    torch.testing.assert_close(
        case.gradient(ADRPO(strength=strength)), case.gradient_of(lambda v: strength * mean_square(v - mixed))
    )


def test_reward_weighted_regression_weighs_each_image_by_its_share(case):
    found = case.gradient(RWR(reference_weight=0.2))
    expected = case.gradient_of(
        lambda v: (1 + case.advantage) * mean_square(v - case.target) + 0.2 * mean_square(v - case.v_ref)
    )
    torch.testing.assert_close(found, expected)
    assert RWR(reference_weight=0.0).sees == frozenset()


def test_softmax_weights_are_k_times_the_share_of_each_image():
    rewards, groups = torch.tensor([0.1, 0.4, 0.2, 0.9, 0.9, 0.9]), torch.tensor([0, 0, 0, 1, 1, 1])
    settings = {"normalize": "group_softmax", "clip": 100.0, "recenter": False, "temperature": 0.5}
    weights = 1 + RWR().credit(rewards, groups, None, settings)
    centered = rewards.double() - torch.tensor([0.7 / 3] * 3 + [0.9] * 3, dtype=torch.float64)
    scale = centered.square().mean().sqrt()
    torch.testing.assert_close(
        weights[:3], 3 * torch.softmax(rewards[:3].double() / (0.5 * scale), 0), rtol=1e-6, atol=0
    )
    assert torch.equal(weights[3:], torch.ones(3, dtype=torch.float64))


def test_orw_weights_are_positive_with_mean_one_and_grow_with_the_reward():
    rewards = torch.tensor([0.0, 1.0, 2.0, 40.0])
    weights = ORWCFMW2(temperature=0.7).credit(rewards, torch.zeros(4, dtype=torch.long), None, {})
    z = (rewards.double() - rewards.double().mean()) / rewards.double().std(correction=0)
    torch.testing.assert_close(weights, (0.7 * z).exp() / (0.7 * z).exp().mean())
    assert weights.mean().item() == pytest.approx(1.0)
    assert (weights > 0).all()
    assert (weights.diff() > 0).all()
    constant = ORWCFMW2().credit(torch.full((4,), 0.3), torch.zeros(4, dtype=torch.long), None, {})
    assert torch.equal(constant, torch.ones(4, dtype=torch.float64))


def test_orw_penalizes_the_distance_from_the_base_model(case):
    found = case.gradient(ORWCFMW2(reference_weight=0.5))
    expected = case.gradient_of(
        lambda v: case.advantage * mean_square(v - case.target) + 0.5 * mean_square(v - case.v_ref)
    )
    torch.testing.assert_close(found, expected)


def actor_critic(case, value, **settings):
    v, value = case.v.clone().requires_grad_(), value.clone().requires_grad_()
    predictions = {"learner": v, "rollout": case.v_old, "reference": case.v_ref}
    seen = Noised(predictions, case.x0, case.x_t, case.t, case.advantage, noise=case.noise, value=value, step=3)
    return grad(sum(ACFlow(**settings).terms(seen).values()).sum(), (v, value))


def test_a_critic_that_knows_nothing_leaves_advantageflow(case):
    found, _ = actor_critic(case, torch.zeros_like(case.advantage))
    torch.testing.assert_close(found, case.gradient(AdvantageFlow()))


def test_a_critic_that_knows_all_leaves_nothing_to_learn_but_the_pulls(case):
    found, slope = actor_critic(case, case.advantage)
    case.advantage = torch.zeros_like(case.advantage)
    torch.testing.assert_close(found, case.gradient(AdvantageFlow()))
    assert not slope.any()


def test_before_the_end_of_the_warm_up_only_the_critic_learns(case):
    found, slope = actor_critic(case, torch.zeros_like(case.advantage), warm_up=4, critic_weight=0.5)
    assert not found.any()
    torch.testing.assert_close(slope, -case.advantage)
    assert actor_critic(case, torch.zeros_like(case.advantage), warm_up=3)[0].any()


def test_the_critic_begins_with_zero_and_can_learn():
    critic = Critic(4, 8)
    value = critic(torch.randn(3, 4, 6, 6), torch.rand(3))
    assert value.tolist() == [0, 0, 0]
    assert grad(value.sum(), critic.value.weight)[0].any()
