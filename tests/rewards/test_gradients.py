"""Rewards with gradients: slopes against finite differences on tiny models, values against the official scorers'."""

import importlib

import numpy as np
import pytest
import torch
from test_imagereward import tiny_model, tokenize

from advantageflow.prompts import PromptSet
from advantageflow.rewards import BUILT_IN, load_reward
from advantageflow.rewards.aesthetic import Aesthetic, build_head
from advantageflow.rewards.clipscore import CLIPScore
from advantageflow.rewards.gradients import score_with_gradient, try_gradients
from advantageflow.rewards.hpsv2 import HPSv2
from advantageflow.rewards.imagereward import ImageReward
from advantageflow.rewards.pickscore import PickScore
from advantageflow.rewards.scoring import RewardError
from advantageflow.worlds.scenes.world import SceneObject, render

LEARNED = ["pickscore", "hpsv2", "clipscore", "aesthetic", "imagereward", "scenes_clip", "scenes_preference"]
ROUNDED = ("pickscore", "aesthetic", "imagereward")
PROMPTS = ["a red circle", "a blue ring"]


@pytest.fixture(params=LEARNED)
def learned(request, clip):
    """A name, a reward of tiny random weights, and those weights."""
    name = request.param
    torch.manual_seed(0)
    if name == "imagereward":
        reward = ImageReward(tiny_model(), tokenize)
        return name, reward, reward.model
    if name == "aesthetic":
        reward = Aesthetic(clip, build_head(12))
        return name, reward, torch.nn.ModuleList([clip.model, reward.head])
    if name.startswith("scenes"):
        reward = load_reward(name)
        return name, reward, reward.network
    reward = {"pickscore": PickScore, "hpsv2": HPSv2, "clipscore": CLIPScore}[name](clip)
    return name, reward, clip.model


def drawn(height=64, width=64):
    """Two pictures with edges and flat areas, as floats between the 8-bit steps."""
    scene = (SceneObject("circle", "red", 18, 18, 10), SceneObject("square", "blue", 46, 46, 10))
    pictures = np.stack([render(scene), render(scene[::-1][:1])])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    return (0.05 + 0.85 * images + 0.1 * noise)[:, :, :height, :width].contiguous()


def test_the_built_in_rewards_that_say_so_have_a_gradient_and_no_others():
    assert [name for name, reward in BUILT_IN.items() if reward.gradient] == [
        "scenes_clip", "scenes_preference", "pickscore", "hpsv2", "clipscore", "aesthetic", "imagereward",
    ]  # fmt: skip
    for reward in BUILT_IN.values():
        module, _, name = reward.target.partition(":")
        assert hasattr(getattr(importlib.import_module(module), name), "with_gradient") == reward.gradient


def test_the_value_is_the_official_scorers(learned):
    """Equal where that is a tensor path; within a fiftieth of the spread over pictures where it rounds to 8 bits."""
    name, reward, _ = learned
    images = drawn() if name.startswith("scenes") else drawn(60, 51)
    expected = torch.as_tensor(reward(images, PROMPTS))
    found = reward.with_gradient(images, PROMPTS)
    if name not in ROUNDED:
        assert torch.equal(found, expected)
    else:
        others = torch.rand(8, 3, 60, 51, generator=torch.Generator().manual_seed(1)) ** torch.linspace(0.3, 3, 8).view(
            8, 1, 1, 1
        )
        spread = reward(torch.cat([images, others]), 5 * PROMPTS[:1] + 5 * PROMPTS[:1]).std()
        assert (found - expected).abs().max() < 0.02 * spread


def test_the_slope_is_that_of_finite_differences(learned):
    name, reward, weights = learned
    images = drawn() if name.startswith("scenes") else drawn(60, 51)
    images = images.double()
    weights.double()
    try:
        images.requires_grad_(True)
        scores = reward.with_gradient(images, PROMPTS)
        assert scores.shape == (2,)
        scores.sum().backward()
        direction = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            up, down = (reward.with_gradient(images + step * direction, PROMPTS) for step in (1e-6, -1e-6))
        expected = (up - down).sum() / 2e-6
        torch.testing.assert_close((images.grad * direction).sum(), expected, rtol=1e-4, atol=1e-9)
    finally:
        weights.float()


def test_every_pixel_that_the_crop_keeps_has_a_slope_and_no_weight_has(learned):
    name, reward, weights = learned
    images = (drawn() if name.startswith("scenes") else drawn(64, 48)).requires_grad_(True)
    reward.with_gradient(images, PROMPTS).sum().backward()
    reached = (images.grad != 0).any(1).float().mean((0, 1, 2))
    if name.startswith("scenes") or name == "hpsv2":
        assert reached == 1
    else:  # of 64 rows the middle 48, and what the filter blends in at their edges
        rows = (images.grad != 0).any(1).any(0).all(1)
        assert rows[8:56].all()
        assert not rows[:4].any()
        assert not rows[-4:].any()
    assert not any(weight.requires_grad or weight.grad is not None for weight in weights.parameters())
    assert not torch.as_tensor(reward(images.detach(), PROMPTS)).requires_grad


def test_half_precision_images_are_scored_in_full_precision(learned):
    _, reward, _ = learned
    images = drawn().bfloat16()
    found = reward.with_gradient(images, PROMPTS)
    assert found.dtype == torch.float32
    assert torch.equal(found, reward.with_gradient(images.float(), PROMPTS))


class Own:
    """A reward of the user's own whose gradient is what a test says."""

    def __init__(self, answer):
        self.with_gradient = answer

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3))


def mean(images):
    return images.mean((1, 2, 3))


SET = PromptSet(("a ring",), ("x",))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda images, prompts: images.mean(), r"'mine' returned the shape \[\] for 1 images; return a tensor \[1\]"),
        (lambda images, prompts: mean(images)[:, None], r"returned the shape \[1, 1\] for 1 images"),
        (
            lambda images, prompts: mean(images).tolist(),
            r"returned a list; return a tensor \[1\], one number per image",
        ),
        (lambda images, prompts: mean(images.detach()), "returned scores without a gradient to its images"),
        (
            lambda images, prompts: torch.ones(1, requires_grad=True) + mean(images.detach()),
            "returned scores without a gradient to its images",
        ),
        (lambda images, prompts: mean(images) / 0 - mean(images) / 0, "returned nan for sample 0, prompt 'a ring'"),
        (lambda images, prompts: {}["x"], "of the reward 'mine' failed: KeyError: 'x'"),
        (lambda images, prompts: exit(0), "may not end the process"),
    ],
)
def test_an_answer_that_no_gradient_can_come_from_stops_in_one_sentence(answer, message):
    with pytest.raises(RewardError, match=message) as caught:
        try_gradients({"mine": Own(answer)}, SET, (8, 8))
    assert "with_gradient of the reward 'mine'" in str(caught.value)
    assert __file__ in str(caught.value)


def test_what_one_reward_does_to_its_images_no_other_sees():
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    before = images.detach().clone()

    def darken(images, prompts):
        return mean(images.mul_(0.5))

    pictures = images * 1
    found = score_with_gradient("mine", Own(darken), pictures, PROMPTS)
    assert torch.equal(pictures.detach(), before)
    found.sum().backward()
    torch.testing.assert_close(images.grad, torch.full_like(images, 0.5 / 48))
