"""What a run does by itself where training goes wrong: it skips, warns once, or stops with a whole checkpoint."""

import io
import json
import subprocess
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from test_cli import SMALL, run
from test_trainer import brightness, make_config, make_trainer, stop_after

from advantageflow.config import load_config
from advantageflow.errors import ConfigError, NonFiniteError
from advantageflow.paper.study import Study, tasks
from advantageflow.run.checkpoint import optimizer_tensors, verify
from advantageflow.run.directory import RunDirectory
from advantageflow.run.hacking import fallen, risen
from advantageflow.run.keeping import place, saved
from advantageflow.run.spikes import WINDOW, Spikes
from advantageflow.run.summary import print_summary
from advantageflow.run.watch import Watch
from advantageflow.studies.compare import Arm, Run, finish

LOUD = 1e6  # times the usual rewards


def loud_trainer(folder, model_folder, loud=(2,), *, learn=None, policy=None, **run):
    """A run of ten steps an iteration, whose rewards are far too large in some iterations."""
    config = make_config(
        run={"iterations": 4, "spikes_stop": 0, **run},
        evaluation={"num_images": 2},
        advantage={"normalize": "centered", "clip": 1e8},
        learn={"optimizer_steps": 10, **(learn or {})},
        policy=policy or {},
    )
    trainer = make_trainer(config, folder, model_folder)
    trainer.scorer.rewards = {
        "scenes_graded": lambda images, prompts: (
            brightness(images, prompts) * (LOUD if trainer.iteration in loud else 1)
        )
    }
    return trainer


def everything(trainer):
    """Weights, their copies and the optimizer's state."""
    state = {**trainer.policy.state(), "optimizer": optimizer_tensors(trainer.learner.optimizer)}
    return {f"{role}/{name}": tensor.clone() for role, group in state.items() for name, tensor in group.items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_spike_changes_nothing_and_is_told(dtype, tmp_path, tiny_pipeline_folder):
    trainer = loud_trainer(tmp_path / "run", tiny_pipeline_folder)
    if dtype == "float16":
        trainer.learner.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trainer.iterate()
    trainer.iterate()
    before, steps = everything(trainer), trainer.learner.optimizer_step
    row = trainer.iterate()
    assert (row["spiked_steps"], row["skipped_steps"], row["grad_norm"]) == (10, 10, None)
    assert same(everything(trainer), before)
    assert trainer.learner.optimizer_step == steps == 20
    trainer.watch.see(row)
    (told,) = trainer.watch.warnings()
    assert "iteration 3: 10 optimizer steps were skipped; the gradient norm was" in told
    after = trainer.iterate()
    assert after["spiked_steps"] == 0
    assert not same(everything(trainer), before)


def test_a_copy_that_follows_now_and_then_still_follows(tmp_path, tiny_pipeline_folder):
    trainer = loud_trainer(tmp_path / "run", tiny_pipeline_folder, policy={"rollout_every": 3})
    before = everything(trainer)
    for _ in range(3):
        trainer.iterate()
    after = everything(trainer)
    assert not all(torch.equal(after[name], before[name]) for name in after if name.startswith("rollout"))


def test_a_run_that_was_stopped_skips_the_same_steps(tmp_path, tiny_pipeline_folder):
    whole = loud_trainer(tmp_path / "whole", tiny_pipeline_folder)
    whole.run()
    parts = loud_trainer(tmp_path / "parts", tiny_pipeline_folder)
    stop_after(1, parts)
    assert parts.run() is None
    again = loud_trainer(tmp_path / "parts", tiny_pipeline_folder)  # with half of the norms that the rule needs
    again.run()
    rows = RunDirectory(tmp_path / "parts").metrics()
    assert [row["spiked_steps"] for row in rows] == [0, 0, 10, 0]
    assert same(everything(again), everything(whole))
    assert again.learner.spikes.state() == whole.learner.spikes.state()


def test_many_spikes_in_a_row_stop_the_run_and_the_checkpoint_is_whole(tmp_path, tiny_pipeline_folder):
    trainer = loud_trainer(tmp_path / "run", tiny_pipeline_folder, spikes_stop=5)
    with pytest.raises(
        NonFiniteError, match=r"of 5 steps in a row were over learn.max_grad_norm_ratio \(30\)"
    ) as caught:
        trainer.run()
    assert caught.value.exit_code == 3
    checkpoints = tmp_path / "run" / "checkpoints"
    assert saved(checkpoints)[-1] == 2
    verify(place(checkpoints, 2))


def test_a_ratio_of_0_takes_every_step(tmp_path, tiny_pipeline_folder):
    trainer = loud_trainer(tmp_path / "run", tiny_pipeline_folder, learn={"max_grad_norm_ratio": 0})
    assert [trainer.iterate()["skipped_steps"] for _ in range(3)] == [0, 0, 0]


def test_a_spike_is_over_so_many_times_the_median_of_the_last_steps_taken():
    spikes = Spikes(ratio=10, most=3)
    assert not any(spikes.skip(norm, True, 0) for norm in [1e9, *range(1, WINDOW)])  # too few to tell
    assert not spikes.skip(10.5 * 10, True, 0)  # the median is 10.5
    assert spikes.skip(11.1 * 10, True, 0)  # the median without 1e9, with 105, is 11
    again = Spikes(ratio=10, most=3)
    again.load(json.loads(json.dumps(spikes.state())))
    assert again.skip(1e9, True, 0)
    assert not again.skip(1.0, True, 0)
    assert again.skip(1e9, True, 0)
    assert again.skip(1e9, True, 0)
    with pytest.raises(NonFiniteError, match=r"3 steps in a row .* median before, 10\.5, the last one 1e\+09 in iter"):
        again.skip(1e9, True, 7)


def test_the_first_reward_of_a_rare_kind_is_no_spike():
    spikes = Spikes(ratio=10, most=3)
    assert not any(spikes.skip(1e-6, False, 0) for _ in range(100))  # nothing but the pull to the reference
    assert not any(spikes.skip(0.0, True, 0) for _ in range(100))
    assert not spikes.skip(1.0, True, 0)


def rows_of(rewards, constant=0, evaluations=None):
    """Rows of iterations; `evaluations`: iteration -> label -> (value, half of its interval)."""
    rows = []
    for i, reward in enumerate(rewards):
        row = {"iteration": i, "reward/mean": reward, "diversity": 1.0, "zero_variance_groups": constant}
        if found := (evaluations or {}).get(i):
            row["difference"] = {
                label: {"value": value, "low": value - half, "high": value + half}
                for label, (value, half) in found.items()
            }
        rows.append(row)
    return rows


def warned(rows, stops=(), **sections):
    """Iteration -> what was told after it, of a run that was stopped after some of its iterations."""
    config = make_config(rollout={"prompts_per_iteration": 10}, **sections)
    watch, told = Watch(config), {}
    for i, row in enumerate(rows):
        if i in stops:
            watch = Watch(config)
            watch.restore(rows[:i])
        watch.see(row)
        if found := watch.warnings():
            told[i] = found
    return told


RISING = [0.1 * i for i in range(30)]


def test_a_reward_that_rises_while_another_score_falls_is_told_once_also_after_a_resume():
    fell = {"strict": (-0.1, 0.05), "graded": (0.2, 0.05)}
    rows = rows_of(RISING, evaluations={9: {"strict": (-0.04, 0.05)}, 14: fell, 19: fell, 24: fell})
    for stops in ((), (15, 20)):
        told = warned(rows, stops)
        assert list(told) == [14]
        (text,) = told[14]
        assert "the training reward rose from 0.200 to 1.200" in text
        assert "fell below the base model's (strict -.100 ± .050)" in text


@pytest.mark.parametrize(
    ("rewards", "fell"),
    [
        ([1.0, 2.0] * 15, {"strict": (-0.1, 0.05)}),  # the reward did not rise
        (RISING, {"strict": (-0.1, 0.2)}),  # within its interval
        (RISING, {"graded": (-0.1, 0.05)}),  # it is trained on
    ],
)
def test_without_either_nothing_is_told(rewards, fell):
    assert warned(rows_of(rewards, evaluations={24: fell})) == {}


def test_a_hacked_reward_is_told_at_the_end_too(tmp_path):
    """The last evaluation is in the summary alone."""
    folder = RunDirectory.create(tmp_path / "run", make_config())
    for row in rows_of(RISING):
        folder.append_metrics({**row, "seconds/training": 1.0})
    scores = {"strict": 0.5, "graded": 0.5, "tasks": {}}
    ends = {"before": scores, "after": scores, "iterations": 30, "seconds": {"training": 1.0}}
    for value, told in ((-0.1, True), (0.1, False)):
        console = Console(record=True, width=300, file=io.StringIO())
        found = {"value": value, "low": value - 0.05, "high": value + 0.05}
        difference = {"strict": found, "graded": found}
        print_summary(console, folder, {**ends, "difference": difference})
        assert ("fell below the base model's (strict -.100 ± .050)" in console.export_text()) == told


@pytest.mark.parametrize(
    "change", ["learn.max_grad_norm_ratio=0.5", "run.spikes_stop=-1", "run.constant_groups_warn=1.1"]
)
def test_bounds_that_would_skip_or_tell_everything_are_refused(change):
    with pytest.raises(ConfigError, match=change.partition("=")[0].replace(".", r"\.")):
        load_config("scenes", [change])


def test_the_rules_of_a_hacked_reward_are_those_of_means_and_intervals():
    assert risen([1, 1, 1, 1, 2] + [2.01] * 5)
    assert not risen([1, 1, 1, 1, 2] + [2.0] * 5)
    assert not risen([0.0] * 4 + [9.0] * 5)  # fewer than twice five
    one = {"value": -1.0, "low": None, "high": None}  # of one image there is no interval
    assert fallen({"a": one, "b": {"value": -1.0, "low": -2.0, "high": -0.1}}, ["a", "b", "c"]) == ["b"]


def test_many_prompts_with_equal_rewards_are_told_once():
    rows = rows_of([0.5] * 4, constant=3) + rows_of([0.5] * 20, constant=9)
    for stops in ((), (9, 12)):
        told = warned(rows, stops)
        assert list(told) == [8]  # the first whose last five have 9 of 10; before, it was 39 of 50
        assert (
            "little is learned: in the last 5 iterations all images of a prompt got the same reward for 90%"
            in told[8][0]
        )
    assert warned(rows, run={"constant_groups_warn": 1}) == {}
    assert warned(rows_of([0.5] * 20, constant=8)) == {}


def test_constant_rewards_for_all_prompts_are_not_told_twice():
    told = warned(rows_of([0.5] * 10, constant=10))
    assert [(i, len(found)) for i, found in told.items()] == [(2, 1)]
    assert "nothing is learned" in told[2][0]


def test_a_comparison_goes_on_beside_an_arm_that_diverges_and_says_why(tmp_path, tiny_pipeline_folder, runs_here):
    """By the exit code of its run: a rate of 10 moves weights by 10 in the first step."""
    arguments = [
        "scenes", "reward=jpeg_incompressibility", f"model.path={tiny_pipeline_folder}", *SMALL,
        "--vary", "learn.learning_rate=0.001,10",
        "--baseline", "0.001", "--seeds", "1", "--budget", "1iterations", "--threads", "1",
        "--output", tmp_path / "out",
    ]  # fmt: skip
    for _ in range(2):  # also when nothing is left to do
        result = run("compare", *arguments)
        assert result.returncode == 0, result.stderr
        told = " ".join(result.stdout.split())
        assert "10, seed 0: diverged after 0 iterations: the weights " in told
        assert "moved by 10 in one step of iteration 0; at most 1 is learning" in told
        assert "Left out, since no run of theirs came to its end: 10." in told
    assert not (tmp_path / "out" / "runs" / "10-0" / "summary.json").exists()


@pytest.mark.parametrize(
    ("code", "log", "told"),
    [
        (
            3,
            "error: the first time\niteration 3\nerror: the loss is nan\n",
            "diverged after 0 iterations: the loss is nan",
        ),
        (3, "", "diverged after 0 iterations: see "),
        (1, "error: the loss is nan\n", None),
        (2, "error: the disk is full\n", None),
        (-9, "", None),
    ],
)
def test_how_a_run_ended_is_its_exit_code_and_not_its_log(code, log, told, tmp_path, monkeypatch):
    here = Run(Arm("a", "scenes"), 0, tmp_path / "runs" / "a-0")

    def child(command, env, stdout, stderr):
        stdout.write(log)
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr("advantageflow.studies.children.run", child)
    if told is None:
        why = log.replace("error", "").strip()  # what the run said last
        with pytest.raises(ConfigError, match=rf"a-0 failed with exit code {code}{why}; see .*a-0\.log"):
            finish(here, 1)
        assert not here.finished
    else:
        finish(here, 1)
        assert here.stopped.startswith(told)
        line = f"paper: a, seed 0: {told}"
        study = Study(tmp_path, tmp_path / "results")
        monkeypatch.setattr(Study, "finish", lambda *_: None)
        (only,) = tasks(study, [replace(here, arm=Arm("a", "paper"))], 1)
        assert only().startswith(line)
