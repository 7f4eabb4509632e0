"""Solvers against a flow whose solution is known: data N(m, s²) carried to N(0, 1)."""

import itertools
import math

import pytest
import torch

from advantageflow.flow import COSINE, RECTIFIED, interpolate, predict_noise, predict_x0, sd3_sigmas
from advantageflow.solvers import ddim_ode, dpm2, euler, flow_sde_diffusion, flow_sde_step, heun, solve

MEAN, STD = 0.7, 0.5


def gaussian_velocity(x, t):
    """The exact marginal velocity E[noise - x0 | x_t] for x0 ~ N(MEAN, STD²)."""
    t = t.to(x.dtype)
    variance = (1 - t) ** 2 * STD**2 + t**2
    residual = x - (1 - t) * MEAN
    return (t - (1 - t) * STD**2) / variance * residual - MEAN


def exact_solution(noise):
    """The probability flow keeps quantiles: noise z ends at MEAN + STD z."""
    return MEAN + STD * noise


@pytest.fixture
def noise():
    return torch.randn(6, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def error(solver, noise, num_steps):
    return (solver(gaussian_velocity, noise, sd3_sigmas(num_steps)) - exact_solution(noise)).abs().max().item()


def order_of_convergence(solver, noise):
    grids = [torch.linspace(1, 0.2, n + 1, dtype=torch.float64) for n in (40, 80)]
    finest = heun(gaussian_velocity, noise, torch.linspace(1, 0.2, 5001, dtype=torch.float64))
    coarse, fine = ((solver(gaussian_velocity, noise, grid) - finest).abs().max() for grid in grids)
    return math.log2(coarse / fine)


def test_solvers_converge_to_the_exact_samples(noise):
    assert error(euler, noise, 800) < 0.01
    assert error(heun, noise, 100) < 0.001
    assert error(dpm2, noise, 400) < 0.001


def test_euler_is_first_and_heun_second_order(noise):
    assert order_of_convergence(euler, noise) == pytest.approx(1, abs=0.15)
    assert order_of_convergence(heun, noise) == pytest.approx(2, abs=0.2)


def test_dpm2_is_second_order_away_from_pure_noise(noise):
    def from_noise_level(num_steps):
        grid = torch.linspace(0.9, 0.2, num_steps + 1, dtype=torch.float64)
        return dpm2(gaussian_velocity, noise, grid)

    finest = heun(gaussian_velocity, noise, torch.linspace(0.9, 0.2, 5001, dtype=torch.float64))
    coarse, fine = ((from_noise_level(n) - finest).abs().max() for n in (40, 80))
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.35)


def test_euler_is_ddim_without_noise(noise):
    sigmas = sd3_sigmas(10)
    x = noise
    for t, t_next in itertools.pairwise(sigmas):
        v = gaussian_velocity(x, t)
        x = interpolate(predict_x0(x, v, t), predict_noise(x, v, t), t_next)
    torch.testing.assert_close(euler(gaussian_velocity, noise, sigmas), x)


def test_dpm2_takes_its_first_second_and_last_steps_like_euler(noise):
    """The second step's history is at infinite log-SNR distance, so it is first order as well."""
    sigmas = sd3_sigmas(3)
    torch.testing.assert_close(dpm2(gaussian_velocity, noise, sigmas), euler(gaussian_velocity, noise, sigmas))


def test_dpm2_follows_its_published_update(noise):
    """DPM-Solver++(2M) in its own variables: α = 1 - σ, λ = log(α/σ), h = λ' - λ."""
    sigmas = sd3_sigmas(6)
    x, history = noise, []
    for i in range(6):
        s, s_next = sigmas[i], sigmas[i + 1]
        x0 = predict_x0(x, gaussian_velocity(x, s), s)
        if i in (0, 5):
            x = s_next / s * x + (1 - s_next - (1 - s) * s_next / s) * x0
        else:
            lam = [torch.log((1 - v) / v) for v in sigmas[i - 1 : i + 2]]
            h, h_before = lam[2] - lam[1], lam[1] - lam[0]
            slope = (h / h_before) * (x0 - history[-1])
            x = s_next / s * x - (1 - s_next) * (torch.exp(-h) - 1) * (x0 + 0.5 * slope)
        history.append(x0)
    torch.testing.assert_close(dpm2(gaussian_velocity, noise, sigmas), x)


@pytest.mark.parametrize("solver", [euler, heun, dpm2])
def test_the_callback_sees_every_step(solver, noise):
    seen = []
    result = solver(gaussian_velocity, noise, sd3_sigmas(5), callback=lambda step, x: seen.append((step, x)))
    assert [step for step, _ in seen] == [0, 1, 2, 3, 4]
    assert torch.equal(seen[-1][1], result)


@pytest.mark.parametrize("solver", [euler, heun, dpm2])
def test_solvers_keep_float32(solver, noise):
    assert solver(gaussian_velocity, noise.float(), sd3_sigmas(4)).dtype == torch.float32


def test_flow_sde_without_noise_is_euler(noise):
    for sigma, sigma_next in [(1.0, 0.96), (0.7, 0.5), (0.0089, 0.0)]:
        v = gaussian_velocity(noise, torch.tensor(sigma))
        next_x, mean, std, _ = flow_sde_step(v, noise, sigma, sigma_next, noise_level=1e-12, noise=noise)
        torch.testing.assert_close(mean, noise + (sigma_next - sigma) * v)
        torch.testing.assert_close(next_x, mean)
        assert std < 1e-10


def test_flow_sde_keeps_the_marginals_of_the_flow():
    """Many small steps from noise reach the data distribution."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(20_000, 1, dtype=torch.float64, generator=generator)
    sigmas = torch.linspace(1, 0, 201, dtype=torch.float64)
    for t, t_next in itertools.pairwise(sigmas):
        fresh = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        x, *_ = flow_sde_step(gaussian_velocity(x, t), x, t, t_next, noise_level=0.7, noise=fresh)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.std().item() == pytest.approx(STD, abs=0.02)


def test_flow_sde_log_probability_is_the_gaussian_s(noise):
    v = gaussian_velocity(noise, torch.tensor(0.6))
    sampled, mean, std, log_prob = flow_sde_step(v, noise, 0.6, 0.5, noise_level=0.7, noise=torch.ones_like(noise))
    expected = torch.distributions.Normal(mean, std).log_prob(sampled).flatten(1).mean(1)
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(std.item(), 0.7 * math.sqrt(0.6 / 0.4) * math.sqrt(0.1))
    _, _, _, scored = flow_sde_step(v, noise, 0.6, 0.5, noise_level=0.7, next_x=sampled)
    torch.testing.assert_close(scored, log_prob)


def test_flow_sde_steps_of_a_batch_may_have_different_times(noise):
    sigma, sigma_next = torch.rand(6) * 0.5 + 0.4, torch.full((6,), 0.2)
    v = torch.randn_like(noise)
    together = flow_sde_step(v, noise, sigma, sigma_next, noise_level=0.7, noise=noise)
    for i in range(6):
        alone = flow_sde_step(
            v[i : i + 1], noise[i : i + 1], sigma[i], sigma_next[i], noise_level=0.7, noise=noise[i : i + 1]
        )
        torch.testing.assert_close(alone[0][0], together[0][i])
        torch.testing.assert_close(alone[3][0], together[3][i])


def test_flow_sde_replaces_the_first_time_by_the_next():
    assert flow_sde_diffusion(1.0, 0.96, 0.7).item() == pytest.approx(0.7 * math.sqrt(1 / 0.04))


def test_flow_sde_wants_noise_or_a_next_state(noise):
    with pytest.raises(ValueError, match="exactly one"):
        flow_sde_step(noise, noise, 0.5, 0.4, noise_level=0.7)
    with pytest.raises(ValueError, match="exactly one"):
        flow_sde_step(noise, noise, 0.5, 0.4, noise_level=0.7, noise=noise, next_x=noise)


def curved_error(solver, noise, num_steps):
    """Of the samples of the same data on the cosine path, from where α = 0.1 on."""

    def x0_of(x, t):
        alpha, sigma = COSINE.alpha(t), COSINE.sigma(t)
        return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)

    def ends(x, t):
        return COSINE.ends("sample", x0_of(x, t), x, t)

    def spread(t):
        return torch.sqrt(COSINE.alpha(t) ** 2 * STD**2 + COSINE.sigma(t) ** 2)

    sigmas = torch.linspace(0.936, 0.1, num_steps + 1, dtype=torch.float64)
    begin, end = sigmas[0], sigmas[-1]
    x = COSINE.alpha(begin) * MEAN + spread(begin) * noise
    found = solve(solver, COSINE, lambda x, t: COSINE.velocity(*ends(x, t), t), ends, x, sigmas)
    return (found - COSINE.alpha(end) * MEAN - spread(end) * noise).abs().max().item()


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("dpm2", 2), ("heun", 2)])
def test_solvers_of_another_path_have_their_order(solver, order, noise):
    errors = [curved_error(solver, noise, steps) for steps in (40, 80)]
    assert errors[1] < 0.03
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


def test_ddim_is_euler_on_the_straight_path(noise):
    sigmas = sd3_sigmas(10)

    def ends(x, t):
        return RECTIFIED.ends("velocity", gaussian_velocity(x, t), x, t)

    torch.testing.assert_close(ddim_ode(ends, noise, sigmas, RECTIFIED), euler(gaussian_velocity, noise, sigmas))
