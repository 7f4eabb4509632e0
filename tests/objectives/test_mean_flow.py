"""Methods of average velocities, where these are known in closed form: images that are Gaussian around 0.

With x0 ~ N(0, s²), the image at time t has the spread σ(t) = sqrt(t² + (1 - t)² s²). The flow's velocity is
v = x_t (t - (1 - t) s²) / σ(t)², and it leads from x_t to x_r = x_t σ(r) / σ(t).
"""

from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from command_line import command_line

from advantageflow.config import LearnSettings, check_config
from advantageflow.errors import ConfigError
from advantageflow.fits import Fits
from advantageflow.flow import shift_t
from advantageflow.learning import FAMILIES, Scored
from advantageflow.learning.forward import draw_spans
from advantageflow.models.base import Conditioning, FlowModel
from advantageflow.objectives import find
from advantageflow.objectives.base import Forward
from advantageflow.rollout import Rollout, sample_batches
from advantageflow.seeding import Stream, noise

SPREAD = 0.4
METHODS = ["mean-flow-nft", "mean-flow-advantage"]


def sigma(t):
    return (t**2 + (1 - t) ** 2 * SPREAD**2).sqrt()


def slope(t):
    """v / x_t."""
    return (t - (1 - t) * SPREAD**2) / sigma(t) ** 2


class Gaussian(FlowModel):
    """Its network is the closed form."""

    device, latent_shape = torch.device("cpu"), (1, 1, 1)
    predicts, family = "average_velocity", "Gaussian"

    def __init__(self):
        self.transformer, self.fits = None, Fits()

    def encode(self, prompts):
        return Conditioning(torch.zeros(len(prompts), 1, 1))

    def encode_prompt(self, prompt):
        raise NotImplementedError  # `encode` above needs it not

    def sigmas(self, num_steps):
        return shift_t(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64), 3.0)

    def timestep(self, t, until, x_t):
        return torch.stack([t.expand(len(x_t)), until.expand(len(x_t))], 1)

    def _predict(self, *given):
        return self.predict(*given)

    def predict(self, transformer, x_t, timestep, prompt):
        t, until = timestep[:, 0], timestep[:, 1]
        u = torch.where(t == until, slope(t), (1 - sigma(until) / sigma(t)) / (t - until))
        return x_t.double() * u[:, None, None, None]


@pytest.mark.parametrize("steps", [2, 4, 7])
def test_any_number_of_steps_of_the_average_velocity_ends_at_the_image(steps):
    ((_, rollout),) = sample_batches(
        Gaussian(), None, ["a"] * 64, stream=Stream.ROLLOUT, address=(0,), num_inference_steps=steps, solver="euler"
    )
    drawn = noise((1, 1, 1), Stream.ROLLOUT, (0, 0), [*range(64)])
    torch.testing.assert_close(rollout.x0, SPREAD * drawn.double(), atol=1e-7, rtol=0)


def test_other_solvers_ask_for_a_velocity_that_it_does_not_have():
    with pytest.raises(ConfigError, match=r"the solver heun has steps of the velocity.*set rollout.solver=euler"):
        next(
            sample_batches(
                Gaussian(), None, ["a"], stream=Stream.ROLLOUT, address=(0,), num_inference_steps=4, solver="heun"
            )
        )
    with pytest.raises(ConfigError, match=r"rollout.solver is 'dpm2'.*'mean-flow-nft'.*set rollout.solver to euler"):
        check_config({"objective": "mean-flow-nft", "rollout": {"solver": "dpm2"}})


@dataclass(frozen=True)
class Looking(Forward):
    title, paper, average_velocity = "Looking", "none", True

    def terms(self, seen):
        return {"seen": seen.v.flatten(1).mean(1)}


def test_what_is_compared_is_the_velocity_that_averages_induce():
    """V = v + (1 - σ(r) / σ(t)) (noise - x0 - v): the flow's velocity, on average over the images at x_t."""
    model, count = Gaussian(), 200
    config = check_config({"rollout": {"num_inference_steps": 4, "prompts_per_iteration": 1}, "learn": {"t_draws": 1}})
    x0 = SPREAD * torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(count)
    scored = Scored(["a"] * count, Rollout(x0), nothing, nothing.long(), nothing, (0, 0))
    policy = SimpleNamespace(critic=None, acting_as=lambda role: nullcontext())
    family = FAMILIES["forward"](model, policy, Looking(), config, {}, scored)
    found = family.look([(image, 0) for image in range(count)], 0).terms["seen"]
    (t, r), x0 = (times[:, 0] for times in (family._times, family._ends)), x0.flatten()
    fresh = torch.cat([noise((1, 1, 1), Stream.LEARN, (0, 0, image), [0]) for image in range(count)]).flatten()
    flow = slope(t) * ((1 - t) * x0 + t * fresh)
    expected = flow + (1 - sigma(r) / sigma(t)) * (fresh - x0 - flow)
    inside = t < 1  # at the border the slope is one-sided
    torch.testing.assert_close(found[inside].double(), expected[inside], atol=2e-4, rtol=0)
    torch.testing.assert_close(found.double(), expected, atol=5e-3, rtol=0)
    none = r == t
    torch.testing.assert_close(found[none].double(), flow[none], atol=1e-5, rtol=0)


@pytest.mark.parametrize("distribution", ["rollout_grid", "uniform"])
def test_half_of_the_spans_have_no_length_and_a_quarter_end_at_the_image(distribution):
    learn = LearnSettings(t_distribution=distribution, t_draws=4)
    t, r = draw_spans(learn, [*range(1000)], Gaussian().sigmas(4), (0, 0))
    assert t.shape == r.shape == (1000, 4)
    assert ((r <= t) & (t > 0) & (t <= 1) & (r >= 0)).all()
    assert (r == 0).double().mean().item() == pytest.approx(0.25, abs=0.02)
    drawn_twice = 0.25 * 0.25 if distribution == "rollout_grid" else 0.0
    assert (r == t).double().mean().item() == pytest.approx(0.5 + drawn_twice, abs=0.03)


def optimum(method, x0, old, **given):
    """The one velocity for several images at t = 1, x_t = 0, that has the least mean loss: by Newton's method."""
    v = old.clone().requires_grad_()
    for _ in range(2):
        mean = method.loss(
            v.expand(len(x0), 1), old.expand(len(x0), 1), x0=x0, x_t=torch.zeros_like(x0), t=torch.tensor(1.0), **given
        ).mean()
        (first,) = torch.autograd.grad(mean, v, create_graph=True)
        (second,) = torch.autograd.grad(first, v)
        v = (v - first / second).detach().requires_grad_()
    return v.detach()


X0 = torch.tensor([[1.0], [-0.5], [2.0], [0.3]], dtype=torch.float64)
ADVANTAGE = torch.tensor([0.8, -0.6, 0.3, -0.5], dtype=torch.float64)


def test_the_optimum_is_the_mean_of_images_weighted_by_gamma_and_advantage():
    method = find("mean-flow-advantage")(adaptive_scale=False, reference_weight=0)
    old = -X0.mean().reshape(1)  # of all images alike, at t = 1 and x_t = 0
    weight = (method.gamma + ADVANTAGE)[:, None]
    found = optimum(method, X0, old, advantage=ADVANTAGE)
    torch.testing.assert_close(found, -(weight * X0).sum(0) / weight.sum(0))


def test_the_optimum_is_beyond_the_rollout_policy_by_the_covariance_over_beta():
    method = find("mean-flow-nft")(adaptive_scale=False, reference_weight=0)
    old = -X0.mean().reshape(1)
    found = optimum(method, X0, old, advantage=ADVANTAGE * method.advantage_clip)
    torch.testing.assert_close(found, old - (ADVANTAGE[:, None] * (X0 + old)).mean(0) / method.beta)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_of_velocities_is_refused(method, tmp_path):
    for more in (["--plan"], ["--output", tmp_path / "run"]):
        code, _, told = command_line("train", "scenes", f"objective={method}", *more)
        assert code == 2
        assert f"objective '{method}' learns an average velocity, but the model 'scenes' predicts none; set" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", ["scenes", "scenes-flow-grpo", "scenes-draft"])
def test_methods_of_velocities_refuse_an_average(recipe, tmp_path):
    for more in (["--plan"], ["--output", tmp_path / "run"]):
        code, _, told = command_line("train", recipe, "model.path=scenes-meanflow", *more)
        assert code == 2
        assert "learns a velocity, but the model 'scenes-meanflow' draws by its average velocity" in told
    assert not (tmp_path / "run").exists()
