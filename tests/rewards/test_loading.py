import numpy as np
import pytest
import torch

from advantageflow.config import ConfigError
from advantageflow.rewards import load_reward
from advantageflow.rewards.scoring import RewardError, score
from advantageflow.worlds.scenes.prompts import parse_prompt, sample_scene
from advantageflow.worlds.scenes.world import render

IMAGES, PROMPTS = torch.zeros(2, 3, 64, 64), ["a ring", "two circles"]


def test_the_scenes_rewards_score_rendered_images():
    rng = np.random.default_rng(0)
    pictures = np.stack([render(sample_scene(parse_prompt(text), rng)) for text in PROMPTS])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    for name in ("scenes_strict", "scenes_graded"):
        assert score(name, load_reward(name), images, PROMPTS).tolist() == [1.0, 1.0]
        assert score(name, load_reward(name), IMAGES, PROMPTS).tolist() == [0.0, 0.0]


def test_any_function_is_a_reward_by_its_dotted_path(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def red(images, prompts):\n    return images[:, 0].mean((1, 2))\n")
    monkeypatch.chdir(tmp_path)
    assert score("red", load_reward("my_rewards:red"), IMAGES + 0.5, PROMPTS).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pickscor", "unknown reward 'pickscor'; built in are scenes_graded, scenes_strict"),
        ("no_such_module:f", "cannot load the reward"),
        ("math:no_such_function", "cannot load the reward"),
        ("math:pi", "is not a function"),
    ],
)
def test_unknown_rewards_are_named(name, message):
    with pytest.raises(ConfigError, match=message):
        load_reward(name)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0], "returned 1 values for 2 images"),
        ([1.0, float("nan")], "returned nan for sample 1, prompt 'two circles'"),
        ([float("-inf"), 1.0], "returned -inf for sample 0, prompt 'a ring'"),
        (["good", "bad"], "the reward 'mine' failed"),
        (None, "the reward 'mine' failed"),
    ],
)
def test_a_bad_answer_stops_with_the_sample_and_reward_named(answer, message):
    with pytest.raises(RewardError, match=message):
        score("mine", lambda images, prompts: answer, IMAGES, PROMPTS)
