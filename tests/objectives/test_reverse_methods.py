"""Windows of MixGRPO, and trees, credit and pruning of BranchGRPO."""

import pytest
import torch

from advantageflow.config import check_config
from advantageflow.errors import ConfigError
from advantageflow.flow import like, sd3_sigmas, shift_t
from advantageflow.objectives import (
    G2RPO,
    BranchGRPO,
    FlashGRPO,
    FlowDPPO,
    FlowGRPO,
    GRPOGuard,
    MixGRPO,
    StepwiseFlowGRPO,
    TempFlowGRPO,
)
from advantageflow.objectives.base import Transition
from advantageflow.solvers import gaussian_log_prob, sde_step
from advantageflow.walks import Edges, walk

SIGMAS = sd3_sigmas(10)


def test_the_window_moves_on_and_starts_again():
    mix = MixGRPO(window=3, iterations=2, stride=1)
    plans = [mix.plan(iteration, 10, 0.7, None) for iteration in range(16)]
    starts = [min(plan.keep) for plan in plans]
    assert starts == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 0, 0]
    for plan, start in zip(plans, starts, strict=True):
        assert plan.keep == {start, start + 1, start + 2}
        assert [level > 0 for level in plan.noise] == [step in plan.keep for step in range(10)]


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ({"schedule": "frozen"}, [0] * 12),
        ({"schedule": "decay", "iterations": 3, "fewest": 1, "window": 7}, [0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 1, 2]),
        ({"iterations": 1, "stride": 2, "window": 2}, [0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4, 6]),
    ],
)
def test_schedules_of_the_window(settings, places):
    mix = MixGRPO(**settings)
    assert [min(mix.plan(iteration, 10, 0.7, None).keep) for iteration in range(12)] == places


def test_a_slowing_schedule_stays_less_at_later_places():
    """ceil(n exp(-0.1 max(0, place - 13)))"""
    mix = MixGRPO(schedule="exp_decay", iterations=25, window=4)
    places = [min(mix.plan(iteration, 25, 0.7, None).keep) for iteration in range(500)]
    counts = [places[:473].count(place) for place in (0, 13, 14, 20)]
    assert counts == [25, 25, 23, 13]


def test_a_random_window_is_the_same_when_a_run_is_resumed():
    mix = MixGRPO(schedule="random", window=2)
    places = [min(mix.plan(iteration, 10, 0.7, None).keep) for iteration in range(200)]
    assert places == [min(mix.plan(iteration, 10, 0.7, None).keep) for iteration in range(200)]
    assert {*places} == set(range(8))


def test_without_divergence_mix_grpo_s_formula_is_flow_grpo_s():
    generator = torch.Generator().manual_seed(0)
    log_prob, old, advantage = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    mean = torch.randn(2, 5, 4, dtype=torch.float64, generator=generator)
    seen = Transition(
        1e-4 * log_prob, 1e-4 * old, {"learner": mean[0], "reference": mean[1]}, torch.tensor(0.5), advantage
    )
    assert torch.equal(MixGRPO().terms(seen)["policy"], FlowGRPO(kl_weight=0.0).terms(seen)["policy"])


def tree(branch, roots=1, steps=10):
    plan = branch.plan(0, steps, 0.3, None)
    x = torch.randn(roots, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    return walk(
        lambda x, t: -x,
        x,
        sd3_sigmas(steps),
        plan,
        "dance_sde",
        lambda step, nodes: torch.randn(nodes, 2, dtype=torch.float64, generator=generator),
    )


def test_a_node_s_credit_is_the_z_score_of_its_leaves_mean_at_its_depth():
    branch = BranchGRPO(splits=(0, 3))
    x, edges = tree(branch, roots=2)
    assert len(x) == 8
    rewards = torch.tensor([0.0, 1.0, 2.0, 5.0, 3.0, 3.0, 3.0, 3.0], dtype=torch.float64)
    credit = branch.credit(rewards, torch.zeros(8, dtype=torch.long), edges, {})
    at = {
        (int(step), int(first)): value.item()
        for step, first, value in zip(edges.step, edges.leaves[:, 0], credit, strict=True)
    }
    # depths 1 to 3: two nodes a tree, of 0.5 and 3.5; from depth 4 on its four images
    for step in range(3):
        assert at[step, 0] == pytest.approx(-(0.5**0.5))
        assert at[step, 2] == pytest.approx(0.5**0.5)
    z = (rewards[:4] - 2) / rewards[:4].std()
    for step in range(3, 9):
        assert [at[step, i] for i in range(4)] == pytest.approx(z.tolist())
    assert all(value == 0 for (_, first), value in at.items() if first >= 4)  # equal rewards teach nothing


def test_splits_are_noisier_and_the_last_step_is_not_learned_from():
    plan = BranchGRPO(splits=(0, 3), split_noise=4.0).plan(0, 10, 0.3, None)
    assert plan.noise == (1.2, 0.3, 0.3, 1.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3)
    assert plan.keep == frozenset(range(9))
    assert plan.children == (2, 1, 1, 2, 1, 1, 1, 1, 1, 1)


def test_pruned_depths_slide_up_to_the_last_split():
    branch = BranchGRPO(splits=(0, 3), prune_depths=2, prune_every=10)
    pruned = [sorted({*range(9)} - branch.plan(iteration, 10, 0.3, None).keep) for iteration in (0, 10, 20, 30, 90)]
    assert pruned == [[7, 8], [6, 7], [5, 6], [4, 5], [4, 5]]


def test_width_pruning_keeps_the_best_of_the_late_nodes():
    branch = BranchGRPO(splits=(0, 3), keep_share=0.5)
    _, edges = tree(branch)
    advantages = branch.credit(torch.tensor([0.0, 1.0, 2.0, 5.0]), torch.zeros(4, dtype=torch.long), edges, {})
    kept = branch.learned(edges, advantages, 0)
    early, late = edges.step <= 3, edges.step > 3
    assert kept[early].all()
    assert {int(first) for first in edges.leaves[late & kept][:, 0]} == {2, 3}


def moved(std, advantage, step, seed=0):
    """Transitions of one standard deviation, and a learner whose mean went `step` along the noise that was drawn."""
    generator = torch.Generator().manual_seed(seed)
    mean_old, z = torch.randn(2, 5, 4, dtype=torch.float64, generator=generator)
    std = torch.full((5,), std, dtype=torch.float64)
    next_x, mean = mean_old + std[:, None] * z, (mean_old + step * z).requires_grad_()
    log_prob, log_prob_old = (gaussian_log_prob(next_x, at, std) for at in (mean, mean_old))
    seen = Transition(
        log_prob, log_prob_old, {"learner": mean, "rollout": mean_old}, std / 0.1**0.5,
        torch.full((5,), advantage, dtype=torch.float64), std=std,
    )  # fmt: skip
    return seen, mean, z


@pytest.mark.parametrize("std", [0.02, 0.7])
def test_grpo_guard_s_ratio_is_the_step_along_the_noise_whatever_its_strength(std):
    """log ρ = ⟨z, μ - μ_old⟩, whose mean over z is 0; the loss is per unit of time."""
    seen, _, z = moved(std, 1.0, 1e-3)
    found = GRPOGuard(clip_range=1.0).terms(seen)["policy"]
    torch.testing.assert_close(found, -(1e-3 * z.square().mean(1)).exp() / 0.1, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("advantage", "step", "taught"),
    [(1.0, 0.1, False), (1.0, -0.1, True), (-1.0, -0.1, False), (-1.0, 0.1, True), (1.0, 1e-6, True)],
)
def test_flow_dppo_leaves_what_moved_far_enough_the_way_it_was_asked_to(advantage, step, taught):
    seen, mean, _ = moved(0.5, advantage, step)
    (found,) = torch.autograd.grad(FlowDPPO().terms(seen)["policy"].sum(), mean)
    assert bool(found.any()) is taught


def test_flow_dppo_has_noise_in_a_few_early_steps_others_each_time():
    plans = [FlowDPPO(noisy_steps=3).plan(iteration, 10, 0.8, None) for iteration in range(50)]
    for plan in plans:
        assert len(plan.keep) == 3
        assert max(plan.keep) < 5
        assert [level > 0 for level in plan.noise] == [step in plan.keep for step in range(10)]
    assert len({plan.keep for plan in plans}) > 5
    rollout = {"num_inference_steps": 4}
    with pytest.raises(ConfigError, match="noisy_steps is 3, of the first 2 of 4 steps"):
        check_config({"objective": {"name": "flow-dppo", "noisy_steps": 3}, "rollout": rollout})


def test_temp_flow_grpo_weighs_steps_by_their_noise():
    """Ten steps of SD3's grid at a noise level of .7, with the published constant; the last is nearly nothing."""
    zero = torch.zeros(1, 1, dtype=torch.float64)
    std = [sde_step("flow_sde", zero, zero, SIGMAS[step], SIGMAS[step + 1], 0.7)[1].item() for step in range(10)]
    published = [1.575, 1.671, 1.205, 1.003, 0.882, 0.794, 0.718, 0.635, 0.507, 0.014]
    assert [2.25 * each for each in std] == pytest.approx(published, abs=2e-3)
    seen, *_ = moved(std[3], 1.0, 0.0)
    assert TempFlowGRPO(kl_weight=0.0).terms(seen)["policy"].tolist() == pytest.approx([-published[3]] * 5, abs=2e-3)


def test_temp_flow_grpo_branches_at_one_step_of_each_iteration():
    plans = [TempFlowGRPO(branches=3).plan(iteration, 10, 0.7, 6) for iteration in range(60)]
    for plan in plans:
        (parting,) = plan.keep
        assert plan.leaves == plan.children[parting] == 3
        assert [level > 0 for level in plan.noise] == [step == parting for step in range(10)]
    assert {min(plan.keep) for plan in plans} == {*range(6)}


def test_flash_grpo_has_the_published_weights():
    """Of the first steps of Wan 2.1's 20, by an SDE whose coefficient is t times the grid's second time."""
    sigmas = shift_t(torch.linspace(1, 0, 21, dtype=torch.float64), 3.0)
    t, zero, mean = sigmas[:10], torch.zeros(10, dtype=torch.float64), torch.zeros(10, 1, dtype=torch.float64)
    seen = Transition(zero, zero, {"learner": mean}, sigmas[1] * t, zero + 1, sigma=t, sigma_next=sigmas[1:11])
    published = [7.4770, 7.0414, 6.6112, 6.1867, 5.7682, 5.3559, 4.9502, 4.5513, 4.1596, 3.7754]
    assert (-FlashGRPO().terms(seen)["policy"]).tolist() == pytest.approx(published, rel=2e-3)


@pytest.mark.parametrize("kind", FlashGRPO.solvers)
def test_flash_grpo_s_gradient_at_the_velocity_is_the_noise_in_every_step(kind):
    """-A z / d for images of d numbers."""
    generator = torch.Generator().manual_seed(0)
    x, v, z = torch.randn(3, 9, 4, dtype=torch.float64, generator=generator)
    sigma, sigma_next, level = SIGMAS[:9], SIGMAS[1:10], torch.full((9,), 0.6, dtype=torch.float64)
    v.requires_grad_()
    mean, std = sde_step(kind, v, x, sigma, sigma_next, level)
    log_prob = gaussian_log_prob((mean + like(std, mean) * z).detach(), mean, std)
    seen = Transition(
        log_prob, log_prob.detach(), {"learner": mean}, std / (sigma - sigma_next).sqrt(),
        torch.full((9,), 2.0, dtype=torch.float64), std=std, sigma=sigma, sigma_next=sigma_next,
    )  # fmt: skip
    (found,) = torch.autograd.grad(FlashGRPO().terms(seen)["policy"].sum(), v)
    torch.testing.assert_close(found, 2.0 * z / 4)


def test_flash_grpo_has_noise_in_one_early_step_another_each_time():
    plans = [FlashGRPO().plan(iteration, 10, 0.7, None) for iteration in range(50)]
    for plan in plans:
        assert [level > 0 for level in plan.noise] == [step in plan.keep for step in range(10)]
    assert sorted({step for plan in plans for step in plan.keep}) == [0, 1, 2, 3, 4]
    assert all(len(plan.keep) == 1 for plan in plans)
    with pytest.raises(ConfigError, match=r"'cps', an SDE, .* the steps of another solver; set .* to flow_sde, dance"):
        check_config({"objective": "flash-grpo", "rollout": {"solver": "cps"}})


def edges_of(steps, images, probes):
    """Transitions of chains, step by step, and what their probes are worth."""
    count = len(steps) * images
    step, first = torch.tensor(steps).repeat_interleave(images), torch.arange(images).repeat(len(steps))
    empty = torch.zeros(count, 1)
    return Edges(empty, empty, step, torch.zeros(count), torch.stack([first, first + 1], 1), probes)


def test_gains_add_up_to_what_the_last_state_is_worth_more_than_the_first():
    generator = torch.Generator().manual_seed(0)
    probes = torch.rand(6, 5, dtype=torch.float64, generator=generator)  # of places 0 to 4
    groups, edges = torch.tensor([0, 0, 0, 1, 1, 1]), edges_of(range(4), 6, probes)
    plain = {"normalize": "centered", "clip": 100.0}
    credit = StepwiseFlowGRPO().credit(probes[:, -1], groups, edges, plain).view(4, 6)
    grown = probes[:, -1] - probes[:, 0]
    torch.testing.assert_close(credit.sum(0), grown - grown.view(2, 3).mean(1).repeat_interleave(3))
    of_one_step = probes[:, 2] - probes[:, 1]  # less the mean over all images and steps of the prompt
    torch.testing.assert_close(credit[1], of_one_step - grown.view(2, 3).mean(1).repeat_interleave(3) / 4)
    spread = StepwiseFlowGRPO().credit(probes[:, -1], groups, edges, {"normalize": "group_std", "clip": 100.0})
    for group in spread.view(4, 2, 3).transpose(0, 1):
        assert group.std().item() == pytest.approx(1)


def test_stepwise_foresees_an_image_from_every_state_that_it_learns_from():
    plan = StepwiseFlowGRPO(foresight=3).plan(0, 10, 0.7, 3)
    assert plan.probes == ((0, 3, 7, 10), (1, 4, 7, 10), (2, 5, 7, 10), (3, 5, 8, 10))
    assert StepwiseFlowGRPO(foresight=2).plan(0, 4, 0.7, None).probes[-1] == (3, 4)


def test_g2rpo_adds_the_scores_of_granularities_among_the_branches_of_a_state():
    rewards = torch.tensor([0.0, 1.0, 5.0, 5.0], dtype=torch.float64)
    coarse = torch.tensor([[0.0], [1.0], [2.0], [8.0]], dtype=torch.float64)
    edges, settings = edges_of([2], 4, coarse), {"normalize": "group_std", "clip": 5.0}
    half = 0.5**0.5
    for granularities, expected in (((1, 2), [-2 * half, 2 * half, -half, half]), ((1,), [-half, half, 0, 0])):
        credit = G2RPO(branches=2, granularities=granularities).credit(rewards, torch.zeros(4).long(), edges, settings)
        assert credit.tolist() == pytest.approx(expected)


def test_g2rpo_completes_the_branches_of_an_early_step_by_longer_steps():
    plans = [G2RPO(branches=3, granularities=(1, 2, 3)).plan(iteration, 10, 0.7, None) for iteration in range(60)]
    for plan in plans:
        (parting,) = plan.keep
        assert plan.leaves == plan.children[parting] == 3
        assert [level > 0 for level in plan.noise] == [step == parting for step in range(10)]
        assert [way[:2] for way in plan.probes] == [(parting + 1, parting + 3), (parting + 1, parting + 4)]
    assert {min(plan.keep) for plan in plans} == {0, 1, 2, 3, 4}
    with pytest.raises(ConfigError, match=r"granularities is \[2, 2\]; allowed: one or more different"):
        check_config({"objective": {"name": "g2rpo", "granularities": [2, 2]}})
