"""The share of a gradient that is signal, of gradients where it is known."""

import importlib.util
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parent.parent / "benchmarks" / "agreement.py"


@pytest.fixture(scope="module")
def agreement():
    spec = importlib.util.spec_from_file_location("agreement", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.agreement


def test_what_is_the_same_in_all_agrees_and_what_is_not_does_not(agreement):
    same = torch.tensor([3.0, 4.0])
    assert agreement(torch.stack([same, 2 * same, 0.5 * same])) == pytest.approx(1)
    assert agreement(torch.eye(4)) == 0
    assert agreement(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == -1


def test_it_is_the_share_of_signal_in_the_squared_length(agreement):
    noise = torch.randn(40, 100_000, generator=torch.Generator().manual_seed(0))
    signal = torch.full((100_000,), 0.5)
    assert agreement(signal + noise) == pytest.approx(0.25 / 1.25, abs=2e-3)


def test_gradients_are_those_of_every_iteration(agreement, tmp_path, tiny_pipeline_folder):
    gradients = agreement.__globals__["gradients"]
    changes = [
        f"model.path={tiny_pipeline_folder}", "rollout.prompts_per_iteration=2", "rollout.images_per_prompt=3",
        "rollout.num_inference_steps=2", "learn.t_draws=1", "policy.lora_rank=2", "learn.optimizer_steps=2",
        "run.iterations=3", "run.constant_rewards_stop=0", "evaluation.num_inference_steps=2",
        *agreement.__globals__["STILL"],
    ]  # fmt: skip
    found = gradients("paper/scenes", changes, tmp_path / "run")
    assert len(found) == 3
    assert found.isfinite().all()
    again = gradients("paper/scenes", changes, tmp_path / "again")
    assert torch.equal(found, again)
