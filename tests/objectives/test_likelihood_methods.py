"""Methods that take the flow-matching error for a likelihood, and FlowAWR: each against its equations, in float64."""

import pytest
import torch
from test_quadratic import Case, wide
from torch.autograd import grad

from advantageflow.objectives import AWM, DGPO, EPG, RWR, VGRPO, AdvantageFlow, FlowAWR
from advantageflow.objectives.base import Noised, mean_square

GROUP = torch.tensor([0, 0, 0, 1, 1, 1])


@pytest.fixture
def case():
    return Case()


def terms_of(objective, case, v, **others):
    predictions = {"learner": v, "rollout": case.v_old, "reference": case.v_ref, "ema": case.v_old, **others}
    seen = Noised(predictions, case.x0, case.x_t, case.t, case.advantage, noise=case.noise, group=GROUP)
    return objective.terms(seen)


def gradient(objective, case, v=None, **others):
    v = (case.v if v is None else v).clone().requires_grad_()
    return grad(sum(terms_of(objective, case, v, **others).values()).sum(), v)[0]


def test_flow_awr_is_advantageflow_without_its_scale(case):
    """The target f_old + E (x0 - f_old) is where A ‖f - x0‖² + (1 - A) ‖f - f_old‖² has its minimum, curvature 1."""
    found = gradient(FlowAWR(reference_weight=0.0, adaptive_scale=False), case)
    torch.testing.assert_close(found, gradient(AdvantageFlow(gamma="1-A", reference_weight=0.0), case))


def test_flow_awr_divides_by_the_distance_from_the_sample(case):
    scale = (wide(case.t) * (case.v - case.target)).abs().flatten(1).mean(1)
    found = gradient(FlowAWR(reference_weight=0.0), case)
    expected = gradient(FlowAWR(reference_weight=0.0, adaptive_scale=False), case) / wide(scale)
    torch.testing.assert_close(found, expected)


def test_uniform_awm_is_advantageflow_in_velocity_space(case):
    """A fifth of the advantage, and the slow copy in place of the rollout policy; in x0 space it is t² times that."""
    found = gradient(AWM(weighting="uniform", reference_weight=0.0), case)
    case.advantage = case.advantage / 5
    expected = gradient(AdvantageFlow(gamma=1.0, reference_weight=0.0), case)
    torch.testing.assert_close(wide(case.t**2) * found, expected)


def test_weightings_of_awm(case):
    def data(**settings):
        return terms_of(AWM(ema_weight=0.0, reference_weight=0.0, **settings), case, case.v)["data"]

    error = mean_square(case.v - case.target)
    torch.testing.assert_close(data(weighting="t2"), case.advantage / 5 * case.t**2 * error)
    torch.testing.assert_close(data(weighting="huber"), case.advantage / 5 * case.t * error.sqrt(), rtol=1e-4, atol=0)
    torch.testing.assert_close(data(power=1.0), data(weighting="t"))
    torch.testing.assert_close(data(power=0.5), 2 * data(weighting="huber"))


def test_dgpo_s_weight_is_that_of_a_whole_group(case):
    found = terms_of(DGPO(beta=3.0, clip_range=None, reference_weight=0.0), case, case.v)["data"]
    error, anchor = mean_square(case.v - case.target), mean_square(case.v_old - case.target)
    for group in (0, 1):
        mine = group == GROUP
        told = torch.sigmoid(3.0 * (case.advantage * (error - anchor))[mine].mean())
        torch.testing.assert_close(found[mine], told * (case.advantage * error)[mine])


def test_at_its_anchor_dgpo_follows_half_of_the_advantage(case):
    found = gradient(DGPO(reference_weight=0.0), case, case.v_old)
    v = case.v_old.clone().requires_grad_()
    expected = grad((0.5 * case.advantage * mean_square(v - case.target)).sum(), v)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("advantage", "step", "taught"), [(1, 0.5, False), (1, -0.5, True), (-1, -0.5, False)])
def test_dgpo_leaves_an_image_that_moved_far_enough(case, advantage, step, taught):
    """A good image's error fell, a bad one's rose: enough. One that moved the wrong way is still learned from."""
    case.advantage = torch.full_like(case.advantage, advantage)
    moved = case.v_old + step * (case.target - case.v_old)
    assert bool(gradient(DGPO(reference_weight=0.0), case, moved).any()) is taught


@pytest.mark.parametrize("objective", [EPG(reference_weight=0.0), VGRPO(reference_weight=0.0, adaptive_scale=False)])
def test_on_policy_the_likelihood_s_gradient_is_uniform_awm_s(case, objective):
    """There the ratio is 1. V-GRPO's soft clip keeps the sign, and small advantages as they are."""
    case.advantage = 1e-4 * case.advantage
    found = gradient(objective, case, case.v_old)
    expected = gradient(AWM(weighting="uniform", advantage_clip=1.0, reference_weight=0.0), case, case.v_old)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def test_epg_pulls_to_the_base_model_and_rests_there(case):
    """λ E_old[ρ (log p - log p_ref)] is the divergence from the base model: its value is 0 where they are equal."""
    objective = EPG(reference_weight=0.5)
    assert not terms_of(objective, case, case.v_ref)["reference"].any()
    log_p, log_ref, log_old = (-mean_square(v - case.target) for v in (case.v, case.v_ref, case.v_old))
    expected = 0.5 * (log_p - log_old).exp() * (log_p - log_ref)
    torch.testing.assert_close(terms_of(objective, case, case.v)["reference"], expected)


def test_a_ratio_beyond_the_largest_is_cut(case):
    nearer = case.v_old + 0.9 * (case.target - case.v_old)
    found = terms_of(EPG(largest_ratio=1.5, reference_weight=0.0), case, nearer)["policy"]
    ratio = (mean_square(case.v_old - case.target) - mean_square(nearer - case.target)).exp().clamp(max=1.5)
    torch.testing.assert_close(found, ratio * case.advantage * mean_square(nearer - case.target))


@pytest.mark.parametrize(("advantage", "step", "taught"), [(1, 0.5, False), (1, -0.5, True), (-1, -0.5, False)])
def test_v_grpo_clips_what_moved_far_enough(case, advantage, step, taught):
    case.advantage = torch.full_like(case.advantage, advantage)
    moved = case.v_old + step * (case.target - case.v_old)
    assert bool(gradient(VGRPO(reference_weight=0.0), case, moved).any()) is taught


def test_only_the_best_of_a_prompt_is_learned_from_at_temperature_zero():
    rewards, groups = torch.tensor([0.1, 0.4, 0.2, 0.9, 0.9, 0.1, 0.5, 0.5, 0.5]), torch.arange(3).repeat_interleave(3)
    best = RWR().credit(rewards, groups, None, {"normalize": "group_best", "clip": 100.0})
    assert (1 + best).tolist() == [0, 3, 0, 1.5, 1.5, 0, 1, 1, 1]
    cold = RWR().credit(rewards, groups, None, {"normalize": "group_softmax", "clip": 100.0, "temperature": 1e-3})
    torch.testing.assert_close(cold, best)
