import math

import pytest
import torch

from advantageflow.advantages import combine_rewards, group_advantages, zero_variance_groups

REWARDS = torch.tensor([1.0, 3.0, 10.0, 10.5, 9.5, 2.0, 2.0])
GROUPS = torch.tensor([0, 0, 7, 7, 7, 3, 3])


def test_centered_rms_is_equation_6():
    centered = torch.tensor([-1.0, 1.0, 0.0, 0.5, -0.5, 0.0, 0.0], dtype=torch.float64)
    scale = math.sqrt((1 + 1 + 0.25 + 0.25) / 7)
    torch.testing.assert_close(group_advantages(REWARDS, GROUPS), (centered / scale).clamp(-1, 1))


def test_raw_std_is_diffusion_nft_s():
    centered = torch.tensor([-1.0, 1.0, 0.0, 0.5, -0.5, 0.0, 0.0], dtype=torch.float64)
    scale = REWARDS.double().std(correction=0) + 1e-4
    torch.testing.assert_close(group_advantages(REWARDS, GROUPS, normalize="raw_std", clip=5.0), centered / scale)


def test_raw_std_clips():
    rewards = torch.cat([torch.zeros(99), torch.ones(1)])
    advantages = group_advantages(rewards, torch.zeros(100, dtype=torch.long), normalize="raw_std", clip=5.0)
    assert advantages.max() == 5.0


def test_ranks_of_a_prompt_go_from_minus_one_to_one_and_equals_share_theirs():
    rewards, groups = torch.tensor([5.0, 0.1, 9.0, 0.3, 0.1, 0.2, 7.0]), torch.tensor([1, 0, 1, 0, 0, 0, 2])
    expected = torch.tensor([-1, -2 / 3, 1, 1, -2 / 3, 1 / 3, 0]).double()
    torch.testing.assert_close(group_advantages(rewards, groups, "group_rank"), expected)


def test_groups_do_not_need_to_be_contiguous():
    order = torch.tensor([3, 0, 5, 2, 6, 1, 4])
    shuffled = group_advantages(REWARDS[order], GROUPS[order])
    torch.testing.assert_close(shuffled, group_advantages(REWARDS, GROUPS)[order])


def test_a_constant_group_gets_exactly_zero_and_is_counted():
    rewards = torch.tensor([0.1] * 3 + [0.0, 1.0])  # the mean of three 0.1 is not 0.1 in floating point
    groups = torch.tensor([0, 0, 0, 1, 1])
    assert group_advantages(rewards, groups)[:3].tolist() == [0.0, 0.0, 0.0]
    assert zero_variance_groups(rewards, groups) == 1
    assert group_advantages(rewards[:3], groups[:3]).tolist() == [0.0, 0.0, 0.0]


def test_clipping_biases_a_skewed_group_and_recentring_removes_the_bias():
    rewards = torch.tensor([1.0] + [0.0] * 15)
    groups = torch.zeros(16, dtype=torch.long)
    assert group_advantages(rewards, groups).mean() < -0.15
    recentered = group_advantages(rewards, groups, recenter=True)
    assert abs(recentered.mean()) < 1e-12
    assert recentered.abs().max() <= 1


def test_recentring_leaves_an_unclipped_group_alone():
    rewards, groups = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(
        group_advantages(rewards, groups, recenter=True), group_advantages(rewards, groups, recenter=False)
    )


@pytest.mark.parametrize(
    ("rewards", "groups", "options", "message"),
    [
        ([1.0, float("nan")], [0, 0], {}, "reward 1 is nan"),
        ([1.0, 2.0], [0], {}, "must both be"),
        ([1.0, 2.0], [0, 0], {"clip": 0.0}, "clip must be positive"),
        ([1.0, 2.0], [0, 0], {"normalize": "std"}, "use one of centered_rms, raw_std"),
    ],
)
def test_bad_input_is_named(rewards, groups, options, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(torch.tensor(rewards), torch.tensor(groups), **options)


SEVERAL = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0], [0.0, 1.0, 0.0, 10.0]])
PAIRS = torch.tensor([0, 0, 1, 1])


def test_a_sum_weighs_raw_rewards():
    combined = combine_rewards(SEVERAL, torch.tensor([1.0, 2.0, 0.5]), PAIRS)
    assert combined.tolist() == [11.0, 12.5, 13.0, 21.0]


def test_standardized_rewards_have_equal_spread_and_constant_ones_add_nothing():
    weights = torch.tensor([1.0, 1.0, 3.0])
    combined = combine_rewards(SEVERAL, weights, PAIRS, "standardize")
    expected = sum(
        weight * (values - values.mean()) / values.std(correction=0)
        for weight, values in zip(weights, SEVERAL, strict=True)
        if values.std() > 0
    )
    torch.testing.assert_close(combined, expected.double(), atol=1e-6, rtol=0)


def test_gdpo_standardizes_within_each_group():
    combined = combine_rewards(SEVERAL, torch.tensor([1.0, 1.0, 2.0]), PAIRS, "gdpo")
    assert combined.tolist() == pytest.approx([-3.0, 3.0, -3.0, 3.0])  # two images a group: always -1 and 1


def test_one_reward_alone_is_itself():
    assert combine_rewards(SEVERAL[:1], torch.ones(1), PAIRS).tolist() == SEVERAL[0].tolist()
    with pytest.raises(ValueError, match="unknown combination 'product'"):
        combine_rewards(SEVERAL, torch.ones(3), PAIRS, "product")
