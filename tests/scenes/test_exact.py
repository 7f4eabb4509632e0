"""The exact verifier: what is drawn passes, also out of focus; what lies between two names, or is extra, does not."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from test_world import draw

from advantageflow.config import load_config
from advantageflow.reading import recipe_names
from advantageflow.rewards import load_reward
from advantageflow.worlds.scenes.exact import verify_exact
from advantageflow.worlds.scenes.verifier import verify
from advantageflow.worlds.scenes.world import BACKGROUND, COLORS, SHAPES, SceneObject, coverage, render

ROWS, COLUMNS = np.mgrid[0:64, 0:64] + 0.5


def share_right(images, prompts):
    return np.mean(verify_exact(images, [prompt.text for prompt in prompts]))


@pytest.mark.parametrize("blur", [0, 0.5, 1])
def test_drawn_scenes_are_right_also_out_of_focus(blur):
    prompts, _, images = draw(240, seed=4)
    assert share_right(as_pixels(gaussian_filter(images.astype(float), (0, blur, blur, 0))), prompts) >= 0.995


def test_noise_is_no_mistake():
    prompts, _, images = draw(120, seed=3)
    blurred = gaussian_filter(images.astype(float), (0, 0.8, 0.8, 0))
    noisy = as_pixels(blurred + np.random.default_rng(0).normal(0, 6, blurred.shape))
    assert share_right(noisy, prompts) >= 0.99


def test_exact_is_never_above_strict():
    prompts, _, images = draw(200, seed=5)
    texts = [prompt.text for prompt in prompts][::-1]
    both = zip(verify_exact(images, texts), verify(images, texts), strict=True)
    assert all(exact <= verdict.strict for exact, verdict in both)


def as_pixels(image):
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def painted(*layers):
    """Each layer is (opacity [64, 64], colour); edges are a little soft, as a model draws them."""
    image = np.broadcast_to(np.array(BACKGROUND, dtype=float), (64, 64, 3))
    for opacity, color in layers:
        alpha = gaussian_filter(opacity, 0.5)[..., None]
        image = (1 - alpha) * image + alpha * np.array(COLORS[color] if isinstance(color, str) else color)
    return as_pixels(image)


def superellipse(power, radius=10.0, x=24.3, y=40.1, aspect=1.0):
    """|x|^p + |y|^p: p = 1 is a diamond, 2 a circle, large a square, and below 1 a star."""
    across, down = np.abs(COLUMNS - x) / (radius * aspect), np.abs(ROWS - y) / radius
    size = (across**power + down**power) ** (1 / power)
    return np.clip(0.5 - (size - 1) * radius, 0, 1)


def rounded_square(corner, radius=10.0):
    """`corner` is the corners' radius as a share of half the side: 1 is a circle."""
    edge = radius * corner
    across, down = np.abs(COLUMNS - 24.3) - radius + edge, np.abs(ROWS - 40.1) - radius + edge
    outside = np.hypot(np.maximum(across, 0), np.maximum(down, 0))
    return np.clip(0.5 - (outside + np.minimum(np.maximum(across, down), 0) - edge), 0, 1)


def accepts(image, *texts):
    return [text for text in texts if verify_exact(image[None], [text])[0]]


ANY_SHAPE = tuple(f"a {shape}" for shape in SHAPES)


@pytest.mark.parametrize(
    ("opacity", "named"),
    [
        *[(superellipse(power), named) for power, named in ((1, "a diamond"), (2, "a circle"))],
        *[(rounded_square(corner), named) for corner, named in ((0.1, "a square"), (1, "a circle"))],
        *[(superellipse(power), None) for power in (0.6, 0.75, 1.4, 3.0, 4.0)],
        *[(rounded_square(corner, radius), None) for corner in (0.45, 0.6, 0.75) for radius in (8.5, 10, 11.5)],
        *[(superellipse(power, aspect=1.3), None) for power in (1, 2)],
    ],
)
def test_a_shape_between_two_has_no_name(opacity, named):
    assert accepts(painted((opacity, "white")), *ANY_SHAPE) == ([named] if named else [])


def circle_of(color):
    return painted((coverage("circle", COLUMNS - 24.3, ROWS - 40.1, 10), color))


def test_colors_are_named():
    texts = {color: f"a{'n' if color == 'orange' else ''} {color} circle" for color in COLORS}
    for color in COLORS:
        assert accepts(circle_of(color), *texts.values()) == [texts[color]]


@pytest.mark.parametrize(
    ("one", "other"),
    [("red", "orange"), ("orange", "yellow"), ("blue", "purple"), ("white", "yellow"), ("red", "purple")],
)
def test_a_color_between_two_has_no_name(one, other):
    between = circle_of(np.mean([COLORS[one], COLORS[other]], axis=0))
    assert not accepts(between, *(f"a{'n' if color == 'orange' else ''} {color} circle" for color in COLORS))


def test_where_no_color_is_asked_any_will_do():
    assert accepts(circle_of((235, 85, 40)), "a circle")


@pytest.mark.parametrize(
    "extra",
    [
        (superellipse(2, radius=2.0, x=50, y=12), "green"),  # a speck, which the strict score overlooks
        (0.35 * superellipse(2, radius=6, x=50, y=12), "green"),  # a ghost
        (superellipse(4, radius=9, x=50, y=12), "white"),  # a blob
        (superellipse(2, radius=3, x=24, y=40), "blue"),  # a spot in the object itself
    ],
)
def test_whatever_can_be_seen_counts(extra):
    circle = (superellipse(2), "red")
    assert accepts(painted(circle), "a red circle")
    assert not accepts(painted(circle, extra), "a red circle")


def test_a_dim_object_is_none_of_the_named():
    assert not accepts(painted((0.7 * superellipse(2), "white")), "a circle", "a white circle")


def test_two_objects_that_run_into_one_another_have_no_name():
    image = render((SceneObject("circle", "red", 24, 32, 10), SceneObject("circle", "red", 38, 32, 10)))
    assert not accepts(image, "two circles", "a circle")


def test_it_is_a_reward_that_no_recipe_learns_from():
    prompts, _, images = draw(6, seed=1)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    assert load_reward("scenes_exact")(pixels, [prompt.text for prompt in prompts]) == [1.0] * 6
    recipes = {name: load_config(name) for name in recipe_names()}
    assert not any("scenes_exact" in recipe.reward_weights for recipe in recipes.values())
    headlines = [next(iter(recipe.evaluation.rewards)) for name, recipe in recipes.items() if name[:6] == "scenes"]
    assert headlines == ["exact"] * len(headlines)
