"""The lean adjoint against autograd, and the control that it asks for, in float64."""

from contextlib import nullcontext

import pytest
import torch

from advantageflow.config import check_config
from advantageflow.errors import ConfigError
from advantageflow.flow import like, sd3_sigmas
from advantageflow.objectives import AdjointMatching
from advantageflow.objectives.base import Controlled, Start
from advantageflow.solvers import sde_step
from advantageflow.walks import walk

SLOPE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
MATRIX = torch.tensor([[0.6, 0.3, 0.0], [-0.2, 0.9, 0.1], [0.0, 0.4, -0.5]], dtype=torch.float64)


def linear(x, t):
    return x @ MATRIX.T + like(t, x)


def curved(x, t):
    return torch.sin(2 * x) + like(t, x) * x


def draw(velocity, sigmas, kind, noise):
    """The states of chains, [steps + 1, batch, ...], and what each step adds to its mean."""
    plan = AdjointMatching().plan(0, len(sigmas) - 1, 1.0, None)
    generator = torch.Generator().manual_seed(1)
    drawn = lambda step, nodes: torch.randn(nodes, *noise.shape[1:], dtype=torch.float64, generator=generator)  # noqa: E731
    x, edges = walk(velocity, noise, sigmas, plan, kind, drawn)
    states = torch.cat([edges.x.view(len(sigmas) - 1, *noise.shape), x[None]])
    return states, plan


def make_start(learner, base, sigmas, kind, states, plan):
    levels = torch.tensor(plan.noise, dtype=torch.float64)

    def move(v, x, step):
        return sde_step(kind, v, x, sigmas[step], sigmas[step + 1], levels[step])

    rows = torch.arange(states.shape[1])
    return Start(
        states[0], torch.zeros_like(rows), sigmas, learner, lambda number: None, lambda steps: states[steps, rows],
        lambda count: torch.arange(count, dtype=torch.float64).expand(len(rows), -1), move, lambda: nullcontext(base),
    )  # fmt: skip


def noise_of(batch=2):
    return torch.randn(batch, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", AdjointMatching.solvers)
def test_on_a_linear_model_the_adjoint_is_the_gradient_of_the_base_model_s_image(kind):
    """Whoever drew the states: ∂ -λ r / ∂ x after every step, by autograd through the base model's steps."""
    sigmas = sd3_sigmas(6)
    states, plan = draw(curved, sigmas, kind, noise_of())
    start = make_start(curved, linear, sigmas, kind, states, plan)
    means, adjoints = AdjointMatching(reward_scale=3.0).adjoints(start, lambda x: x @ SLOPE)
    for step in range(6):
        x = states[step + 1].clone().requires_grad_()
        at = x
        for later in range(step + 1, 6):
            steps = torch.full((2,), later)
            at = start.move(linear(at, sigmas[steps]), at, steps)[0]
        (expected,) = torch.autograd.grad(-3.0 * (at @ SLOPE).sum(), x)
        torch.testing.assert_close(adjoints[step], expected)
        steps = torch.full((2,), step)
        expected, _ = start.move(linear(states[step], sigmas[steps]), states[step], steps)
        torch.testing.assert_close(means[step], expected)


def test_on_the_base_model_s_own_way_it_is_the_gradient_of_any_reward_with_the_noise_as_it_was():
    sigmas = sd3_sigmas(5)
    states, plan = draw(curved, sigmas, "ddim", noise_of())
    start = make_start(curved, curved, sigmas, "ddim", states, plan)
    means, adjoints = AdjointMatching(reward_scale=2.0).adjoints(start, lambda x: x.square().sum(1).sin())
    x = states[1].clone().requires_grad_()
    at = x
    for later in range(1, 5):
        steps = torch.full((2,), later)
        added = states[later + 1] - means[later]
        at = start.move(curved(at, sigmas[steps]), at, steps)[0] + added
    torch.testing.assert_close(at, states[5])
    (expected,) = torch.autograd.grad(-2.0 * at.square().sum(1).sin().sum(), x)
    torch.testing.assert_close(adjoints[0], expected)


@pytest.mark.parametrize("kind", AdjointMatching.solvers)
def test_the_control_that_it_asks_for_is_the_sampler_of_the_tilted_distribution(kind):
    """Of data N(m, S²) and the reward c x, p exp(λ c x) has the mean m + λ c S²: so far the controlled image goes."""
    mean, std, slope = 0.7, 0.5, 2.0
    sigmas = torch.linspace(1, 0, 401, dtype=torch.float64)

    def exact(x, t):
        t = like(t, x)
        variance = (1 - t) ** 2 * std**2 + t**2
        return (t - (1 - t) * std**2) / variance * (x - (1 - t) * mean) - mean

    states, plan = draw(exact, sigmas, kind, noise_of()[:, :1])
    start = make_start(exact, exact, sigmas, kind, states, plan)
    method = AdjointMatching(reward_scale=1.5, bound=None)
    _, adjoints = method.adjoints(start, lambda x: slope * x[:, 0])
    ends = []
    for controlled in (False, True):
        x = states[0]
        for step in range(400):
            steps = torch.full((2,), step)
            at, s = start.move(exact(x, sigmas[steps]), x, steps)
            x = at - like(s, at) ** 2 * adjoints[step] if controlled else at
            if controlled and step < 399:  # it is where the loss is 0
                assert method.terms(Controlled(x, at, s, s, adjoints[step]))["control"].abs().max() < 1e-20
        ends.append(x)
    torch.testing.assert_close(ends[1] - ends[0], torch.full_like(ends[0], 1.5 * slope * std**2), rtol=0.02, atol=0)


def test_the_loss_is_the_mean_over_steps_that_have_noise_and_reaches_the_learner_alone():
    sigmas, weight = sd3_sigmas(5), torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    states, plan = draw(curved, sigmas, "ddim", noise_of())
    start = make_start(lambda x, t: weight * curved(x, t), curved, sigmas, "ddim", states, plan)
    method = AdjointMatching(reward_scale=2.0, active_steps=4, bound=None)
    found = method.look(start, lambda x: x @ SLOPE)["control"]
    means, adjoints = method.adjoints(start, lambda x: x @ SLOPE)
    expected = torch.zeros(2, dtype=torch.float64)
    for step in range(4):
        x, steps = states[step], torch.full((2,), step)
        mean, std = start.move(weight * curved(x, sigmas[steps]), x, steps)
        width = sigmas[step] - sigmas[step + 1]
        asked = mean - means[step] + (std**2)[:, None] * adjoints[step]
        expected = expected + asked.square().mean(1) / std.clamp(min=width) ** 2 / 4
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each.sum(), weight)[0] for each in (found, expected)))


@pytest.mark.parametrize(("bound", "taught"), [(0.095, False), (0.105, True), (None, True)])
def test_an_adjoint_beyond_bound_is_left_out(bound, taught):
    zero, std = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    method = AdjointMatching(reward_scale=2.0, bound=bound)
    found = method.terms(Controlled(zero, zero, std, 0.1 * std, zero + 0.4))["control"]
    assert found.item() == pytest.approx(0.2**2 if taught else 0.0)


def test_what_does_not_forget_its_noise_is_refused():
    with pytest.raises(ConfigError, match=r"noise_level is 0.7, but .* set rollout.noise_level=1"):
        check_config({"objective": "adjoint-matching", "rollout": {"noise_level": 0.7}})
    settings = {"objective": {"name": "adjoint-matching", "active_steps": 4}, "rollout": {"num_inference_steps": 4}}
    with pytest.raises(ConfigError, match="active_steps is 4; only 3 of the steps have noise"):
        check_config(settings)
    with pytest.raises(ConfigError, match=r"'euler', an ODE, .* set rollout.solver to ddim or memoryless"):
        check_config({"objective": "adjoint-matching", "rollout": {"solver": "euler"}})
