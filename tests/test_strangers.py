"""A stranger's method: a file of his own, or one more file in the folder, and no other edit."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import command_line
from test_trainer import brightness, make_config, make_trainer

import advantageflow
from advantageflow.config import ConfigError, check_config
from advantageflow.objectives import base

HEAD = """
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from advantageflow.decay import Decay
from advantageflow.objectives.base import Forward, Positive, mean_square

"""
PULLED = (
    HEAD
    + '''
@dataclass(frozen=True)
class Pulled(Forward):
    """Advantage-weighted prediction, pulled towards the rollout policy.

        loss = A ‖v_θ - v*‖² + c ‖v_θ - v_old‖²
    """

    title: ClassVar[str] = "Pulled flow"
    paper: ClassVar[str] = "not yet written"
    defaults: ClassVar[Mapping[str, object]] = {"rollout.solver": "euler", "learn.t_draws": 2}

    pull: Positive = 2.0

    @property
    def sees(self):
        return frozenset({"rollout"})

    def terms(self, seen):
        return {
            "data": seen.advantage * mean_square(seen.v - seen.target),
            "rollout": self.pull * mean_square(seen.v - seen.v_old),
        }
'''
)
SMALL = [
    "prompts.train=scenes:train", "rollout.prompts_per_iteration=2", "rollout.images_per_prompt=3",
    "rollout.num_inference_steps=3", "policy.lora_rank=4", "evaluation.num_images=4", "evaluation.prompts_shown=2",
    "evaluation.num_inference_steps=2", "run.threads=1", "run.iterations=2",
]  # fmt: skip


def run(*arguments, cwd, package=None):
    """In a process of its own where it has a copy of the package."""
    if package is None:
        code, told, wrong = command_line(*arguments)
        return code, told + wrong
    environment = {**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(package)}
    found = subprocess.run(
        [sys.executable, "-m", "advantageflow", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, env=environment, timeout=300,
    )  # fmt: skip
    return found.returncode, found.stdout + found.stderr


def check_in_use(objective, cwd, pipeline, package=None):
    """Planned, trained, reported, and his mistakes are named."""
    small = [f"objective={objective}", f"model.path={pipeline}", *SMALL]
    code, told = run("train", "scenes", *small, "--plan", cwd=cwd, package=package)
    assert code == 0, told
    assert re.search(rf"│ method +│ {objective} ", told)
    assert "24 learning" in told  # 6 images at 2 times, by the learner and by the rollout policy
    code, told = run("train", "scenes", *small, "--output", "run", cwd=cwd, package=package)
    assert code == 0, told
    code, told = run("report", "run", cwd=cwd, package=package)
    assert code == 0, told
    assert "Pulled flow trained the model" in (cwd / "report.html").read_text(encoding="utf-8")
    code, told = run("train", "scenes", *small, "objective.pul=1", cwd=cwd, package=package)
    assert (code, told.strip().splitlines()[-1]) == (
        2, "error: unknown key 'objective.pul' (did you mean 'pull'?); allowed in 'objective': name, pull",
    )  # fmt: skip
    code, told = run("train", "scenes", *small, "objective.pull=-1", cwd=cwd, package=package)
    assert (code, told.strip().splitlines()[-1]) == (2, "error: objective.pull is -1; it should be greater than 0")


def test_a_method_in_a_package_of_ones_own(tmp_path, tiny_pipeline_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "ones_own").mkdir()
    (tmp_path / "ones_own" / "pulled.py").write_text(PULLED, encoding="utf-8")
    check_in_use("ones_own.pulled:Pulled", tmp_path, tiny_pipeline_folder)


def test_one_more_file_in_the_folder_is_one_more_method(tmp_path, tiny_pipeline_folder):
    """In a copy of the package, to which nothing else is done."""
    source = Path(advantageflow.__file__).parent
    weights = shutil.ignore_patterns("__pycache__", "*.safetensors")  # the run has a model of its own
    package = tmp_path / "site"
    shutil.copytree(source, package / "advantageflow", ignore=weights)
    (package / "advantageflow" / "objectives" / "pulled_flow.py").write_text(PULLED, encoding="utf-8")
    cwd = tmp_path / "work"
    cwd.mkdir()
    check_in_use("pulled-flow", cwd, tiny_pipeline_folder, package)
    code, told = run("methods", cwd=cwd, package=package)
    assert code == 0, told
    assert "pulled-flow" in told
    assert "pull: 2.0, a number above 0" in told
    assert "advantageflow" in told
    code, told = run("train", "scenes", "objective=puled-flow", cwd=cwd, package=package)
    assert code == 2
    assert "'puled-flow' (did you mean 'pulled-flow'?); allowed: " in told


@pytest.fixture
def write(tmp_path, monkeypatch):
    """(name, source) -> the objective of a class `Mine` in a module of that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def written(name, source):
        (tmp_path / f"{name}.py").write_text(HEAD + source, encoding="utf-8")
        return f"{name}:Mine"

    return written


TITLES = """
    title: ClassVar[str] = "Mine"
    paper: ClassVar[str] = "none"
"""


def trainer_of(objective, folder, pipeline, iterations=2):
    settings = {"prompts_per_iteration": 2, "images_per_prompt": 4, "num_inference_steps": 4, "solver": "euler"}
    config = make_config(objective={"name": objective}, rollout=settings, run={"iterations": iterations})
    return make_trainer(config, folder, pipeline)


def test_a_role_that_is_read_but_not_named_is_told(write, tmp_path, tiny_pipeline_folder):
    objective = write(
        "blind",
        f"""
@dataclass(frozen=True)
class Mine(Forward):{TITLES}
    @property
    def sees(self):
        return frozenset({{"reference"}})

    def terms(self, seen):
        return {{"data": mean_square(seen.v - seen.v_old)}}
""",
    )
    trainer = trainer_of(objective, tmp_path / "run", tiny_pipeline_folder)
    sentence = r"reads what 'rollout' predicts, but its `sees` names only \['reference'\]; add 'rollout' there"
    with pytest.raises(AttributeError, match=sentence):
        trainer.iterate()


CRITIC = f"""
class Head(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.layer = torch.nn.Linear(channels + 1, 1)

    def forward(self, x_t, t):
        return self.layer(torch.cat([x_t.mean((2, 3)), t[:, None]], 1))[:, 0]


@dataclass(frozen=True)
class Mine(Forward):{TITLES}
    @property
    def slow(self):
        return {{"old": Decay(base=0.5, every=2)}}

    @property
    def sees(self):
        return frozenset({{"old"}})

    def critic(self, channels):
        return Head(channels)

    def terms(self, seen):
        advantage = (seen.reward - seen.value.detach()).clamp(-1, 1)
        return {{
            "data": advantage * mean_square(seen.v - seen.target),
            "old": 2 * mean_square(seen.v - seen.of("old")),
            "critic": (seen.value - seen.reward).square(),
        }}
"""


def test_a_critic_is_trained_saved_and_put_back_with_slow_copies_of_ones_own(write, tmp_path, tiny_pipeline_folder):
    objective = write("critical", CRITIC)
    whole = trainer_of(objective, tmp_path / "whole", tiny_pipeline_folder, iterations=3)
    before = [parameter.detach().clone() for parameter in whole.policy.critic.parameters()]
    whole.run()
    assert all(not torch.equal(old, new) for old, new in zip(before, whole.policy.critic.parameters(), strict=True))
    losses = [row["loss/critic"] for row in whole.directory.metrics()]
    assert losses[2] < losses[0]
    expected = whole.policy.state()
    assert not torch.equal(expected["old"][whole.policy.names[0]], expected["rollout"][whole.policy.names[0]])

    first = trainer_of(objective, tmp_path / "parts", tiny_pipeline_folder, iterations=3)

    def stop_after_one(images, prompts):
        first.world.stopping = first.iteration == 1
        return brightness(images, prompts)

    first.scorer.rewards = {"scenes_graded": stop_after_one}
    assert first.run() is None
    assert first.iteration == 1
    second = trainer_of(objective, tmp_path / "parts", tiny_pipeline_folder, iterations=3)
    second.run()
    found = second.policy.state()
    assert {*found} == {"learner", "rollout", "average", "old", "critic"}
    assert all(torch.equal(found[role][name], weight) for role in expected for name, weight in expected[role].items())


GOOD = "    def terms(self, seen):\n        return {'data': mean_square(seen.v - seen.target)}\n"
WRONG = {
    "no family": (f"@dataclass(frozen=True)\nclass Mine(Method):{TITLES}{GOOD}", "derive it from Forward, Reverse or"),
    "no dataclass": (f"class Mine(Forward):{TITLES}    pull: float = 1.0\n{GOOD}", "write @dataclass"),
    "no title": (f"@dataclass(frozen=True)\nclass Mine(Forward):\n{GOOD}", "has no title; add title: ClassVar"),
    "no default": (
        f"@dataclass(frozen=True)\nclass Mine(Forward):{TITLES}    pull: float\n{GOOD}",
        "has no default for pull; every setting has one",
    ),
    "a taken name": (
        f"@dataclass(frozen=True)\nclass Mine(Forward):{TITLES}    plan: float = 1.0\n{GOOD}",
        "calls a setting plan, which means something else",
    ),
    "no such role": (
        f"@dataclass(frozen=True)\nclass Mine(Forward):{TITLES}    sees = frozenset({{'refrence'}})\n{GOOD}",
        "sees 'refrence'; allowed for a forward method: rollout, reference, average",
    ),
    "a role that is ours": (
        f"@dataclass(frozen=True)\nclass Mine(Forward):{TITLES}    slow = {{'rollout': Decay()}}\n{GOOD}",
        "calls a slow copy 'rollout'; allowed: one word other than learner, rollout",
    ),
    "no method": ("Mine = 3\n", "is no class that derives from"),
    "not Python": ("class Mine(\n", "cannot be used: "),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_a_class_lacks_is_one_sentence(fault, write):
    source, message = WRONG[fault]
    objective = write(f"wrong_{fault.replace(' ', '_')}", f"from {base.__name__} import Method\n{source}")
    with pytest.raises(ConfigError) as caught:
        check_config({"objective": {"name": objective}})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
