"""A user's own reward: found by file or module, and its mistakes told by file and line."""

import sys

import pytest
import torch

from advantageflow.config import ConfigError, load_config
from advantageflow.rewards import check_reward, load_reward
from advantageflow.rewards.scoring import score

IMAGES = torch.zeros(1, 3, 8, 8)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def returns(value):
    return f"def score(images, prompts):\n    return [{value}] * len(prompts)\n"


def value_of(name):
    return score(name, load_reward(name), IMAGES, ["a ring"]).item()


def test_a_file_is_found_by_any_way_of_writing_its_path(tmp_path, monkeypatch):
    write(tmp_path / "mine.py", returns(3))
    write(tmp_path / "my folder: 2" / "other.py", returns(4))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("./mine.py:score", "mine.py:score", "~/mine.py:score", f"{tmp_path}/mine.py:score", "mine:score"):
        assert value_of(name) == 3
    assert value_of("my folder: 2/other.py:score") == 4


def test_files_of_one_name_are_not_confused_nor_what_they_import(tmp_path, monkeypatch):
    for name, value in (("a", 1), ("b", 2)):
        write(tmp_path / name / "mine.py", "import helper\n" + returns("helper.VALUE"))
        write(tmp_path / name / "helper.py", f"VALUE = {value}\n")
    a, b = (load_reward(f"{tmp_path}/{name}/mine.py:score") for name in "ab")
    assert (a(IMAGES, ["x"]), b(IMAGES, ["x"])) == ([1], [2])
    for name, value in (("a", 1), ("b", 2)):
        monkeypatch.chdir(tmp_path / name)
        assert value_of("mine:score") == value


def test_a_package_keeps_its_relative_imports(tmp_path, monkeypatch):
    write(tmp_path / "pack" / "__init__.py", "")
    write(tmp_path / "pack" / "base.py", "VALUE = 5\n")
    write(tmp_path / "pack" / "mine.py", "from .base import VALUE\n" + returns("VALUE"))
    monkeypatch.chdir(tmp_path)
    assert value_of("pack.mine:score") == value_of("./pack/mine.py:score") == 5


def test_a_module_that_the_user_imported_is_not_imported_twice(tmp_path, monkeypatch):
    write(
        tmp_path / "imported_before.py",
        "calls = []\ndef score(images, prompts):\n    calls.append(1)\n    return [1]\n",
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import imported_before

    value_of("imported_before:score")
    assert imported_before.calls == [1]


def test_a_data_class_may_be_a_reward(tmp_path):
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Mine:\n"
        "    value: float = 2.5\n    def __call__(self, images, prompts):\n        return [self.value] * len(prompts)\n"
    )
    assert value_of(f"{write(tmp_path / 'data.py', text)}:Mine") == 2.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def score(images, prompts)\n    return []\n", r"SyntaxError: .*mine\.py line 1\)"),
        ("import sys\nsys.exit(0)\n", r"it raised SystemExit, and may not end the process \(.*mine\.py line 2\)"),
        ("\n\n1 / 0\n", r"ZeroDivisionError: division by zero \(.*mine\.py line 3\)"),
        ("import no_such_thing\n", r"No module named 'no_such_thing' \(.*mine\.py line 1\)"),
        ("raise KeyError\n", r"KeyError \(.*mine\.py line 1\)"),
        ("class score:\n    def __init__(self):\n        self.x = {}['y']\n", r"KeyError: 'y' \(.*mine\.py line 3\)"),
        ("class score:\n    def __init__(self, size): ...\n", r"TypeError: .*'size' \(.*mine\.py line 1\)"),
        (
            "class score:\n    def __init__(self):\n        raise SystemExit\n",
            r"it raised SystemExit.*mine\.py line 3\)",
        ),
        ("class score: ...\n", "a class whose instances cannot be called; give it __call__"),
        ("scores = print\n", r"has no 'score' \(did you mean 'scores'\?\)"),
        ("score = 3\n", "is not a function but 3"),
        ("\0", r"ValueError|SyntaxError|null bytes"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_and_line(tmp_path, text, message):
    file = write(tmp_path / "mine.py", text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_reward(f"{file}:score")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nothing.py:score", r"there is no file './nothing\.py'; write \./my_reward\.py:function"),
        ("./nothing.py", "it names no function; write"),
        ("nothing.py", "it names no function; write"),
        ("./mine:score", "there is no file './mine'"),
        ("a:b:c", "cannot load the reward 'a:b:c'"),
        (":score", "cannot load the reward ':score'"),
        ("mine:", "cannot load the reward 'mine:'"),
        ("..:x", "cannot load the reward"),
        ("./" + "x" * 5000 + ".py:score", "there is no file"),
        ("x" * 5000, "unknown reward"),
        ("\0:x", "cannot load the reward"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_sentence(name, message, tmp_path, monkeypatch):
    write(tmp_path / "mine.py", returns(1))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        check_reward(name)
    assert len(str(caught.value)) < 1200
    assert "\n" not in str(caught.value)


def test_a_module_leaves_the_process_as_it_was(tmp_path):
    text = "import os, torch\ntorch.set_grad_enabled(False)\ntorch.set_default_dtype(torch.float64)\nos.chdir('/')\n"
    load_reward(f"{write(tmp_path / 'untidy.py', text + returns(1))}:score")
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


def test_rewards_are_found_beside_the_recipe_first_and_from_anywhere_later(tmp_path, monkeypatch):
    write(tmp_path / "recipes" / "mine.py", returns(1))
    write(tmp_path / "recipes" / "deep" / "twin.py", returns(2))
    write(tmp_path / "here" / "mine.py", returns(3))
    write(tmp_path / "here" / "only_here.py", returns(4))
    text = (
        "reward: {mine:score: 1, ./deep/twin.py:score: 2, scenes_graded: 1}\n"
        "evaluation: {rewards: {a: mine:score, b: only_here:score, c: scenes_strict, d: math:fsum}}\n"
    )
    recipe = write(tmp_path / "recipes" / "own.yaml", text)
    write(tmp_path / "recipes" / "deep" / "child.yaml", f"extends: {recipe}\nseed: 1\n")
    monkeypatch.chdir(tmp_path / "here")
    for path in ("../recipes/own.yaml", "../recipes/deep/child.yaml"):
        config = load_config(path)
        monkeypatch.chdir(tmp_path)
        assert [value_of(name) for name in config.reward_weights if name != "scenes_graded"] == [1, 2]
        assert list(config.reward_weights.values()) == [1, 2, 1]
        evaluated = config.evaluation.rewards
        assert [value_of(evaluated[label]) for label in "ab"] == [1, 4]
        assert (evaluated["c"], evaluated["d"]) == ("scenes_strict", "math:fsum")
        monkeypatch.chdir(tmp_path / "here")
    assert value_of(load_config(str(recipe), ["reward=only_here:score"]).reward) == 4
    assert value_of(load_config(str(recipe), ["reward=./mine.py:score"]).reward) == 3
    assert value_of(load_config("scenes", ["reward=mine:score"]).reward) == 3


def test_naming_a_reward_needs_no_torch(tmp_path):
    import subprocess

    code = (
        "import sys; from advantageflow.config import load_config; load_config('scenes'); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_file_among_several_rewards_has_a_curve_under_its_short_name():
    from advantageflow.run.curves import each_reward

    names = ("/home/me/mine.py:score", "http://127.0.0.1:8000", "pickscore")
    row = dict.fromkeys([*(f"reward/{name}/mean" for name in names), "reward/mean", "reward/std", "loss"], 0.0)
    assert list(each_reward(row).values()) == ["mine.py:score", "127.0.0.1:8000", "pickscore"]
