"""Chains, windows and trees by one sampler, on a flow whose velocity is known."""

import pytest
import torch

from advantageflow.flow import sd3_sigmas
from advantageflow.solvers import SDE_STEPS, euler, gaussian_log_prob, sde_step
from advantageflow.walk_plan import Plan, chain
from advantageflow.walks import Edges, probe, walk

SIGMAS = sd3_sigmas(6)


def velocity(x, t):
    return torch.sin(3 * x) + x * t.to(x.dtype)


def fresh(step, nodes):
    return torch.stack([node_noise(step, node) for node in range(nodes)])


def node_noise(step, node):
    return torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(100 * step + node))


@pytest.fixture
def noise():
    return torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("kind", SDE_STEPS)
def test_without_noise_every_kind_of_step_is_euler_to_the_bit(kind, noise):
    x, edges = walk(velocity, noise, SIGMAS, chain([0.0] * 6, ()), kind, fresh)
    assert torch.equal(x, euler(velocity, noise, SIGMAS))
    assert edges is None
    for step in range(6):
        v = velocity(noise, SIGMAS[step])
        mean, std = sde_step(kind, v, noise, SIGMAS[step], SIGMAS[step + 1], 0.0)
        assert torch.equal(mean, noise + (SIGMAS[step + 1] - SIGMAS[step]) * v)
        assert std == 0


def test_a_window_is_noisy_inside_and_the_ode_outside(noise):
    plan = chain([0.0, 0.0, 0.7, 0.7, 0.0, 0.0], {2, 3})
    x, edges = walk(velocity, noise, SIGMAS, plan, "flow_sde", fresh)
    assert edges.step.tolist() == [2] * 4 + [3] * 4
    assert torch.equal(edges.x[:4], euler(velocity, noise, SIGMAS[:3]))
    assert torch.equal(edges.next_x[:4], edges.x[4:])
    assert torch.equal(x, euler(velocity, edges.next_x[4:], SIGMAS[4:]))
    mean, std = sde_step("flow_sde", velocity(edges.x[:4], SIGMAS[2]), edges.x[:4], SIGMAS[2], SIGMAS[3], 0.7)
    torch.testing.assert_close(edges.log_prob[:4], gaussian_log_prob(edges.next_x[:4], mean, std))
    assert edges.leaves.tolist() == [[i, i + 1] for i in range(4)] * 2


def test_the_leaves_of_a_tree_are_counted_from_its_nodes(noise):
    plan = Plan((0.7,) * 6, frozenset(range(6)), (2, 1, 3, 1, 1, 1))
    assert plan.leaves == 6
    x, edges = walk(velocity, noise[:2], SIGMAS, plan, "cps", fresh)
    assert len(x) == 12
    counts = [int((edges.step == step).sum()) for step in range(6)]
    assert counts == [4, 4, 12, 12, 12, 12]
    of_step_0 = edges.leaves[edges.step == 0].tolist()
    assert of_step_0 == [[0, 3], [3, 6], [6, 9], [9, 12]]
    siblings = edges.x[edges.step == 0]
    assert torch.equal(siblings[0], siblings[1])  # one state, two ways on
    assert not torch.equal(*edges.next_x[edges.step == 0][:2])
    # every state is where an edge of the step before led to
    for step in range(1, 6):
        before, after = edges.next_x[edges.step == step - 1], edges.x[edges.step == step]
        assert torch.equal(before.repeat_interleave(plan.children[step], 0), after)


def test_a_mean_over_leaves():
    empty = torch.zeros(3, 1)
    edges = Edges(empty, empty, torch.arange(3), torch.zeros(3), torch.tensor([[0, 4], [2, 3], [1, 3]]))
    values = torch.tensor([0.1, 0.2, 0.3, 0.7], dtype=torch.float64)
    torch.testing.assert_close(edges.leaf_means(values), torch.tensor([1.3 / 4, 0.3, 0.25], dtype=torch.float64))
    assert edges.leaf_means(values)[1] == values[2]  # exactly


@pytest.mark.parametrize("kind", ["cps", "ddim"])
def test_the_power_of_the_noise_is_kept(kind):
    """Of a state (1 - σ) x0 + σ ε the next has noise of power σ'²: the mean's part and the fresh part together."""
    x0, eps = torch.full((1, 5), 0.3, dtype=torch.float64), torch.ones(1, 5, dtype=torch.float64)
    for sigma, sigma_next in [(0.9, 0.7), (0.5, 0.2)]:
        x = (1 - sigma) * x0 + sigma * eps
        mean, std = sde_step(kind, eps - x0, x, sigma, sigma_next, 0.6)
        part = (mean - (1 - sigma_next) * x0) / eps
        torch.testing.assert_close(part**2 + std**2, torch.full_like(part, sigma_next**2))


@pytest.mark.parametrize("kind", ["dance_sde", "memoryless"])
def test_the_marginals_of_the_flow_are_kept(kind):
    """Data N(0.7, 0.5²): many small steps from noise reach it, whatever the diffusion."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(20_000, 1, dtype=torch.float64, generator=generator)
    sigmas = torch.linspace(1, 0, 401, dtype=torch.float64)

    def exact(x, t):
        variance = (1 - t) ** 2 * 0.25 + t**2
        return (t - (1 - t) * 0.25) / variance * (x - (1 - t) * 0.7) - 0.7

    x, _ = walk(
        exact, x, sigmas, chain([0.6] * 400, ()), kind,
        lambda step, nodes: torch.randn(nodes, 1, dtype=torch.float64, generator=generator),
    )  # fmt: skip
    assert x.mean().item() == pytest.approx(0.7, abs=0.03)
    assert x.std().item() == pytest.approx(0.5, abs=0.03)


def test_a_plan_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="children has 2 steps, noise 3"):
        Plan((0.0,) * 3, frozenset(), (1, 1))
    with pytest.raises(ValueError, match="keeps a step that it does not have"):
        chain([0.0] * 3, {3})
    for way in ((1, 2), (2, 1, 3), (3,), (0, 3)):  # not to the end, back, from where nothing is known, before a split
        with pytest.raises(ValueError, match="must go from a recorded state, after all splits, to the last place, 3"):
            Plan((0.0,) * 3, frozenset({0, 1}), (2, 1, 1), (way,))


def test_probes_are_euler_s_from_recorded_states(noise):
    plan = Plan((0.0, 0.7, 0.0, 0.0, 0.0, 0.0), frozenset({1}), (1, 3, 1, 1, 1, 1), ((2, 3, 4, 5, 6), (2, 5, 6)))
    x, edges = walk(velocity, noise, SIGMAS, plan, "flow_sde", fresh)
    whole, coarse = probe(velocity, edges, SIGMAS, plan)
    assert torch.equal(whole, x)  # the sampler's own way
    assert torch.equal(coarse, euler(velocity, edges.next_x, SIGMAS[[2, 5, 6]]))
    before = Plan((0.7,) * 6, frozenset({2, 3}), (), ((2, 6), (4, 6)))
    _, edges = walk(velocity, noise, SIGMAS, before, "flow_sde", fresh)
    first, last = probe(velocity, edges, SIGMAS, before)
    assert torch.equal(first, euler(velocity, edges.x[:4], SIGMAS[[2, 6]]))
    assert torch.equal(last, euler(velocity, edges.next_x[4:], SIGMAS[[4, 6]]))
