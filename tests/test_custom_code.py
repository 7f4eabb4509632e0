"""Python that a stranger's file names is told before it is imported, and refused by --no-custom-code."""

import json
import os
import subprocess
import sys

import pytest
from command_line import command_line

import advantageflow as af
from advantageflow import custom_code
from advantageflow.config import dump_config, load_config
from advantageflow.rewards import load_reward
from advantageflow.studies import children

CODE = """
import pathlib, sys
pathlib.Path("ran").touch()
print("it runs", file=sys.stderr)
from dataclasses import dataclass
from typing import ClassVar
from advantageflow.objectives.advantageflow import AdvantageFlow

def score(images, prompts):
    return [0.5] * len(images)

@dataclass(frozen=True)
class Mine(AdvantageFlow):
    title: ClassVar[str] = "Mine"
"""
PLACES = [
    "reward=./theirs.py:score",
    "reward={theirs:score: 1, scenes_graded: 1}",
    "reward=theirs:score",
    "evaluation.rewards={theirs: theirs.py:score}",
    "objective=theirs:Mine",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, which holds a stranger's file, and a run that names his method."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(custom_code.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("theirs")]:
        monkeypatch.delitem(sys.modules, name)
    custom_code._tell.cache_clear()
    (tmp_path / "theirs.py").write_text(CODE)
    text = dump_config(load_config("scenes"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(text.replace("name: advantageflow", "name: theirs:Mine"))
    row = {"iteration": 0, "reward/mean": 0.5, "seconds/training": 1.0, "diversity": 0.5}
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    checkpoint = tmp_path / "run" / "checkpoints" / "000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text('{"before": {"reward": 0.5, "tasks": {}}}')
    assert "theirs:Mine" in (tmp_path / "run" / "config.yaml").read_text()
    return tmp_path


@pytest.fixture
def untrained(monkeypatch):
    """`train` ends where training would begin."""
    monkeypatch.setattr("advantageflow.building.build", lambda *arguments, **options: None)
    monkeypatch.setattr("advantageflow.building._train", lambda trainer, console: None)


@pytest.mark.parametrize("change", PLACES)
def test_train_shows_what_it_imports_before_it_does(change, folder, untrained):
    code, _, told = command_line("train", "scenes", change, "--output", "new")
    first, second, *_ = told.splitlines()
    assert code == 0
    assert first.startswith("custom code: the ")
    assert "theirs" in first
    assert str(folder / "theirs.py") in first
    assert second == "it runs"
    assert told.count("custom code") == 1


@pytest.mark.parametrize("change", PLACES)
@pytest.mark.parametrize("more", [[], ["--plan"]])
def test_train_refuses_it(change, more, folder, untrained):
    code, _, told = command_line("train", "scenes", change, *more, "--no-custom-code")
    assert_refused(code, told, folder)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--resume", "run"],
        ["evaluate", "--reward", "theirs:score"],
        ["evaluate", "--run", "run"],
        ["sample", "--run", "run"],
        ["compare", "scenes", "reward=theirs:score"],
        ["compare", "scenes", "--vary", "objective=advantageflow,theirs:Mine"],
        ["rewards", "check", "theirs:score"],
        ["serve", "./theirs.py:score"],
        ["report", "run"],
        ["methods", "theirs:Mine"],
    ],
)
def test_every_command_refuses_it(arguments, folder):
    code, _, told = command_line(*arguments, "--no-custom-code")
    assert_refused(code, told, folder)


def assert_refused(code, told, folder):
    (line,) = told.splitlines()
    assert code == 2
    assert line.startswith("error: the ")
    assert line.endswith(
        ", which --no-custom-code or ADVANTAGEFLOW_NO_CUSTOM_CODE refuses; leave that out if you trust this code"
    )
    assert not (folder / "ran").exists()
    assert custom_code.VARIABLE not in os.environ  # which outlives no command


def test_it_is_refused_in_python_and_a_function_that_is_given_is_not(folder, untrained):
    with pytest.raises(af.ConfigError, match="refuses"):
        af.train("scenes", reward="theirs:score", output="new", no_custom_code=True)
    with pytest.raises(af.ConfigError, match="refuses"):
        af.evaluate("scenes", run="run", no_custom_code=True)
    assert not (folder / "ran").exists()
    af.train("scenes", reward=score, output="new", no_custom_code=True, quiet=True)
    assert load_reward("./theirs.py:score")(range(2), ["a", "b"]) == [0.5, 0.5]


def score(images, prompts):
    return [0.5] * len(images)


def test_child_processes_refuse_it_too(folder, capfd):
    with custom_code.refusing(True):
        done = children.run(
            [sys.executable, "-m", "advantageflow", "rewards", "check", "theirs:score"],
            dict(os.environ),
            stderr=subprocess.PIPE,
        )
    assert_refused(done.returncode, done.stderr, folder)


def test_what_comes_with_the_package_and_servers_are_no_custom_code(folder):
    with custom_code.refusing(True):
        load_reward("scenes_graded")
        load_reward("http://127.0.0.1:8000")
        load_config("scenes", ["objective=diffusion-nft", "reward=[http://127.0.0.1:8000, http://127.0.0.1:8001]"])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no safe path")
def test_no_child_takes_a_file_of_the_current_folder_for_a_library(folder):
    (folder / "yaml.py").write_text(CODE)
    done = children.run(
        [sys.executable, "-m", "advantageflow", "methods", "--json"], dict(os.environ), stdout=subprocess.PIPE
    )
    assert done.returncode == 0
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("change", PLACES)
def test_a_module_that_ends_the_process_is_one_sentence(change, folder, untrained):
    (folder / "theirs.py").write_text("import sys\nsys.exit(0)\n")
    code, _, told = command_line("train", "scenes", change, "--output", "new")
    assert code == 2
    assert "it raised SystemExit, and may not end the process" in told.splitlines()[-1]
