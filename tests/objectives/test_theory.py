"""The paper's theory on a finite set of images, where every expectation is a sum.

Images x0 are K points with known probabilities p_old; the reward is known, and A = r - E_old[r]. At a noised point x_t
the posterior over the K points is Bayes' rule, so f_old, f_q and the minimizer of the population loss are exact.
"""

import pytest
import torch
from torch.distributions import Normal

from advantageflow.objectives import AdvantageFlow

K, DIMENSIONS = 6, 3
GENERATOR = torch.Generator().manual_seed(3)
POINTS = torch.randn(K, DIMENSIONS, dtype=torch.float64, generator=GENERATOR)
P_OLD = torch.softmax(torch.randn(K, dtype=torch.float64, generator=GENERATOR), 0)
REWARD = torch.rand(K, dtype=torch.float64, generator=GENERATOR)
ADVANTAGE = REWARD - P_OLD @ REWARD
ADVANTAGE = ADVANTAGE / ADVANTAGE.abs().max()


def posterior(weights, x_t, t):
    """p(x0 | x_t) over the K points, for a prior proportional to `weights`."""
    likelihood = Normal((1 - t) * POINTS, t).log_prob(x_t).sum(-1).exp()
    joint = weights * likelihood
    return joint / joint.sum()


def tilted(eta):
    """q_η = (1 + η A) p_old."""
    return (1 + eta * ADVANTAGE) * P_OLD


def loss_at(f, x_t, t, gamma, draws=None):
    """The population loss in f at one x_t: the expectation of AdvantageFlow's loss over x0 ~ p_old(x0 | x_t)."""
    p = posterior(P_OLD, x_t, t)
    f_old = p @ POINTS
    to_velocity = lambda prediction: (x_t - prediction) / t  # noqa: E731
    each = AdvantageFlow(gamma=gamma, reference_weight=0.0).loss(
        to_velocity(f).expand(K, -1),
        to_velocity(f_old).expand(K, -1),
        to_velocity(f_old).expand(K, -1),
        x0=POINTS,
        x_t=x_t.expand(K, -1),
        t=torch.full((K,), t, dtype=torch.float64),
        advantage=ADVANTAGE,
    )
    return p @ each


def minimizer(x_t, t, gamma):
    """Of a quadratic: one Newton step from zero."""
    f = torch.zeros(DIMENSIONS, dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(lambda f: loss_at(f, x_t, t, gamma), f)
    curvature = torch.autograd.functional.hessian(lambda f: loss_at(f, x_t, t, gamma), f)
    return -torch.linalg.solve(curvature, gradient)


@pytest.mark.parametrize("gamma", [1.1, 2.0, 5.0])
@pytest.mark.parametrize("t", [0.15, 0.5, 0.9])
def test_the_population_minimizer_is_the_flow_of_the_tilted_distribution(gamma, t):
    """q ∝ (γ + A) p_old."""
    for seed in range(3):
        x_t = torch.randn(DIMENSIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        f_q = posterior((gamma + ADVANTAGE) * P_OLD, x_t, t) @ POINTS
        torch.testing.assert_close(minimizer(x_t, t, gamma), f_q)


@pytest.mark.parametrize("t", [0.2, 0.8])
def test_one_minus_a_moves_by_the_posterior_covariance(t):
    """f = f_old + Cov(A, x0 | x_t) + E[A | x_t] (f_old - f_old): the constant-curvature variant's closed form."""
    x_t = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    p = posterior(P_OLD, x_t, t)
    f_old = p @ POINTS
    covariance = (p * ADVANTAGE) @ (POINTS - f_old)
    torch.testing.assert_close(minimizer(x_t, t, "1-A"), f_old + covariance)


def test_the_tilted_distribution_is_one_and_improves_the_reward_by_eta_times_its_variance():
    advantage = REWARD - P_OLD @ REWARD
    eta = 0.5 / advantage.abs().max()
    q = (1 + eta * advantage) * P_OLD
    assert (q > 0).all()
    torch.testing.assert_close(q.sum(), torch.ones((), dtype=torch.float64))
    variance = P_OLD @ advantage.square()
    torch.testing.assert_close(q @ REWARD - P_OLD @ REWARD, eta * variance)


def test_the_tilt_is_the_natural_gradient_of_the_expected_reward():
    """Proposition 1, in softmax coordinates: Fisher^-1 ∇E[r] changes p along A p_old."""
    logits = P_OLD.log().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.softmax(logits, 0) @ REWARD, logits)
    fisher = torch.diag(P_OLD) - torch.outer(P_OLD, P_OLD)
    direction = torch.linalg.pinv(fisher) @ gradient
    change = fisher @ direction  # d softmax / d logits = Fisher
    torch.testing.assert_close(change, (REWARD - P_OLD @ REWARD) * P_OLD)


def test_regression_on_tilted_samples_is_weighted_regression_on_rollouts():
    """Eq. 11."""
    eta, t = 0.7, 0.4
    x_t = torch.tensor([0.1, 0.4, -0.3], dtype=torch.float64)
    f = torch.tensor([0.2, 0.0, 1.0], dtype=torch.float64)
    error = (POINTS - f).square().sum(-1)
    likelihood = Normal((1 - t) * POINTS, t).log_prob(x_t).sum(-1).exp()
    torch.testing.assert_close(
        (tilted(eta) * likelihood) @ error, (P_OLD * likelihood) @ ((1 + eta * ADVANTAGE) * error)
    )


def test_replacing_images_by_their_prediction_changes_the_loss_by_a_constant():
    """Proposition 2 / oracle 6: E‖x0 - f‖² - ‖f_old - f‖² does not depend on f."""
    t, x_t = 0.6, torch.tensor([0.5, 0.1, -0.7], dtype=torch.float64)
    p = posterior(P_OLD, x_t, t)
    f_old = p @ POINTS
    gaps = [
        p @ (POINTS - f).square().sum(-1) - (f_old - f).square().sum()
        for f in torch.randn(4, DIMENSIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ]
    torch.testing.assert_close(torch.stack(gaps), gaps[0].expand(4))


def test_replacing_images_by_their_prediction_lowers_the_gradient_s_variance():
    """Proposition 2, measured: smaller in every direction for the unweighted part, and in total for the whole loss."""
    generator = torch.Generator().manual_seed(5)
    count, t, eta = 50_000, 0.5, 0.8
    index = torch.multinomial(P_OLD, count, replacement=True, generator=generator)
    x0, advantage = POINTS[index], ADVANTAGE[index, None]
    x_t = (1 - t) * x0 + t * torch.randn(count, DIMENSIONS, dtype=torch.float64, generator=generator)
    likelihood = Normal((1 - t) * POINTS, t).log_prob(x_t[:, None]).sum(-1).exp()
    p = likelihood * P_OLD
    f_old = (p / p.sum(1, keepdim=True)) @ POINTS
    f = 0.8 * f_old + 0.3 * x_t  # any predictor near the rollout policy's

    images, predictions = 2 * (f - x0), 2 * (f - f_old)
    torch.testing.assert_close(images.mean(0), predictions.mean(0), atol=0.03, rtol=0)
    assert torch.linalg.eigvalsh(torch.cov(images.T) - torch.cov(predictions.T)).min() > 0
    signed = 2 * eta * advantage * (f - x0)
    assert torch.cov((images + signed).T).trace() > 1.5 * torch.cov((predictions + signed).T).trace()
