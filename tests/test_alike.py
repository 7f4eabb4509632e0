"""A role whose weights are the learner's predicts what the learner does: it is not asked, and no bit changes."""

from collections import Counter

import pytest
import torch
from test_calls import part
from test_trainer import make_config, make_trainer, sections_of

from advantageflow.models import load_model
from advantageflow.objectives import find, names
from advantageflow.plan import make_plan
from advantageflow.policy import Policy

ON_POLICY = {"policy": {"lora_rank": 4, "lora_alpha": 8, "rollout_decay": 0}}
# One of each kind that compares predictions; a gradient method that looks at the base follows it along all of its steps
SEEING = [name for name in names() if find(name)().sees and find(name).family != "gradient"]
FORMULAS = {(find(name).family, find(name)().sees): name for name in SEEING}


def asked(trainer):
    """Counts who acts while the trainer learns, from now on: (optimizer step, role) -> batches."""
    count, act, learn = Counter(), trainer.policy.acting_as, trainer.learner.learn

    def acting_as(role):
        count[trainer.learner.optimizer_step, role] += 1
        return act(role)

    def learning(scored):
        trainer.policy.acting_as = acting_as
        try:
            return learn(scored)
        finally:
            trainer.policy.acting_as = act

    trainer.learner.learn = learning
    return count


@pytest.mark.parametrize(("objective", "rank"), [*((name, 4) for name in FORMULAS.values()), ("advantageflow", 0)])
def test_no_bit_of_a_run_depends_on_it(objective, rank, tmp_path, tiny_pipeline_folder, monkeypatch):
    policy = {"lora_rank": rank, "lora_alpha": 8, "rollout_decay": 0}
    learn = {"t_draws": 2, "learning_rate": 1e-3 if rank else 1e-5}
    config = make_config(**sections_of(objective), policy=policy, learn=learn)
    ends = []
    for spared in (True, False):
        if not spared:
            monkeypatch.setattr(Policy, "alike", lambda self, roles: frozenset())
        trainer = make_trainer(config, tmp_path / str(spared), tiny_pipeline_folder)
        count = asked(trainer)
        rows = [trainer.iterate() for _ in range(4)]
        told = [{key: value for key, value in row.items() if not key.startswith("seconds/")} for row in rows]
        ends.append((told, trainer.policy.state(), count))
    (told, state, fewer), (expected, other, all_calls) = ends
    assert told == expected
    assert all(torch.equal(state[role][name], weight) for role in other for name, weight in other[role].items())
    assert fewer.total() < all_calls.total()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_a_role_alike_predicts_is_the_learner_s_with_its_gradient_to_the_bit(dtype, tiny_pipeline_folder):
    model = load_model(str(tiny_pipeline_folder), dtype=dtype)
    policy = Policy(model.transformer, lora_rank=4)
    x = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0))

    def predicted(role):
        with torch.set_grad_enabled(role == "learner"), policy.acting_as(role) as transformer:
            return model.velocity(transformer, x, torch.tensor([0.1, 0.5, 0.9]), model.encode(["a ring"] * 3))

    roles = {"rollout", "average", "reference"}
    assert policy.alike(roles) == roles
    assert all(torch.equal(predicted(role), predicted("learner")) for role in roles)
    part(policy)
    assert policy.alike(roles) == set()
    policy.update("rollout", 0)
    policy.update("average", 0.5)
    assert policy.alike(roles) == {"rollout"}
    assert predicted("learner").requires_grad
    assert torch.equal(predicted("rollout"), predicted("learner"))


def test_within_an_iteration_the_first_optimizer_step_parts_them(tmp_path, tiny_pipeline_folder):
    trainer = make_trainer(
        make_config(**ON_POLICY, learn={"optimizer_steps": 2}), tmp_path / "run", tiny_pipeline_folder
    )
    count = asked(trainer)
    trainer.iterate()
    trainer.iterate()
    found = {(step, role) for step, role in count if role != "learner"}
    assert found == {(1, "rollout"), (1, "reference"), (2, "reference"), (3, "rollout"), (3, "reference")}


def test_a_step_that_is_not_taken_parts_nothing(tmp_path, tiny_pipeline_folder):
    trainer = make_trainer(
        make_config(**ON_POLICY, learn={"optimizer_steps": 3}), tmp_path / "run", tiny_pipeline_folder
    )
    skip = iter([True, False, False])
    trainer.learner.spikes.skip = lambda *told: next(skip)
    count = asked(trainer)
    assert trainer.iterate()["spiked_steps"] == 1
    assert {step for step, role in count if role == "rollout"} == {1}  # after one step was taken, of three


def test_a_run_that_goes_on_sees_what_an_undisturbed_one_does(tmp_path, tiny_pipeline_folder):
    """A copy that lags behind when the run is killed is asked when it goes on, and one that does not is not."""
    config = make_config(policy={"lora_rank": 4, "lora_alpha": 8, "rollout_decay": 0.8}, run={"iterations": 1})
    make_trainer(config, tmp_path / "run", tiny_pipeline_folder).run()
    for decay, seen in ((0.8, {"rollout", "average", "reference"}), (0.0, {"average", "reference"})):
        trainer = make_trainer(config, tmp_path / "run", tiny_pipeline_folder)
        trainer.keeper.resume()
        trainer.policy.update("rollout", decay)
        roles = {"rollout", "average", "reference"}
        assert roles - trainer.policy.alike(roles) == seen


def test_guidance_of_its_own_is_asked_for(tmp_path, tiny_pipeline_folder):
    trainer = make_trainer(make_config(objective={"name": "crd"}), tmp_path / "run", tiny_pipeline_folder)
    guided = {role for role, scale in trainer.method.guidance.items() if scale != 1}
    count = asked(trainer)
    trainer.iterate()
    assert guided
    assert {role for _, role in count} == {"learner", *guided & trainer.method.sees}


@pytest.mark.parametrize(("steps", "decay", "others"), [(1, 0, 0), (2, 0, 1), (1, 0.5, 1), (1, 2, 1)])
def test_a_plan_knows_what_is_never_asked(steps, decay, others):
    settings = {"objective": {"reference_weight": 0}, "learn": {"optimizer_steps": steps}}
    plan = make_plan(make_config(**settings, policy={"rollout_decay": decay}))
    assert plan.learning_calls == (1 + others) * plan.gradient_calls
