import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from advantageflow.flow import (
    COSINE,
    RECTIFIED,
    draw_t,
    interpolate,
    predict_noise,
    predict_x0,
    sd3_sigmas,
    shift_t,
    tabulated,
    velocity_from_x0,
)


@pytest.fixture
def path():
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=generator)
    t = torch.rand(5, dtype=torch.float64, generator=generator)
    return x0, noise, t, interpolate(x0, noise, t), noise - x0


def test_the_path_starts_at_data_and_ends_at_noise(path):
    x0, noise, *_ = path
    assert torch.equal(interpolate(x0, noise, 0.0), x0)
    assert torch.equal(interpolate(x0, noise, 1.0), noise)


def test_the_true_velocity_points_to_data_and_noise(path):
    x0, noise, t, x_t, velocity = path
    torch.testing.assert_close(predict_x0(x_t, velocity, t), x0)
    torch.testing.assert_close(predict_noise(x_t, velocity, t), noise)
    torch.testing.assert_close(velocity_from_x0(x_t, x0, t), velocity)


def test_prediction_error_is_t_times_velocity_error(path):
    x0, _, t, x_t, velocity = path
    other = velocity + torch.randn_like(velocity)
    error = (predict_x0(x_t, other, t) - x0).square().flatten(1).mean(1)
    torch.testing.assert_close(error, t**2 * (other - velocity).square().flatten(1).mean(1))


def test_sd3_grid_is_the_published_one():
    published = [1, 0.9601, 0.9133, 0.8577, 0.7904, 0.7073, 0.6022, 0.4649, 0.2780, 0.0089, 0]
    torch.testing.assert_close(sd3_sigmas(10), torch.tensor(published, dtype=torch.float64), atol=5e-5, rtol=0)


@pytest.mark.parametrize("num_steps", [2, 10, 28, 40])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_sd3_grid_is_the_scheduler_s_to_the_bit(num_steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(num_steps)
    assert torch.equal(sd3_sigmas(num_steps, shift).float(), scheduler.sigmas)


def test_sd3_grid_needs_two_steps():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        sd3_sigmas(1)


def test_shift_keeps_the_ends_and_moves_the_middle():
    torch.testing.assert_close(shift_t(torch.tensor([0.0, 0.5, 1.0]), 3.0), torch.tensor([0.0, 0.75, 1.0]))


def test_uniform_and_logit_normal_times_have_their_moments():
    sigmas = sd3_sigmas(10)
    uniform = draw_t("uniform", 20_000, sigmas, torch.Generator().manual_seed(0))
    assert uniform.min() > 0
    assert uniform.max() <= 1
    assert abs(uniform.mean() - 0.5) < 0.01
    assert abs(uniform.var() - 1 / 12) < 0.005
    normal = torch.logit(draw_t("logit_normal", 20_000, sigmas, torch.Generator().manual_seed(0)))
    assert abs(normal.mean()) < 0.03
    assert abs(normal.std() - 1) < 0.03


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
def test_times_are_squeezed_between_two(distribution):
    whole, part = (
        draw_t(distribution, 100, sd3_sigmas(10), torch.Generator().manual_seed(0), within=within)
        for within in ((0, 1), (0.5, 0.9))
    )
    torch.testing.assert_close(part, 0.5 + 0.4 * whole)


def test_rollout_grid_times_are_distinct_and_from_the_grid():
    sigmas = sd3_sigmas(10)
    for seed in range(20):
        times = draw_t("rollout_grid", 9, sigmas, torch.Generator().manual_seed(seed))
        assert len(set(times.tolist())) == 9
        assert set(times.tolist()) <= set(sigmas[:-1].tolist())
    with pytest.raises(ValueError, match="11 distinct times from a rollout grid of 10"):
        draw_t("rollout_grid", 11, sigmas, torch.Generator())


def test_an_unknown_distribution_is_named():
    with pytest.raises(ValueError, match="'cosine'; use one of uniform, rollout_grid, logit_normal"):
        draw_t("cosine", 1, sd3_sigmas(10), torch.Generator())  # type: ignore[arg-type]


ANGLES = torch.pi / 2 * torch.linspace(0, 1, 51, dtype=torch.float64)
TABULATED = tabulated(ANGLES.cos(), ANGLES.sin())
PATHS = {"rectified": RECTIFIED, "cosine": COSINE, "tabulated": TABULATED}


@pytest.fixture(params=PATHS)
def walked(request):
    """A path with images, noise and times in between, and a wrong prediction of each image."""
    generator = torch.Generator().manual_seed(1)
    x0, noise, error = torch.randn(3, 6, 3, 4, dtype=torch.float64, generator=generator)
    t = 0.05 + 0.9 * torch.rand(6, dtype=torch.float64, generator=generator)
    path = PATHS[request.param]
    coefficients = [part(t).reshape(6, 1, 1) for part in (path.alpha, path.sigma, path.alpha_slope, path.sigma_slope)]
    return path, x0, noise, t, path.interpolate(x0, noise, t), x0 + error, coefficients


def test_a_paths_slopes_are_its_derivatives():
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64, requires_grad=True)
    for path in PATHS.values():
        for value, slope in ((path.alpha, path.alpha_slope), (path.sigma, path.sigma_slope)):
            (found,) = torch.autograd.grad(value(t).sum(), t)
            torch.testing.assert_close(found, slope(t))


def test_a_path_goes_from_the_image_to_the_noise():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for path in PATHS.values():
        torch.testing.assert_close(path.alpha(ends), 1 - ends)
        torch.testing.assert_close(path.sigma(ends), ends)


def test_the_true_velocity_of_a_path_is_its_derivative_and_gives_both_ends(walked):
    path, x0, noise, t, x_t, _, _ = walked
    step = 1e-6
    change = (path.interpolate(x0, noise, t + step) - path.interpolate(x0, noise, t - step)) / (2 * step)
    velocity = path.velocity(x0, noise, t)
    torch.testing.assert_close(velocity, change, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(path.predict_x0(x_t, velocity, t), x0)
    torch.testing.assert_close(path.predict_noise(x_t, velocity, t), noise)
    torch.testing.assert_close(path.noise_between(x0, x_t, t), noise)


def test_errors_of_velocity_and_noise_are_those_of_the_image_scaled(walked):
    """v - v* = κ (f - x0) with κ = α' - α σ' / σ, and ε - ε* = -(α / σ) (f - x0)."""
    path, x0, noise, t, x_t, f, (alpha, sigma, alpha_slope, sigma_slope) = walked
    velocity = path.velocity_of("sample", f, x_t, t)
    kappa = alpha_slope - alpha * sigma_slope / sigma
    torch.testing.assert_close(velocity - path.velocity(x0, noise, t), kappa * (f - x0))
    torch.testing.assert_close(path.predict_noise(x_t, velocity, t) - noise, -(alpha / sigma) * (f - x0))
    if path is RECTIFIED:
        torch.testing.assert_close(kappa.flatten(), -1 / t)


def test_networks_of_every_kind_have_one_velocity(walked):
    path, _, _, t, x_t, f, (alpha, sigma, _, _) = walked
    velocity = path.velocity_of("sample", f, x_t, t)
    torch.testing.assert_close(path.velocity_of("epsilon", (x_t - alpha * f) / sigma, x_t, t), velocity)
    assert path.velocity_of("velocity", velocity, x_t, t) is velocity
    torch.testing.assert_close(path.predict_x0(x_t, velocity, t), f)


def test_v_prediction_is_the_velocity_in_angles():
    """On a path with α² + σ² = 1; the cosine path's angle is π/2 t."""
    x0, noise = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = torch.linspace(0.1, 1, 6, dtype=torch.float64)
    x_t, velocity = COSINE.interpolate(x0, noise, t), COSINE.velocity(x0, noise, t)
    found = COSINE.ends("v_prediction", velocity / (torch.pi / 2), x_t, t)
    torch.testing.assert_close(found, (x0, noise))
    torch.testing.assert_close(COSINE.velocity_of("v_prediction", velocity / (torch.pi / 2), x_t, t), velocity)


def test_a_table_is_kept_to_the_bit():
    times = torch.arange(51, dtype=torch.float64) / 50
    table = ANGLES.cos().float()
    assert torch.equal(tabulated(table, ANGLES.sin()).alpha(times).float(), table)


def test_a_step_ends_where_the_image_and_the_noise_of_its_velocity_do(walked):
    path, x0, noise, t, x_t, _, _ = walked
    step = path.step(x_t, path.velocity(x0, noise, t), t, t / 2)
    torch.testing.assert_close(step, path.interpolate(x0, noise, t / 2))
