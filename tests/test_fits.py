"""Batches for which the memory is not enough: they are cut, and what comes of a run stays what it would have been."""

import re

import pytest
import torch
from test_trainer import brightness, make_config, make_trainer, sections_of, weights
from torch import nn

import advantageflow.cli as cli
from advantageflow.cli import main
from advantageflow.config import ConfigError, load_config
from advantageflow.errors import out_of_memory
from advantageflow.fits import LARGEST, LARGEST_OF_GPU, Fits
from advantageflow.memory import MODELS, sized, stages
from advantageflow.plan import GPUS, make_plan, print_plan
from advantageflow.rewards.scoring import RewardError
from advantageflow.world import World

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def refuse(count, most):
    if count > most:
        raise torch.OutOfMemoryError(f"CUDA out of memory with {count}")


def limit(monkeypatch, model, most, decoded=None):
    """A device that has room for so many images in the transformer, with the gradient's graph, and in the decoder."""
    velocity, decode, sizes = model.velocity, model.decode_latents, {"velocity": [], "decode": []}

    class Graph(torch.autograd.Function):
        """Where the backward pass runs out of memory, and not the forward."""

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            refuse(len(gradient), most // 2)
            return gradient

    def limited(transformer, x_t, *args, **options):
        sizes["velocity"].append(len(x_t))
        refuse(len(x_t), most)
        found = velocity(transformer, x_t, *args, **options)
        return Graph.apply(found) if found.requires_grad else found

    def limited_decoder(latents):
        sizes["decode"].append(len(latents))
        refuse(len(latents), decoded or most)
        return decode(latents)

    monkeypatch.setattr(model, "velocity", limited)
    monkeypatch.setattr(model, "decode_latents", limited_decoder)
    return sizes


def told_by(trainer):
    lines = []
    trainer.model.fits.say = lines.append
    return lines


def batches_of(learner):
    """The numbers of cases that the learner's gradients came from, batch by batch."""
    seen = []
    learner.advance = seen.append
    return seen


# one of each family, with trees of images and coupled groups
@pytest.mark.parametrize("objective", ["advantageflow", "crd", "branch-grpo", "draft"])
def test_a_run_without_the_memory_ends_where_one_with_it_does(objective, tmp_path, tiny_pipeline_folder, monkeypatch):
    sections = sections_of(objective)
    config = make_config(**{**sections, "learn": {"t_draws": 2, "learning_rate": 1e-3}, "run": {"probe_every": 1}})
    ends = {}
    for name in ("roomy", "narrow"):
        asked = []

        def reward(images, prompts, asked=asked):
            asked.extend(prompts)
            return brightness(images, prompts)

        reward.with_gradient = brightness
        trainer = make_trainer(config, tmp_path / name, tiny_pipeline_folder, {"scenes_graded": reward})
        lines = told_by(trainer)
        if name == "narrow":
            limit(monkeypatch, trainer.model, 8, 3)
        row = trainer.iterate()
        gradient = torch.cat([p.grad.flatten() for p in trainer.policy.parameters if p.grad is not None])
        ends[name] = gradient, row, asked, lines
    (roomy, plain, once, said), (narrow, row, again, cut) = ends.values()
    scale = roomy.abs().max()
    torch.testing.assert_close(narrow / scale, roomy / scale, atol=1e-3, rtol=0)  # samples differ in their last bits
    for key in ("reward/mean", "reward/std", "loss", "grad_norm", "advantage/mean", "diversity"):
        assert row[key] == pytest.approx(plain[key], rel=1e-3, abs=1e-4), key
    assert sorted(again) == sorted(once)  # each image once
    assert len(once) == 12
    assert said == []
    assert [line.partition(":")[0] for line in cut][:2] == [
        "out of memory, sampling 12 at once", "out of memory, decoding 4 at once" if objective == "branch-grpo"
        else "out of memory, decoding 6 at once",
    ]  # fmt: skip
    assert any("learning" in line for line in cut)


def test_samples_are_those_of_a_smaller_setting_to_the_bit(tmp_path, tiny_pipeline_folder, monkeypatch):
    drawn = []
    for size, most in ((64, 7), (6, 100)):
        trainer = make_trainer(make_config(rollout={"batch_size": size}), tmp_path / str(size), tiny_pipeline_folder)
        told_by(trainer)
        limit(monkeypatch, trainer.model, most)
        prompts, rollout = trainer.source.draw(0)
        drawn.append((prompts, rollout.x0, trainer.source.scores()["scenes_graded"]))
    assert drawn[0][0] == drawn[1][0]
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert torch.equal(drawn[0][2], drawn[1][2])


# what limits of 8, and of 4 with a gradient, come to: in images, trees of 4 and groups of 4
@pytest.mark.parametrize(
    ("objective", "sampled", "learned"),
    [("advantageflow", 6, 3), ("crd", 6, 4), ("branch-grpo", 4, 4), ("draft", 6, 3)],
)
def test_weights_are_those_of_smaller_settings_to_the_bit(
    objective, sampled, learned, tmp_path, tiny_pipeline_folder, monkeypatch
):
    found, seen = [], []
    for name, sizes, most in (("cut", (64, 256), 8), ("small", (sampled, learned), 100)):
        sections = sections_of(objective)
        sections["rollout"] = {**sections["rollout"], "batch_size": sizes[0]}
        config = make_config(**sections, learn={"batch_size": sizes[1], "t_draws": 2}, run={"probe_every": 0})
        trainer = make_trainer(config, tmp_path / name, tiny_pipeline_folder)
        told_by(trainer)
        limit(monkeypatch, trainer.model, most)
        seen.append(batches_of(trainer.learner))
        trainer.iterate()
        found.append(weights(trainer))
    assert seen[0] == seen[1]
    assert torch.equal(*found)


def test_what_fits_is_remembered(tmp_path, tiny_pipeline_folder, monkeypatch):
    trainer = make_trainer(make_config(), tmp_path / "run", tiny_pipeline_folder)
    lines = told_by(trainer)
    sizes = limit(monkeypatch, trainer.model, 8)
    trainer.iterate()
    first = len(lines)
    sizes["velocity"].clear()
    trainer.iterate()
    assert max(sizes["velocity"]) <= 8
    assert len(lines) == first == 2  # of sampling, and of learning; pictures of 6 latents fit


@pytest.mark.parametrize(("objective", "unit"), [("branch-grpo", 4), ("crd", 4)])
def test_trees_and_groups_are_never_cut_inside(objective, unit, tmp_path, tiny_pipeline_folder, monkeypatch):
    trainer = make_trainer(make_config(**sections_of(objective)), tmp_path / "run", tiny_pipeline_folder)
    told_by(trainer)
    model, seen = trainer.model, batches_of(trainer.learner)
    limit(monkeypatch, model, 8)
    drawn, submit = [], trainer.scorer.submit

    def submitted(images, prompts, metadata, first):
        drawn.append((first, len(images)))
        submit(images, prompts, metadata, first)

    trainer.scorer.submit = submitted
    trainer.iterate()
    if objective == "branch-grpo":
        assert drawn == [(0, 4), (4, 4), (8, 4)]
    assert len(seen) > 1
    assert [count % unit for count in seen[:-1]] == [0] * (len(seen) - 1)
    # room for a part of a tree or group alone
    small = make_trainer(make_config(**sections_of(objective)), tmp_path / "small", tiny_pipeline_folder)
    told_by(small)
    limit(monkeypatch, small.model, 3 if objective == "branch-grpo" else 7)
    with pytest.raises(torch.OutOfMemoryError, match="with 4" if objective == "branch-grpo" else "with"):
        small.iterate()


def test_an_image_that_does_not_fit_is_one_sentence(tmp_path, tiny_pipeline_folder, monkeypatch, capsys):
    trainer = make_trainer(make_config(), tmp_path / "run", tiny_pipeline_folder)
    told_by(trainer)
    sizes = limit(monkeypatch, trainer.model, 0)
    monkeypatch.setattr(cli, "app", lambda **settings: trainer.run())
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("error: out of memory: CUDA out of memory with 1;")
    assert said.count("\n") == 1
    assert sizes["velocity"] == [12, 6, 3, 1]


def test_an_evaluation_is_cut_too(tmp_path, tiny_pipeline_folder, monkeypatch):
    pictures = []
    for most in (100, 4):
        trainer = make_trainer(
            make_config(evaluation={"prompts_shown": ["a circle"]}), tmp_path / str(most), tiny_pipeline_folder
        )
        lines = told_by(trainer)
        limit(monkeypatch, trainer.model, most)
        pictures.append(trainer.held_out.evaluate("reference").by_image["graded"])
    torch.testing.assert_close(*pictures, atol=1e-5, rtol=0)
    assert lines == ["out of memory, evaluating 6 at once: going on with 3"]


def test_auto_says_and_writes_down_what_it_chose(tmp_path, tiny_pipeline_folder, monkeypatch):
    sections = {"rollout": {"batch_size": "auto"}, "learn": {"batch_size": "auto"}, "run": {"probe_every": 0}}
    roomy = make_trainer(make_config(**sections), tmp_path / "roomy", tiny_pipeline_folder)
    lines = told_by(roomy)
    summary = roomy.run()
    assert summary["batch_size"] == {"evaluating": 3, "learning": 24, "sampling": 12}
    assert [line for line in lines if "learning" in line] == ["learning 24 at once (batch_size: auto)"]
    narrow = make_trainer(make_config(**sections), tmp_path / "narrow", tiny_pipeline_folder)
    lines = told_by(narrow)
    limit(monkeypatch, narrow.model, 8)
    summary = narrow.run()
    assert summary["batch_size"] == {"evaluating": 3, "learning": 3, "sampling": 6}
    assert sum("learning" in line for line in lines) == 1
    plain = make_trainer(make_config(), tmp_path / "plain", tiny_pipeline_folder)
    assert plain.run()["batch_size"] == {}  # the settings say it all


def test_a_process_cuts_its_own_batches_alone():
    """Batches are the same in all processes, and places go by the numbers of what is done."""
    done = {}
    for rank, most in enumerate((3, 100)):
        fits, world = Fits(), World(rank, 2)
        fits.say = lambda text: None

        def work(numbers, most=most):
            refuse(len(numbers), most)
            return [*numbers]

        for _, batch in world.deal(fits.batches("learning", 8, 30, CPU, 2)):
            done |= {numbers.start: found for numbers, found in fits.parts("learning", batch, work)}
    assert [*done] != sorted(done)
    assert [number for start in sorted(done) for number in done[start]] == [*range(30)]
    assert {len(found) for found in done.values()} == {2, 8, 6}


def test_auto_is_a_share_that_is_sensible():
    def sizes(count, device, processes, unit=1):
        return [len(batch) for batch in Fits().batches("learning", "auto", count, device, processes, unit)]

    assert sizes(100, GPU, 1) == [100]
    assert sizes(100, GPU, 3) == [34, 34, 32]
    assert sizes(100, GPU, 3, unit=4) == [32, 32, 32, 4]
    assert sizes(2000, GPU, 1)[0] == LARGEST_OF_GPU
    assert sizes(2000, CPU, 1)[0] == LARGEST["cpu"]
    assert sizes(3, GPU, 1, unit=4) == [3]


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("shapes do not match"), False),
        (ConfigError("wrong"), False),
    ],
)
def test_only_a_lack_of_memory_cuts_a_batch(error, known):
    assert out_of_memory(error) == known
    calls, fits = [], Fits()
    fits.say = lambda text: None

    def work(numbers):
        calls.append(len(numbers))
        raise error

    with pytest.raises(type(error)):
        list(fits.parts("learning", range(4), work))
    assert calls == ([4, 2, 1] if known else [4])


def test_a_rewards_gradient_that_runs_out_of_memory_cuts_the_batch(tmp_path, tiny_pipeline_folder):
    """Though the reward's error is one of the reward's own."""
    config, sizes = make_config(**sections_of("draft"), run={"probe_every": 0}), []

    def gradient(images, prompts):
        sizes.append(len(images))
        refuse(len(images), 10)
        return brightness(images, prompts)

    def reward(images, prompts):
        return brightness(images, prompts)

    reward.with_gradient = gradient
    trainer = make_trainer(config, tmp_path / "run", tiny_pipeline_folder, {"scenes_graded": reward})
    told_by(trainer)
    trainer.iterate()
    assert sizes[:2] == [24, 12]
    assert max(sizes[2:]) <= 10
    reward.with_gradient = lambda images, prompts: refuse(1, 0)
    with pytest.raises(RewardError, match="with_gradient of the reward 'scenes_graded' failed"):
        trainer.iterate()


def test_nothing_of_a_failed_batch_is_held():
    """The memory of what failed is free when the halves begin."""
    import weakref

    held, alive = [], []

    def work(numbers):
        alive.append(sum(found() is not None for found in held))
        graph = nn.Linear(2, 2)(torch.ones(len(numbers), 2))
        held.append(weakref.ref(graph))
        refuse(len(numbers), 2)
        return len(numbers)

    fits = Fits()
    fits.say = lambda text: None
    assert [found for _, found in fits.parts("learning", range(8), work)] == [2, 2, 2, 2]
    assert alive == [0] * 6


def test_a_plan_shows_auto(capsys):
    changes = ["rollout.batch_size=auto", "learn.batch_size=auto"]
    config = load_config("sd35m-ocr", changes)
    plan = make_plan(config)
    assert plan.fits["H100"] == []
    for key, words in zip(("rollout", "learn"), plan.sizes["H100"], strict=True):
        size = int(re.fullmatch(rf"{key}\.batch_size=(\d+)", words)[1])
        assert size > 1
        assert size & (size - 1) == 0
    facts, capacity = MODELS[config.model.path], GPUS["H100"][1]
    found = sized(facts, config, capacity)
    assert max(stages(facts, found).values()) <= capacity
    print_plan(config)
    text = capsys.readouterr().out
    assert text.count("auto: found while it runs") == 2
    assert "about rollout.batch_size=" in " ".join(text.replace("│", " ").split())
    print_plan(load_config("scenes"))
    assert "auto" not in capsys.readouterr().out


@pytest.mark.parametrize("value", ["often", "0", "true", "[1]"])
def test_a_batch_size_is_a_number_or_auto(value):
    with pytest.raises(ConfigError, match=r"learn\.batch_size is"):
        load_config("scenes", [f"learn.batch_size={value}"])
