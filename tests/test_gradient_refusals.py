"""Gradient methods and rewards that have no gradient, from the command line."""

import re

import pytest

from advantageflow.cli import main

OWN = """
import torch

def plain(images, prompts):
    return images.mean((1, 2, 3))

def torn(images, prompts):
    return images.mean((1, 2, 3))

torn.with_gradient = lambda images, prompts: images.detach().mean((1, 2, 3))

class Smooth:
    def __call__(self, images, prompts):
        return self.with_gradient(images, prompts)

    def with_gradient(self, images, prompts):
        return 10 * images.mean((1, 2, 3))
"""
SMALL = [
    "rollout.prompts_per_iteration=2", "rollout.images_per_prompt=2", "rollout.num_inference_steps=3",
    "evaluation.num_images=2", "evaluation.num_inference_steps=2", "evaluation.prompts_shown=2", "run.iterations=1",
    "run.threads=1", "policy.lora_rank=4",
]  # fmt: skip


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["advantageflow", "train", "scenes", "objective=draft", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        found = capsys.readouterr()
        return caught.value.code, found.out + found.err

    return run


@pytest.mark.parametrize("plan", [[], ["--plan"]])
@pytest.mark.parametrize(
    ("reward", "named"),
    [
        ("scenes_graded", "which the reward 'scenes_graded' does not give"),
        ("ocr", "which the reward 'ocr' does not give"),
        ("http://127.0.0.1:1", "which the reward server 'http://127.0.0.1:1' does not give"),
        ("./mine.py:plain", "which the reward '.*mine.py:plain' does not give"),
        ("{scenes_clip: 1, scenes_strict: 1}", "which the reward 'scenes_strict' does not give"),
    ],
)
def test_a_reward_without_a_gradient_is_refused_before_anything_is_loaded(reward, named, plan, typed, tmp_path):
    code, text = typed(f"reward={reward}", *plan)
    assert code == 2
    (line,) = [line for line in text.splitlines() if "does not give" in line]
    assert re.search(f"objective 'draft' learns from a reward's gradient, {named}; set reward to any of ", line)
    assert "scenes_clip, scenes_preference, pickscore, hpsv2" in line
    assert "or to your own that has with_gradient(images, prompts)" in line
    assert "loading" not in text
    assert not (tmp_path / "runs").exists()


def test_a_reward_whose_gradient_is_none_is_refused_before_the_model_is_loaded(typed):
    code, text = typed("reward=./mine.py:torn")
    assert code == 2
    assert re.search(r"with_gradient of the reward '.*mine.py:torn' returned scores without a gradient", text)
    assert "loading the model" not in text


def test_a_run_by_the_gradients_of_two_rewards(typed, tmp_path):
    changes = [*SMALL, "reward={scenes_clip: 1, ./mine.py:Smooth: 0.1}", "evaluation.rewards={clip: scenes_clip}"]
    code, text = typed(*changes, "--output", "run")
    assert code in (0, None), text
    assert (tmp_path / "run" / "summary.json").exists()
    assert typed(*changes, "--plan")[0] in (0, None)
