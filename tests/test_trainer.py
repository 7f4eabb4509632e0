"""The loop, on a tiny random model: what it computes, what it writes, and that it goes on exactly where it stopped."""

import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from advantageflow.building import Inputs, build
from advantageflow.config import check_config
from advantageflow.errors import NonFiniteError
from advantageflow.models import load_model
from advantageflow.models.mean_flow import save_mean_flow
from advantageflow.objectives import all_methods, find
from advantageflow.prompts import load_prompts
from advantageflow.rewards import load_reward
from advantageflow.rewards.scoring import RewardError
from advantageflow.rollout import Rollout
from advantageflow.run.checkpoint import load_state
from advantageflow.run.directory import RunDirectory
from advantageflow.run.keeping import place, saved
from advantageflow.run.samples import read_samples
from advantageflow.seeding import Stream, noise


def brightness(images, prompts):
    """A reward that differs between images of a random model; below 0, so that none is good enough."""
    return (images.mean((1, 2, 3)) - 1) * 10


brightness.with_gradient = brightness


def sections_of(objective):
    """What a method needs beside the small settings below: a sampler with noise to learn from transitions."""
    method = find(objective)
    euler = method.family != "reverse" and "euler" in (method.solvers or ("euler",))
    solver = "euler" if euler else method.defaults["rollout.solver"]
    return {"objective": {"name": objective}, "rollout": {"solver": solver}}


def of_each_kind():
    """One method of each family and, within it, of each way in which images are drawn and kept together."""
    kinds = {}
    for method in (method() for method in all_methods()):
        plan = method.plan(0, 4, 0.7, None)
        shape = plan and (plan.leaves > 1, bool(plan.probes))
        kind = (method.family, bool(method.slow), method.whole_groups, method.critic(4) is not None, shape)
        kinds.setdefault(kind, method.name)
    return [*kinds.values()]


def make_config(**sections):
    settings = {
        "reward": "scenes_graded",
        "policy": {"lora_rank": 4, "lora_alpha": 8},
        "rollout": {"prompts_per_iteration": 3, "images_per_prompt": 4, "num_inference_steps": 4, "solver": "euler"},
        "learn": {"t_draws": 2, "learning_rate": 1e-3},
        "evaluation": {
            "rewards": {"strict": "scenes_strict", "graded": "scenes_graded"},
            "num_images": 6,
            "prompts_shown": 3,
        },
        "run": {"iterations": 2, "checkpoint_every": 1, "samples_every": 100},
    }
    for name, values in sections.items():
        if isinstance(values, dict) and name != "reward":
            settings[name] = {**settings.get(name, {}), **values}
        else:
            settings[name] = values
    named = settings.get("objective", {})
    method = find(named if isinstance(named, str) else named.get("name", "advantageflow"))
    plan = method().plan(0, settings["rollout"]["num_inference_steps"], 0.7, None)
    if method.family == "reverse" and len(plan.keep) < settings["learn"]["t_draws"]:
        settings["learn"] = {**settings["learn"], "t_draws": len(plan.keep)}
    return check_config(settings)


def average_velocity_of(model_folder):
    """An average velocity that stands on a tiny pipeline."""
    folder = model_folder.with_name(f"{model_folder.name}-average")
    if not folder.exists():
        weights = 0.1 * torch.randn(96, 96, generator=torch.Generator().manual_seed(0))
        save_mean_flow(folder, str(model_folder), {}, weights)
    return folder


def make_trainer(config, folder, model_folder, rewards=None):
    torch.manual_seed(0)
    if config.objective.average_velocity:
        model_folder = average_velocity_of(model_folder)
    run = RunDirectory.create(folder, config) if not folder.exists() else RunDirectory.open(folder)[0]
    inputs = Inputs(
        train_prompts=load_prompts("scenes:train"),
        held_out_prompts=load_prompts("scenes:held_out"),
        rewards=rewards or dict.fromkeys(config.reward_weights, brightness),
        evaluated={label: load_reward(name) for label, name in config.evaluation.rewards.items()},
    )
    model = load_model(**{**config.model.model_dump(exclude={"device"}), "path": str(model_folder)})
    return build(config, run, inputs, Console(quiet=True), model=model)


def test_the_rewards_of_probes_are_their_images_own(tmp_path, tiny_pipeline_folder, monkeypatch):
    """A probe that goes the sampler's own way comes to the image, to the bit: batches, trees and names are in order."""
    method, found = find("g2rpo"), []

    def plan(self, *arguments):
        (parting,) = (plain := drawn(self, *arguments)).keep
        return replace(plain, probes=(tuple(range(parting + 1, 5)), (parting + 1, 4)))

    def credit(self, rewards, groups, edges, settings):
        found.append((rewards, edges.probes))
        return credited(self, rewards, groups, edges, settings)

    drawn, credited = method.plan, method.credit
    monkeypatch.setattr(method, "plan", plan)
    monkeypatch.setattr(method, "credit", credit)
    rollout = {"solver": "flow_sde", "batch_size": 8}
    config = make_config(objective="g2rpo", reward={"scenes_graded": 2.0, "scenes_strict": -1.0}, rollout=rollout)
    rewards = {"scenes_graded": brightness, "scenes_strict": lambda images, prompts: images.std((1, 2, 3))}
    make_trainer(config, tmp_path / "run", tiny_pipeline_folder, rewards).iterate()
    ((rewards, probes),) = found
    assert len(rewards.unique()) == 12
    assert torch.equal(probes[:, 0], rewards)
    assert not torch.equal(probes[:, 1], rewards)


def stop_after(iterations, trainer):
    """Have a trainer asked to stop after so many iterations, as it begins the next."""
    iterate = trainer.iterate

    def stops():
        trainer.world.stopping = trainer.iteration == iterations
        return iterate()

    trainer.iterate = stops


def weights(trainer):
    return torch.cat([weight.detach().flatten() for weight in trainer.policy.parameters]).clone()


def test_full_fine_tuning(tmp_path, tiny_pipeline_folder):
    config = make_config(policy={"lora_rank": 0}, learn={"learning_rate": 1e-5})
    trainer = make_trainer(config, tmp_path / "run", tiny_pipeline_folder)
    start = weights(trainer)
    trainer.run()
    assert not torch.equal(weights(trainer), start)
    assert not (tmp_path / "run" / "lora").exists()


def test_gradients_by_sign_are_measured_now_and_then_and_change_nothing(tmp_path, tiny_pipeline_folder):
    rows, ends = {}, []
    for every in (2, 0):
        config = make_config(run={"iterations": 3, "probe_every": every}, learn={"t_draws": 1})
        trainer = make_trainer(config, tmp_path / str(every), tiny_pipeline_folder)
        trainer.run()
        rows[every], ends = trainer.directory.metrics(), [*ends, weights(trainer)]
    assert torch.equal(*ends)
    signs = [f"grad_norm/{sign}_advantage" for sign in ("positive", "negative")]
    assert [row[sign] is not None for row in rows[2] for sign in signs] == [True, True, False, False, True, True]
    assert [row[sign] for row in rows[0] for sign in signs] == [None] * 6
    first = rows[2][0]  # with one draw the two are the parts of the whole gradient
    small, large = sorted(first[sign] for sign in signs)
    assert large - small <= first["grad_norm"] <= large + small


def test_noise_is_addressed():
    """Sample 3's noise does not depend on which other samples are drawn with it."""
    together = noise((2, 2), Stream.ROLLOUT, (7, 0), [0, 1, 2, 3])
    alone = noise((2, 2), Stream.ROLLOUT, (7, 0), [3])
    assert torch.equal(together[3], alone[0])
    assert not torch.equal(noise((2, 2), Stream.ROLLOUT, (7, 1), [3]), alone)
    assert not torch.equal(noise((2, 2), Stream.LEARN, (7, 0), [3]), alone)


def test_the_sampling_batch_size_does_not_change_the_samples(tmp_path, tiny_pipeline_folder):
    rewards = []
    for size in (5, 64):
        config = make_config(rollout={"batch_size": size})
        row = make_trainer(config, tmp_path / f"{size}", tiny_pipeline_folder).iterate()
        rewards.append(row["reward/mean"])
    assert rewards[0] == pytest.approx(rewards[1], rel=1e-5)


def check_what_a_run_leaves(folder, summary):
    assert summary["iterations"] == 3
    assert set(summary["before"]) == set(summary["after"]) == {"strict", "graded", "tasks"}
    assert set(summary["after"]["tasks"]) == {"single", "two", "counting", "colors", "position", "binding"}
    assert json.loads((folder / "summary.json").read_text()) == summary
    for name in ("config.yaml", "curve.png", "samples/before_after.png", "lora/pytorch_lora_weights.safetensors"):
        assert (folder / name).is_file()


# one of each family, with trees of images, coupled groups and a slow copy of its own
@pytest.mark.parametrize("objective", ["advantageflow", "crd", "branch-grpo", "draft"])
def test_a_resumed_run_ends_where_an_undisturbed_one_does(objective, tmp_path, tiny_pipeline_folder):
    config = make_config(**sections_of(objective), run={"iterations": 3})
    whole = make_trainer(config, tmp_path / "whole", tiny_pipeline_folder)
    check_what_a_run_leaves(tmp_path / "whole", whole.run())
    first = make_trainer(config, tmp_path / "parts", tiny_pipeline_folder)

    def killed_in_the_third_iteration(images, prompts):
        if first.iteration == 2:
            raise MemoryError("killed")
        return brightness(images, prompts)

    first.scorer.rewards = {"scenes_graded": killed_in_the_third_iteration}
    with pytest.raises(RewardError, match="killed"):
        first.run()
    second = make_trainer(config, tmp_path / "parts", tiny_pipeline_folder)
    summary = second.run()
    assert second.learner.optimizer_step == whole.learner.optimizer_step == 3
    assert summary["iterations"] == 3
    found, expected = second.policy.state(), whole.policy.state()
    assert all(torch.equal(found[role][name], weight) for role in expected for name, weight in expected[role].items())
    assert [row["iteration"] for row in second.directory.metrics()] == [0, 1, 2]


def test_several_optimizer_steps_learn_from_every_image_once(tmp_path, tiny_pipeline_folder):
    trainer = make_trainer(make_config(learn={"optimizer_steps": 4}), tmp_path / "run", tiny_pipeline_folder)
    row = trainer.iterate()
    assert trainer.learner.optimizer_step == 4
    assert row["distance/to_rollout"] > 0  # the learner moves away from the rollout policy within the iteration


def test_at_one_step_per_rollout_the_rollout_term_is_exactly_zero_at_first(tmp_path, tiny_pipeline_folder):
    row = make_trainer(make_config(), tmp_path / "run", tiny_pipeline_folder).iterate()
    assert row["loss/rollout"] == 0.0
    assert row["loss/reference"] == 0.0
    assert row["distance/to_rollout"] == 0.0


def test_a_nan_loss_stops_with_the_sample_named_and_the_checkpoint_unharmed(tmp_path, tiny_pipeline_folder):
    trainer = make_trainer(make_config(run={"iterations": 5}), tmp_path / "run", tiny_pipeline_folder)
    good = trainer.iterate
    calls = []

    def poison():
        calls.append(1)
        if len(calls) == 3:
            with torch.no_grad():
                trainer.policy.parameters[0].fill_(float("nan"))
        return good()

    trainer.iterate = poison
    with pytest.raises(NonFiniteError, match=r"loss of sample \d+ \(prompt '.*'\) is nan in iteration 2"):
        trainer.run()
    folder = trainer.directory.checkpoints
    tensors, record = load_state(place(folder, saved(folder)[-1]))
    assert record["iteration"] == 2
    assert all(torch.isfinite(tensor).all() for group in tensors.values() for tensor in group.values())


def test_stopping_leaves_a_checkpoint(tmp_path, tiny_pipeline_folder):
    config = make_config(run={"iterations": 5, "checkpoint_every": 100})
    trainer = make_trainer(config, tmp_path / "run", tiny_pipeline_folder)

    def stop(images, prompts):
        trainer.world.stopping = True
        return brightness(images, prompts)

    trainer.scorer.rewards = {"scenes_graded": stop}
    assert trainer.run() is None
    assert trainer.directory.latest_record()["iteration"] == 0  # the first was not whole


def test_a_collapse_of_variety_is_told_once_also_after_a_resume(tmp_path, tiny_pipeline_folder):
    config = make_config(run={"iterations": 4}, evaluation={"num_images": 2})
    spreads = iter([1.0, 0.8, 0.1, 0.1])  # of a prompt's images around their mean, times what the model draws
    told = []

    def narrowing():
        trainer = make_trainer(config, tmp_path / "run", tiny_pipeline_folder)
        trainer.display.warn = lambda text: told.append((trainer.iteration, text))
        draw = trainer.source.draw

        def narrow(iteration):
            (prompts, samples), spread = draw(iteration), next(spreads)
            groups = samples.x0.unflatten(0, (3, 4))
            mean = groups.mean(1, keepdim=True)
            return prompts, Rollout((mean + spread * (groups - mean)).flatten(0, 1))

        trainer.source.draw = narrow
        return trainer

    first = narrowing()
    stop_after(2, first)
    assert first.run() is None
    assert told == []
    narrowing().run()
    ((iteration, text),) = told
    assert iteration == 3
    assert "the images of a prompt have become alike" in text
    assert "in iteration 3, " in text


def test_several_rewards_are_added_and_each_is_written_down(tmp_path, tiny_pipeline_folder):
    config = make_config(reward={"scenes_graded": 1, "scenes_strict": 0.5}, rollout={"batch_size": 5})
    rewards = {"scenes_graded": brightness, "scenes_strict": lambda images, prompts: [2.0] * len(prompts)}
    trainer = make_trainer(config, tmp_path / "run", tiny_pipeline_folder, rewards)
    trainer.run()
    row = trainer.directory.metrics()[-1]
    assert trainer.directory.curve.stat().st_size > 10_000
    assert row["reward/scenes_strict/mean"] == 2.0
    assert row["reward/mean"] == pytest.approx(row["reward/scenes_graded/mean"] + 1.0)


def test_the_columns_of_a_prompt_reach_rewards_in_training_and_evaluation(tmp_path, tiny_pipeline_folder):
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"{count} circles", "count": count} for count in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    seen = {"train": [], "evaluate": []}

    def reward_of(name):
        def reward(images, prompts, metadata):
            seen[name] += zip(prompts, metadata, strict=True)
            return brightness(images, prompts)

        return reward

    trainer = make_trainer(make_config(rollout={"batch_size": 5}), tmp_path / "run", tiny_pipeline_folder)
    trainer.source.prompts = trainer.held_out.prompts = load_prompts(str(file))
    trainer.scorer.rewards = {"scenes_graded": reward_of("train")}
    trainer.held_out.rewards = {"mine": reward_of("evaluate")}
    trainer.iterate()
    trainer.held_out.evaluate("average")
    assert [len(pairs) for pairs in seen.values()] == [12, 6]
    assert all(prompt == f"{row['count']} circles" for pairs in seen.values() for prompt, row in pairs)


def test_own_prompts_are_shown_in_their_order_and_scores_are_of_the_held_out_ones(tmp_path, tiny_pipeline_folder):
    own = ["two circles", "a blue square", "a blue square"]
    summaries = {}
    for name, prompts_shown in (("own", own), ("some", 2)):
        trainer = make_trainer(
            make_config(evaluation={"prompts_shown": prompts_shown}), tmp_path / name, tiny_pipeline_folder
        )
        summaries[name] = trainer.run()
        for iteration in (0, 2):
            drawn = read_samples(tmp_path / name / "samples", iteration)
            if name == "own":
                assert [sample.prompt for sample in drawn] == own
                assert drawn[1].picture.tobytes() != drawn[2].picture.tobytes()  # each has noise of its own
            else:
                assert len(drawn) == 2
    assert summaries["own"]["after"] == summaries["some"]["after"]


def test_no_role_of_a_compiled_network_falls_back_to_the_plain_one(tmp_path, tiny_pipeline_folder, monkeypatch):
    """PyTorch does so without an error where a function has more variants than its limit."""
    compile_module, compiled = torch.nn.Module.compile, []

    def traced(block):
        compile_module(block, backend=lambda graph, example: compiled.append(graph) or graph.forward)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        make_trainer(make_config(model={"compile": True}), tmp_path / "run", tiny_pipeline_folder).iterate()
    assert len(compiled) > 2
