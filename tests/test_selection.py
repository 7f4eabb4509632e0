"""Selecting images while they are drawn: the tilt by a reward, and the command."""

import math

import pytest
import torch
from PIL import Image

import advantageflow as af
from advantageflow.errors import ConfigError
from advantageflow.flow import predict_x0
from advantageflow.selection import best_of, choose, svdd

SHARE, TEMPERATURE, IMAGES = 0.3, 0.5, 4000  # of x0 = 1 in a world that has 1 and -1 alone; the reward is 1 and 0
TILTED = SHARE * math.exp(1 / TEMPERATURE) / (SHARE * math.exp(1 / TEMPERATURE) + 1 - SHARE)


def chance_of_one(x, t):
    """Of x0 = 1 given x_t = x, by Bayes."""
    logit = math.log(SHARE / (1 - SHARE)) + 2 * x * (1 - t) / t**2
    return torch.sigmoid(logit)


def velocity(x, t):
    return (x - (2 * chance_of_one(x, t) - 1)) / t


def soft_value(x, v, t):
    chance = chance_of_one(x, t).flatten()
    return TEMPERATURE * torch.log(chance * math.exp(1 / TEMPERATURE) + 1 - chance)


def chooser(temperature, seed=0):
    drawing = torch.Generator().manual_seed(seed)

    def gumbel(candidate):
        return -torch.log(-torch.log(torch.rand(IMAGES, generator=drawing, dtype=torch.float64)))

    return lambda step, offers: choose(offers, temperature, gumbel)


def normal(seed):
    drawing = torch.Generator().manual_seed(seed)
    return lambda *_: torch.randn(IMAGES, 1, generator=drawing, dtype=torch.float64)


def test_svdd_with_the_exact_soft_value_draws_from_the_tilt():
    fresh, sigmas = normal(1), torch.linspace(1, 0, 41, dtype=torch.float64)
    x0 = svdd(velocity, fresh(), sigmas, soft_value, 40, fresh, chooser(TEMPERATURE))
    assert (x0 > 0).double().mean().item() == pytest.approx(TILTED, abs=0.03)
    plain = svdd(velocity, fresh(), sigmas, soft_value, 2, fresh, chooser(1e9))
    assert (plain > 0).double().mean().item() == pytest.approx(SHARE, abs=0.03)


@pytest.mark.parametrize(("temperature", "expected"), [(TEMPERATURE, TILTED), (1e9, SHARE), (0, 1 - (1 - SHARE) ** 40)])
def test_one_of_many_images_is_of_the_tilt(temperature, expected):
    fresh, sigmas = normal(2), torch.linspace(1, 0, 21, dtype=torch.float64)
    starts = (fresh() for _ in range(40))
    x0 = best_of(velocity, starts, sigmas, lambda x0: (x0 > 0).double().flatten(), chooser(temperature))
    assert (x0 > 0).double().mean().item() == pytest.approx(expected, abs=0.03)


def test_the_state_after_a_step_is_the_one_of_the_highest_value():
    """With temperature 0 and values that are x0 itself, the image grows with the candidates."""
    sigmas = torch.linspace(1, 0, 5, dtype=torch.float64)

    def drawn(candidates):
        fresh = normal(3)
        of_x0 = lambda x, v, t: predict_x0(x, v, t).flatten()  # noqa: E731
        return svdd(lambda x, t: x, fresh(), sigmas, of_x0, candidates, fresh, chooser(0)).mean()

    assert drawn(8) > drawn(2) > drawn(1)


def pixels(picture):
    return sum(picture.tobytes())


def test_selected_images_score_higher_and_say_how_they_were_selected(tmp_path):
    options = {"images": 4, "steps": 4, "quiet": True}
    scored = {}

    def brightness(images, prompts):
        return images.flatten(1).mean(1)

    for way in (None, "best", "svdd"):
        chosen = {"select": way, "reward": brightness, "candidates": 3} if way else {}
        pictures = af.sample("a red circle", output=tmp_path / f"{way}.png", **options, **chosen)
        scored[way] = sum(map(pixels, pictures))
        text = Image.open(tmp_path / str(way) / "0-000.png").text
        assert text.get("select") == way
        assert text.get("candidates") == ("3" if way else None)
    assert scored["best"] > scored[None]
    assert scored["svdd"] > scored[None]
    again = af.sample(
        "a red circle", output=tmp_path / "again.png", select="svdd", reward=brightness, candidates=3, **options
    )
    assert sum(map(pixels, again)) == scored["svdd"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "best"}, "selecting needs a way and a reward"),
        ({"reward": "scenes_graded"}, "selecting needs a way and a reward"),
        ({"select": "worst", "reward": "scenes_graded"}, "best or svdd"),
        ({"select": "svdd", "reward": "scenes_graded", "candidates": 1}, "give 2 or more"),
        ({"select": "best", "reward": "scenes_graded", "temperature": -1.0}, "0 or more"),
        ({"select": "best", "reward": "scenes_garded"}, "scenes_graded"),
    ],
)
def test_half_a_selection_is_refused(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        af.sample("a red circle", output=tmp_path / "x.png", quiet=True, **options)
    assert not list(tmp_path.iterdir())
