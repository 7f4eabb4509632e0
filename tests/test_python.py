"""The commands as Python functions: the same numbers and folders, values returned, errors raised."""

import functools
import os
import signal
import subprocess
import sys

import pytest
from command_line import command_line
from test_cli import SMALL, command

import advantageflow as af
from advantageflow.api import as_change
from advantageflow.reading import parse_changes
from advantageflow.rewards import check_reward
from advantageflow.rewards.own import name_of


def brightness(images, prompts):
    """A reward that differs between images of a random model."""
    return (images.mean((1, 2, 3)) * 10).tolist()


class Weighted:
    """A reward with settings of its own."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, images, prompts):
        return (images.mean((1, 2, 3)) * self.weight).tolist()


def numbers(rows):
    return [{key: value for key, value in row.items() if not key.startswith("seconds/")} for row in rows]


@pytest.fixture(scope="module")
def small(tiny_pipeline_folder):
    return [f"model.path={tiny_pipeline_folder}", *SMALL, "run.iterations=2"]


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A run by a function, begun in a folder from which this file cannot be imported."""
    folder = tmp_path_factory.mktemp("python")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return af.train("scenes", *small, reward=brightness, output=folder / "run", quiet=True)


def test_the_package_itself_is_there_at_once():
    code = "import sys, advantageflow; print([m for m in ('torch', 'pydantic', 'rich', 'yaml') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    assert {"train", "evaluate", "sample", "report", "load_config"} <= set(dir(af))
    with pytest.raises(AttributeError, match="trian"):
        _ = af.trian


def test_a_function_trains_as_the_command_does(small, tmp_path, monkeypatch):
    changes = [*small, "learn.learning_rate=1e-05", "objective=nft", "evaluation.rewards={graded: scenes_graded}"]
    assert command_line("train", "scenes", *changes, "--output", tmp_path / "command")[0] == 0
    run = af.train(
        "scenes", *small, objective="nft", output=tmp_path / "python", learn={"learning_rate": 1e-5},
        **{"evaluation.rewards": {"graded": "scenes_graded"}}, quiet=True,
    )  # fmt: skip
    other = af.Run(tmp_path / "command")
    assert numbers(run.metrics()) == numbers(other.metrics())
    assert len(run.metrics()) == 2
    assert run.config == other.config
    assert run.summary["difference"] == other.summary["difference"]
    assert {path.name for path in run.folder.iterdir()} == {path.name for path in other.folder.iterdir()}


def test_a_run_learns_from_a_function_and_is_continued_with_it(trained, tmp_path, monkeypatch):
    assert trained.config.reward == "test_python:brightness"
    assert trained.config.evaluation.rewards["brightness"] == "test_python:brightness"
    assert (trained.lora / "pytorch_lora_weights.safetensors").is_file()
    more = ["--resume", trained.folder, "run.iterations=3"]
    result = subprocess.run(command("train", *more), capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    told, line = result.stderr.splitlines()
    assert told.startswith("custom code: the reward 'test_python:brightness' imports brightness from 'test_python'")
    assert "cannot load the reward 'test_python:brightness'" in line
    monkeypatch.chdir(tmp_path)
    run = af.train(resume=trained.folder, reward=brightness, run={"iterations": 3}, quiet=True)
    assert run.summary["iterations"] == len(run.metrics()) == 3


@pytest.mark.parametrize("reward", [lambda images, prompts: [0.0], Weighted(2.0), functools.partial(brightness)])
def test_what_has_no_name_of_its_own_is_never_imported_by_one(reward):
    with pytest.raises(af.ConfigError, match=r"given to advantageflow\.train in Python"):
        check_reward(name_of(reward))


def test_errors_are_exceptions(small, trained, tmp_path, monkeypatch):
    with pytest.raises(af.ConfigError, match="learning_rat"):
        af.train("scenes", learn={"learning_rat": 1}, output=tmp_path / "a", quiet=True)
    with pytest.raises(af.ConfigError, match="already holds a run"):
        af.train("scenes", *small, output=trained.folder, quiet=True)
    with pytest.raises(af.ConfigError, match="none that is called"):
        af.train(resume=trained.folder, reward=Weighted(1.0), **{"run.iterations": 5}, quiet=True)
    with pytest.raises(af.ConfigError, match="own rewards"):
        af.train(resume=trained.folder, reward="scenes_graded", quiet=True)
    with pytest.raises(af.ConfigError, match="no recipe"):
        af.train("scenes", resume=trained.folder, quiet=True)
    with pytest.raises(af.ConfigError, match="reward is 3"):
        af.train("scenes", reward=3, quiet=True)
    with pytest.raises(af.ConfigError, match="seed is <object"):
        af.train("scenes", seed=object(), quiet=True)
    monkeypatch.setattr("advantageflow.learner.rate", lambda *_: 1e20)
    with pytest.raises(af.NonFiniteError):
        af.train("scenes", *small, output=tmp_path / "b", quiet=True)


def test_ctrl_c_is_an_exception_after_the_iteration_is_saved(small, tmp_path):
    def interrupting(images, prompts):
        if len(prompts) > 1 and not (tmp_path / "asked").exists():  # not where rewards are tried
            (tmp_path / "asked").touch()
            os.kill(os.getpid(), signal.SIGINT)
        return brightness(images, prompts)

    with pytest.raises(KeyboardInterrupt, match="continue with"):
        af.train("scenes", *small, reward=interrupting, output=tmp_path / "run", quiet=True)
    assert af.Run(tmp_path / "run").summary is None
    run = af.train(resume=tmp_path / "run", reward=interrupting, quiet=True)
    assert len(run.metrics()) == run.summary["iterations"] == 2


def test_an_object_learns_beside_a_built_in_reward(small, tmp_path, capsys):
    reward = {Weighted(3.0): 0.5, "scenes_graded": 1.0}
    run = af.train(*small, reward=reward, output=tmp_path / "run", quiet=True)
    assert run.config.reward == {"test_python:Weighted()": 0.5, "scenes_graded": 1.0}
    assert "reward/test_python:Weighted()/mean" in run.metrics()[0]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learn.learning_rate", 1e-05), ("objective.gamma", "1-A"), ("run.max_seconds", None), ("name", "größer: 1"),
        ("model.resolution", [32, 64]), ("name", "2024-01-01"), ("name", "1e-05"), ("name", "no"), ("seed", 3),
        ("reward", {"a.py:f": 0.5}), ("prompts.train", "geneval:50:1"), ("name", "a\nb"),
    ],
)  # fmt: skip
def test_settings_of_python_arrive_as_they_are(key, value):
    assert parse_changes([as_change(key, value)]) == {key: value}


def test_models_are_evaluated_drawn_and_reported(trained, tiny_pipeline_folder, tmp_path, capsys):
    means = af.evaluate(run=trained, reward={"light": brightness}, images=4, steps=2, quiet=True)
    base, after = means["models"]
    assert base == str(tiny_pipeline_folder)
    assert after == f"{base}+{trained.lora}"
    assert set(means["models"][after]["light"]["all"]) == {"mean", "low", "high", "half_width"}
    pictures = af.sample("a red circle", run=trained, images=3, steps=2, output=tmp_path / "drawn.png", quiet=True)
    assert [picture.size for picture in pictures] == [(64, 64)] * 6
    assert (tmp_path / "drawn.png").is_file()
    page = af.report(trained, output=tmp_path / "page.html")
    assert "brightness" in page.read_text(encoding="utf-8")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: af.evaluate("scenes", image=4), "'image'.*allowed: lora"),
        (lambda: af.sample("a red circle", preset="table-1"), "unknown option 'preset'"),
        (lambda: af.sample("a red circle", images=0), "--images is 0"),
        (lambda: af.sample("a red circle", guidance=(1.0, 4.0)), "one scale"),
        (lambda: af.sample(), "nothing to draw"),
        (lambda: af.evaluate("scenes", reward={"task": brightness}), "task"),
        (lambda: af.report("nowhere"), "holds no run"),
    ],
)
def test_a_wrong_option_is_one_sentence(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(af.ConfigError, match=message):
        call()
