"""What a method does not see is never computed, and a plan counts what is."""

from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from test_trainer import make_config, make_trainer, sections_of

from advantageflow.decay import Decay, decay_of
from advantageflow.objectives import find
from advantageflow.objectives.base import Noised
from advantageflow.plan import make_plan

STEPS = 4


def part(policy):
    """Give the learner weights that no other role has."""
    with torch.no_grad():
        for parameter in policy.parameters:
            parameter.add_(0.01)


def followers(config):
    """The roles that have the learner's weights after every iteration."""
    decays = {"rollout": decay_of(config.policy.rollout_decay), **config.objective.slow}
    return {role for role, decay in decays.items() if decay == Decay()}


def parted(objective, folder, pipeline, **settings):
    """The trainer of a small run whose learner has weights of its own.

    Transitions are learned from at every step that is recorded: where they are drawn, a plan has their mean.
    """
    sections = sections_of(objective)
    sections["objective"] = {**sections["objective"], **settings}
    plan = find(objective)(**settings).plan(0, STEPS, 0.7, None)
    draws = len(plan.keep) if find(objective).family == "reverse" else 2
    sections["rollout"]["prompts_per_iteration"] = 2
    config = make_config(**sections, learn={"t_draws": draws}, run={"probe_every": 0})
    trainer = make_trainer(config, folder, pipeline)
    part(trainer.policy)
    for role in followers(config):
        trainer.policy.update(role, 0.0)
    return trainer


def counting(trainer):
    """Images that go through the transformer from now on: (stage, role) -> how many."""
    rows, acting, stage = Counter(), ["learner"], ["sampling"]
    act, learn = trainer.policy.acting_as, trainer.learner.learn

    @contextmanager
    def acting_as(role):
        acting.insert(0, role)
        with act(role) as transformer:
            yield transformer
        acting.pop(0)

    def learning(scored):
        stage[0] = "learning"
        return learn(scored)

    def count(module, given, named):
        rows[stage[0], acting[0]] += len(given[0] if given else named["hidden_states"])

    trainer.policy.acting_as, trainer.learner.learn = acting_as, learning
    trainer.model.transformer.register_forward_pre_hook(count, with_kwargs=True)
    return rows


@pytest.mark.parametrize(
    ("objective", "settings", "seen"),
    [
        ("advantageflow", {"reference_weight": 0}, {"learner", "rollout"}),
        ("advantageflow", {"gamma": 0}, {"learner", "reference"}),
        ("advantageflow", {"gamma": 0, "reference_weight": 0}, {"learner"}),
        ("nft", {"reference_weight": 0}, {"learner", "rollout"}),
        ("flow-grpo", {"kl_weight": 0}, {"learner"}),
        ("mix-grpo", {"kl_weight": 0.1}, {"learner", "reference"}),
        ("rwr", {"reference_weight": 0.0}, {"learner"}),
        ("orw-cfm-w2", {"reference_weight": 0}, {"learner"}),
        ("crd", {"reference_weight": 0}, {"learner", "old"}),
    ],
)
def test_a_term_without_weight_asks_nobody(objective, settings, seen, tmp_path, tiny_pipeline_folder):
    trainer = parted(objective, tmp_path / "run", tiny_pipeline_folder, **settings)
    plan, rows = make_plan(trainer.config), counting(trainer)
    trainer.iterate()
    assert {role for stage, role in rows if stage == "learning"} == seen
    assert sum(rows.values()) == plan.sampling_calls + plan.learning_calls


@pytest.mark.parametrize(
    ("objective", "learn", "shared"),
    [
        ("epg", {}, True),
        ("dgpo", {}, True),
        ("crd", {}, False),
        ("awm", {}, False),
        ("advantageflow", {"share": "group", "optimizer_steps": 3, "t_distribution": "uniform"}, True),
    ],
)
def test_images_of_a_prompt_share_their_noise_where_method_or_recipe_asks_for_it(
    objective, learn, shared, tmp_path, tiny_pipeline_folder, monkeypatch
):
    seen = []

    def note(*arguments, **named):
        seen.append((named["noise"], arguments[3], named["group"]))
        return Noised(*arguments, **named)

    monkeypatch.setattr("advantageflow.learning.forward.Noised", note)
    config = make_config(**sections_of(objective), learn=learn, run={"probe_every": 0})
    make_trainer(config, tmp_path / "run", tiny_pipeline_folder).iterate()
    if learn:  # a step has whole groups, so that what they share cancels in it
        assert [len(part[2].unique()) for part in seen] == [2, 2, 2]
    noise, t, group = (torch.cat(parts) for parts in zip(*seen, strict=True))
    same = [noise[group == each] for each in group.unique()]  # of one prompt and draw
    assert len(same) == 6
    assert all(bool((part == part[:1]).all()) is shared for part in same)
    assert len({part[0].sum().item() for part in same}) == 6
    if shared:
        assert all((t[group == each] == t[group == each][0]).all() for each in group.unique())
