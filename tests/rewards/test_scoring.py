"""Rewards that fail, hang or answer nonsense; scoring beside sampling; several rewards as one."""

import threading
import time

import pytest
import torch

from advantageflow.rewards.scoring import RewardError, Scorer, score

IMAGES, PROMPTS = torch.zeros(2, 3, 8, 8), ["a ring", "two circles"]


def test_a_reward_that_raises_once_is_asked_again():
    calls = []

    def flaky(images, prompts):
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("away")
        return [1.0, 2.0]

    assert score("flaky", flaky, IMAGES, PROMPTS, attempts=2).tolist() == [1.0, 2.0]


def test_a_reward_that_keeps_raising_stops_with_its_reason():
    calls = []

    def broken(images, prompts):
        calls.append(1)
        raise ConnectionError("away")

    with pytest.raises(RewardError, match="the reward 'broken' failed in each of 3 attempts: ConnectionError: away"):
        score("broken", broken, IMAGES, PROMPTS, attempts=3)
    assert len(calls) == 3


def test_a_reward_that_hangs_stops_after_its_timeout():
    forever = threading.Event()
    with pytest.raises(RewardError, match=r"'stuck' failed: no answer within 0\.05 seconds"):
        score("stuck", lambda images, prompts: forever.wait(), IMAGES, PROMPTS, timeout=0.05)


def test_a_timeout_does_not_change_the_answer():
    assert score("fast", lambda images, prompts: [1, 2], IMAGES, PROMPTS, timeout=60).tolist() == [1.0, 2.0]


def test_batches_are_scored_in_the_background_in_order():
    started = threading.Event()

    def slow(images, prompts):
        started.set()
        time.sleep(0.02)
        return images[:, 0, 0, 0]

    scorer = Scorer({"slow": slow, "length": lambda images, prompts: [len(prompt) for prompt in prompts]})
    for value in (1.0, 2.0, 3.0):
        scorer.submit(torch.full((2, 3, 8, 8), value), PROMPTS)
    assert started.wait(10)
    found = scorer.results()
    assert found["slow"].tolist() == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    assert found["length"].tolist() == [6.0, 11.0] * 3
    scorer.submit(IMAGES, PROMPTS)
    assert scorer.results()["length"].tolist() == [6.0, 11.0]


def test_a_failure_in_the_background_is_raised_and_does_not_leak_into_the_next_round():
    answers = iter([[1.0], [1.0, 2.0]])
    scorer = Scorer({"short": lambda images, prompts: next(answers)})
    scorer.submit(IMAGES, PROMPTS)
    with pytest.raises(RewardError, match="returned 1 values for 2 images"):
        scorer.results()
    scorer.submit(IMAGES, PROMPTS)
    assert scorer.results()["short"].tolist() == [1.0, 2.0]
