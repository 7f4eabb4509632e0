"""`rollout.ahead`: the next images are drawn while these are scored, from weights of an iteration before."""

import pytest
import torch
from test_trainer import brightness, make_config, make_trainer

from advantageflow.config import ConfigError
from advantageflow.policy import AHEAD
from advantageflow.run.checkpoint import load_tensors
from advantageflow.run.keeping import place


def config_of(**rollout):
    return make_config(
        rollout={"ahead": 1, **rollout},
        policy={"rollout_decay": 0},
        run={"iterations": 4},
        evaluation={"num_images": 2},
    )


def events_of(trainer):
    """What is drawn and learned from, in order, with the policy's weights of that moment."""
    told, draw, learn = [], trainer.source.source.draw, trainer.learner.learn

    def drawn(iteration):
        told.append(("draw", iteration, trainer.policy.weights[AHEAD][1].clone()))
        return draw(iteration)

    def learned(scored):
        told.append(("learn", scored.address[-1], trainer.policy.weights["rollout"][1].clone()))
        return learn(scored)

    trainer.source.source.draw, trainer.learner.learn = drawn, learned
    return told


def test_images_are_drawn_before_those_of_the_iteration_before_are_learned_from(tmp_path, tiny_pipeline_folder):
    trainer = make_trainer(config_of(), tmp_path / "run", tiny_pipeline_folder)
    told = events_of(trainer)
    trainer.run()
    order = [(what, iteration) for what, iteration, _ in told]
    assert order == [
        ("draw", 0), ("draw", 1), ("learn", 0), ("draw", 2), ("learn", 1), ("draw", 3), ("learn", 2), ("learn", 3),
    ]  # fmt: skip
    weights = {event[:2]: event[2] for event in told}
    for iteration in (1, 2, 3):  # by the rollout policy before it followed the learner
        assert torch.equal(weights["draw", iteration], weights["learn", iteration - 1])
    assert not torch.equal(weights["draw", 3], weights["learn", 3])


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_a_resumed_run_draws_again_what_was_drawn(tmp_path, tiny_pipeline_folder, stop_at):
    whole = make_trainer(config_of(), tmp_path / "whole", tiny_pipeline_folder)
    whole.run()
    first = make_trainer(config_of(), tmp_path / "parts", tiny_pipeline_folder)

    def stops(images, prompts):
        first.world.stopping = first.iteration == stop_at
        return brightness(images, prompts)

    first.scorer.rewards = {"scenes_graded": stops}
    assert first.run() is None
    assert first.iteration == stop_at
    make_trainer(config_of(), tmp_path / "parts", tiny_pipeline_folder).run()
    then, now = (load_tensors(place(tmp_path / name / "checkpoints", 4)) for name in ("whole", "parts"))
    assert AHEAD in then
    for group, tensors in then.items():
        assert all(torch.equal(tensor, now[group][name]) for name, tensor in tensors.items()), group


def test_it_is_for_methods_that_allow_a_lagging_policy():
    with pytest.raises(ConfigError, match=r"rollout.ahead is 1, but objective 'flow-grpo' learns from images of the"):
        make_config(objective="flow-grpo", rollout={"ahead": 1, "solver": "flow_sde"})
    pairs = {"ahead": 1, "source": "pairs.jsonl", "images_per_prompt": 2}
    with pytest.raises(
        ConfigError, match=r"rollout.ahead is 1, but rollout.source brings the images; set rollout.ahead=0"
    ):
        make_config(rollout=pairs)
